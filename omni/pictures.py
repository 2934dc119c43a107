"""What a picture file may be, told by its header: nothing is decoded to refuse a bomb."""

import io

from PIL import (  # noqa: F401  # each registers its format
    AvifImagePlugin,
    Image,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from omni.errors import TooLarge

#: 8K twice over, 192 MB decoded; beyond it lies a decompression bomb.
MAX_PIXELS = 64_000_000
#: Formats that browsers and cameras write. Others are not opened at all: reading some of them
#: (EPS) would start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
#: Those whose header Pillow reads fast; the others are left to whoever decodes them.
_FAST_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

Image.preinit()  # the other formats: now, and not when a first picture comes


def check_size(data: bytes | memoryview) -> None:
    """Raise TooLarge for a picture of too many pixels. What is no picture passes."""
    try:
        width, height = Image.open(io.BytesIO(data), formats=_FAST_FORMATS).size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise TooLarge(f"A picture of too many pixels; at most {MAX_PIXELS} are taken") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return
    if width * height > MAX_PIXELS:
        raise TooLarge(f"A picture of {width}x{height} pixels; at most {MAX_PIXELS} are taken")

"""What a picture file may be, told by its header: nothing is decoded to refuse a bomb."""

from PIL import (  # noqa: F401  # each registers its format
    AvifImagePlugin,
    Image,
    TiffImagePlugin,
    WebPImagePlugin,
)

from omni.errors import TooLarge
from omni.picture_sizes import size_of_picture

#: 8K twice over, 192 MB decoded; beyond it lies a decompression bomb.
MAX_PIXELS = 64_000_000
#: Formats that browsers and cameras write. Others are not opened at all: reading some of them
#: (EPS) would start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

Image.preinit()  # the other formats: now, and not when a first picture comes


def check_size(data: bytes | memoryview) -> None:
    """Raise TooLarge for a picture of too many pixels.

    What is no picture passes, and one that hides its size: whoever decodes it looks again.
    """
    size = size_of_picture(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        text = f"A picture of {size[0]}x{size[1]} pixels; at most {MAX_PIXELS} are taken"
        raise TooLarge(text)

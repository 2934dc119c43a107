"""Pictures, films and sound in OpenAI's requests: strict data URLs and base64, checked and bounded.

All of it blocks: call it in a thread. Nothing is ever fetched from an address.
"""

import io
import re

from attrs import field, frozen
from PIL import Image, UnidentifiedImageError

from omni.audio import INPUT_HZ
from omni.containers import read_sound
from omni.engine import Buffer
from omni.errors import ClientError
from omni.openai.errors import Refusal
from omni.pictures import MAX_PIXELS
from omni.realtime.fields import Location
from omni.realtime.media import MAX_IMAGE_BYTES, checked_sound, decode_file

MAX_VIDEO_BYTES = 256 * 2**20
#: A compressed sound in a message: half an hour of MP3 at 320 kbit/s.
MAX_SOUND_BYTES = 72 * 2**20
#: Pillow's readers that may see what strangers send; others run programs, or are seldom tested.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_HEAD = re.compile(r"data:([a-z]+/[a-z0-9.+-]+)((?:;[a-z0-9-]+=[^;,\s]*)*);base64,", re.IGNORECASE)
#: Longest part before the data: a type and a parameter or two.
_MAX_HEAD_CHARS = 256
_SHOWN_CHARS = 40


@frozen(kw_only=True)
class DataUrl:
    """A `data:` URL, read. mime_type: in small letters."""

    mime_type: str
    data: Buffer = field(repr=False)


def read_data_url(url: str, loc: Location, max_bytes: int) -> DataUrl:
    """Return what a `data:...;base64,` URL holds.

    Raises: Refusal for anything else, addresses on the network among it, and above *max_bytes*.
    """
    if url[:8].lower().startswith(("http:", "https:")):
        text = "addresses are not fetched here: send the file itself, as data:TYPE;base64,..."
        raise Refusal(loc, text, "unsupported_value")
    match = _HEAD.match(url[:_MAX_HEAD_CHARS])
    if match is None:
        shown = repr(url[:_SHOWN_CHARS])
        raise Refusal(loc, f"data:TYPE;base64,... is expected, got {shown}", "invalid_url")
    data = decode_file(url[match.end() :], loc, max_bytes)
    return DataUrl(mime_type=match[1].lower(), data=data)


def read_image(url: str, loc: Location) -> Buffer:
    """Return the picture in a data URL as the file that it is. Raises: Refusal."""
    opened = read_data_url(url, loc, MAX_IMAGE_BYTES)
    if not opened.mime_type.startswith("image/"):
        raise Refusal(loc, f"a picture is expected, got {opened.mime_type}", "invalid_image_format")
    try:
        with Image.open(io.BytesIO(opened.data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height} pixels"
                raise Refusal(loc, f"a picture of {size} is above {MAX_PIXELS}", "image_too_large")
            image.verify()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        text = f"the picture has more than {MAX_PIXELS} pixels"
        raise Refusal(loc, text, "image_too_large") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as exc:
        text = f"not a picture that can be read: {', '.join(IMAGE_FORMATS)} are"
        raise Refusal(loc, text, "invalid_image_format") from exc
    return opened.data


def read_video(url: str, loc: Location) -> Buffer:
    """Return the film in a data URL as the file that it is. Raises: Refusal."""
    opened = read_data_url(url, loc, MAX_VIDEO_BYTES)
    if not opened.mime_type.startswith("video/"):
        raise Refusal(loc, f"a film is expected, got {opened.mime_type}", "invalid_value")
    return opened.data


def read_recording(text: str, loc: Location, max_s: float) -> Buffer:
    """Return the sound of a base64 sound file of any usual kind: float32 at 16 kHz.

    Raises: Refusal.
    """
    data = decode_file(text, loc, MAX_SOUND_BYTES)
    try:
        return checked_sound(read_sound(io.BytesIO(data), max_s), INPUT_HZ, max_s)
    except ClientError as exc:
        raise Refusal(loc, str(exc), "invalid_audio") from exc

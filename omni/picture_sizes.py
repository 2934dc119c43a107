"""Width and height of a picture by the first bytes of its file, in bounded time.

Pillow reads on until the picture itself begins, and unpacks texts and profiles that stand before
it: one message of 200 KB held the event loop for 0.4 s.
"""

import struct
from collections.abc import Callable

Size = tuple[int, int]

#: Pieces of a JPEG or GIF that are passed over on the way to the size; cameras write some twenty.
_MAX_PIECES = 2000
_JPEG_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_GIF_IMAGE, _GIF_EXTENSION = 0x2C, 0x21


def size_of_picture(data: bytes | memoryview) -> Size | None:
    """Return (width, height) in pixels; None where the file does not say it soon."""
    head = bytes(data[:16])
    for is_one, read in _READERS:
        if is_one(head):
            try:
                return read(memoryview(data))
            except (struct.error, IndexError):  # it ends before that
                return None
    return None


def _png(data: memoryview) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _bmp(data: memoryview) -> Size:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: memoryview) -> Size | None:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", data, 24)  # two numbers of 24 bits
        return (low & 0xFFFFFF) + 1, (low >> 24 | high << 8) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(data: memoryview) -> Size | None:
    at = 2
    for _ in range(_MAX_PIECES):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _gif(data: memoryview) -> Size | None:
    """Return the size of the screen, or of the first picture where that sticks out."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, is_between = 13 + _gif_colours(flags), True
    for _ in range(_MAX_PIECES):
        if not is_between:  # in an extension: blocks with their length, up to an empty one
            is_between = data[at] == 0
            at += 1 + data[at]
        elif data[at] == _GIF_IMAGE:
            left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
            return max(width, left + wide), max(height, top + high)
        elif data[at] == _GIF_EXTENSION:
            at, is_between = at + 2, False
        else:
            return None
    return None


def _gif_colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[memoryview], Size | None]], ...] = (
    (lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda head: head == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", _png),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _webp),
    (lambda head: head[:6] in (b"GIF87a", b"GIF89a"), _gif),
    (lambda head: head.startswith(b"BM"), _bmp),
)

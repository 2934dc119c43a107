"""A picture that would fill the memory is refused by its header."""

import io
import struct
import subprocess
import sys
import zlib
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omni.errors import TooLarge
from omni.picture_sizes import size_of_picture
from omni.pictures import MAX_PIXELS, check_size
from omni.process import ROOT


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    """Return a picture of one colour, small as a file whatever its size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("width, height", [(8000, 8001), (10_000, 9_000), (30_000, 30_000)])
def test_a_bomb_is_refused(width: int, height: int) -> None:
    bomb = picture(width, height)
    assert len(bomb) < 200_000 and width * height > MAX_PIXELS

    with pytest.raises(TooLarge, match=f"pixels; at most {MAX_PIXELS}"):
        check_size(bomb)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_usual_picture_passes(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1920, 1080)).save(file, form)

    check_size(file.getvalue())


def saved(form: str, size: tuple[int, int], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, form, **options)
    return file.getvalue()


SIZES = [(1, 1), (640, 480), (1921, 1079), (255, 16_000)]
FILES: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {},
    "progressive JPEG": {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(9000)},
    "WEBP": {},
    "lossless WEBP": {"lossless": True},
    "extended WEBP": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"},
    "GIF": {"comment": b"c" * 900},
    "BMP": {},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILES)
def test_a_size_is_what_pillow_reads(name: str, size: tuple[int, int]) -> None:
    data = saved(name.split()[-1], size, **FILES[name])

    with Image.open(io.BytesIO(data)) as image:
        assert size_of_picture(data) == size_of_picture(memoryview(data)) == image.size


def test_a_gif_whose_picture_sticks_out_has_the_size_of_both() -> None:
    data = bytearray(saved("GIF", (10, 10)))
    at = data.rindex(b"\x2c\0\0\0\0\x0a\0\x0a\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 9000, 8000)

    assert size_of_picture(bytes(data)) == (9000, 8000)


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_a_size_or_none(name: str, data: st.DataObject) -> None:
    good = saved(name.split()[-1], (64, 48), **FILES[name])
    cut = data.draw(st.integers(0, len(good)))
    junk = data.draw(st.binary(max_size=64))

    size = size_of_picture(good[:cut] + junk + good[cut + len(junk) :])

    assert size is None or min(size) >= 0


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def _png_behind(chunks: bytes) -> bytes:
    good = picture(4, 4)
    return good[:33] + chunks + good[33:]


#: A megabyte each of what Pillow would go through, or unpack, on its way to the picture.
SLOW = {
    "texts": _png_behind(_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 1000),
    "profiles": _png_behind(_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(900_000))) * 1000),
    "markers": b"\xff\xd8" + b"\xff\xfe\0\2" * 250_000,
    "fill": b"\xff\xd8" + b"\xff" * 1_000_000,
    "comments": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1a\0" * 200_000,
    "blocks": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1a" * 500_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_file_holds_the_event_loop(name: str) -> None:
    """Counted in lines of Python, since a busy machine makes times of any kind."""
    lines = 0

    def count(frame: FrameType, event: str, arg: object) -> object:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        check_size(SLOW[name])
    finally:
        sys.settrace(before)

    assert lines < 30_000


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"\xff\xd8\xff", picture(64, 64)[:30], b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_picture_is_left_to_its_reader(data: bytes) -> None:
    check_size(data)


def test_the_first_picture_of_a_process_loads_no_further_module() -> None:
    """Pillow loads its plugins when it meets their first file: 100 ms of a standing event loop."""
    program = (
        "import sys; from omni.pictures import check_size\n"
        "before = set(sys.modules)\n"
        "check_size(b'neither of them' * 100)\n"
        "print({name for name in set(sys.modules) - before if name.startswith('PIL')})"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.strip() == "set()", done.stderr

"""A picture that would fill the memory is refused by its header."""

import io
import subprocess
import sys

import pytest
from PIL import Image

from omni.errors import TooLarge
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

"""Media in requests: data URLs are read strictly; nothing is fetched; bombs are refused."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from omni.openai.errors import Refusal
from omni.openai.media import read_data_url, read_image, read_recording, read_video

LOC = ("messages", 0)


def picture(kind: str, size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, kind)
    return file.getvalue()


def url(data: bytes, mime_type: str = "image/png") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def png_bomb(width: int, height: int) -> bytes:
    """Return a PNG of so many white pixels in a few kilobytes, well-formed throughout."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + name + body + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" + b"\xff" * (width // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_comes_through_as_the_file_that_it_is(kind: str) -> None:
    data = picture(kind)

    assert read_image(url(data, f"image/{kind.lower()}"), LOC) == data


def test_a_data_url_may_have_parameters() -> None:
    opened = read_data_url("data:Image/PNG;charset=utf-8;base64,AAEC", LOC, 10)

    assert (opened.mime_type, opened.data) == ("image/png", b"\0\1\2")


@pytest.mark.parametrize("address", ["http://127.0.0.1/a.png", "HTTPS://example.org/a.png"])
def test_an_address_is_refused_with_the_way_out(address: str) -> None:
    with pytest.raises(Refusal, match="data:TYPE;base64") as caught:
        read_image(address, LOC)

    assert caught.value.reason == "unsupported_value"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:",
        "data:,hello",
        "data:image/png,notbase64",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AA",
        "data:image/png;base64,AA==\n",
        "data:image/png;base64, AAEC",
        "data:;base64,AAEC",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "/etc/passwd",
        "data:image/png" + ";a=b" * 500 + ";base64,AAEC",
    ],
)
def test_what_is_no_data_url_is_refused(text: str) -> None:
    with pytest.raises(Exception) as caught:
        read_data_url(text, LOC, 100)

    assert getattr(caught.value, "loc", None) == LOC


def test_a_file_above_its_bound_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Exception, match="above") as caught:
        read_data_url("data:image/png;base64," + "A" * 10_000, LOC, 100)

    assert getattr(caught.value, "loc", None) == LOC


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    """900 million pixels: 2.7 GB decoded."""
    bomb = png_bomb(30_000, 30_000)
    assert len(bomb) < 250_000

    with pytest.raises(Refusal, match="above|more than") as caught:
        read_image(url(bomb), LOC)

    assert caught.value.reason == "image_too_large"


def test_a_picture_whose_data_are_broken_is_refused() -> None:
    data = bytearray(picture("PNG"))
    data[50] ^= 0xFF

    with pytest.raises(Refusal) as caught:
        read_image(url(bytes(data)), LOC)

    assert caught.value.reason == "invalid_image_format"


@pytest.mark.parametrize(
    "data",
    [
        b"no picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
        b"P6 1 1 255 abc",
    ],
)
def test_other_formats_are_no_pictures_here(data: bytes) -> None:
    with pytest.raises(Refusal):
        read_image(url(data), LOC)


def test_a_film_must_say_that_it_is_one() -> None:
    assert read_video(url(b"anything", "video/mp4"), LOC) == b"anything"
    with pytest.raises(Refusal, match="film"):
        read_video(url(b"anything", "image/png"), LOC)


@pytest.mark.parametrize("kind", ["WAV", "MP3"])
def test_a_recording_becomes_float32_at_16_khz(kind: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.full(24_000, 0.25, np.float32), 24_000, format=kind)

    pcm = read_recording(base64.b64encode(file.getvalue()).decode(), LOC, max_s=10)

    assert len(np.frombuffer(pcm, "<f4")) == pytest.approx(16_000, rel=0.02)


def test_a_recording_that_is_too_long_is_refused() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(48_000 * 60, np.float32), 48_000, format="FLAC")

    with pytest.raises(Refusal, match="longer than 10 s"):
        read_recording(base64.b64encode(file.getvalue()).decode(), LOC, max_s=10)


@given(st.text(max_size=60) | st.binary(max_size=60).map(url))
@example("data:image/gif;base64,R0lGODlh")
def test_any_text_is_a_picture_or_refused(text: str) -> None:
    try:
        read_image(text, LOC)
    except Exception as exc:
        assert getattr(exc, "loc", None) == LOC, exc

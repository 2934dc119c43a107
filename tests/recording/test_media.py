"""Pictures of a recording are kept as JPEG files; nothing else is opened that was sent as one."""

import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from omni.recording.media import write_picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def picture(kind: str) -> bytes:
    """Return a small picture of a format."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_what_is_no_jpeg_is_converted(tmp_path: Path, kind: str) -> None:
    assert write_picture(tmp_path / "a.jpg", picture(kind))
    with Image.open(tmp_path / "a.jpg") as kept:
        assert (kept.format, kept.size) == ("JPEG", (8, 8))


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX"])
def test_formats_that_no_camera_writes_are_left_out(tmp_path: Path, kind: str) -> None:
    assert not write_picture(tmp_path / "a.jpg", picture(kind))
    assert list(tmp_path.iterdir()) == []


def test_a_postscript_picture_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads EPS by running `gs`, where there is one."""
    gs, started = tmp_path / "gs", tmp_path / "started"
    gs.write_text(f"#!/bin/sh\ntouch {started}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)

    assert not write_picture(tmp_path / "a.jpg", EPS)
    assert not started.exists()

"""Films for the fake camera: JPEG pictures in a row, as Chromium reads them from `.mjpeg`."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIZE = (1280, 720)
LEFT, RIGHT = (200, 30, 30), (30, 30, 200)
_NUM_PICTURES = 20


def write_halves(path: Path) -> Path:
    """Write a film whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", SIZE, LEFT)
    picture.paste(RIGHT, (SIZE[0] // 2, 0, *SIZE))
    return _write(path, picture)


def write_desk(path: Path) -> Path:
    """Write a film of a bright desk with a mug: light behind every word that lies on it."""
    width, height = SIZE
    picture = Image.new("RGB", SIZE, "#e9e2d3")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width, 330), fill="#cfe0e6")
    draw.rectangle((90, 0, 520, 300), fill="#f7fbff")
    draw.rectangle((0, 440, width, height), fill="#c99a63")
    draw.ellipse((470, 500, 870, 600), fill="#9a7145")
    picture = picture.filter(ImageFilter.GaussianBlur(9))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((600, 250, 840, 560), 36, fill="#fdfaf3")
    draw.arc((800, 310, 950, 480), 255, 105, fill="#fdfaf3", width=30)
    draw.ellipse((600, 222, 840, 282), fill="#5a3a22")
    draw.polygon(((980, 520), (1180, 480), (1250, 620), (1030, 670)), fill="#2f6f66")
    return _write(path, picture)


def _write(path: Path, picture: Image.Image) -> Path:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    path.write_bytes(encoded.getvalue() * _NUM_PICTURES)
    return path

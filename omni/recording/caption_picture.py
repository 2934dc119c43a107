"""Captions drawn into pictures, where this machine has a font for their characters."""

from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

#: Where systems keep a font with Chinese, Japanese and Korean; the first that is there is used.
CJK_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/opentype/noto/NotoSerifCJK-Regular.ttc",
    "/usr/share/fonts/opentype/noto/NotoSerifCJK-Bold.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)
#: In a noto .ttc the simplified Chinese face is the third.
_NOTO_SC_FACE = 2
#: Font size and margins as parts of the picture's height.
_TEXT_HEIGHT = 0.052
_MARGIN = 0.035
_MIN_TEXT_PX = 12
_MAX_LINES = 3
_MAX_WIDTHS = 4096
_LATIN = 0x2E80  # below it, every font has the characters; from it on, those of East Asia begin


class CaptionPainter:
    """Draws captions at the foot of pictures of one size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._width, self._height = size
        self._px = max(_MIN_TEXT_PX, round(self._height * _TEXT_HEIGHT))
        self._margin = round(self._height * _MARGIN)
        self._widths: dict[str, float] = {}

    def painted(self, picture: Image.Image, text: str) -> Image.Image:
        """Return a copy of *picture* with the end of *text*, as much as three lines hold.

        The picture itself where no font of this machine has the characters: the captions are in a
        file of their own, too.
        """
        font = font_for(text, self._px)
        if font is None:
            return picture
        drawn = picture.copy()
        draw = ImageDraw.Draw(drawn)
        lines = self._lines(draw, text, font)[-_MAX_LINES:]
        draw.multiline_text(
            (self._width / 2, self._height - self._margin),
            "\n".join(lines),
            font=font,
            fill="white",
            anchor="md",
            align="center",
            stroke_width=max(1, self._px // 14),
            stroke_fill="black",
        )
        return drawn

    def _lines(
        self,
        draw: ImageDraw.ImageDraw,
        text: str,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    ) -> list[str]:
        """Return *text* in lines that fit, broken between words or, in Chinese, anywhere."""
        limit = self._width - 2 * self._margin
        lines, line, used = [], "", 0.0
        for word in _words(text):
            width = self._width_of(draw, word, font)
            if line and used + width > limit:
                lines.append(line.rstrip())
                line, used = "", 0.0
            line, used = line + word, used + width
        return [*lines, line.rstrip()]

    def _width_of(
        self,
        draw: ImageDraw.ImageDraw,
        word: str,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    ) -> float:
        """Return the width of *word*: the same words come back in every frame of a turn."""
        if word not in self._widths:
            if len(self._widths) >= _MAX_WIDTHS:
                self._widths.clear()
            self._widths[word] = draw.textlength(word, font=font)
        return self._widths[word]


def _words(text: str) -> list[str]:
    words = [""]
    for letter in text:
        words[-1] += letter
        if letter == " " or ord(letter) >= _LATIN:
            words.append("")
    return [word for word in words if word]


def font_for(text: str, px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """Return a font with the characters of *text*; None where there is none."""
    if (font := _cjk_font(px)) is not None:
        return font
    return ImageFont.load_default(px) if all(ord(letter) < _LATIN for letter in text) else None


@cache
def _cjk_font(px: int) -> ImageFont.FreeTypeFont | None:
    path = next((path for name in CJK_FONTS if (path := Path(name)).is_file()), None)
    if path is None:
        return None
    return ImageFont.truetype(path, px, index=_NOTO_SC_FACE if "CJK" in path.name else 0)

"""The film of a session with pictures: a frame for each slot, its captions, and both voices."""

import io
import logging
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from PIL import Image

from omni.recording.caption_picture import CaptionPainter
from omni.recording.captions import Cue
from omni.recording.media import MAX_PIXELS
from omni.recording.replay import Slot

log = logging.getLogger(__name__)

#: In order of preference: what every browser plays, then what every FFmpeg has.
_CODECS = ("libx264", "libopenh264", "mpeg4")
_MAX_SIZE = (1280, 720)
_TIME_BASE = Fraction(1, 1000)
_SOUND_HZ = 16_000
_SOUND_PIECE = 16_000
#: A key frame so often, in frames: where a player can seek to.
_KEY_EVERY = 5
_LAST_FRAME_MS = 40


def make_video(
    folder: Path, slots: Sequence[Slot], cues: Sequence[Cue], sound: Path, out: Path
) -> bool:
    """Write the film of *slots* to *out*; False where there is no picture to show.

    sound: the merged replay. Raises: OSError and FFmpeg's own errors, which are such.
    """
    first = next((picture for slot in slots if (picture := _read(folder, slot.frame))), None)
    if first is None:
        return False
    size = _film_size(first.size)
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as film:
        _Film(film, size).write(folder, slots, cues, sound)
    return True


class _Film:
    """One file being written. Pictures and sound are interleaved as their times ask for."""

    def __init__(self, film: "av.container.OutputContainer", size: tuple[int, int]) -> None:
        self._film = film
        self._size = size
        self._painter = CaptionPainter(size)
        video = film.add_stream(_codec_name(), rate=25)
        assert isinstance(video, av.VideoStream)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.time_base = _TIME_BASE
        context.gop_size = _KEY_EVERY
        context.thread_count = 1  # it works behind the sessions
        if context.name == "libx264":
            video.options = {"preset": "veryfast", "crf": "26", "tune": "stillimage"}
        else:
            context.bit_rate = 1_000_000
        sound = film.add_stream("aac", rate=_SOUND_HZ, layout="stereo")
        assert isinstance(sound, av.AudioStream)
        sound.codec_context.bit_rate = 64_000
        self._video, self._sound = video, sound

    def write(
        self, folder: Path, slots: Sequence[Slot], cues: Sequence[Cue], sound: Path
    ) -> None:
        picture = Image.new("RGB", self._size)
        cue_at = 0
        with wave.open(str(sound), "rb") as voices:
            for slot in slots:
                if (seen := _read(folder, slot.frame)) is not None:
                    picture = _letterboxed(seen, self._size)
                while cue_at < len(cues) and cues[cue_at].end_s <= slot.begin_s:
                    cue_at += 1
                cue = cues[cue_at] if cue_at < len(cues) else None
                shown = cue if cue is not None and cue.begin_s < slot.end_s else None
                self._show(picture, shown, round(slot.begin_s * 1000))
                self._hear(voices, slot.begin + slot.length)
            self._show(picture, None, round(slots[-1].end_s * 1000) - _LAST_FRAME_MS)
        self._film.mux(self._video.encode(None))
        self._film.mux(self._sound.encode(None))

    def _show(self, picture: Image.Image, cue: Cue | None, at_ms: int) -> None:
        drawn = picture if cue is None else self._painter.painted(picture, cue.text)
        frame = av.VideoFrame.from_ndarray(np.asarray(drawn), format="rgb24")
        frame.pts, frame.time_base = at_ms, _TIME_BASE
        self._film.mux(self._video.encode(frame))

    def _hear(self, voices: wave.Wave_read, until: int) -> None:
        while (at := voices.tell()) < until:
            data = voices.readframes(min(_SOUND_PIECE, until - at))
            if not data:
                return
            samples = np.frombuffer(data, "<i2").reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = _SOUND_HZ, at
            frame.time_base = Fraction(1, _SOUND_HZ)
            self._film.mux(self._sound.encode(frame))


def _codec_name() -> str:
    for name in _CODECS:
        try:
            Codec(name, "w")
        except ValueError:  # av.codec.codec.UnknownCodecError
            continue
        return name
    raise OSError("this FFmpeg can encode none of " + ", ".join(_CODECS))


def _read(folder: Path, name: str) -> Image.Image | None:
    """Return a picture of the recording, scaled down while it is read; None where it fails."""
    if not name:
        return None
    try:
        with Image.open(io.BytesIO((folder / name).read_bytes()), formats=["JPEG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture.draft("RGB", _MAX_SIZE)
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as exc:
        log.info("picture %s is not shown: %s", name, exc)
        return None


def _film_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return *size* scaled to fit the largest film, in even numbers as H.264 wants them."""
    scale = min(1.0, *(limit / side for limit, side in zip(_MAX_SIZE, size, strict=True)))
    width, height = (max(2, round(side * scale / 2) * 2) for side in size)
    return width, height


def _letterboxed(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    picture.thumbnail(size)
    canvas = Image.new("RGB", size)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas

"""Writing the sound and pictures of a recording as files that every player takes."""

import io
import logging
import wave
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from omni.audio import Waveform, pcm16_from_waveform, seconds
from omni.pictures import FORMATS
from omni.wav import wav_from_waveform

log = logging.getLogger(__name__)

#: Above this a picture is an attack on memory, not a picture: 8K video has 33 million.
MAX_PIXELS = 50_000_000
_JPEG_QUALITY = 90
_WEBM = b"\x1a\x45\xdf\xa3"
_BAD_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)


def write_wav(path: Path, samples: Waveform, rate_hz: int) -> None:
    """Write *samples* as mono PCM16."""
    path.write_bytes(wav_from_waveform(samples, rate_hz))


class WavFile:
    """A mono PCM16 file that grows piece by piece."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        self.path = path
        self.num_samples = 0
        self._rate_hz = rate_hz
        self._file = wave.open(str(path), "wb")
        self._file.setparams((1, 2, rate_hz, 0, "NONE", ""))

    @property
    def duration_s(self) -> float:
        """Return how long it is so far."""
        return seconds(self.num_samples, self._rate_hz)

    def append(self, samples: Waveform) -> None:
        """Add *samples* at its end."""
        self._file.writeframesraw(pcm16_from_waveform(samples))
        self.num_samples += samples.size

    def close(self) -> None:
        """Write the header with the final length."""
        self._file.close()


def write_picture(path: Path, data: bytes | memoryview) -> bool:
    """Write a compressed picture as a JPEG file; False where it is none that can be read.

    A JPEG stays as it is, everything else is converted.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            if picture.format == "JPEG":
                path.write_bytes(data)
            else:
                picture.convert("RGB").save(path, "JPEG", quality=_JPEG_QUALITY)
    except _BAD_PICTURE as exc:
        if isinstance(exc, OSError) and exc.errno:
            raise  # the disk's fault, not the picture's
        log.info("a picture is left out: %s", exc)
        return False
    return True


def film_suffix(data: bytes | memoryview) -> str:
    """Return the suffix of a film file by its first bytes."""
    return ".webm" if bytes(data[:4]) == _WEBM else ".mp4"

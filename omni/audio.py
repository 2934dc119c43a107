"""Sound as numbers: PCM bytes <-> float32 arrays, resampling, samples <-> seconds."""

import numpy as np
import soxr
from numpy.typing import NDArray

from omni.errors import ProtocolError

#: Rate of all sound towards an engine.
INPUT_HZ = 16_000
#: Rate of all sound from an engine.
OUTPUT_HZ = 24_000

_FLOAT32_BYTES = 4
_PCM16_BYTES = 2
#: PCM16 has one more negative value than positive ones; 32768 keeps the round trip exact.
_PCM16_SCALE = 32_768.0

Waveform = NDArray[np.float32]


def waveform_from_float32(pcm: bytes | memoryview) -> Waveform:
    """Return the samples of raw little-endian float32 PCM, shape (N,), made `harmless`.

    Raises: ProtocolError, if the length is not a whole number of samples.
    """
    size = memoryview(pcm).nbytes
    if size % _FLOAT32_BYTES:
        raise ProtocolError(f"float32 sound of {size} bytes: not a multiple of {_FLOAT32_BYTES}")
    return harmless(np.frombuffer(pcm, dtype="<f4"))


def harmless(samples: Waveform) -> Waveform:
    """Return *samples* within [-1, 1]: NaN and infinities become silence, peaks are clipped.

    One bad sample would otherwise poison all the state of a model behind it, and with it memory
    that sessions share: the power of 1e19 overflows float32.
    """
    if not samples.size or (samples.max() <= 1.0 and samples.min() >= -1.0):  # false for NaN
        return samples
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    clipped: Waveform = np.clip(finite, -1.0, 1.0)
    return clipped


def float32_from_waveform(samples: Waveform) -> bytes:
    """Return *samples*, shape (N,), as raw little-endian float32 PCM."""
    pcm: bytes = samples.astype("<f4", copy=False).tobytes()
    return pcm


def waveform_from_pcm16(pcm: bytes | memoryview) -> Waveform:
    """Return the samples of raw little-endian PCM16 in [-1, 1), shape (N,).

    Raises: ProtocolError, if the length is odd.
    """
    size = memoryview(pcm).nbytes
    if size % _PCM16_BYTES:
        raise ProtocolError(f"16-bit sound of {size} bytes: not a multiple of {_PCM16_BYTES}")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(_PCM16_SCALE)


def pcm16_from_waveform(samples: Waveform) -> bytes:
    """Return *samples* as raw little-endian PCM16; what is beyond [-1, 1] is clipped."""
    scaled = np.rint(samples * np.float32(_PCM16_SCALE))
    pcm: bytes = np.clip(scaled, -_PCM16_SCALE, _PCM16_SCALE - 1).astype("<i2").tobytes()
    return pcm


def resample(samples: Waveform, from_hz: int, to_hz: int) -> Waveform:
    """Return *samples* at *to_hz*; the whole sound at once."""
    if from_hz == to_hz or not samples.size:
        return samples
    resampled: Waveform = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return resampled


def seconds(num_samples: int, rate_hz: int) -> float:
    """Return how long *num_samples* last."""
    return num_samples / rate_hz


def samples(duration_s: float, rate_hz: int) -> int:
    """Return how many samples *duration_s* holds, rounded to the nearest."""
    return round(duration_s * rate_hz)


def rms(waveform: Waveform) -> float:
    """Return the root mean square level; 0 for no samples."""
    if not waveform.size:
        return 0.0
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


class StreamResampler:
    """Resamples a sound that comes in pieces, without a seam between them."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    def push(self, piece: Waveform, last: bool = False) -> Waveform:
        """Return what *piece* completes; with *last*, all that is still held back too."""
        resampled: Waveform = self._stream.resample_chunk(piece, last=last)
        return resampled

"""Sound files of any usual kind -> float32 at 16 kHz mono, read in threads of their own.

What clients send is decoded by FFmpeg (PyAV), which knows hundreds of formats. Only those that hold
nothing but themselves are let in: a playlist could name files of this machine or of its network.
"""

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np

from omni.audio import INPUT_HZ, Waveform
from omni.errors import CapacityError, ProtocolError, TooLarge

#: Demuxers, by FFmpeg's names.
FORMATS = "wav,w64,aiff,au,caf,mp3,aac,flac,ogg,amr,mov,mp4,matroska,webm"
#: Longest work on one file, in s; an hour of MP3 takes about 6 s of a busy core (measured).
MAX_WORK_S = 30.0
#: Files decoded at once, and those that may wait for it.
NUM_THREADS = 2
MAX_WAITING = 16
#: Rates outside of this are a broken header, not a sound.
_MIN_HZ, _MAX_HZ = 1_000, 400_000
_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": ""}


def read_sound(data: bytes | memoryview, max_s: float, max_work_s: float = MAX_WORK_S) -> Waveform:
    """Return the first sound track of a file at 16 kHz mono in [-1, 1], shape (N,). Blocks.

    max_s: longest sound. Raises: ProtocolError when there is no sound in it that can be read;
    TooLarge when it is longer than *max_s* or takes more than *max_work_s* to read.
    """
    try:
        with av.open(io.BytesIO(data), mode="r", options=_OPTIONS) as container:
            sound = _decoded(container, max_s, time.monotonic() + max_work_s)
    except (av.FFmpegError, ValueError, OSError, EOFError) as exc:
        raise ProtocolError(f"Not a sound file that can be read: {_reason(exc)}") from exc
    if not sound.size:
        raise ProtocolError("There is no sound in this file")
    finite = np.nan_to_num(sound, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(finite, -1.0, 1.0)


def _decoded(
    container: "av.container.InputContainer", max_s: float, deadline: float
) -> Waveform:
    if not container.streams.audio:
        raise ProtocolError("There is no sound in this file")
    rate_hz = container.streams.audio[0].rate
    if not _MIN_HZ <= (rate_hz or 0) <= _MAX_HZ:
        raise ProtocolError(f"A sound file of {rate_hz} Hz cannot be read")
    resampler = av.AudioResampler(format="flt", layout="mono", rate=INPUT_HZ)
    parts: list[Waveform] = []
    num_samples = 0
    for frame in _frames_and_end(container):
        for resampled in resampler.resample(frame):
            parts.append(resampled.to_ndarray()[0])
            num_samples += resampled.samples
        if num_samples > max_s * INPUT_HZ:
            raise TooLarge(f"The sound is longer than {max_s:.0f} s")
        if time.monotonic() > deadline:
            raise TooLarge("The sound file takes too long to read")
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _frames_and_end(
    container: "av.container.InputContainer",
) -> Iterator["av.AudioFrame | None"]:
    """Yield the frames, then None, which has the resampler give what it still holds."""
    yield from container.decode(audio=0)
    yield None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class SoundFiles:
    """Reads sound files beside the event loop: `NUM_THREADS` at once, `MAX_WAITING` more wait."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="sound-files")
        self._places = threading.Semaphore(NUM_THREADS + MAX_WAITING)

    async def read(self, data: bytes | memoryview, max_s: float) -> Waveform:
        """Return what `read_sound` does. Raises: CapacityError when too many wait already."""
        if not self._places.acquire(blocking=False):
            raise CapacityError("Too many files are being read: try again soon")
        work = self._threads.submit(read_sound, data, max_s)
        work.add_done_callback(lambda _: self._places.release())  # also when nobody waits any more
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Read no further file; what is being read ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

"""Media files of strangers, opened safely: known formats only, nothing fetched, bounded in length.

FFmpeg also knows "formats" that are lists of other files and addresses (playlists, session
descriptions); whoever opens a file by its content alone reads from wherever a stranger likes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from omni.audio import INPUT_HZ, Waveform, harmless
from omni.errors import ClientError, TooLarge

#: FFmpeg's names of formats that hold all that they play.
FORMATS = (
    "aac",
    "aiff",
    "amr",
    "asf",
    "au",
    "avi",
    "caf",
    "flac",
    "flv",
    "matroska",
    "mov",
    "mp3",
    "mpeg",
    "mpegts",
    "ogg",
    "w64",
    "wav",
    "webm",
)
#: Longest work on one file, in s; an hour of MP3 takes about 6 s of a busy core (measured).
MAX_WORK_S = 30.0
#: Outside of these it is a broken header, or made to cost much.
_RATES_HZ = range(1_000, 192_001)
_MAX_CHANNELS = 16
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}


@contextmanager
def open_container(file: IO[bytes]) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Raises, also for what goes wrong inside: ClientError, where it is none, broken or of a format
    that is not taken.
    """
    try:
        with av.open(file, mode="r", options=_OPTIONS) as container:
            yield container
    except av.FFmpegError as exc:
        raise ClientError(f"not a sound or video file that can be read: {exc.strerror}") from exc
    except (ValueError, OSError) as exc:
        raise ClientError(f"not a sound or video file that can be read: {exc}") from exc


def read_sound(file: IO[bytes], max_s: float, max_work_s: float = MAX_WORK_S) -> Waveform:
    """Return the sound of a sound or video file, mono at 16 kHz, shape (N,).

    Of several sound tracks the first is read. Raises: ClientError, where there is none; TooLarge,
    where it lasts longer than *max_s* (which is found out by reading no more than that), or takes
    longer than *max_work_s* to read.
    """
    deadline = time.monotonic() + max_work_s
    with open_container(file) as container:
        if not container.streams.audio:
            raise ClientError("the file has no sound")
        pieces: list[Waveform] = []
        num_samples = 0
        for piece in sound_pieces(container):
            num_samples += len(piece)
            if num_samples > max_s * INPUT_HZ:
                raise TooLarge(f"the sound is longer than {max_s:.0f} s")
            if time.monotonic() > deadline:
                raise TooLarge(f"the sound takes more than {max_work_s:.0f} s to read")
            pieces.append(piece)
        if not num_samples:
            raise ClientError("there is no sound in the file")
        return np.concatenate(pieces)


def sound_pieces(container: InputContainer) -> Iterator[Waveform]:
    """Yield the sound of the first sound track, which must be there, mono at 16 kHz.

    Raises: ClientError; and what `open_container` understands.
    """
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="flt", layout="mono", rate=INPUT_HZ)
    for packet in container.demux(stream):
        for frame in _frames(packet):
            if frame.sample_rate not in _RATES_HZ or frame.layout.nb_channels > _MAX_CHANNELS:
                text = f"{frame.layout.nb_channels} channels at {frame.sample_rate} Hz"
                raise ClientError(f"sound of {text} is not taken")
            for resampled in resampler.resample(frame):
                yield _samples(resampled)
    for resampled in resampler.resample(None):
        yield _samples(resampled)


def _samples(frame: av.AudioFrame) -> Waveform:
    return harmless(frame.to_ndarray().reshape(-1).astype(np.float32, copy=False))


def _frames(packet: "av.Packet[AudioStream]") -> list[av.AudioFrame]:
    try:
        return packet.decode()
    except av.error.InvalidDataError:  # players, too, pass over a broken piece
        return []

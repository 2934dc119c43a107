"""A video file -> pictures and the sound between them, in the order in which the model meets them.

Up to 64 s: one picture a second, each followed by its second of sound. Longer: 64 pictures evenly
over the whole length. `stack_frames` adds, for every second, a mosaic of what lies between.
"""

import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from time import monotonic

import av
import numpy as np
from attrs import frozen
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image

from omni.containers import open_container, sound_pieces
from omni.errors import ClientError
from omni.minicpmo.mel import SAMPLE_RATE_HZ
from omni.pictures import MAX_PIXELS

MAX_FRAMES = 64  # pictures of one video; the published MAX_NUM_FRAMES
MAX_DURATION_S = 3600.0  # decoding is linear in the length: an hour is some minutes of one core
MAX_WORK_S = 600.0  # of one core for one video, whatever its header says
#: What all pictures of one video may have together: 768 MB of RGB. Where they are larger, each is
#: taken smaller; 64 pictures of 4 million pixels stay as they are.
MAX_TOTAL_PIXELS = 256_000_000
_CANDIDATES_HZ = 10  # of a longer video, so many pictures a second are chosen from
_MIN_SEGMENT_SAMPLES = 1600  # a shorter last segment is padded: the encoder gives it one embedding


@frozen(kw_only=True, eq=False)
class VideoSegment:
    """One picture and the sound up to the next (16 kHz mono; None: no sound track).

    between: the other pictures of its second, for a mosaic. Those of a whole film, made here, would
    fill gigabytes.
    """

    start_s: float
    picture: Image.Image
    sound: NDArray[np.float32] | None
    between: tuple[Image.Image, ...] = ()


def read_video(
    data: bytes, stack_frames: int = 1, max_work_s: float = MAX_WORK_S
) -> list[VideoSegment]:
    """Return the segments of an encoded video file.

    Raises: ClientError, when it is no video, broken, too long, its pictures too large, or decoding
    it takes longer than *max_work_s*.
    """
    if stack_frames < 1:
        raise ClientError(f"stack_frames must be at least 1, is {stack_frames}")
    with open_container(io.BytesIO(data)) as container:
        deadline = monotonic() + max_work_s
        return _segments(data, container, stack_frames, deadline)


def frame_times(duration_s: float) -> list[float]:
    """Return when the pictures of a video of *duration_s* are taken."""
    if duration_s <= MAX_FRAMES:
        return [float(second) for second in range(math.ceil(duration_s))]
    candidates = np.arange(0, duration_s, 1 / _CANDIDATES_HZ)
    chosen = np.linspace(0, len(candidates) - 1, MAX_FRAMES).astype(int)
    return [float(time) for time in candidates[chosen]]


def stacked_times(duration_s: float, stack_frames: int) -> dict[int, list[float]]:
    """Return, for each second, when the pictures of its mosaic are taken."""
    times: dict[int, list[float]] = {}
    count = 0
    for second in range(math.ceil(duration_s)):
        for part in range(1, stack_frames):
            time = second + part / stack_frames
            if time < duration_s and count < MAX_FRAMES * (stack_frames - 1):
                times.setdefault(second, []).append(time)
                count += 1
    return times


def _segments(
    data: bytes, container: InputContainer, stack_frames: int, deadline: float
) -> list[VideoSegment]:
    if not container.streams.video:
        raise ClientError("the file has no pictures; send it as audio")
    rate, num_frames = _rate_and_length(data)
    duration_s = num_frames / rate
    if duration_s > MAX_DURATION_S:
        raise ClientError(f"a video of {duration_s:.0f} s; at most {MAX_DURATION_S:.0f} s")
    times = frame_times(duration_s)
    extra = stacked_times(duration_s, stack_frames)
    wanted = {_index(time, rate, num_frames) for time in times}
    wanted |= {_index(time, rate, num_frames) for group in extra.values() for time in group}
    pictures = dict(_pictures(container, wanted, deadline))
    sounds = _sounds(data, times, duration_s)
    return [
        VideoSegment(
            start_s=time,
            picture=pictures[_index(time, rate, num_frames)],
            sound=sound,
            between=tuple(
                pictures[_index(part, rate, num_frames)] for part in extra.get(int(time), ())
            ),
        )
        for time, sound in zip(times, sounds, strict=True)
    ]


def _index(time_s: float, rate: float, num_frames: int) -> int:
    return min(int(time_s * rate), num_frames - 1)


def _rate_and_length(data: bytes) -> tuple[float, int]:
    """Return pictures a second and their number, counted: headers of streamed files lack or lie."""
    with open_container(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise ClientError(
                f"pictures of {stream.width}x{stream.height}; at most {MAX_PIXELS} pixels"
            )
        count = sum(packet.size > 0 for packet in container.demux(stream))
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
    if not count or rate <= 0:
        raise ClientError("the video has no pictures")
    return float(rate), count


def _pictures(
    container: InputContainer, wanted: set[int], deadline: float = math.inf
) -> Iterator[tuple[int, Image.Image]]:
    """Yield (index, picture) of the wanted frames; the last one for those a broken file lacks."""
    last, missing = None, set(wanted)
    max_pixels = MAX_TOTAL_PIXELS // len(wanted)
    # FFmpeg looks at every frame: a file may begin with small ones.
    container.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    for index, frame in enumerate(container.decode(video=0)):
        if monotonic() > deadline:
            raise ClientError("the video takes too long to decode")
        last = frame
        if index in missing:
            missing.remove(index)
            yield index, _image(frame, max_pixels)
        if not missing:
            return
    if last is None:
        raise ClientError("the video has no picture that can be decoded")
    for index in missing:
        yield index, _image(last, max_pixels)


def _image(frame: av.VideoFrame, max_pixels: int) -> Image.Image:
    scale = math.sqrt(max_pixels / (frame.width * frame.height))
    if scale < 1:
        width, height = (max(1, int(side * scale)) for side in (frame.width, frame.height))
        frame = frame.reformat(width, height, "rgb24", interpolation="AREA")
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


def _sounds(
    data: bytes, times: Sequence[float], duration_s: float
) -> list[NDArray[np.float32] | None]:
    """Return the sound from each of *times* to the next."""
    sound = _sound(data, int(duration_s * SAMPLE_RATE_HZ))
    if sound is None:
        return [None] * len(times)
    edges = [int(time * SAMPLE_RATE_HZ) for time in (*times, duration_s)]
    segments = [sound[start:stop] for start, stop in zip(edges, edges[1:])]
    return [_filled(segment) for segment in segments]


def _filled(segment: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = _MIN_SEGMENT_SAMPLES - len(segment)
    return np.pad(segment, (0, missing)) if missing > 0 else segment


def _sound(data: bytes, max_samples: int) -> NDArray[np.float32] | None:
    """Return the sound track as 16 kHz mono, as far as it is wanted; None where there is none."""
    parts: list[NDArray[np.float32]] = []
    with open_container(io.BytesIO(data)) as container:
        if not container.streams.audio:
            return None
        for part in sound_pieces(container):
            parts.append(part)
            max_samples -= len(part)
            if max_samples <= 0:
                break
    return np.concatenate(parts) if parts else None

"""Videos made here with known pictures and sounds come back picture by picture, sound by sound."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from omni.errors import ClientError
from omni.minicpmo import video
from omni.minicpmo.images import mosaic
from omni.minicpmo.video import _pictures, frame_times, read_video, stacked_times

RATE_HZ = 10


def make_video(num_frames: int, sound_s: float | None = None, width: int = 64) -> bytes:
    """Return an AVI whose frame i has brightness 2i; its sound doubles after the first second."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        pictures = container.add_stream("mjpeg", rate=RATE_HZ)
        pictures.width, pictures.height, pictures.pix_fmt = width, 48, "yuvj444p"
        sounds = container.add_stream("pcm_s16le", rate=16000) if sound_s else None
        for index in range(num_frames):
            gray = np.full((48, width, 3), min(255, 2 * index), dtype=np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        if sounds is not None:
            time = np.arange(int(16000 * sound_s)) / 16000
            wave = np.where(time < 1, 4000, 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(sounds.encode(frame))
            container.mux(sounds.encode(None))
        container.mux(pictures.encode(None))
    return file.getvalue()


def brightness(image) -> int:
    return round(np.asarray(image).mean())


def test_a_picture_is_taken_at_every_second_with_the_sound_up_to_the_next():
    segments = read_video(make_video(25, sound_s=2.5))

    assert [segment.start_s for segment in segments] == [0, 1, 2]
    assert [brightness(segment.picture) for segment in segments] == pytest.approx(
        [0, 20, 40], abs=3
    )
    sounds = [segment.sound for segment in segments]
    assert [len(sound) for sound in sounds] == [16000, 16000, 8000]
    levels = [float(np.median(sound)) for sound in sounds]
    assert levels == pytest.approx([4000 / 32768, 8000 / 32768, 8000 / 32768], abs=1e-3)


def test_a_video_without_sound_has_pictures_alone():
    segments = read_video(make_video(12))

    assert [segment.sound for segment in segments] == [None, None]


def test_a_last_segment_too_short_to_be_heard_is_padded():
    segments = read_video(make_video(21, sound_s=2.02))

    sound = segments[-1].sound
    assert len(sound) == 1600
    assert not sound[321:].any()


def test_frames_between_the_seconds_are_stacked_into_one_mosaic():
    first, second = read_video(make_video(17), stack_frames=4)

    assert mosaic(first.between).size == (64, 3 * 48 + 12)
    assert brightness(first.between[0]) == pytest.approx(4, abs=3)
    assert mosaic(second.between).size == (64, 2 * 48 + 6)


def test_every_part_below_the_length_is_stacked_and_none_beyond():
    assert stacked_times(1.6, 4) == {0: [0.25, 0.5, 0.75], 1: [1.25, 1.5]}
    assert stacked_times(1.6, 1) == {}


@pytest.mark.parametrize(("duration_s", "count"), [(0.2, 1), (3.0, 3), (63.4, 64), (64.0, 64)])
def test_up_to_64_seconds_there_is_one_picture_a_second(duration_s, count):
    assert frame_times(duration_s) == [float(second) for second in range(count)]


def test_a_longer_video_gives_64_pictures_over_its_whole_length():
    times = frame_times(200.0)

    assert len(times) == 64
    assert times[0] == 0
    assert times[-1] == pytest.approx(199.9)
    assert all(round(10 * time) == pytest.approx(10 * time) for time in times)


@pytest.mark.parametrize("data", [b"", b"no video at all", b"RIFF\0\0\0\0AVI LIST" + b"\0" * 60])
def test_what_is_no_video_is_the_callers_error(data):
    with pytest.raises(ClientError, match="video|pictures"):
        read_video(data)


def test_a_truncated_file_gives_the_seconds_that_it_still_holds():
    whole = make_video(25, sound_s=2.5)

    segments = read_video(whole[: int(len(whole) * 0.95)])

    assert 1 <= len(segments) <= 3
    assert all(segment.picture.size == (64, 48) for segment in segments)
    assert brightness(segments[0].picture) == pytest.approx(0, abs=3)


def test_a_picture_that_cannot_be_decoded_is_the_last_one_that_can():
    with av.open(io.BytesIO(make_video(8)), mode="r") as container:
        pictures = dict(_pictures(container, {2, 99}))

    assert brightness(pictures[2]) == pytest.approx(4, abs=3)
    assert brightness(pictures[99]) == pytest.approx(14, abs=3)


def test_large_pictures_are_taken_smaller_so_that_all_together_fit(monkeypatch):
    whole = read_video(make_video(60), stack_frames=10)
    monkeypatch.setattr(video, "MAX_TOTAL_PIXELS", 60 * 32 * 24)

    segments = read_video(make_video(60), stack_frames=10)

    assert [segment.picture.size for segment in whole] == [(64, 48)] * 6
    assert [segment.picture.size for segment in segments] == [(32, 24)] * 6
    assert [brightness(segment.picture) for segment in segments] == pytest.approx(
        [brightness(segment.picture) for segment in whole], abs=3
    )


def growing_video() -> bytes:
    """Return an AVI of 20 pictures of 64x48, then 10 of 640x480."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=RATE_HZ)
        large = av.CodecContext.create("mjpeg", "w")
        large.framerate, large.time_base = RATE_HZ, Fraction(1, RATE_HZ)
        for encoder, size in ((stream, (64, 48)), (large, (640, 480))):
            encoder.width, encoder.height, encoder.pix_fmt = *size, "yuvj444p"
        for index in range(30):
            encoder, size = (stream, (64, 48)) if index < 20 else (large, (640, 480))
            frame = av.VideoFrame(*size, "yuvj444p")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            for packet in encoder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def test_every_picture_is_looked_at_before_it_is_decoded_and_not_the_header_alone(monkeypatch):
    growing = growing_video()
    assert [s.picture.size for s in read_video(growing)] == [(64, 48), (64, 48), (640, 480)]
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48)

    with pytest.raises(ClientError):
        read_video(growing)


def test_a_video_that_takes_too_long_is_given_up():
    with pytest.raises(ClientError, match="too long"):
        read_video(make_video(8), max_work_s=0.0)

"""What clients send becomes what the prompt takes, in its order; what is broken says where."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni.engine import Buffer, Part
from omni.errors import ClientError
from omni.minicpmo.content import MediaOptions, SliceRoom, joined, num_audio_tokens, read_message
from omni.minicpmo.prompt import AudioPart, ImagePart
from tests.minicpmo.driver import pcm
from tests.minicpmo.pictures import golden_picture
from tests.minicpmo.test_video import make_video

WORDS = Part(kind="text", text="What is this?")


def picture(width: int, height: int) -> Part:
    file = io.BytesIO()
    golden_picture(width, height, 1).save(file, "PNG")
    return Part(kind="image", data=Buffer(file.getvalue()))


def sound(num_samples: int) -> Part:
    samples = np.random.default_rng(num_samples).normal(0, 0.1, num_samples)
    return Part(kind="audio", data=pcm(samples.astype(np.float32)))


def video(duration_s: int, with_sound: bool, stack_frames: int = 1) -> Part:
    film = make_video(10 * duration_s, sound_s=float(duration_s) if with_sound else None)
    return Part(kind="video", data=Buffer(film), stack_frames=stack_frames)


def test_parts_keep_their_order() -> None:
    content = read_message("user", [WORDS, picture(64, 48), sound(16000), WORDS], MediaOptions())

    assert content.parts == (
        "What is this?",
        ImagePart(grid=None),
        AudioPart(num_tokens=10),
        "What is this?",
    )
    assert len(content.images) == 1
    assert len(content.sound) == 16000


@pytest.mark.parametrize(("asked", "num_slices"), [(None, 9), (1, 1), (2, 3), (9, 9)])
def test_pictures_are_sliced_as_asked(asked: int | None, num_slices: int) -> None:
    content = read_message("user", [picture(1920, 1080)], MediaOptions(max_slices=asked))

    assert len(content.images[0].patches) == num_slices


def test_a_video_is_its_pictures_each_followed_by_its_sound() -> None:
    content = read_message("user", [video(3, with_sound=True)], MediaOptions(hears_videos=True))

    assert content.parts == (ImagePart(grid=None), AudioPart(num_tokens=10)) * 3
    assert len(content.sound) == 48000


def test_a_video_is_its_pictures_alone_where_its_sound_is_not_asked_for() -> None:
    content = read_message("user", [video(3, with_sound=True)], MediaOptions())

    assert content.parts == (ImagePart(grid=None),) * 3
    assert not len(content.sound)


def test_a_silent_video_is_its_pictures_alone() -> None:
    content = read_message("user", [video(2, with_sound=False)], MediaOptions(hears_videos=True))

    assert content.parts == (ImagePart(grid=None),) * 2


def test_stacked_pictures_follow_the_sound_of_their_second() -> None:
    part = video(2, with_sound=True, stack_frames=4)

    content = read_message("user", [part], MediaOptions(hears_videos=True))

    second = (ImagePart(grid=None), AudioPart(num_tokens=10), ImagePart(grid=None))
    assert content.parts == second * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=8))
def test_sounds_together_have_at_least_the_embeddings_of_each(lengths: list[int]) -> None:
    """The whole is encoded at once; rounding could leave it one short of its places."""
    sounds: list[NDArray[np.float32]] = [np.ones(n, dtype=np.float32) for n in lengths]

    whole = joined(sounds)

    places = sum(num_audio_tokens(length) for length in lengths)
    assert places <= num_audio_tokens(len(whole)) <= places + len(lengths)
    assert whole.sum() == sum(lengths)
    assert len(whole) - sum(lengths) < 1600


def test_one_sound_is_left_as_it_is() -> None:
    samples = np.arange(12345, dtype=np.float32)

    assert np.array_equal(joined([samples]), samples)


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (Part(kind="image", data=Buffer(b"GIF89a")), "content[1] (image)"),
        (Part(kind="audio", data=Buffer(b"12345")), "content[1] (audio)"),
        (Part(kind="audio"), "content[1] (audio): there are no samples"),
        (Part(kind="video", data=Buffer(b"\x00" * 100)), "content[1] (video)"),
        (
            Part(kind="video", data=video(1, with_sound=False).data, stack_frames=0),
            "content[1] (video): stack_frames",
        ),
    ],
)
def test_a_broken_part_is_told_with_its_place(part: Part, place: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_message("user", [WORDS, part], MediaOptions())

    assert str(caught.value).startswith(place)


def test_samples_that_are_no_numbers_are_silence() -> None:
    samples = np.array([0.5, np.nan, np.inf, -0.5] * 400, dtype=np.float32)

    content = read_message("user", [Part(kind="audio", data=pcm(samples))], MediaOptions())

    assert np.isfinite(content.sound).all()
    assert content.sound[0] == 0.5


def test_a_request_has_room_for_so_many_pictures_together() -> None:
    """Pictures of one pixel are 100 bytes as a file and 600 kB for the model."""
    options = MediaOptions(room=SliceRoom(num_left=4))
    read_message("user", [picture(64, 48)] * 3, options)

    with pytest.raises(ClientError, match=r"messages\[1\].content\[1\] \(image\): more than"):
        read_message("user", [picture(64, 48)] * 2, options, "messages[1].content")

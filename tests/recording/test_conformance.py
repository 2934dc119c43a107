"""The protocol's section 8, where no other test of recordings tells a wrong rule."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from omni.engine import AudioChunk, PrepareDuplex, UnitResult
from omni.recording.finalise import finalise
from omni.recording.journal import Item
from tests.recording.stage import answer, finalised, picture, read, tone, write_session

Items = list[tuple[float, int, Item]]


def call(num_chunks: int, spoken: int, first: int = 0, **chunk: object) -> Items:
    """Return a call of chunks of 1 s, of which one is answered with a turn of 1 s."""
    items: Items = [(0.0, 0, PrepareDuplex(mode="omni_duplex"))]
    for n in range(first, first + num_chunks):
        speaks = n == spoken
        heard = AudioChunk(pcm=tone(1.0), **chunk)  # type: ignore[arg-type]  # fields of a chunk
        said = UnitResult(is_listen=True)
        if speaks:
            said = UnitResult(is_listen=False, text="WWWW", pcm=answer(1.0), end_of_turn=True)
        items += [(n + 0.5, n, heard), (n + 0.75, n, said)]
    return items


def test_sound_is_kept_as_mono_of_16_bits(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", call(2, spoken=1))

    finalise(folder)

    forms = {}
    for name in ("user_audio/000.wav", "ai_audio/turn_0_chunk_001.wav"):
        with wave.open(str(folder / name), "rb") as file:
            forms[name] = (file.getnchannels(), file.getsampwidth(), file.getframerate())
    assert list(forms.values()) == [(1, 2, 16_000), (1, 2, 24_000)]


def test_names_grow_beyond_999(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", call(2, spoken=1000, first=999))

    chunks = finalised(folder)["chunks"]

    sounds = [chunk["user_audio"] for chunk in chunks]
    assert sounds == ["user_audio/999.wav", "user_audio/1000.wav"]
    assert chunks[1]["result"]["ai_audio"] == "ai_audio/turn_0_chunk_1000.wav"
    assert (folder / "user_audio" / "1000.wav").is_file()


def test_of_several_pictures_of_a_chunk_the_first_is_kept(tmp_path: Path) -> None:
    first, second = picture(), picture("JPEG", (32, 24))
    items = call(1, spoken=-1, frames=(first, second))
    folder = write_session(tmp_path / "d", "omni_duplex", items)

    [chunk] = finalised(folder)["chunks"]

    assert [path.name for path in (folder / "user_frames").iterdir()] == ["000.jpg"]
    assert (folder / chunk["user_frame"]).read_bytes() == first


def test_what_was_said_can_be_read_before_the_replay_is_made(tmp_path: Path) -> None:
    """The reference wrote it last, and a viewer that was opened right after a call found nothing.

    A folder is in the replay's way here, so that it is never made.
    """
    folder = write_session(tmp_path / "d", "audio_duplex", call(2, spoken=1))
    (folder / "merged_replay.wav").mkdir()

    with pytest.raises(OSError):
        finalise(folder)

    recording = read(folder / "recording.json")
    assert len(recording["chunks"]) == 2 and "merged_replay" not in recording
    assert read(folder / "meta.json")["ended_at"] is not None


def test_a_call_whose_film_fails_has_its_sound(tmp_path: Path) -> None:
    items = call(2, spoken=1, frames=(picture(),))
    folder = write_session(tmp_path / "d", "omni_duplex", items)
    (folder / "merged_replay.mp4").mkdir()

    recording = finalised(folder)

    assert recording["merged_replay"] == "merged_replay.wav"
    assert "merged_replay_video" not in recording


def test_words_stand_in_the_film_from_their_chunk_to_a_second_and_a_half_later(
    tmp_path: Path,
) -> None:
    items = call(6, spoken=1, frames=(picture("JPEG", (320, 240)),))
    folder = write_session(tmp_path / "d", "omni_duplex", items)

    finalise(folder)

    with av.open(str(folder / "merged_replay.mp4")) as film:
        frames = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
    has_words = [bool(np.ptp(frame[180:].astype(int)) > 100) for frame in frames]
    assert has_words[:6] == [False, True, True, True, False, False]
    captions = (folder / "merged_replay.vtt").read_text("utf-8")
    assert captions == "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\nWWWW\n"

"""Pictures and sound of a film go together, from its first second to its last."""

import io
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omni.audio import INPUT_HZ
from omni.engine import AudioChunk, Buffer, PrepareDuplex, UnitResult
from omni.recording.journal import Item
from tests.recording.stage import finalised, tone, write_session

#: White and loud, or black and silent, for a second each.
SHOWN = [False, True, False, False, True, True, False, True, False, True, True, False]
STEP_S = 0.01


def page(is_white: bool) -> Buffer:
    file = io.BytesIO()
    Image.new("RGB", (160, 120), (255, 255, 255) if is_white else (0, 0, 0)).save(file, "JPEG")
    return Buffer(file.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items: list[tuple[float, int, Item]] = [(0.0, 0, PrepareDuplex(mode="omni_duplex"))]
    for number, is_on in enumerate(SHOWN):
        pcm = tone(1.0) if is_on else Buffer(bytes(4 * INPUT_HZ))
        items.append((number + 0.1, number, AudioChunk(pcm=pcm, frames=(page(is_on),))))
        items.append((number + 0.2, number, UnitResult(is_listen=True)))
    folder = write_session(tmp_path_factory.mktemp("film") / "s", "omni_duplex", items)
    assert finalised(folder)["merged_replay_video"] == "merged_replay.mp4"
    return folder


def changes(states: list[tuple[float, bool]]) -> list[float]:
    """Return when the state changes."""
    pairs = zip(states, states[1:])
    return [at for (_, before), (at, after) in pairs if before != after]


def test_what_is_heard_is_seen_at_the_same_moment(folder: Path) -> None:
    film = folder / "merged_replay.mp4"
    with av.open(str(film)) as container:
        seen = [
            (float(frame.time or 0), bool(frame.to_ndarray(format="gray").mean() > 128))
            for frame in container.decode(video=0)
        ]
    with av.open(str(film)) as container:
        pieces = list(container.decode(audio=0))
    left = np.concatenate([piece.to_ndarray()[0] for piece in pieces])
    step = int(STEP_S * INPUT_HZ)
    steps = left[: left.size // step * step].reshape(-1, step)
    begin_s = float(pieces[0].time or 0)
    heard = [
        (begin_s + number * STEP_S, bool(is_loud))
        for number, is_loud in enumerate(np.abs(steps).max(axis=1) > 0.1)
    ]

    expected = changes([(float(second), is_on) for second, is_on in enumerate(SHOWN)])
    assert changes(seen)[: len(expected)] == pytest.approx(expected, abs=0.04)
    assert changes(heard) == pytest.approx(expected, abs=0.04)


def test_film_sound_and_pictures_last_as_long_as_the_merged_sound(folder: Path) -> None:
    with wave.open(str(folder / "merged_replay.wav")) as file:
        duration_s = file.getnframes() / file.getframerate()
    with av.open(str(folder / "merged_replay.mp4")) as container:
        lasting = [float(each.duration * each.time_base) for each in container.streams]
        begins = [each.start_time for each in container.streams]

    assert duration_s == len(SHOWN) and begins == [0, 0]
    assert lasting == pytest.approx([duration_s] * 2, abs=0.07)  # an AAC frame has 64 ms

"""When turns begin and end, and what is committed; with real speech where voices are judged."""

from collections.abc import Sequence

import numpy as np
import pytest

from bench.speech import load_voice, speak
from omni.audio import INPUT_HZ, Waveform, samples
from omni.openai.errors import Refusal
from omni.realtime.openai.config import TurnDetection
from omni.realtime.openai.microphone import MAX_BUFFER_S, Microphone, SpeechChange

NOTHING = np.zeros(0, np.float32)
LEAD_S, TAIL_S = 1.0, 1.5


def quiet(duration_s: float) -> Waveform:
    size = samples(duration_s, INPUT_HZ)
    noise = np.random.default_rng(7).standard_normal(size, dtype=np.float32)
    return noise * np.float32(1e-4)


@pytest.fixture(scope="module")
def sentence() -> Waveform:
    return speak(load_voice(), "The capital of France is Paris.", INPUT_HZ)


@pytest.fixture(scope="module")
def speech(sentence: Waveform) -> Waveform:
    """A sentence in a quiet room."""
    return np.concatenate([quiet(LEAD_S), sentence, quiet(TAIL_S)])


def listen(microphone: Microphone, sound: Waveform, size: int = 1_600) -> list[SpeechChange]:
    """Return what changes while *sound* comes in pieces."""
    pieces = [sound[at : at + size] for at in range(0, sound.size, size)]
    return [change for piece in pieces for change in microphone.push(piece)]


def kinds(changes: Sequence[SpeechChange]) -> list[str]:
    return [change.kind for change in changes]


def test_a_sentence_is_one_turn(speech: Waveform, sentence: Waveform) -> None:
    changes = listen(Microphone(TurnDetection()), speech)

    assert kinds(changes) == ["started", "paused", "stopped"]
    started, paused, stopped = changes
    ended_ms = 1000 * (LEAD_S + sentence.size / INPUT_HZ)
    assert started.at_ms == pytest.approx(1000 * LEAD_S - 300, abs=200)  # 300 ms of prefix
    assert stopped.at_ms == pytest.approx(ended_ms + 500, abs=200)  # 500 ms of silence
    assert stopped.waveform.size * 1000 / INPUT_HZ == stopped.at_ms - started.at_ms
    assert np.array_equal(stopped.waveform[: paused.waveform.size], paused.waveform)
    begin = started.at_ms * INPUT_HZ // 1000
    assert np.array_equal(stopped.waveform, speech[begin : begin + stopped.waveform.size])


@pytest.mark.parametrize("size", [160, 512, 24_000, 10**6])
def test_turns_do_not_depend_on_how_sound_is_cut(speech: Waveform, size: int) -> None:
    usual = listen(Microphone(TurnDetection()), speech)

    changes = listen(Microphone(TurnDetection()), speech, size)

    assert [(c.kind, c.at_ms) for c in changes] == [(c.kind, c.at_ms) for c in usual]


def test_who_only_pauses_is_not_cut_short(sentence: Waveform) -> None:
    sound = np.concatenate([sentence, quiet(0.35), sentence, quiet(TAIL_S)])

    changes = listen(Microphone(TurnDetection()), sound)

    assert kinds(changes) == ["started", "paused", "resumed", "paused", "stopped"]


@pytest.mark.parametrize(("eagerness", "num_turns"), [("high", 2), ("low", 1)])
def test_eagerness_is_how_long_a_silence_may_be(
    sentence: Waveform, eagerness: str, num_turns: int
) -> None:
    sound = np.concatenate([sentence, quiet(0.7), sentence, quiet(TAIL_S)])
    rules = TurnDetection(kind="semantic_vad", eagerness=eagerness)  # type: ignore[arg-type]

    changes = listen(Microphone(rules), sound)

    assert kinds(changes).count("stopped") == num_turns


def test_a_quiet_room_and_a_click_are_no_turn() -> None:
    click = np.zeros(320, np.float32)
    click[:40] = 0.9
    sound = np.concatenate([quiet(1), click, quiet(1)])

    assert not listen(Microphone(TurnDetection()), sound)


def test_time_goes_on_over_turns_and_clears(speech: Waveform) -> None:
    microphone = Microphone(TurnDetection())
    first = listen(microphone, speech)
    microphone.clear()

    second = listen(microphone, speech)

    shift_ms = second[0].at_ms - first[0].at_ms
    assert shift_ms == pytest.approx(1000 * speech.size / INPUT_HZ, abs=40)


def test_without_detection_all_of_it_is_committed() -> None:
    microphone = Microphone(None)
    sound = quiet(1.0)
    assert not listen(microphone, sound[:-100])

    committed = microphone.commit(sound[-100:])

    assert np.array_equal(committed, sound)
    with pytest.raises(Refusal):
        microphone.commit(NOTHING)


def test_a_turn_may_be_committed_before_it_ends(sentence: Waveform) -> None:
    microphone = Microphone(TurnDetection())
    changes = listen(microphone, np.concatenate([quiet(LEAD_S), sentence]))

    committed = microphone.commit(NOTHING)

    assert "started" in kinds(changes) and "stopped" not in kinds(changes)
    assert committed.size >= sentence.size
    assert "stopped" not in kinds(listen(microphone, quiet(TAIL_S)))


def test_silence_is_nothing_to_commit() -> None:
    microphone = Microphone(TurnDetection())
    listen(microphone, quiet(1.0))

    with pytest.raises(Refusal) as refusal:
        microphone.commit(NOTHING)

    assert refusal.value.reason == "input_audio_buffer_commit_empty"


def test_a_full_buffer_takes_no_more_and_keeps_what_it_has() -> None:
    microphone = Microphone(None)
    most = samples(MAX_BUFFER_S, INPUT_HZ)
    microphone.push(np.zeros(most, np.float32))

    with pytest.raises(Refusal) as refusal:
        microphone.push(np.zeros(1, np.float32))

    assert refusal.value.reason == "input_audio_buffer_full"
    assert microphone.commit(NOTHING).size == most


def test_new_rules_begin_anew(speech: Waveform) -> None:
    microphone = Microphone(None)
    listen(microphone, quiet(1.0))

    microphone.configure(TurnDetection())

    assert kinds(listen(microphone, speech)) == ["started", "paused", "stopped"]

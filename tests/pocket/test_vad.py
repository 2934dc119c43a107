"""Utterances are cut where people would cut them, however the sound arrives."""

import numpy as np
import pytest

from omni import audio
from omni.pocket.speaking import Voice
from omni.vad import (
    WINDOW_MS,
    WINDOW_SAMPLES,
    Speech,
    SpeechDetector,
    SpeechRules,
    UtteranceFinder,
)
from tests.pocket.conftest import said_at_16_khz, silence


def changes_of(
    detector: SpeechDetector, sound: audio.Waveform, chunk_samples: int = 1600
) -> list[Speech]:
    starts = range(0, sound.size, chunk_samples)
    return [
        change for at in starts for change in detector.push(sound[at : at + chunk_samples])
    ]


@pytest.fixture(scope="module")
def question(voice: Voice) -> audio.Waveform:
    spoken = said_at_16_khz(voice, "What is the capital of France?")
    return np.concatenate([silence(0.6), spoken, silence(1.2)])


@pytest.mark.parametrize("chunk_samples", [100, 1600, 16_000])
def test_an_utterance_is_the_same_in_any_chunks(
    question: audio.Waveform, chunk_samples: int
) -> None:
    whole = changes_of(SpeechDetector(SpeechRules()), question, question.size)

    chunked = changes_of(SpeechDetector(SpeechRules()), question, chunk_samples)

    assert [c.kind for c in chunked] == ["started", "confirmed", "paused", "ended"]
    assert [c.kind for c in chunked] == [c.kind for c in whole]
    assert np.array_equal(chunked[-1].waveform, whole[-1].waveform)


def test_an_utterance_holds_its_pad_and_its_silence(question: audio.Waveform) -> None:
    rules = SpeechRules(pad_ms=320, min_silence_ms=640)
    short = SpeechRules(pad_ms=0, min_silence_ms=640)

    padded = changes_of(SpeechDetector(rules), question)[-1]
    bare = changes_of(SpeechDetector(short), question)[-1]

    added_ms = audio.seconds(padded.waveform.size - bare.waveform.size, audio.INPUT_HZ) * 1000
    assert added_ms == pytest.approx(320)
    assert audio.rms(bare.waveform[-audio.samples(0.6, audio.INPUT_HZ) :]) < 1e-3


def test_a_pause_for_breath_does_not_end_the_utterance(voice: Voice) -> None:
    sound = np.concatenate(
        [
            silence(0.5),
            said_at_16_khz(voice, "I would like to know"),
            silence(0.5),
            said_at_16_khz(voice, "how far away the moon is."),
            silence(1.5),
        ]
    )

    kinds = [c.kind for c in changes_of(SpeechDetector(SpeechRules(min_silence_ms=900)), sound)]

    assert kinds == ["started", "confirmed", "paused", "resumed", "paused", "ended"]


def test_voice_shorter_than_the_minimum_is_dropped(question: audio.Waveform) -> None:
    """The trailing silence does not count: only voiced time is compared with the minimum."""
    detector = SpeechDetector(SpeechRules(min_speech_ms=5000, min_silence_ms=800))

    kinds = [change.kind for change in changes_of(detector, question)]

    assert kinds == ["started", "dropped"]
    assert not detector.is_speaking


def test_endless_speech_is_cut(voice: Voice) -> None:
    sentence = said_at_16_khz(voice, "The quick brown fox jumps over the lazy dog.")
    rules = SpeechRules(max_speech_ms=2000)

    ends = [c for c in changes_of(SpeechDetector(rules), np.tile(sentence, 3)) if c.kind == "ended"]

    assert ends
    assert all(len(end.waveform) <= 2000 / WINDOW_MS * WINDOW_SAMPLES + 512 for end in ends)


def test_a_reset_forgets_what_was_begun(question: audio.Waveform) -> None:
    detector = SpeechDetector(SpeechRules())
    changes_of(detector, question[: audio.samples(1.2, audio.INPUT_HZ)])
    assert detector.is_speaking

    detector.reset()

    assert not detector.is_speaking
    assert changes_of(detector, silence(1.0)) == []


@pytest.mark.parametrize("max_windows", [1, 7, 10_000])
def test_a_recording_s_utterances_are_the_same_however_it_is_gone_through(
    question: audio.Waveform, max_windows: int
) -> None:
    finder = UtteranceFinder(question)
    found = []
    while not finder.is_done:
        found += finder.step(max_windows)

    (utterance,) = found
    size = round((utterance.end_s - utterance.start_s) * audio.INPUT_HZ)
    assert 0.3 < utterance.start_s < 0.9
    assert utterance.end_s < len(question) / audio.INPUT_HZ - 0.5
    assert utterance.waveform.size == size


def test_speech_up_to_the_very_end_of_a_recording_is_found(voice: Voice) -> None:
    spoken = said_at_16_khz(voice, "What is the capital of France?")

    (utterance,) = UtteranceFinder(spoken).step(10_000)

    assert utterance.end_s == pytest.approx(spoken.size / audio.INPUT_HZ, abs=0.4)
    assert utterance.end_s <= spoken.size / audio.INPUT_HZ


def test_speech_that_does_not_pause_is_cut_without_a_gap(voice: Voice) -> None:
    spoken = said_at_16_khz(voice, "one two three four five six seven eight nine ten eleven")
    rules = SpeechRules(threshold=0.5, min_silence_ms=5000, max_speech_ms=1000)

    found = UtteranceFinder(np.tile(spoken, 2), rules).step(10_000)

    assert len(found) >= 3
    assert all(item.waveform.size <= audio.INPUT_HZ + WINDOW_SAMPLES for item in found)
    cut = [item for item in found[:-1]]
    assert all(item.end_s <= after.start_s + 0.1 for item, after in zip(cut, found[1:]))

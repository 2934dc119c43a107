"""Whisper hears speech of any length, and nothing where there is none."""

from pathlib import Path

import numpy as np
import pytest

from omni.errors import CheckpointError
from omni.pocket.hearing import Hearing
from omni.pocket.speaking import Voice
from tests.pocket.conftest import said_at_16_khz, silence, word_error_rate, words


def test_a_question_is_transcribed(voice: Voice, hearing: Hearing) -> None:
    question = "What is the largest planet in our solar system?"

    heard = hearing.transcribe(said_at_16_khz(voice, question))

    assert words(heard) == words(question)


def test_one_word_is_not_repeated_for_ever(voice: Voice, hearing: Hearing) -> None:
    """With little silence behind the speech, Whisper once answered "Yes, yes, yes, ..."."""
    sound = np.concatenate([silence(0.05), said_at_16_khz(voice, "Yes."), silence(0.5)])

    assert len(words(hearing.transcribe(sound))) <= 2


@pytest.mark.parametrize("duration_s", [0.0, 0.1, 2.0])
def test_a_quiet_room_says_nothing(hearing: Hearing, duration_s: float) -> None:
    assert len(words(hearing.transcribe(silence(duration_s)))) <= 1


def test_speech_beyond_the_window_is_heard_to_its_end(voice: Voice, hearing: Hearing) -> None:
    sentences = [
        "The doctor said that the patient should rest for two weeks.",
        "The old clock in the kitchen stopped last Wednesday.",
        "A friend of mine is learning to play the guitar.",
        "The sky looks blue because air scatters blue light more than red light.",
        "He walked slowly through the quiet village before sunrise.",
        "Please remember to bring your umbrella tomorrow.",
        "Jupiter is the largest planet in our solar system.",
    ]
    pieces = [part for s in sentences for part in (said_at_16_khz(voice, s), silence(0.4))]

    heard = hearing.transcribe(np.concatenate(pieces))

    assert word_error_rate(" ".join(sentences), heard) < 0.1, heard


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model.bin"):
        Hearing.load(tmp_path)

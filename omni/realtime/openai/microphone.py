"""The user's sound until it is committed: by the client, or by the voice activity in it."""

from collections import deque
from typing import Literal

import numpy as np
from attrs import frozen

from omni.audio import INPUT_HZ, Waveform
from omni.openai.errors import Refusal
from omni.realtime.openai.config import TurnDetection
from omni.vad import WINDOW_MS, WINDOW_SAMPLES, SpeechDetector, SpeechRules

#: So much voice is speech; less is a cough. Source: protocol 6.3, as in half duplex.
_MIN_SPEECH_MS = 128
#: A turn is cut after this time, whether or not there was a silence.
_MAX_SPEECH_MS = 120_000
#: What a client may append before it commits, where it ends turns itself.
MAX_BUFFER_S = 300.0
#: OpenAI refuses to commit less.
_MIN_COMMIT_MS = 100
#: Silero wants 0.6 ms of a core for a window; more than these are looked at beside the loop.
INLINE_WINDOWS = 4


@frozen(kw_only=True)
class SpeechChange:
    """What happened. at_ms: from the beginning of all sound that was appended.

    started: speech is certain, and began at at_ms, the prefix included. paused: an end seems near;
    resumed: it was none. stopped: the turn is over. waveform: the turn so far (paused, stopped).
    """

    kind: Literal["started", "paused", "resumed", "stopped"]
    at_ms: int
    waveform: Waveform = np.zeros(0, np.float32)


class Microphone:
    """Keeps what was appended and not committed. rules: None where the client ends turns itself."""

    def __init__(self, rules: TurnDetection | None) -> None:
        self._kept: deque[Waveform] = deque()  # whole windows
        self._rest = np.zeros(0, np.float32)
        self._at = 0  # samples before the end of the last window
        self._is_confirmed = False
        self._set(rules)

    @property
    def rules(self) -> TurnDetection | None:
        """How turns end."""
        return self._rules

    @property
    def is_speaking(self) -> bool:
        """True from `started` to `stopped`."""
        return self._is_confirmed

    def configure(self, rules: TurnDetection | None) -> None:
        """Go on with other rules; sound that was kept under the old ones is forgotten."""
        if rules != self._rules:
            self.clear()
            self._set(rules)

    def push(self, waveform: Waveform) -> list[SpeechChange]:
        """Take sound at 16 kHz and return what changed in it. Raises: Refusal, when it is full."""
        joined = np.concatenate([self._rest, waveform])
        self._check_room(joined.size)
        whole = joined.size // WINDOW_SAMPLES * WINDOW_SAMPLES
        self._rest = joined[whole:]
        changes: list[SpeechChange] = []
        for window in joined[:whole].reshape(-1, WINDOW_SAMPLES):
            self._kept.append(window)
            self._at += WINDOW_SAMPLES
            changes += self._look_at(window)
        return changes

    def commit(self, tail: Waveform) -> Waveform:
        """Return what was said, with *tail*, and forget it. Raises: Refusal for nothing."""
        sound = np.concatenate([*self._kept, self._rest, tail])
        is_silent = self._detector is not None and not self._detector.is_speaking
        if is_silent or sound.size * 1000 < _MIN_COMMIT_MS * INPUT_HZ:
            problem = f"the buffer holds less than {_MIN_COMMIT_MS} ms of sound"
            raise Refusal((), problem, "input_audio_buffer_commit_empty")
        self.clear()
        return sound

    def clear(self) -> None:
        """Forget what was not committed."""
        self._at += self._rest.size
        self._rest = self._rest[:0]
        self._kept.clear()
        self._is_confirmed = False
        if self._detector is not None:
            self._detector.reset()

    def _set(self, rules: TurnDetection | None) -> None:
        self._rules = rules
        self._detector: SpeechDetector | None = None
        self._prefix_windows = 0
        if rules is not None:
            self._prefix_windows = round(rules.prefix_padding_ms / WINDOW_MS)
            self._detector = SpeechDetector(_speech_rules(rules))

    def _check_room(self, num_new: int) -> None:
        if self._detector is None:
            num_samples = len(self._kept) * WINDOW_SAMPLES + num_new
            if num_samples > MAX_BUFFER_S * INPUT_HZ:
                problem = f"the buffer holds {MAX_BUFFER_S:.0f} s already: commit or clear it"
                raise Refusal(("audio",), problem, "input_audio_buffer_full")

    def _look_at(self, window: Waveform) -> list[SpeechChange]:
        if self._detector is None:
            return []
        changes = [
            change
            for speech in self._detector.push(window)
            if (change := self._change(speech.kind)) is not None
        ]
        if not self._detector.is_speaking:
            while len(self._kept) > self._prefix_windows:
                self._kept.popleft()
        return changes

    def _change(self, kind: str) -> SpeechChange | None:
        at_ms = self._at * 1000 // INPUT_HZ
        match kind:
            case "confirmed":
                self._is_confirmed = True
                began = self._at - len(self._kept) * WINDOW_SAMPLES
                return SpeechChange(kind="started", at_ms=began * 1000 // INPUT_HZ)
            case "paused":
                return SpeechChange(kind="paused", at_ms=at_ms, waveform=self._sound())
            case "resumed":
                return SpeechChange(kind="resumed", at_ms=at_ms)
            case "ended":
                sound = self._sound()
                self._kept.clear()
                self._is_confirmed = False
                return SpeechChange(kind="stopped", at_ms=at_ms, waveform=sound)
        return None  # a window of voice is no speech yet, and what is dropped never was

    def _sound(self) -> Waveform:
        return np.concatenate(self._kept)


def _speech_rules(rules: TurnDetection) -> SpeechRules:
    return SpeechRules(
        threshold=float(np.clip(rules.threshold, 0.05, 0.99)),
        min_speech_ms=_MIN_SPEECH_MS,
        min_silence_ms=rules.silence_ms,
        pad_ms=0,
        max_speech_ms=_MAX_SPEECH_MS,
    )

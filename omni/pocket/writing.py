"""Writing a recording down: speech is looked for window by window, and each stretch is heard."""

from collections import deque
from typing import Literal

from attrs import define, field

from omni import audio
from omni.engine import (
    AudioChunk,
    ChatDone,
    Failed,
    SessionEvent,
    StageCosts,
    StopAnswer,
    TranscribeRequest,
    TranscriptSegment,
)
from omni.errors import ClientError, OmniError
from omni.pocket.hearing import Hints
from omni.pocket.request_session import RequestSession
from omni.pocket.results import Broke, Heard, Result
from omni.vad import Utterance, UtteranceFinder

LANGUAGES = ("en",)
#: Stretches found and not heard yet; the search waits for them.
_MAX_AHEAD = 4


@define(kw_only=True)
class WritingSession(RequestSession):
    """One recording; over with `ChatDone` or a fatal `Failed`. No tokens are counted."""

    request: TranscribeRequest
    _finder: UtteranceFinder | None = None
    _unheard: deque[Utterance] = field(factory=deque)
    _texts: list[str] = field(factory=list)

    def open(self) -> list[SessionEvent]:
        """Begin to look for speech."""
        language = self.request.language
        if language and language not in LANGUAGES:
            return self._fail(ClientError(f"this engine knows no {language!r}, English alone"))
        try:
            self._finder = UtteranceFinder(audio.waveform_from_float32(self.request.pcm))
        except OmniError as exc:
            return self._fail(exc)
        return []

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """End with what was written."""
        if isinstance(message, StopAnswer):
            return self._end("cancelled")
        return [Failed(code="protocol_error", message="a recording takes no audio chunks")]

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Look for speech in the next windows."""
        assert self._finder is not None
        try:
            for utterance in self._finder.step(max_windows):
                self._unheard.append(utterance)
                self.pipeline.hear(
                    self.slot, self._turn, utterance.waveform, self.post, self._hints()
                )
        except OmniError as exc:
            return self._fail(exc)
        return self._end("stop") if self._is_complete() else []

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take the words of a stretch of speech."""
        if self._is_late(result):
            return []
        match result:
            case Heard():
                return self._write(self._unheard.popleft(), result.text)
            case Broke():
                return self._fail(result.error)
        return []

    @property
    def is_behind(self) -> bool:
        """True while there is more to look through, and not too much to hear."""
        if self._is_over or self._finder is None or self._finder.is_done:
            return False
        return len(self._unheard) < _MAX_AHEAD

    def _hints(self) -> Hints:
        return Hints(prompt=self.request.prompt, temperature=self.request.temperature)

    def _write(self, utterance: Utterance, text: str) -> list[SessionEvent]:
        events: list[SessionEvent] = []
        if text:
            self._texts.append(text)
            events.append(
                TranscriptSegment(start_s=utterance.start_s, end_s=utterance.end_s, text=text)
            )
        return events + self._end("stop") if self._is_complete() else events

    def _is_complete(self) -> bool:
        return self._finder is not None and self._finder.is_done and not self._unheard

    def _end(self, reason: Literal["stop", "cancelled"]) -> list[SessionEvent]:
        self.close()
        return [
            ChatDone(
                text=" ".join(self._texts),
                input_tokens=0,
                generated_tokens=0,
                finish_reason=reason,
                costs=StageCosts(llm_ms=self._turn.hearing_ms),
            )
        ]

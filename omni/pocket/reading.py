"""Reading a text out: piece after piece, as many words as can be said in one go."""

from collections import deque
from typing import Literal

from attrs import define, field

from omni import audio
from omni.engine import (
    AudioChunk,
    Buffer,
    ChatDone,
    Failed,
    ReplyChunk,
    SessionEvent,
    SpeakRequest,
    StageCosts,
    StopAnswer,
)
from omni.errors import OmniError
from omni.pocket.request_session import RequestSession
from omni.pocket.results import Broke, Piece, Result
from omni.pocket.sentences import SentenceCutter

#: Pieces on their way to the voice at the same time: one is said, the next waits behind it.
_MAX_AHEAD = 2


@define(kw_only=True)
class ReadingSession(RequestSession):
    """One text; over with `ChatDone` or a fatal `Failed`. The voice has no tokens to count."""

    request: SpeakRequest
    _pieces: deque[str] = field(factory=deque)
    _num_ahead: int = 0
    _said: str = ""

    def open(self) -> list[SessionEvent]:
        """Begin."""
        cutter = SentenceCutter()
        self._pieces.extend([*cutter.push(self.request.text), *cutter.finish()])
        return self._go_on()

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """End with what was read."""
        if isinstance(message, StopAnswer):
            return self._end("cancelled")
        return [Failed(code="protocol_error", message="a text takes no audio chunks")]

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Nothing is heard."""
        return []

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take a piece that was said."""
        if self._is_late(result):
            return []
        match result:
            case Piece():
                self._num_ahead -= 1
                self._said += result.text
                pcm = Buffer(audio.float32_from_waveform(result.waveform))
                return [ReplyChunk(text=result.text, pcm=pcm), *self._go_on()]
            case Broke():
                return self._fail(result.error)
        return []

    @property
    def is_behind(self) -> bool:
        """False: see `listen`."""
        return False

    def _go_on(self) -> list[SessionEvent]:
        try:
            while self._pieces and self._num_ahead < _MAX_AHEAD:
                self.pipeline.say(self.slot, self._turn, self._pieces.popleft(), self.post)
                self._num_ahead += 1
        except OmniError as exc:
            return self._fail(exc)
        return [] if self._num_ahead else self._end("stop")

    def _end(self, reason: Literal["stop", "cancelled"]) -> list[SessionEvent]:
        self.close()
        done = ChatDone(
            text=self._said.strip(),
            input_tokens=0,
            generated_tokens=0,
            finish_reason=reason,
            costs=StageCosts(tts_ms=self._turn.speaking_ms),
        )
        return [ReplyChunk(is_final=True), done]

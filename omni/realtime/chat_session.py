"""A chat turn at the edge: one request, one answer, and the end."""

from collections.abc import Sequence
from typing import ClassVar

from attrs import define, field

from omni.engine import (
    Capabilities,
    ChatDone,
    ChatRequest,
    Failed,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    StopAnswer,
)
from omni.errors import CapacityError, OmniError, ProtocolError, error_from_code, rendering_of
from omni.realtime.dialect import ChatAnswered, Command, Open, Stop
from omni.realtime.session import Action, End, Send, Session, Tell, lacks, trouble


@define(kw_only=True)
class ChatSession(Session):
    """Chat. request_timeout_s: longest time from the request to the end of its answer."""

    request_timeout_s: float
    _request: Open | None = field(default=None, init=False)
    _opened_at: float = field(default=0.0, init=False)
    _pcm: list[bytes | memoryview] = field(factory=list, init=False)

    eager: ClassVar[bool] = False

    @property
    def wants_slot(self) -> bool:
        """With the request."""
        return self._request is not None

    @property
    def deadline(self) -> float | None:
        """When the request takes too long; before there is one, the socket's own time."""
        if self._request is None or self.state == "ended":
            return None
        return self._opened_at + self.request_timeout_s

    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""
        match command:
            case Open() if self._request is None:
                self._request, self._opened_at = command, now
                return []
            case Stop():
                return [Send(StopAnswer())] if self.state == "live" else self.stop()
        return [Tell(trouble(ProtocolError("One request per socket: open another")))]

    def begin(self, now: float) -> Sequence[Action]:
        """Send the request that the slot was asked for."""
        assert self._request is not None and self.capabilities is not None
        request = self._request.input
        assert isinstance(request, ChatRequest)
        if (error := misfit(request, self.capabilities)) is not None:
            return self.fail(error)
        self.state = "live"
        return [Send(request)]

    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says."""
        assert self._request is not None
        match event:
            case ReplyChunk(pcm=pcm) if not self._request.stream:
                self._pcm.append(pcm)
                return []
            case PrefillDone() | ReplyChunk():
                return [Tell(event)]
            case ChatDone():
                return self._done(event, self._request.stream)
            case Failed(code=code, message=message):
                return self.fail(error_from_code(code, message))
        return []

    def refuse(self, error: OmniError) -> Sequence[Action]:
        """Tell what was wrong, and end unless an answer is on its way."""
        if self._request is not None:
            return [Tell(trouble(error))]
        self.state = "ended"
        return [Tell(trouble(error)), End(rendering_of(error).close_code)]

    def expire(self, now: float) -> Sequence[Action]:
        """End a request that took too long."""
        return self.fail(CapacityError(f"Request timeout ({self.request_timeout_s:.1f}s)"))

    def _done(self, done: ChatDone, stream: bool) -> Sequence[Action]:
        self.state = "ended"
        answer = ChatAnswered(
            done=done, stream=stream, pcm=b"".join(self._pcm), recording_id=self.recording_id
        )
        return [Tell(answer), End()]


def misfit(request: ChatRequest, capabilities: Capabilities) -> OmniError | None:
    """Return why the engine cannot answer *request*; None if it can."""
    if "chat" not in capabilities.modes:
        return lacks(capabilities, "chat")
    kinds = {part.kind for message in request.messages for part in message.parts}
    if not capabilities.vision and (seen := kinds & {"image", "video"}):
        return ProtocolError(
            f"The engine {capabilities.engine} takes no pictures: leave {' and '.join(seen)} out"
        )
    return None

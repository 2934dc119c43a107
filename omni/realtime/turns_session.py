"""A session of chat turns on one socket: each turn asks for a slot and gives it back."""

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from attrs import define, field

from omni.engine import (
    ChatDone,
    ChatRequest,
    Failed,
    Prepared,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    UserTranscript,
)
from omni.errors import CapacityError, OmniError, error_from_code
from omni.messages import Leased
from omni.realtime.chat_session import misfit
from omni.realtime.dialect import (
    Begin,
    ChatAnswered,
    Command,
    Open,
    QueueDone,
    Ready,
    Stop,
    TimedOut,
    TurnBegun,
)
from omni.realtime.session import (
    Action,
    End,
    GiveBack,
    Send,
    Session,
    Tell,
    trouble,
    unexpected,
)

#: Turns that may wait behind the running one; a further one is refused.
MAX_WAITING_TURNS = 8


@define
class _Turn:
    opening: Open
    began_at: float
    text: str = ""
    pcm: list[bytes | memoryview] = field(factory=list)


@define(kw_only=True)
class TurnsSession(Session):
    """Chat in turns, in the order in which they were asked for.

    request_timeout_s: longest time of one turn. idle_timeout_s: longest time between two.
    """

    request_timeout_s: float
    idle_timeout_s: float
    _turn: _Turn | None = field(default=None, init=False)
    _waiting: deque[Open] = field(factory=deque, init=False)
    _idle_since: float = field(default=0.0, init=False)

    eager: ClassVar[bool] = False

    @property
    def wants_slot(self) -> bool:
        """While a turn is answered."""
        return self._turn is not None

    @property
    def deadline(self) -> float | None:
        """When the turn takes too long, or nothing was asked for too long."""
        if self._turn is not None:
            return self._turn.began_at + self.request_timeout_s
        if self.state == "live":
            return self._idle_since + self.idle_timeout_s
        return super().deadline

    def opened(self, now: float) -> Sequence[Action]:
        """Say that nothing is waited for: there is a queue for turns only."""
        self.state, self.leased_at = "unprepared", now
        return [Tell(QueueDone())]

    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""
        match command:
            case Begin() if self.state == "unprepared":
                return self._begin_session(now)
            case Open(input=ChatRequest()) if self.state == "live":
                return self._take_turn(command, now)
            case Stop():
                return self.stop()
        return self.refuse(unexpected(command, self.state))

    def leased(self, lease: Leased, now: float) -> Sequence[Action]:
        """Ask the engine, if it can answer this at all.

        A turn may end while its end is still being told: the slot that came for it goes back then.
        """
        if self._turn is None:
            return []
        self.capabilities = lease.capabilities
        request = self._turn.opening.input
        assert isinstance(request, ChatRequest)
        if (error := misfit(request, lease.capabilities)) is not None:
            return [Tell(QueueDone()), *self._fail_turn(error, now)]
        return [Tell(QueueDone()), Send(request)]

    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says."""
        turn = self._turn
        if turn is None:
            return []
        match event:
            case ReplyChunk(text=text, pcm=pcm):
                turn.text += text
                if turn.opening.stream:
                    return [Tell(event)]
                turn.pcm.append(pcm)
            case ChatDone():
                return self._end_turn(event, now)
            case Failed(code=code, message=message):
                return self._fail_turn(error_from_code(code, message), now)
            case UserTranscript():
                return [Tell(event)]
        return []

    def unsent(self, input: SessionInput, error: OmniError, now: float) -> Sequence[Action]:
        """Answer for a request that did not get onto its way."""
        return self._fail_turn(error, now)

    def expire(self, now: float) -> Sequence[Action]:
        """End a turn that takes too long, or a session in which nothing is asked."""
        if self._turn is not None:
            text = f"Request timeout ({self.request_timeout_s:.1f}s)"
            return self._fail_turn(CapacityError(text), now)
        if self.state != "live":
            return super().expire(now)
        self.state = "ended"
        reason = f"Idle timeout ({self.idle_timeout_s:.1f}s)"
        timed_out = TimedOut(reason=reason, elapsed_s=now - self.leased_at)
        return [Tell(timed_out), End(reason="Idle timeout")]

    def _begin_session(self, now: float) -> Sequence[Action]:
        self.state, self._idle_since = "live", now
        ready = Ready(
            prepared=Prepared(),
            session_id=self.client_id,
            engine="",
            model="",
            timeout_s=None,
        )
        return [Tell(ready)]

    def _take_turn(self, opening: Open, now: float) -> Sequence[Action]:
        if self._turn is None:
            return self._start(opening, now)
        if len(self._waiting) >= MAX_WAITING_TURNS:
            text = f"{MAX_WAITING_TURNS} turns wait already: ask again when one is answered"
            return self.refuse(CapacityError(text))
        self._waiting.append(opening)
        return []

    def _start(self, opening: Open, now: float) -> Sequence[Action]:
        self._turn = _Turn(opening, now)
        return [Tell(TurnBegun(input_id=opening.input_id))]

    def _end_turn(self, done: ChatDone, now: float, failure: str = "") -> Sequence[Action]:
        assert self._turn is not None
        answer = ChatAnswered(
            done=done,
            stream=self._turn.opening.stream,
            pcm=b"".join(self._turn.pcm),
            recording_id=self.recording_id,
            failure=failure,
        )
        self._turn, self._idle_since = None, now
        following = self._start(self._waiting.popleft(), now) if self._waiting else []
        return [Tell(answer), *following, GiveBack()]

    def _fail_turn(self, error: OmniError, now: float) -> Sequence[Action]:
        """Tell what was wrong, and end the turn with what there is of it."""
        assert self._turn is not None
        done = ChatDone(
            text=self._turn.text, input_tokens=0, generated_tokens=0, finish_reason="cancelled"
        )
        return [Tell(trouble(error)), *self._end_turn(done, now, failure=error.code)]

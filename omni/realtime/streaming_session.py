"""A session of legacy streaming: `prefill` asks for a slot, the end of the answer frees it."""

from collections.abc import Sequence
from typing import ClassVar

from attrs import define, evolve, field

from omni.engine import (
    ChatDone,
    ChatRequest,
    Failed,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    StopAnswer,
)
from omni.errors import CapacityError, NotReady, OmniError, error_from_code
from omni.messages import Leased
from omni.realtime.chat_session import misfit
from omni.realtime.dialect import (
    Command,
    Generate,
    Interrupt,
    Open,
    Prefilled,
    QueueDone,
    Stop,
    StreamEnded,
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

_NOTHING = ChatDone(text="", input_tokens=0, generated_tokens=0, finish_reason="cancelled")


@define
class _Turn:
    """One turn. slot_at: when it got its slot; asked_at: when its answer was asked for."""

    request: ChatRequest
    began_at: float
    generate: Generate | None = None
    asked_at: float | None = None
    slot_at: float | None = None

    @property
    def is_running(self) -> bool:
        return self.slot_at is not None and self.generate is not None


@define(kw_only=True)
class StreamingSession(Session):
    """Legacy streaming. request_timeout_s: longest turn, its wait for a slot included."""

    request_timeout_s: float
    worker: str = field(default="", init=False)
    _turn: _Turn | None = field(default=None, init=False)

    eager: ClassVar[bool] = False

    @property
    def wants_slot(self) -> bool:
        """From `prefill` to `done`."""
        return self._turn is not None

    @property
    def is_answering(self) -> bool:
        """True while there is something that `stop_answer` would stop."""
        return self._turn is not None

    @property
    def deadline(self) -> float | None:
        """When the turn takes too long, or holds a slot for too long without being asked."""
        if (turn := self._turn) is None:
            return None
        end = turn.began_at + self.request_timeout_s
        if turn.slot_at is None or turn.generate is not None:
            return end
        return min(end, turn.slot_at + self.prepare_timeout_s)

    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""
        match command:
            case Open(input=ChatRequest() as request):
                return self._prefill(request, now)
            case Generate():
                return self._generate(command, now)
            case Interrupt():
                return self.stop_answer(now)
            case Stop():
                self.state = "ended"
                return [End()]
        return self.refuse(unexpected(command, self.state))

    def stop_answer(self, now: float) -> Sequence[Action]:
        """Stop the turn, if there is one; `done` follows."""
        if self._turn is None:
            return []
        if self._turn.is_running:
            return [Send(StopAnswer())]
        return self._end_turn(_NOTHING, now)

    def leased(self, lease: Leased, now: float) -> Sequence[Action]:
        """Tell that the request is in; go on where the answer was asked for already.

        A turn may end while its end is still being told: what came for it then goes back.
        """
        if self._turn is None:
            return []
        turn, self.worker, self.capabilities = self._turn, lease.worker, lease.capabilities
        turn.slot_at, self.state = now, "live"
        if (error := misfit(turn.request, lease.capabilities)) is not None:
            return [Tell(QueueDone()), *self._fail_turn(error)]
        return [Tell(QueueDone()), self._prefilled(turn), *self._ask(turn)]

    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says; nothing behind the end of the turn."""
        if self._turn is None:
            return []
        match event:
            case ReplyChunk():
                return [Tell(event)]
            case ChatDone():
                return self._end_turn(event, now)
            case Failed(code=code, message=message):
                return self._fail_turn(error_from_code(code, message))
        return []

    def unsent(self, input: SessionInput, error: OmniError, now: float) -> Sequence[Action]:
        """Answer for a request that did not get onto its way."""
        return self._fail_turn(error)

    def expire(self, now: float) -> Sequence[Action]:
        """End a turn that takes too long, or that nobody asks for."""
        turn = self._turn
        assert turn is not None
        if turn.slot_at is not None and turn.generate is None:
            text = f"Generate timeout ({self.prepare_timeout_s:.1f}s)"
            return self._fail_turn(CapacityError(f"{text}: nothing was asked of the slot"), text)
        text = f"Request timeout ({self.request_timeout_s:.1f}s)"
        return self._fail_turn(CapacityError(text), text)

    def _prefill(self, request: ChatRequest, now: float) -> Sequence[Action]:
        turn = self._turn
        if turn is None:
            self._turn = _Turn(request, now)
            return []
        if turn.generate is not None:
            return self.refuse(NotReady("An answer is running: stop it, or wait for its done"))
        turn.request = request
        return [] if turn.slot_at is None else [self._prefilled(turn)]

    def _generate(self, command: Generate, now: float) -> Sequence[Action]:
        turn = self._turn
        if turn is None:
            return self.refuse(NotReady("Not prefilled yet: send prefill first"))
        if turn.generate is not None:
            return self.refuse(NotReady("An answer is running: stop it, or wait for its done"))
        turn.generate, turn.asked_at = command, now
        return [] if turn.slot_at is None else self._ask(turn)

    def _ask(self, turn: _Turn) -> Sequence[Action]:
        if (asked := turn.generate) is None:
            return []
        request = evolve(
            turn.request,
            speak=asked.speak,
            max_new_tokens=asked.max_new_tokens,
            length_penalty=asked.length_penalty,
        )
        return [Send(request)]

    def _prefilled(self, turn: _Turn) -> Tell:
        messages = turn.request.messages
        prefilled = Prefilled(
            num_messages=len(messages),
            prompt_length=sum(len(part.text) for message in messages for part in message.parts),
            recording_id=self.recording_id,
        )
        return Tell(prefilled)

    def _end_turn(self, done: ChatDone, now: float) -> Sequence[Action]:
        assert self._turn is not None
        asked_at = self._turn.asked_at
        ended = StreamEnded(
            done=done,
            session_id=self.client_id,
            elapsed_s=0.0 if asked_at is None else now - asked_at,
            recording_id=self.recording_id,
        )
        return [Tell(ended), *self._free()]

    def _fail_turn(self, error: OmniError, text: str = "") -> Sequence[Action]:
        """Tell what was wrong; the next `prefill` begins anew."""
        return [Tell(trouble(error, text)), *self._free()]

    def _free(self) -> Sequence[Action]:
        self._turn, self.worker, self.state, self.recording_id = None, "", "waiting", ""
        return [GiveBack()]

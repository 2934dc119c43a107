"""A half-duplex session at the edge: turns by the engine's VAD, within an absolute time."""

from collections.abc import Sequence

from attrs import define, evolve, field

from omni.engine import (
    Failed,
    Generating,
    Prepared,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    StopAnswer,
    TurnDone,
    UserTranscript,
    VadState,
)
from omni.errors import ClientError, ProtocolError
from omni.messages import Leased
from omni.realtime.dialect import (
    Command,
    Interrupt,
    Interrupted,
    Open,
    Ready,
    Sound,
    Stop,
    TimedOut,
)
from omni.realtime.session import Action, End, Send, Session, Tell, lacks, unexpected


@define(kw_only=True)
class HalfDuplexSession(Session):
    """Half duplex. The time runs from `prepare`, whatever is said meanwhile."""

    _opened_at: float = field(default=0.0, init=False)
    _timeout_s: float = field(default=0.0, init=False)
    _is_answering: bool = field(default=False, init=False)

    @property
    def deadline(self) -> float | None:
        """When the session's time is over."""
        if self.state in ("preparing", "live"):
            return self._opened_at + self._timeout_s
        return super().deadline

    def leased(self, lease: Leased, now: float) -> Sequence[Action]:
        """Go on with a slot, if its engine can do this at all."""
        self.capabilities = lease.capabilities
        if "half_duplex" not in lease.capabilities.modes:
            return self.fail(lacks(lease.capabilities, "half_duplex"))
        return super().leased(lease, now)

    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""
        match command:
            case Sound():
                return self._take_sound(command)
            case Open(input=PrepareHalfDuplex(), timeout_s=float() as timeout_s):
                return self._open(command, timeout_s, now)
            case Stop():
                return self.stop()
            case Interrupt():
                return [*self.stop_answer(), Tell(Interrupted())]
        return self.refuse(unexpected(command, self.state))

    def stop_answer(self) -> Sequence[Action]:
        """Cut the running answer, if there is one; its `TurnDone` still comes."""
        return [Send(StopAnswer())] if self._is_answering else []

    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says."""
        match event:
            case Generating():
                self._is_answering = True
                return [Tell(event)]
            case TurnDone():
                self._is_answering = False
                return [Tell(event)]
            case ReplyChunk() | VadState() | UserTranscript():
                return [Tell(event)]
            case Prepared():
                return self._prepared(event)
            case Failed():
                return self.failed(event)
        return []

    def expire(self, now: float) -> Sequence[Action]:
        """End a session whose time is over."""
        if self.state == "unprepared":
            return super().expire(now)
        self.state = "ended"
        reason = f"Session timeout ({self._timeout_s:.1f}s)"
        timed_out = TimedOut(reason=reason, elapsed_s=now - self._opened_at)
        return [Tell(timed_out), End(reason="Session timeout")]

    def _open(self, command: Open, timeout_s: float, now: float) -> Sequence[Action]:
        if self.state != "unprepared":
            return self.refuse(ProtocolError("Already prepared: open a new session to change it"))
        self.state = "preparing"
        self._opened_at, self._timeout_s = now, timeout_s
        return [Send(command.input)]

    def _take_sound(self, sound: Sound) -> Sequence[Action]:
        if self.state not in ("preparing", "live"):
            return self.refuse(unexpected(sound, self.state))
        if self._is_answering:  # the page is mute then; what still comes is the answer's own echo
            return []
        if len(sound.chunk.frames) and self.capabilities and not self.capabilities.vision:
            engine = self.capabilities.engine
            blind = ClientError(f"The engine {engine} sees no pictures; the sound is heard")
            return [*self.refuse(blind), Send(evolve(sound.chunk, frames=()))]
        return [Send(sound.chunk)]

    def _prepared(self, prepared: Prepared) -> Sequence[Action]:
        assert self.capabilities is not None
        self.state = "live"
        ready = Ready(
            prepared=prepared,
            session_id=self.client_id,
            engine=self.capabilities.engine,
            model=self.capabilities.model,
            timeout_s=self._timeout_s,
            recording_id=self.recording_id,
        )
        return [Tell(ready)]

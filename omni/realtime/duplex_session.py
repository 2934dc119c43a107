"""A full-duplex session at the edge: one result for each chunk in order, pauses, overload."""

import math
from collections import deque
from collections.abc import Sequence

from attrs import define, evolve, field, frozen

from omni.engine import (
    AudioChunk,
    Failed,
    Prepared,
    PrepareDuplex,
    SessionEvent,
    SessionInput,
    UnitResult,
    UserTranscript,
)
from omni.errors import CapacityError, OmniError, ProtocolError
from omni.messages import Leased
from omni.realtime.dialect import (
    Command,
    ContextFull,
    Diagnose,
    Interrupt,
    Interrupted,
    Open,
    Pause,
    Paused,
    Ready,
    Resume,
    Resumed,
    Sound,
    Stop,
    TimedOut,
    UnitAnswered,
)
from omni.realtime.session import Action, End, Send, Session, Tell, lacks, unexpected
from omni.realtime.units import UnitCutter

#: A client that sends on although so many times the backlog was dropped is not listening.
_MAX_DROPPED_BACKLOGS = 16


@frozen(eq=False)
class _Unanswered:
    """A chunk that is owed a result; None in place of one that the engine does not get."""

    arrived_at: float
    chunk: AudioChunk | None
    input_id: str

    @property
    def dropped(self) -> bool:
        return self.chunk is None


@define(kw_only=True)
class DuplexSession(Session):
    """Full duplex. unix_offset_s: Unix time minus the monotonic clock's.

    max_backlog_chunks: with so many chunks in the engine, a further one is not sent there but
    answered with listen when its turn comes, so that chunks and results still match.
    """

    pause_timeout_s: float
    max_backlog_chunks: int
    unix_offset_s: float
    _opening: Open | None = field(default=None, init=False)
    _cutter: UnitCutter | None = field(default=None, init=False)
    _unanswered: deque[_Unanswered] = field(factory=deque, init=False)
    _num_in_engine: int = field(default=0, init=False)
    _num_results: int = field(default=0, init=False)
    _kv_cache_length: int = field(default=0, init=False)
    _force_listen: bool = field(default=False, init=False)
    _told_blind: bool = field(default=False, init=False)
    _heard_at: float = field(default=0.0, init=False)
    _silence_s: float = field(default=0.0, init=False)

    @property
    def deadline(self) -> float | None:
        """When a pause, a silence as long as one, or the session's own time is over."""
        if self.state in ("live", "paused"):
            return min(self._heard_at + self._silence_s, self._ends_at)
        return super().deadline

    @property
    def _ends_at(self) -> float:
        limit_s = self._opening.timeout_s if self._opening else None
        return math.inf if limit_s is None else self.leased_at + limit_s

    def leased(self, lease: Leased, now: float) -> Sequence[Action]:
        """Go on with a slot, if its engine can do this at all."""
        self.capabilities = lease.capabilities
        if "audio_duplex" not in lease.capabilities.modes:
            return self.fail(lacks(lease.capabilities, self.request_type))
        return super().leased(lease, now)

    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""
        match command:
            case Sound():
                return self._take_sound(command, now)
            case Open(input=PrepareDuplex() as prepare):
                return self._open(command, prepare)
            case Stop():
                return self.stop()
            case Pause(timeout_s=timeout_s):
                return self._pause(command, timeout_s, now)
            case Resume():
                return self._resume(command, now)
            case Interrupt():
                self._force_listen = True
                return [Tell(Interrupted())]
            case Diagnose():
                return []
        return self.refuse(unexpected(command, self.state))

    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says."""
        match event:
            case UnitResult():
                return self._answer(event, now)
            case Prepared():
                return self._prepared(event, now)
            case Failed():
                return self.failed(event)
            case UserTranscript():
                return [Tell(event)]
        return []

    def unsent(self, input: SessionInput, error: OmniError, now: float) -> Sequence[Action]:
        """Answer for an input that did not get onto its way; a chunk is one more dropped one."""
        if not isinstance(input, AudioChunk):
            return self.fail(error)
        for at, owed in enumerate(self._unanswered):  # behind it others may stand, cut with it
            if owed.chunk is input:
                self._unanswered[at] = evolve(owed, chunk=None)
                self._num_in_engine -= 1
                break
        return self._answer_dropped(now)

    def expire(self, now: float) -> Sequence[Action]:
        """End a pause, a session in which nothing was heard for as long, or one that is over."""
        if self.state == "unprepared":
            return super().expire(now)
        elapsed_s, silence_s = now - self.leased_at, self._silence_s
        if now >= self._ends_at:
            reason, limit_s = "Session timeout", self._ends_at - self.leased_at
        else:
            reason, limit_s = "Silence timeout", silence_s
            if self.state == "paused":
                reason = "Pause timeout"
        self.state = "ended"
        timed_out = TimedOut(reason=f"{reason} ({limit_s:.1f}s)", elapsed_s=elapsed_s)
        return [Tell(timed_out), End(reason=reason)]

    def _open(self, opening: Open, prepare: PrepareDuplex) -> Sequence[Action]:
        if self.state != "unprepared":
            return self.refuse(ProtocolError("Already prepared: open a new session to change it"))
        self.state = "preparing"
        self._opening = opening
        if self._is_blind:
            prepare = evolve(prepare, mode="audio_duplex")
        return [Send(prepare)]

    @property
    def _is_blind(self) -> bool:
        return self.capabilities is not None and "omni_duplex" not in self.capabilities.modes

    def _prepared(self, prepared: Prepared, now: float) -> Sequence[Action]:
        assert self.capabilities is not None and self._opening is not None
        self.state = "live"
        self._listen_until(now, self._usual_silence_s)
        if self._opening.recuts:
            self._cutter = UnitCutter.of(prepared.chunk_ms)
        ready = Ready(
            prepared=prepared,
            session_id=self.client_id,
            engine=self.capabilities.engine,
            model=self.capabilities.model,
            timeout_s=self._opening.timeout_s,
            recording_id=self.recording_id,
        )
        return [Tell(ready)]

    def _pause(self, command: Command, timeout_s: float | None, now: float) -> Sequence[Action]:
        if self.state not in ("live", "paused"):
            return self.refuse(unexpected(command, self.state))
        self.state = "paused"
        self._listen_until(now, self.pause_timeout_s if timeout_s is None else timeout_s)
        return [Tell(Paused(timeout_s=self._silence_s))]

    def _resume(self, command: Command, now: float) -> Sequence[Action]:
        if self.state not in ("live", "paused"):
            return self.refuse(unexpected(command, self.state))
        self.state = "live"
        self._listen_until(now, self._usual_silence_s)
        return [Tell(Resumed())]

    @property
    def _usual_silence_s(self) -> float:
        wanted_s = self._opening.silence_s if self._opening else None
        return self.pause_timeout_s if wanted_s is None else wanted_s

    def _listen_until(self, now: float, silence_s: float) -> None:
        self._heard_at, self._silence_s = now, silence_s

    def _take_sound(self, sound: Sound, now: float) -> Sequence[Action]:
        if self.state == "paused":
            return self.refuse(ProtocolError("Worker is paused"))
        if self.state not in ("preparing", "live"):
            return self.refuse(unexpected(sound, self.state))
        self._heard_at = now
        chunk, refusals = sound.chunk, self._refuse_frames(sound)
        if self._force_listen or refusals or (chunk.frames and self._is_blind):
            frames = () if self._is_blind else chunk.frames
            force = chunk.force_listen or self._force_listen
            chunk = evolve(chunk, frames=frames, force_listen=force)
            self._force_listen = False
        chunks = [chunk] if self._cutter is None else self._cutter.push(chunk)
        actions = [*refusals]
        for each in chunks:
            actions += self._queue_chunk(each, now, sound.input_id)
        return actions

    def _refuse_frames(self, sound: Sound) -> Sequence[Action]:
        if not sound.chunk.frames or self._told_blind or not self._is_blind:
            return []
        self._told_blind = True
        return self.refuse(ProtocolError("This engine takes no pictures: only the sound is used"))

    def _queue_chunk(self, chunk: AudioChunk, now: float, input_id: str) -> Sequence[Action]:
        if self.state == "ended":
            return []
        dropped = self._num_in_engine >= self.max_backlog_chunks
        self._unanswered.append(_Unanswered(now, None if dropped else chunk, input_id))
        if dropped:
            if len(self._unanswered) > self.max_backlog_chunks * (1 + _MAX_DROPPED_BACKLOGS):
                return self.fail(CapacityError("Too many chunks are unanswered: send in real time"))
            return []
        self._num_in_engine += 1
        return [Send(chunk)]

    def _answer(self, result: UnitResult, now: float) -> Sequence[Action]:
        if not self._num_in_engine:
            return []
        self._num_in_engine -= 1
        self._kv_cache_length = result.kv_cache_length
        answer = self._answered(self._unanswered.popleft(), result, now)
        if self._is_full:
            self.state = "ended"
            return [answer, Tell(ContextFull()), End(reason="Context full")]
        return [answer, *self._answer_dropped(now)]

    @property
    def _is_full(self) -> bool:
        most = self._opening.max_kv_tokens if self._opening else None
        return most is not None and self._kv_cache_length >= most

    def _answer_dropped(self, now: float) -> Sequence[Action]:
        answers = []
        while self._unanswered and self._unanswered[0].dropped:
            listen = UnitResult(is_listen=True, kv_cache_length=self._kv_cache_length)
            answers.append(self._answered(self._unanswered.popleft(), listen, now))
        return answers

    def _answered(self, chunk: _Unanswered, result: UnitResult, now: float) -> Tell:
        self._num_results += 1
        if result.current_time != self._num_results:  # it counts what was dropped as well
            result = evolve(result, current_time=self._num_results)
        return Tell(
            UnitAnswered(
                result=result,
                wall_clock_ms=(now - chunk.arrived_at) * 1000,
                sent_at=now + self.unix_offset_s,
                dropped=chunk.dropped,
                stamps=() if chunk.dropped else self.stamps,
                input_id=chunk.input_id,
            )
        )

"""The life of one session at the edge, apart from sockets, dialects and clocks.

A session takes commands, engine events and errors, each with the time at which it came, and
returns what is to be done. Times are seconds of one monotonic clock; the endpoint reads it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from attrs import define, field, frozen

from omni.engine import AudioChunk, Capabilities, Failed, SessionEvent, SessionInput
from omni.errors import (
    CapacityError,
    NotReady,
    NoWorker,
    OmniError,
    ProtocolError,
    error_from_code,
    rendering_of,
)
from omni.messages import Leased, RequestType, Stamp
from omni.realtime.dialect import Command, Notice, QueueDone, Stop, Stopped, Trouble

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_TRY_LATER = 1013

State = Literal["waiting", "unprepared", "preparing", "live", "paused", "ended"]

#: Short words that clients test for; any other error is told by its own text.
_TEXTS = {
    "worker_lost": "Worker lost",
    "cancelled": "Cancelled",
    "no_worker": "No worker available",
}


@frozen
class Send:
    """To the engine."""

    input: SessionInput


@frozen
class Tell:
    """To the client."""

    notice: Notice


@frozen
class End:
    """Close the socket with this code; everything told before goes first."""

    code: int = CLOSE_NORMAL
    reason: str = ""


@frozen
class GiveBack:
    """The slot goes back; the session goes on, and may want another one."""


Action = Send | Tell | End | GiveBack


@define(kw_only=True)
class Session(ABC):
    """What every kind of session does in the same way.

    prepare_timeout_s: how long a slot is held for a client that does not say what it wants.
    """

    request_type: RequestType
    client_id: str
    prepare_timeout_s: float
    recording_id: str = ""
    state: State = "waiting"
    capabilities: Capabilities | None = None
    leased_at: float = field(default=0.0, init=False)
    #: Of the event that is heard next; set by whoever calls `hear`.
    stamps: tuple[Stamp, ...] = field(default=(), init=False)

    #: Whether the slot is asked for as soon as the socket opens, or with the first `Open`.
    eager: ClassVar[bool] = True

    @property
    def wants_slot(self) -> bool:
        """True when a slot is asked for, or had."""
        return self.eager

    @property
    def deadline(self) -> float | None:
        """When `expire` is due; None: never."""
        if self.state == "unprepared":
            return self.leased_at + self.prepare_timeout_s
        return None

    def opened(self, now: float) -> Sequence[Action]:
        """Greet, where the server speaks before it has a slot."""
        return []

    def leased(self, lease: Leased, now: float) -> Sequence[Action]:
        """Go on with a slot."""
        self.capabilities = lease.capabilities
        self.leased_at = now
        self.state = "unprepared"
        return [Tell(QueueDone()), *self.begin(now)]

    def begin(self, now: float) -> Sequence[Action]:
        """Do what the slot was waited for; nothing, where the client speaks first."""
        return []

    @abstractmethod
    def take(self, command: Command, now: float) -> Sequence[Action]:
        """Act on what the client wants."""

    @abstractmethod
    def hear(self, event: SessionEvent, now: float) -> Sequence[Action]:
        """Pass on what the engine says."""

    def expire(self, now: float) -> Sequence[Action]:
        """End what has lasted too long."""
        text = f"Prepare timeout ({self.prepare_timeout_s:.1f}s)"
        return self.fail(CapacityError(f"{text}: nothing was asked of the slot"), text)

    def refuse(self, error: OmniError) -> Sequence[Action]:
        """Tell what was wrong with one message; the session goes on."""
        return [Tell(trouble(error))]

    def fail(self, error: OmniError, text: str = "") -> Sequence[Action]:
        """Tell why the session ends, and end it."""
        if self.state == "ended":
            return []
        code = rendering_of(error).close_code
        if error.code == "worker_lost" and self.state in ("waiting", "unprepared", "preparing"):
            code = CLOSE_TRY_LATER
        self.state = "ended"
        notice = trouble(error, text, fatal=True)
        return [Tell(notice), End(code, notice.text)]

    def unsent(self, input: SessionInput, error: OmniError, now: float) -> Sequence[Action]:
        """Answer for an input that did not get onto its way."""
        return self.refuse(error) if isinstance(input, AudioChunk) else self.fail(error)

    def stop(self) -> Sequence[Action]:
        """End as the client wishes."""
        self.state = "ended"
        return [Tell(Stopped()), End()]

    def failed(self, event: Failed) -> Sequence[Action]:
        """Pass on a failure of the engine; before the session is prepared each is the end."""
        error = error_from_code(event.code, event.message)
        if event.fatal or self.state == "preparing":
            return self.fail(error)
        return self.refuse(error)


def trouble(error: OmniError, text: str = "", fatal: bool = False) -> Trouble:
    """Return the notice of *error*. text: its short form where the table has none."""
    message = str(error)
    return Trouble(
        code=error.code,
        text=text or _TEXTS.get(error.code, message),
        message=message or text,
        reason=error.reason,
        fatal=fatal,
    )


def unexpected(command: Command, state: State) -> ProtocolError:
    """Return the error for a command that does not fit the state."""
    word = type(command).__name__.lower()
    if state in ("waiting", "unprepared", "preparing") and not isinstance(command, Stop):
        return NotReady("Not prepared yet")
    return ProtocolError(f"{word} is not possible now: the session is {state}")


def lacks(capabilities: Capabilities, what: str) -> NoWorker:
    """Return the error for a mode that the engine does not have."""
    return NoWorker(
        f"The engine {capabilities.engine} ({capabilities.model}) does not do {what}; "
        f"it does: {', '.join(capabilities.modes)}"
    )

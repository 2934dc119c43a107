"""The seam of recording: what the edge tells a recorder, and the recorder that keeps nothing."""

from typing import Protocol

from attrs import define, field

from omni.engine import SessionEvent, SessionInput
from omni.messages import RequestType


@define
class RecordingCounters:
    """What was recorded since this process started.

    active: sessions being recorded now. finished: those that ended whole. failed: those that could
    not be kept to their end. finalised, unfinalised: those whose files were made, or could not be.
    """

    active: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    finalised: int = 0
    unfinalised: int = 0
    written_bytes: int = 0
    dropped_records: int = 0


class Recorder(Protocol):
    """Keeps one session. No call blocks or raises: what cannot be kept is counted and left out."""

    @property
    def recording_id(self) -> str:
        """The name under which the session can be found; "" when nothing is kept."""

    @property
    def trouble(self) -> str:
        """Why nothing is kept any more; "" while all is well."""

    def opened(self, timeout_s: float | None) -> None:
        """Keep what the client asked for beside the engine's input: the longest life."""

    def heard(self, input: SessionInput) -> None:
        """Keep what went to the engine."""

    def said(self, event: SessionEvent) -> None:
        """Keep what came from the engine."""

    def diagnosed(self, record: dict[str, object]) -> None:
        """Keep the client's own measurements."""

    def close(self) -> None:
        """The session is over."""


class Recordings(Protocol):
    """Where sessions are recorded."""

    @property
    def counters(self) -> RecordingCounters:
        """What was recorded so far."""

    def start(self, client_id: str, request_type: RequestType, worker: str) -> Recorder:
        """Return the recorder of a session that begins now."""


@define
class NoRecording:
    """Keeps nothing; both the place and its recorders."""

    counters: RecordingCounters = field(factory=RecordingCounters, init=False)
    recording_id: str = field(default="", init=False)
    trouble: str = field(default="", init=False)

    def start(self, client_id: str, request_type: RequestType, worker: str) -> "NoRecording":
        """Return itself: there is nothing to tell sessions apart by."""
        return self

    def opened(self, timeout_s: float | None) -> None:
        """Forget it."""

    def heard(self, input: SessionInput) -> None:
        """Forget it."""

    def said(self, event: SessionEvent) -> None:
        """Forget it."""

    def diagnosed(self, record: dict[str, object]) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing is open."""

"""The seam of recording: what the edge tells a recorder, and the recorder that keeps nothing."""

from typing import Protocol

from omni.engine import SessionEvent, SessionInput
from omni.messages import RequestType


class Recorder(Protocol):
    """Keeps one session. No call blocks or raises: what cannot be kept is counted and left out."""

    @property
    def recording_id(self) -> str:
        """The name under which the session can be found; "" when nothing is kept."""

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

    def start(self, client_id: str, request_type: RequestType, worker: str) -> Recorder:
        """Return the recorder of a session that begins now."""


class NoRecording:
    """Keeps nothing; both the place and its recorders."""

    recording_id = ""

    def start(self, client_id: str, request_type: RequestType, worker: str) -> "NoRecording":
        """Return itself: there is nothing to tell sessions apart by."""
        return self

    def heard(self, input: SessionInput) -> None:
        """Forget it."""

    def said(self, event: SessionEvent) -> None:
        """Forget it."""

    def diagnosed(self, record: dict[str, object]) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing is open."""

"""What the engine asks of a session, whatever its mode."""

from typing import Protocol

from omni.engine import AudioChunk, SessionEvent, StopAnswer
from omni.pocket.results import Result


class Session(Protocol):
    """One tenant of a slot. Everything is called by the engine thread and returns at once."""

    def open(self) -> list[SessionEvent]:
        """Begin; called once, first."""

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """Take an input."""

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Look for speech in at most *max_windows* windows of the sound that waits."""

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take what background work gave."""

    @property
    def is_behind(self) -> bool:
        """True while sound waits for `listen`."""

    @property
    def is_over(self) -> bool:
        """True when the session has ended by itself."""

    def close(self) -> None:
        """Stop all work."""

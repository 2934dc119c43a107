"""What a session of one request is, whatever it asks for: one turn, and an end of its own."""

from attrs import define, field

from omni.engine import Failed, SessionEvent, Slot
from omni.errors import OmniError
from omni.pocket.pipeline import Pipeline, Post
from omni.pocket.results import Result, Turn


@define(kw_only=True)
class RequestSession:
    """Over with the last event of its request, or with a fatal `Failed`."""

    slot: Slot
    pipeline: Pipeline
    post: Post
    _turn: Turn = field(factory=Turn)
    _is_over: bool = False

    @property
    def is_over(self) -> bool:
        """True after the last event."""
        return self._is_over

    def close(self) -> None:
        """Stop all work."""
        self._is_over = True
        self._turn.is_cancelled = True
        self.pipeline.drop(self.slot)

    def _is_late(self, result: Result) -> bool:
        """Say whether *result* came after the end, or is of another session."""
        return self._is_over or result.turn is not self._turn

    def _fail(self, error: OmniError) -> list[SessionEvent]:
        self.close()
        return [Failed(code=error.code, message=str(error), fatal=True)]

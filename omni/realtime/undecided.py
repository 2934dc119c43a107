"""A connection that did not say which MiniCPM-o protocol it speaks: its first event does."""

from collections.abc import Sequence

from attrs import define, field

from omni.errors import ProtocolError
from omni.realtime.dialect import Command, Dialect, Frame, HandOver, Notice
from omni.realtime.fields import Fields, read_object
from omni.realtime.openai.config import KINDS
from omni.realtime.queue_events import render_queue
from omni.realtime.r1 import R1Dialect
from omni.realtime.r2 import R2Dialect


@define
class UndecidedDialect:
    """R1 or R2, whose words about the queue are the same; or OpenAI's, which is served elsewhere.

    What is no event of either is answered by R1, whose address this is.
    """

    r1: R1Dialect
    r2: R2Dialect
    _chosen: Dialect | None = field(default=None, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if self._chosen is None:
            event = _event(data, binary)
            if _is_openai(event):
                return HandOver(frame=data)
            if event.values.get("type") in ("session.init", "input.append"):
                self._chosen = self.r2
            else:
                self._chosen = self.r1
        return self._chosen.parse(data, binary)

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        if self._chosen is None:
            return render_queue(notice) or self.r1.render(notice)
        return self._chosen.render(notice)


def _event(data: bytes, binary: bool) -> Fields:
    try:
        return Fields({}) if binary else read_object(data)
    except ProtocolError:
        return Fields({})


def _is_openai(event: Fields) -> bool:
    session = event.values.get("session")
    is_update = event.values.get("type") == "session.update"
    return is_update and isinstance(session, dict) and session.get("type") in KINDS

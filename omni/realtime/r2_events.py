"""What R2's two ways, full duplex and turn based, have in common: warnings, errors and the end.

An `error` is fatal to its clients, so whatever a session survives is told as `session.warning`.
"""

from collections.abc import Sequence

from attrs import define, field

from omni.engine import UserTranscript
from omni.errors import MissingField, NotReady, ProtocolError, Unusable
from omni.realtime.binary_sound import SoundForm, SoundWriter
from omni.realtime.dialect import (
    ContextFull,
    Frame,
    Notice,
    Ready,
    RecordingStopped,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    event,
)
from omni.realtime.fields import Fields
from omni.realtime.queue_events import render_queue
from omni.realtime.usage import Counter, Usage

#: Our codes -> what the documents call the errors that end a session; else `session_failed`.
_CODES = {
    "queue_full": "queue_full",
    "no_worker": "service_unavailable",
    "worker_lost": "worker_lost",
    "cancelled": "cancelled",
    "too_large": "too_large",
}


@define
class R2Session:
    """One R2 connection's session: its id, its usage, and how it ends."""

    session_id: str = field(default="", init=False)
    engine: str = field(default="", init=False)
    usage: Counter = field(factory=Counter, init=False)
    mouth: SoundWriter = field(factory=SoundWriter, init=False)
    _close_reason: str = field(default="user_stop", init=False)
    _num_responses: int = field(default=0, init=False)

    @property
    def is_created(self) -> bool:
        """True from `session.created` on."""
        return bool(self.session_id)

    def create(self, ready: Ready, mode: str) -> Sequence[Frame]:
        """Return `session.created`."""
        self.session_id, self.engine = ready.session_id, ready.engine
        self.usage.total += Usage.of_prompt(ready.prepared)
        fields: dict[str, object] = {"session_id": self.session_id, "mode": mode, "metrics": {}}
        if ready.recording_id:
            fields["recording_session_id"] = ready.recording_id
        return event("session.created", **fields)

    def choose_sound(self, form: SoundForm) -> None:
        """Take the form that `session.init` asks for; a second one is refused and changes none."""
        if not self.is_created:
            self.mouth.form = form

    def refuse_init(self, error: ProtocolError) -> ProtocolError:
        """Return the error for a wrong `session.init`: its client would wait for an answer."""
        return error if self.is_created else Unusable(str(error))

    def require_created(self) -> None:
        """Raises: NotReady, for what is sent before `session.created`."""
        if not self.is_created:
            raise NotReady("input.append came before session.created")

    def read_input(self, fields: Fields) -> Fields:
        """Return what `input.append` brings. Raises: NotReady, MissingField."""
        self.require_created()
        if not fields.has("input"):
            raise MissingField("input is missing")
        return fields.section("input")

    def next_response_id(self) -> str:
        """Return an id that no other response of the session has."""
        self._num_responses += 1
        return f"resp_{self.session_id.partition('_')[2]}_{self._num_responses}"

    def parse_close(self, fields: Fields) -> Stop:
        """Return the command of `session.close`."""
        reason = fields.text("reason", "user_stop")
        self._close_reason = "user_stop" if reason == "user_stop" else "client_closed"
        return Stop()

    def close(self, reason: str, diagnostic: str = "") -> list[Frame]:
        """Return `session.closed`, which tells the usage a last time."""
        fields: dict[str, object] = {"session_id": self.session_id, "reason": reason}
        if diagnostic:
            fields["diagnostic"] = {"message": diagnostic}
        return event("session.closed", **fields, usage=self.usage.total.as_fields())

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of a notice that is told in the same way in both."""
        match notice:
            case Trouble():
                return self._render_trouble(notice)
            case Stopped():
                return self.close(self._close_reason)
            case TimedOut(reason=reason):
                return self.close("timeout", reason)
            case ContextFull():
                return self.close("context_full")
            case UserTranscript(text=text, final=final):
                # Its own word: the SDK takes any event that it knows for the end of a turn.
                return event("session.user_transcript", text=text, final=final)
            case RecordingStopped(reason=reason):
                return event("session.warning", code="recording_stopped", message=reason)
        return render_queue(notice)

    def _render_trouble(self, trouble: Trouble) -> Sequence[Frame]:
        if trouble.reason == "server_shutdown":
            return self.close("server_shutdown")
        if trouble.fatal and trouble.code == "context_exhausted":
            return self.close("context_full", trouble.message)
        if not trouble.fatal:
            code = trouble.reason or trouble.code
            return event("session.warning", code=code, message=trouble.message)
        is_ours = not trouble.reason and trouble.code not in ("too_large", "cancelled")
        error = {
            "code": trouble.reason or _CODES.get(trouble.code, "session_failed"),
            "message": trouble.message,
            "type": "server_error" if is_ours else "client_error",
        }
        frames = event("error", error=error)
        if self.is_created:
            frames += self.close("backend_error", trouble.message)
        return frames

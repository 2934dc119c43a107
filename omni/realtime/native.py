"""What the demo's three native dialects share: notices with the same words everywhere."""

from collections.abc import Sequence

from omni.engine import UserTranscript
from omni.realtime.dialect import (
    Frame,
    Notice,
    QueueDone,
    RecordingStopped,
    Stopped,
    Trouble,
    Waiting,
    event,
)


def render_common(notice: Notice) -> Sequence[Frame]:
    """Return the frames of a notice that means the same on every native socket; none otherwise."""
    match notice:
        case Waiting(place=place, first=first):
            known = {
                "position": place.position,
                "estimated_wait_s": place.estimated_wait_s,
                "ticket_id": place.ticket_id,
                "queue_length": place.queue_length,
            }
            return event("queued" if first else "queue_update", **known)
        case QueueDone():
            return event("queue_done")
        case Stopped():
            return event("stopped")
        case RecordingStopped(recording_id=recording_id, reason=reason):
            return event("recording_stopped", recording_session_id=recording_id, reason=reason)
        case UserTranscript(text=text, final=final):
            return event("transcript", role="user", text=text, final=final)
        case Trouble(code=code, text=text, message=message):
            return event("error", error=text, message=message, code=code)
    return []

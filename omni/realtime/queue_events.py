"""The words about the queue on `/v1/realtime`: the same in R1 and R2, so neither is chosen yet."""

from collections.abc import Sequence

from omni.realtime.dialect import Frame, Notice, QueueDone, Waiting, event


def render_queue(notice: Notice) -> Sequence[Frame]:
    """Return the frames of a notice about the queue; none for any other."""
    match notice:
        case Waiting(place=place, first=True):
            return event(
                "session.queued",
                position=place.position,
                estimated_wait_s=place.estimated_wait_s,
                ticket_id=place.ticket_id,
                queue_length=place.queue_length,
            )
        case Waiting(place=place):
            return event(
                "session.queue_update",
                position=place.position,
                estimated_wait_s=place.estimated_wait_s,
                queue_length=place.queue_length,
            )
        case QueueDone():
            return event("session.queue_done")
    return []

"""A lease at the worker's end of the fabric: whose slot, and the traffic of its session."""

import time

from attrs import Factory, define

from omni.backlog import Backlog
from omni.codec import encode
from omni.delivery import Stream
from omni.messages import Header, HeldLease, Leased, Message, Stamp


@define(eq=False)
class WorkerLease:
    """Numbers a session's events on their way, as far as its window goes; others wait.

    since_s: when it began. has_ended: `Revoked` is on its way to the worker.
    """

    session: str
    generation: int
    leased: Leased
    since_s: float
    stream: Stream = Factory(Stream)
    backlog: Backlog = Factory(Backlog)
    has_ended: bool = False

    def keep(self, header: Header, message: Message) -> bool:
        """Number *message* for its way. False if there is no room: nothing kept has left yet."""
        numbered = Header(
            kind="",
            session=self.session,
            seq=self.stream.next_seq,
            generation=self.generation,
            ack=self.stream.received,
            stamps=(*header.stamps, Stamp("worker", time.monotonic_ns())),
        )
        return self.stream.keep(encode(numbered, message))

    def fill(self, is_last: bool = False) -> None:
        """Number what waits, as far as the window goes; *is_last*: all of it."""
        while (is_last or self.stream.window_is_open) and self.backlog.first is not None:
            if not self.keep(*self.backlog.first):
                return
            self.backlog.drop_first()

    def take(self, header: Header, message: Message) -> bool:
        """Number *message*, or let it wait; False when there is no room for it anywhere."""
        goes_now = not self.backlog and self.stream.window_is_open
        return (goes_now and self.keep(header, message)) or self.backlog.put(header, message)

    def held_lease(self, now_s: float) -> HeldLease:
        """Return what a hello says of it."""
        return HeldLease(
            session=self.session,
            request_type=self.leased.request_type,
            worker=self.leased.worker,
            slot=self.leased.slot,
            generation=self.generation,
            client_id=self.leased.client_id,
            elapsed_s=now_s - self.since_s,
            received_seq=self.stream.received,
        )

"""One session at the web's end of the fabric: a ticket, then a lease, messages out, events in."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from attrs import frozen

from omni.codec import encode
from omni.delivery import Stream
from omni.engine import Close, SessionEvent, SessionInput
from omni.errors import CapacityError, OmniError, error_from_code
from omni.messages import Header, HeldLease, Leased, Queued, RequestType, Stamp
from omni.meter import Meter

#: Events of one session that nobody has received yet. The worker's window is far below; one that
#: minds none costs its session.
MAX_INBOX = 256


@frozen
class SessionEnd:
    """Why a session is over, as an error that can be raised more than once."""

    code: str
    message: str
    retry_after_s: float = 5.0

    def error(self) -> OmniError:
        """Return it as an exception."""
        return error_from_code(self.code, self.message, self.retry_after_s)


class SessionLink(Protocol):
    """What a session needs of the link that it belongs to."""

    meter: Meter

    def enqueue(self, session: "LinkedSession") -> None:
        """Ask for a slot, now or when the broker is there."""

    def flush(self, session: "LinkedSession") -> None:
        """Give the socket what *session* has to send; what it does not take stays there."""

    def acknowledge(self, session: "LinkedSession") -> None:
        """Tell the worker what was taken."""

    def release(self, session: "LinkedSession") -> None:
        """Give back whatever the broker has given to *session*."""

    def forget(self, session: "LinkedSession") -> None:
        """Route nothing to *session* any more."""


#: The usual end.
_CLOSED = SessionEnd("cancelled", "the session was closed")


class LinkedSession:
    """One session's way to its worker: a ticket first, then a lease; made by `open_session`.

    key: its routing key, unique for each connection. queued_s: how long it waited for its lease.
    last_stamps: of the last received event, hop by hop. Belongs to one task at a time.
    """

    def __init__(
        self, link: SessionLink, key: str, client_id: str, request_type: RequestType
    ) -> None:
        self.key, self.client_id, self.request_type = key, client_id, request_type
        self.queued_s = 0.0
        self.last_stamps: tuple[Stamp, ...] = ()
        self.generation = 0
        self.unit_deadline_s = 1.0
        self.stream = Stream()
        self.enqueued_at_s: float | None = None
        self.leased_at_s = 0.0
        self._link = link
        self._lease: Leased | None = None
        self._queued: Queued | None = None
        self._inbox: deque[tuple[Header, SessionEvent, int]] = deque()  # and its bytes
        self._end: SessionEnd | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def lease(self) -> Leased:
        """Its lease. Must be leased."""
        assert self._lease is not None, "wait_for_lease first"
        return self._lease

    @property
    def is_waiting(self) -> bool:
        """True between the ticket and the lease."""
        return self.enqueued_at_s is not None and self._lease is None and self._end is None

    @property
    def is_leased(self) -> bool:
        """True while it has a slot."""
        return self._lease is not None and self._end is None

    async def wait_for_lease(self) -> AsyncIterator[Queued]:
        """Take a ticket and yield its place in the line, at once and at each change, until leased.

        Of several changes that come while the user is busy, the last is given. Raises: QueueFull,
        NoWorker, Cancelled.
        """
        if self.enqueued_at_s is None:
            self.enqueued_at_s = time.monotonic()
            self._link.enqueue(self)
        while self._lease is None:
            if self._end is not None:
                raise self._end.error()
            queued, self._queued = self._queued, None
            if queued is not None:
                yield queued
            else:
                await self._wait()

    def send(self, input: SessionInput) -> None:
        """Send *input* to the engine. Never blocks; order is kept.

        Raises: WorkerLost and the like when the session is over, CapacityError when the way is
        blocked and `delivery.MAX_KEPT` messages wait already: this one was not taken.
        """
        if self._end is not None:
            raise self._end.error()
        assert self._lease is not None, "wait_for_lease first"
        header = Header(
            kind="",
            session=self.key,
            seq=self.stream.next_seq,
            generation=self.generation,
            ack=self.stream.acknowledge(),
            stamps=(Stamp("web", time.monotonic_ns()),),
        )
        parts = encode(header, input)
        if not self.stream.keep(parts):
            raise CapacityError("too many messages wait on the way to the worker", 1.0)
        self._link.meter.sent(sum(map(len, parts)))
        self._link.flush(self)

    async def receive(self) -> SessionEvent:
        """Return the next event.

        Raises, after all events that came before: WorkerLost, LeaseExpired, CapacityError (its
        events were not received fast enough), Cancelled (closed here), NoWorker (no broker for
        `lease_timeout_s`).
        """
        while not self._inbox:
            if self._end is not None:
                raise self._end.error()
            await self._wait()
        header, event, size_bytes = self._inbox.popleft()
        self.last_stamps = header.stamps
        if self.stream.note_taken(header.seq, size_bytes):
            self._link.acknowledge(self)
        return event

    def close(self) -> None:
        """End the session: `Close` for the engine; slot or ticket goes back. Always safe."""
        if self.is_leased:
            try:
                self.send(Close())
            except OmniError:  # the broker's word ends it at the worker as well
                pass
        self._link.release(self)
        self.end(_CLOSED)

    # --- for the link ------------------------------------------------------------------------

    def take_queued(self, queued: Queued) -> None:
        """Note its place in the line."""
        self._queued = queued
        self._wake()

    def take_lease(self, generation: int, leased: Leased) -> None:
        """Note its lease."""
        if self._lease is None and self.enqueued_at_s is not None:
            self._lease, self.generation = leased, generation
            self.leased_at_s = time.monotonic()
            self.queued_s = self.leased_at_s - self.enqueued_at_s
            self._link.meter.leased(self.request_type, self.queued_s)
            self._wake()

    def take_event(self, header: Header, event: SessionEvent, size_bytes: int) -> bool:
        """Put *event* into the inbox. False if that is full: its worker minds no window."""
        if len(self._inbox) >= MAX_INBOX:
            return False
        self._inbox.append((header, event, size_bytes))
        self._wake()
        return True

    def end(self, end: SessionEnd) -> None:
        """Note that it is over; what came before can still be received."""
        if self._end is None:
            self._end = end
            self._link.forget(self)
            code = "closed" if end is _CLOSED else end.code
            self._link.meter.session_ended(self.request_type, code)
            self._wake()

    def held_lease(self, now_s: float) -> HeldLease:
        """Return its lease as hello reports it."""
        return HeldLease(
            session=self.key,
            request_type=self.request_type,
            worker=self.lease.worker,
            slot=self.lease.slot,
            generation=self.generation,
            client_id=self.client_id,
            elapsed_s=now_s - self.leased_at_s,
            received_seq=self.stream.received,
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        assert self._waiter is None, "a session has one reader"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

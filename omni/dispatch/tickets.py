"""The waiting line: one FIFO for all request types, positions and waits, who must be told what."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from attrs import Factory, define

from omni.dispatch.eta import WaitSimulation
from omni.messages import RequestType

#: A waiting client hears at least this often. Source: protocol 3.2.
UPDATE_INTERVAL_S = 3.0
#: An estimate for a newcomer may rest on a simulation of this age; it keeps enqueueing flat.
MAX_SIMULATION_AGE_S = 0.25
#: In a line up to this long a newcomer's estimate is always fresh (64: less than 0.1 ms). In a
#: longer one that has just moved it may be too long; the next round corrects it.
MAX_FRESH_LENGTH = 64
#: Pause between two rounds of updates, for each waiting ticket: 1,000 of them are told of a change
#: within 0.2 s, and telling takes at most a tenth of the broker's time.
ROUND_PAUSE_S = 0.0002


@define(eq=False)
class Ticket:
    """A place in the line. web: routing id of the peer that asked. Times: the loop's clock."""

    ticket_id: str
    session: str
    web: bytes
    request_type: RequestType
    client_id: str
    enqueued_at_s: float
    position: int = 0
    wait_s: float = 0.0
    told_position: int = 0
    told_at_s: float = 0.0


@define(eq=False)
class TicketLine:
    """Tickets in the order of their coming; only the head is ever served.

    busy_until_s: the moments at which the busy slots are expected to be free. eta_s: expected
    duration of a type.
    """

    busy_until_s: Callable[[float], Iterable[float]]
    eta_s: Callable[[str], float]
    _tickets: dict[str, Ticket] = Factory(dict)  # by session, in order
    _told: dict[str, Ticket] = Factory(dict)  # by session, longest untold first
    _simulation: WaitSimulation | None = None
    _is_stale: bool = False
    _simulated_at_s: float = 0.0
    _moved: bool = False
    _round: Iterator[Ticket] | None = None
    _next_round_s: float = 0.0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets.values())

    def get(self, session: str) -> Ticket | None:
        """Return the waiting ticket of *session*."""
        return self._tickets.get(session)

    def by_id(self, ticket_id: str) -> Ticket | None:
        """Return the waiting ticket with that id."""
        return next((item for item in self if item.ticket_id == ticket_id), None)

    @property
    def head(self) -> Ticket | None:
        """The ticket that is served next."""
        return next(iter(self._tickets.values()), None)

    def append(self, ticket: Ticket, now_s: float) -> None:
        """Put *ticket* at the end, with its position and wait. Costs the same in any long line."""
        age_s = now_s - self._simulated_at_s
        must_be_fresh = self._is_stale and len(self) <= MAX_FRESH_LENGTH
        if self._simulation is None or must_be_fresh or age_s > MAX_SIMULATION_AGE_S:
            self.estimate(now_s)
        assert self._simulation is not None
        self._tickets[ticket.session] = ticket
        ticket.position = len(self._tickets)
        ticket.wait_s = self._simulation.next_wait_s(now_s, self.eta_s(ticket.request_type))
        self.note_told(ticket, now_s)
        if self._is_stale:
            ticket.told_position, self._moved = 0, True

    def insert_by_age(self, ticket: Ticket, now_s: float) -> None:
        """Put *ticket* where its `enqueued_at_s` belongs: for lines that are being rebuilt."""
        tickets = sorted((*self, ticket), key=lambda item: item.enqueued_at_s)
        self._tickets = {item.session: item for item in tickets}
        self.estimate(now_s)
        self._moved = True
        self.note_told(ticket, now_s)

    def remove(self, session: str) -> Ticket | None:
        """Take the ticket of *session* out; everybody behind moves up."""
        ticket = self._tickets.get(session)
        if ticket is not None:
            self._moved = self._moved or next(reversed(self._tickets)) != session
            del self._tickets[session]
            self._told.pop(session, None)
            self._is_stale = True
        return ticket

    def invalidate(self) -> None:
        """Note that a slot changed hands, or that the expected durations did."""
        self._is_stale = True

    def estimate(self, now_s: float) -> None:
        """Compute position and wait of every ticket anew."""
        self._simulation = WaitSimulation(self.busy_until_s(now_s))
        self._simulated_at_s, self._is_stale = now_s, False
        next_wait_s = self._simulation.next_wait_s
        eta_s: dict[str, float] = {}
        for index, ticket in enumerate(self, start=1):
            kind = ticket.request_type
            if kind not in eta_s:
                eta_s[kind] = self.eta_s(kind)
            ticket.position = index
            ticket.wait_s = next_wait_s(now_s, eta_s[kind])

    def note_told(self, ticket: Ticket, now_s: float) -> None:
        """Remember that the owner of *ticket* knows its position."""
        ticket.told_position = ticket.position
        ticket.told_at_s = now_s
        self._told.pop(ticket.session, None)
        self._told[ticket.session] = ticket

    def due_updates(self, now_s: float, limit: int) -> list[Ticket]:
        """Return at most *limit* tickets whose owners must be told now, and note them as told.

        First those that moved, in rounds over the line; then those that have heard nothing for
        `UPDATE_INTERVAL_S`. A round that has begun is finished before the next, so that the end of
        a line that moves all the time is told too.
        """
        if self._round is None and self._moved and now_s >= self._next_round_s:
            self._begin_round(now_s)
        due = self._of_round(now_s, limit)
        due += self._untold(now_s, limit - len(due))
        if due and now_s - self._simulated_at_s > MAX_SIMULATION_AGE_S:
            self.estimate(now_s)
        for ticket in due:
            self.note_told(ticket, now_s)
        return due

    def pause_s(self, now_s: float) -> float | None:
        """Return how long nobody needs to be told anything; None while nobody waits."""
        if self._round is not None:
            return 0.0
        longest_untold = next(iter(self._told.values()), None)
        if longest_untold is None:
            return None
        next_s = longest_untold.told_at_s + UPDATE_INTERVAL_S
        if self._moved:
            next_s = min(next_s, self._next_round_s)
        return max(0.0, next_s - now_s)

    def _begin_round(self, now_s: float) -> None:
        self.estimate(now_s)
        self._moved = False
        self._round = iter([item for item in self if item.position != item.told_position])
        self._next_round_s = now_s + len(self) * ROUND_PAUSE_S

    def _of_round(self, now_s: float, limit: int) -> list[Ticket]:
        if self._round is None:
            return []
        taken = list(islice(self._round, limit))
        if len(taken) < limit:
            self._round = None
        there = [item for item in taken if self._tickets.get(item.session) is item]
        for ticket in there:
            self.note_told(ticket, now_s)
        return there

    def _untold(self, now_s: float, limit: int) -> list[Ticket]:
        due: list[Ticket] = []
        for ticket in self._told.values():
            if len(due) >= limit or now_s - ticket.told_at_s < UPDATE_INTERVAL_S:
                break
            due.append(ticket)
        return due

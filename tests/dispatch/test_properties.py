"""What must hold after any sequence of events: checked on sequences that hypothesis thinks up."""

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omni.dispatch.eta import WaitSimulation
from omni.messages import (
    CancelTicket,
    Enqueue,
    Leased,
    Queued,
    Release,
    SlotFreed,
    TicketEnded,
)
from omni.settings import FabricSettings, ServiceSettings
from tests.dispatch.desk import Desk

WEBS = ("web-0", "web-1")
WORKERS = ("worker-0", "worker-1")
TYPES = st.sampled_from(["chat", "half_duplex_audio", "audio_duplex", "omni_duplex", "streaming"])
MAX_QUEUE = 12


class QueueMachine(RuleBasedStateMachine):
    """Webs and workers come, ask, leave and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        fabric = FabricSettings(rejoin_grace_s=0.0, lease_timeout_s=1e6)
        self.desk = Desk(fabric, ServiceSettings(max_queue_size=MAX_QUEUE))
        self.num_sessions = 0
        self.num_starts = 0
        self.line: list[tuple[str, str]] = []  # (session, web) in order, as it must be
        self.held: dict[str, dict[str, int]] = {}  # worker -> session -> generation, as it knows
        self.last_generation = 0
        self.seen = 0
        for web in WEBS:
            self.desk.web(web)
        self.worker_starts(WORKERS[0], 2)

    # --- what happens ------------------------------------------------------------------------

    @rule(name=st.sampled_from(WORKERS), num_slots=st.integers(1, 3))
    def worker_starts(self, name: str, num_slots: int) -> None:
        """A worker says hello, unless one of its name is there."""
        if self.desk.dispatcher.peers.named(name) is None:
            self.num_starts += 1
            self.held[name] = {}
            self.desk.worker(name, num_slots, pid=self.num_starts)
            self.follow()

    @rule(name=st.sampled_from(WORKERS))
    def worker_dies(self, name: str) -> None:
        """A worker is lost with all its sessions."""
        if self.desk.dispatcher.peers.named(name) is not None:
            self.desk.lose(name)
            self.held.pop(name)
            self.follow()

    @rule(name=st.sampled_from(WEBS))
    def web_starts(self, name: str) -> None:
        """A web says hello (again)."""
        self.desk.web(name)

    @rule(name=st.sampled_from(WEBS))
    def web_dies(self, name: str) -> None:
        """A web is lost with all its sessions and tickets."""
        if self.desk.dispatcher.peers.named(name) is not None:
            self.line = [item for item in self.line if item[1] != name]
            self.desk.lose(name)
            self.follow()

    @rule(name=st.sampled_from(WEBS), kinds=st.lists(TYPES, min_size=1, max_size=5))
    def enqueue_some(self, name: str, kinds: list[str]) -> None:
        """A web asks for a few slots."""
        for kind in kinds:
            self.enqueue(name, kind)

    def enqueue(self, name: str, kind: str) -> None:
        """A web asks for a slot."""
        if self.desk.dispatcher.peers.named(name) is None:
            return
        self.num_sessions += 1
        session = f"s{self.num_sessions}"
        if len(self.line) < MAX_QUEUE:
            self.line.append((session, name))
        self.desk.say(
            name, Enqueue(request_type=kind, client_id="c"), session  # type: ignore[arg-type]
        )
        self.follow()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A waiting client hangs up."""
        session, web = data.draw(st.sampled_from(self.line))
        self.line.remove((session, web))
        self.desk.say(web, Release(), session)
        self.follow()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """An operator cancels a ticket."""
        session, web = data.draw(st.sampled_from(self.line))
        ticket = self.desk.dispatcher.line.get(session)
        assert ticket is not None
        self.line.remove((session, web))
        self.desk.say(web, CancelTicket(request=1, ticket_id=ticket.ticket_id))
        self.follow()

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A web is done with a session."""
        leases = sorted(self.desk.dispatcher.leases, key=lambda lease: lease.session)
        if leases:
            lease = data.draw(st.sampled_from(leases))
            assert lease.web is not None
            self.desk.say(lease.web.decode(), Release(), lease.session, lease.generation)
            self.follow()

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        """A worker frees one of its slots, asked or not."""
        tenants = [
            (worker, session, generation)
            for worker, sessions in self.held.items()
            for session, generation in sessions.items()
        ]
        if tenants:
            worker, session, generation = data.draw(st.sampled_from(tenants))
            del self.held[worker][session]
            self.desk.say(worker, SlotFreed(), session, generation)
            self.follow()

    @rule(worker=st.sampled_from(WORKERS), by=st.sampled_from([-1, 1]), data=st.data())
    def lie_about_a_slot(self, worker: str, by: int, data: st.DataObject) -> None:
        """A worker frees what it does not hold: a session with another generation."""
        if self.held.get(worker):
            session, generation = data.draw(st.sampled_from(sorted(self.held[worker].items())))
            self.desk.say(worker, SlotFreed(), session, generation + by)
            self.follow()

    @rule(by_s=st.floats(0.05, 5.0))
    def time_passes(self, by_s: float) -> None:
        """Everybody is alive for a while."""
        alive = tuple(peer.id.decode() for peer in self.desk.dispatcher.peers)
        if len([name for name in alive if name.startswith("worker")]):
            self.desk.pass_time(by_s, alive=alive, step_s=0.25)
            self.follow()

    # --- what must hold ------------------------------------------------------------------------

    def follow(self) -> None:
        """Take what was said since, and check it against the order of the line."""
        new = self.desk.heard[self.seen :]
        self.seen = len(self.desk.heard)
        for item in new:
            session, web = item.header.session, item.peer
            if isinstance(item.message, Leased) and web.startswith("worker"):
                self.lease(web, session, item.header.generation, item.message.slot)
            elif isinstance(item.message, TicketEnded) and (session, web) in self.line:
                self.line.remove((session, web))
            elif isinstance(item.message, Queued):
                assert 1 <= item.message.position <= item.message.queue_length <= MAX_QUEUE

    def lease(self, worker: str, session: str, generation: int, slot: int) -> None:
        """A lease goes to the head of the line, on a free slot, with a new generation."""
        assert self.line and self.line[0][0] == session, "somebody was overtaken"
        self.line.pop(0)
        assert generation > self.last_generation, "generations must grow"
        self.last_generation = generation
        assert 0 <= slot < len(self.desk.dispatcher.leases.slots_of(worker))
        self.held[worker][session] = generation

    @invariant()
    def line_is_as_it_must_be(self) -> None:
        """The waiting line holds who waits, in the order of coming."""
        assert [ticket.session for ticket in self.desk.dispatcher.line] == [
            session for session, _ in self.line
        ]

    @invariant()
    def no_slot_has_two_tenants(self) -> None:
        """A worker holds at most as many sessions as it has slots, each lease on its own slot."""
        leases = self.desk.dispatcher.leases
        places = [(lease.worker, lease.slot) for lease in leases]
        assert len(places) == len(set(places))
        for worker, sessions in self.held.items():
            slots = leases.slots_of(worker)
            assert {slot.tenant for slot in slots if not slot.is_free} == set(sessions)

    @invariant()
    def nobody_waits_before_a_free_slot(self) -> None:
        """While somebody waits, no worker that takes leases has a free slot."""
        dispatcher = self.desk.dispatcher
        if self.line:
            assert dispatcher.leases.free_slot(dispatcher.peers.lease_takers()) is None

    @invariant()
    def positions_and_waits_are_those_of_the_formula(self) -> None:
        """A fresh estimate is what the simulation over all busy slots gives."""
        line, eta, now_s = self.desk.dispatcher.line, self.desk.dispatcher.eta, self.desk.now_s
        line.estimate(now_s)
        simulation = WaitSimulation(line.busy_until_s(now_s))
        for index, ticket in enumerate(line, start=1):
            assert ticket.position == index
            assert ticket.wait_s == simulation.next_wait_s(now_s, eta.eta_s(ticket.request_type))

    def teardown(self) -> None:
        """Whoever still waits was told the right position, without waiting for the 3 s."""
        alive = tuple(peer.id.decode() for peer in self.desk.dispatcher.peers)
        self.desk.pass_time(0.1, alive=alive)
        for session, web in self.line:
            told = self.desk.told(web, Queued, session)
            ended = self.desk.told(web, TicketEnded, session)
            position = [item[0] for item in self.line].index(session) + 1
            last = told[-1]
            assert isinstance(last, Queued) and (ended or last.position == position)


TestQueue = QueueMachine.TestCase
TestQueue.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)

"""The broker's decisions, without sockets: messages of peers in, messages to peers out.

Longer than most files because the rules of tickets, leases and peers meet here, and nowhere else.
"""

import secrets
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from attrs import Factory, define, evolve, field

from omni.dispatch.eta import EtaBook
from omni.dispatch.leases import Lease, LeaseTable, SlotState
from omni.dispatch.rejoining import Rejoining, believed_s
from omni.dispatch.tickets import Ticket, TicketLine
from omni.dispatch.views import status_of
from omni.dispatch.workers import Peer, PeerTable
from omni.errors import ProtocolError
from omni.messages import (
    Answer,
    CancelTicket,
    Drain,
    Enqueue,
    Goodbye,
    Header,
    Heartbeat,
    Hello,
    Leased,
    Message,
    PeerExited,
    Queued,
    Refused,
    Release,
    Revoked,
    SetEta,
    SlotFreed,
    StatusQuery,
    TicketEnded,
    Welcome,
)
from omni.settings import FabricSettings, ServiceSettings

#: Waiting clients told in one go; the loop looks at its sockets between two goes (64: about 1 ms).
MAX_UPDATES = 64
#: Processes that are told to say hello; beyond it the list begins anew, and some are told twice.
MAX_STRANGERS = 1024
#: A stranger is told to say hello at most this often.
STRANGER_PAUSE_S = 0.05


class Outgoing(NamedTuple):
    """A message for the peer with that routing id."""

    peer: bytes
    header: Header
    message: Message


@define(eq=False)
class Dispatcher:
    """Queue, leases and peers of one broker. Every call gets the time; `out` collects answers."""

    fabric: FabricSettings
    max_queue_size: int
    broker_id: str
    started_at_s: float
    unix_offset_s: float  # Unix time minus the clock that is passed in
    eta: EtaBook
    peers: PeerTable
    leases: LeaseTable
    line: TicketLine
    out: list[Outgoing] = Factory(list)
    counters: Counter[str] = Factory(Counter)
    is_draining: bool = False
    _rejoining: Rejoining = field(default=Factory(Rejoining, takes_self=True), init=False)
    _strangers: dict[bytes, float] = Factory(dict)
    _next_beat_s: float = 0.0

    @classmethod
    def create(
        cls, fabric: FabricSettings, service: ServiceSettings, now_s: float, unix_s: float
    ) -> "Dispatcher":
        """Return an empty one. Generations begin at the Unix ms: above an older broker's."""
        eta = EtaBook.from_settings(service)
        leases = LeaseTable(int(unix_s * 1000))
        peers = PeerTable(fabric.heartbeat_interval_s, fabric.heartbeat_misses)

        def busy_until_s(at_s: float) -> Iterator[float]:
            return _busy_until_s(peers, leases, eta, at_s)

        line = TicketLine(busy_until_s, eta.eta_s)
        broker_id = "b_" + secrets.token_hex(6)
        return cls(
            fabric,
            service.max_queue_size,
            broker_id,
            now_s,
            unix_s - now_s,
            eta,
            peers,
            leases,
            line,
        )

    # --- session messages --------------------------------------------------------------------

    def route(self, sender: bytes, session: str, generation: int) -> bytes | None:
        """Return who gets a session message of *sender*; None if it has no right to send it."""
        lease = self.leases.get(session)
        if lease is None or lease.generation != generation:
            self.counters["dropped_stale"] += 1
            return None
        if sender == lease.web:
            target = lease.worker_id
        elif sender == lease.worker_id:
            target = lease.web
        else:
            self.counters["dropped_foreign"] += 1
            return None
        if target is None:
            self.counters["dropped_early"] += 1
        return target

    def revoke(self, session: str, code: str, message: str, now_s: float) -> None:
        """End the lease of *session* against its will and tell both ends."""
        if (lease := self.leases.get(session)) is not None:
            self.end_lease(lease, now_s, Revoked(code=code, message=message))
            self.tell(lease.web, lease, Revoked(code=code, message=message))
            self.counters["revoked"] += 1
            self.serve(now_s)

    # --- messages for the broker -------------------------------------------------------------

    def handle(self, sender: bytes, header: Header, message: Message, now_s: float) -> None:
        """Act on a message for the broker. Raises: ProtocolError if *sender* may not send it."""
        if isinstance(message, Hello):
            self._on_hello(sender, message, now_s)
            return
        peer = self.peers.get(sender)
        if peer is None:
            self.refuse_stranger(sender, now_s)
            return
        peer.heard_at_s = now_s
        match message:
            case Heartbeat():
                self._on_heartbeat(peer, message, now_s)
            case Goodbye():
                self.lose(peer, now_s, f"{peer.name} left: {message.reason or 'no reason given'}")
            case SlotFreed() if peer.role == "worker":
                self._on_slot_freed(peer, header, now_s)
            case PeerExited() if peer.role == "launcher":
                self._on_peer_exited(message, now_s)
            case Enqueue() if peer.role != "worker":
                self._on_enqueue(peer, header.session, message, now_s)
            case Release() if peer.role != "worker":
                self._on_release(peer, header.session, now_s)
            case CancelTicket() | SetEta() | Drain() | StatusQuery() if peer.role != "worker":
                self._on_request(peer, message, now_s)
            case _:
                raise ProtocolError(f"a {peer.role} may not send {type(message).__name__}")

    def refuse_stranger(self, sender: bytes, now_s: float) -> None:
        """Tell an unknown process to say hello; not for each of its messages."""
        self.counters["from_strangers"] += 1
        if now_s - self._strangers.get(sender, -STRANGER_PAUSE_S) < STRANGER_PAUSE_S:
            return
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        self._strangers[sender] = now_s
        refused = Refused(code="unknown_peer", message="say hello first")
        self.say(sender, refused)

    def tick(self, now_s: float) -> None:
        """Do what is due: judge the silent, beat, end the grace, tell the waiting."""
        self._judge(now_s)
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self.fabric.heartbeat_interval_s
            self._beat(now_s)
        self._rejoining.tick(now_s)
        for slot in self.leases.stuck_slots(now_s, self.fabric.lease_timeout_s):
            self._ask_again(slot, now_s)
        if len(self.line) and (reason := self._why_hopeless(now_s)):
            self._end_all_tickets(reason)
        self.tell_waiting(now_s)

    def tell_waiting(self, now_s: float) -> None:
        """Tell some of those whose position changed, or who have heard nothing for long."""
        for ticket in self.line.due_updates(now_s, MAX_UPDATES):
            self._tell_queued(ticket)

    # --- peers -------------------------------------------------------------------------------

    def lose(self, peer: Peer, now_s: float, reason: str, *, expected: bool = True) -> None:
        """Forget *peer*: its tickets vanish, its leases end, the other ends are told at once."""
        self.peers.remove(peer, now_s, expected=expected)
        self.counters[f"{peer.role}s_lost"] += 1
        if peer.role == "worker":
            for lease in self.leases.drop_slots(peer.name):
                self.end_with_worker(lease, reason)
        else:
            self._drop_web(peer, now_s, reason)
        self.line.invalidate()
        self.serve(now_s)

    def end_with_worker(self, lease: Lease, reason: str) -> None:
        """End a lease whose worker is lost.

        This is the seam for keeping such calls alive from the session's journal: there the lease
        goes to the head of the line for another slot, and its web sends `restore` to that.
        """
        self.counters["sessions_lost"] += 1
        self.tell(lease.web, lease, Revoked(code="worker_lost", message=reason))

    def _drop_web(self, peer: Peer, now_s: float, reason: str) -> None:
        for ticket in [item for item in self.line if item.web == peer.id]:
            self.line.remove(ticket.session)
        self._rejoining.forget(peer.id)
        for lease in [item for item in self.leases if item.web == peer.id]:
            self.end_lease(lease, now_s, Revoked(code="released", message=reason))

    def _on_hello(self, sender: bytes, hello: Hello, now_s: float) -> None:
        peer = self.peers.get(sender)
        if peer is None:
            if hello.role == "cli":  # any number of terminals may ask at the same time
                hello = evolve(hello, name=sender.decode("utf-8", "replace"))
            if not self._free_name(hello, now_s):
                self.counters["hello_name_taken"] += 1
                refused = Refused(
                    code="name_taken", message=f"another process is {hello.name}; start it once"
                )
                self.say(sender, refused)
                return
            peer = Peer(
                sender,
                hello.role,
                hello.name,
                hello.pid,
                hello.host,
                now_s,
                hello.state,
                hello.gpu,
            )
            self.peers.add(peer)
            self._strangers.pop(sender, None)
        peer.heard_at_s = now_s
        peer.take_hello(hello)
        welcome = Welcome(
            broker_id=self.broker_id,
            heartbeat_interval_s=self.fabric.heartbeat_interval_s,
            heartbeat_misses=self.fabric.heartbeat_misses,
        )
        self.say(sender, welcome)
        if peer.role == "worker":
            self._rejoining.take_worker_leases(peer, hello.leases, now_s)
        else:
            self._rejoining.take_web_leases(peer, hello.leases, now_s)
        self._rejoining.end_unreported(peer, hello.leases, now_s)
        self.serve(now_s)

    def _free_name(self, hello: Hello, now_s: float) -> bool:
        """Return whether the name can be given; a process that says hello anew gives up its old."""
        holder = self.peers.named(hello.name)
        if holder is None:
            return True
        if (holder.pid, holder.host, holder.role) != (hello.pid, hello.host, hello.role):
            return False
        self.lose(holder, now_s, f"{hello.name} opened its link anew")
        return True

    def _on_heartbeat(self, peer: Peer, heartbeat: Heartbeat, now_s: float) -> None:
        took = peer.takes_leases
        peer.take_heartbeat(heartbeat)
        peer.on_probation = False
        if peer.takes_leases and not took:
            self.serve(now_s)

    def _on_peer_exited(self, exited: PeerExited, now_s: float) -> None:
        peer = self.peers.named(exited.name)
        if peer is not None and peer.pid == exited.pid:
            self.lose(peer, now_s, f"{peer.name} exited", expected=not exited.given_up)
        record = self.peers.records.get(exited.name)
        if record is not None and record.gone_at_s is not None and exited.given_up:
            record.expected = False

    def _judge(self, now_s: float) -> None:
        for peer in list(self.peers):
            standing = self.peers.standing(peer, now_s)
            if standing == "lost":
                silence_s = now_s - peer.heard_at_s
                self.lose(peer, now_s, f"{peer.name} was silent for {silence_s:.1f} s")
            elif peer.on_probation != (standing == "probation"):
                peer.on_probation = not peer.on_probation
                self.serve(now_s)

    def _beat(self, now_s: float) -> None:
        beat = Heartbeat(state="draining" if self.is_draining else "ready")
        self.out += [Outgoing(peer.id, Header(kind=""), beat) for peer in self.peers]

    # --- tickets -----------------------------------------------------------------------------

    def _on_enqueue(self, peer: Peer, session: str, enqueue: Enqueue, now_s: float) -> None:
        if not session:
            raise ProtocolError("enqueue without a session")
        if (lease := self.leases.get(session)) is not None:
            if lease.web is None:
                self._rejoining.adopt(lease, peer.id)
            elif lease.web == peer.id:
                self.tell_leased(lease, lease.web)
            return
        if (waiting := self.line.get(session)) is not None:
            if waiting.web == peer.id:
                self._tell_queued(waiting)
            return
        self.counters["enqueued"] += 1
        enqueued_at_s = now_s - believed_s(enqueue.waited_s)
        ticket = Ticket(
            "q_" + secrets.token_hex(6),
            session,
            peer.id,
            enqueue.request_type,
            enqueue.client_id,
            enqueued_at_s,
        )
        if reason := self._why_hopeless(now_s):
            self._end_ticket(ticket, "no_worker", reason)
        elif not len(self.line) and (slot := self._free_slot()) is not None:
            self._grant(ticket, slot, now_s)
        elif len(self.line) >= self.max_queue_size:
            self.counters["queue_full"] += 1
            text = f"Queue full ({self.max_queue_size} requests)"  # the words that clients know
            self._end_ticket(ticket, "queue_full", text, self._retry_after_s(now_s))
        else:
            self._queue(ticket, now_s)

    def _queue(self, ticket: Ticket, now_s: float) -> None:
        if self._rejoining.in_grace(now_s) and ticket.enqueued_at_s < now_s:
            self.line.insert_by_age(ticket, now_s)
        else:
            self.line.append(ticket, now_s)
        self._tell_queued(ticket)

    def _on_release(self, peer: Peer, session: str, now_s: float) -> None:
        ticket = self.line.get(session)
        if ticket is not None and ticket.web == peer.id:
            self.line.remove(session)
            self.counters["tickets_withdrawn"] += 1
        lease = self.leases.get(session)
        if lease is not None and lease.web == peer.id:
            self._note_duration(lease, now_s)
            self.end_lease(lease, now_s, Revoked(code="released", message="the session is over"))
        self._rejoining.forget(peer.id, session)

    def _on_slot_freed(self, peer: Peer, header: Header, now_s: float) -> None:
        lease = self.leases.get(header.session)
        if lease is not None and lease.generation == header.generation:
            self._note_duration(lease, now_s)
            text = f"{peer.name} ended the session"
            self.tell(lease.web, lease, Revoked(code="worker_lost", message=text))
        if not self.leases.note_freed(peer.name, header.session, header.generation):
            self.counters["freed_unknown"] += 1
        self.line.invalidate()
        self.serve(now_s)

    def _note_duration(self, lease: Lease, now_s: float) -> None:
        duration_s = now_s - lease.started_at_s
        self.eta.record(lease.request_type, duration_s)
        if (record := self.peers.records.get(lease.worker)) is not None:
            record.num_sessions += 1
            record.total_duration_s += duration_s

    def serve(self, now_s: float) -> None:
        """Give free slots to the head of the line, strictly in order."""
        while (ticket := self.line.head) is not None and (slot := self._free_slot()) is not None:
            self.line.remove(ticket.session)
            self._grant(ticket, slot, now_s)

    def _free_slot(self) -> SlotState | None:
        if self.is_draining:
            return None
        return self.leases.free_slot(self.peers.lease_takers())

    def _grant(self, ticket: Ticket, slot: SlotState, now_s: float) -> None:
        worker = self.peers.named(slot.worker)
        assert worker is not None
        lease = Lease(
            ticket.session,
            ticket.client_id,
            ticket.request_type,
            ticket.ticket_id,
            slot.worker,
            slot.index,
            0,
            now_s,
            ticket.web,
            worker.id,
        )
        self.leases.grant(lease)
        self._rejoining.note_given(lease.session, now_s)
        self.line.invalidate()
        self.counters["leased"] += 1
        self.tell_leased(lease, worker.id)
        self.tell_leased(lease, ticket.web)

    def end_lease(self, lease: Lease, now_s: float, told_worker: Revoked) -> None:
        """End a lease and tell its worker; what its web is told is the caller's to say."""
        self.leases.end(lease, now_s)
        self.line.invalidate()
        self.tell(lease.worker_id, lease, told_worker)

    def _ask_again(self, slot: SlotState, now_s: float) -> None:
        """Ask a worker again for a slot that it does not free; the first word may be lost."""
        self.counters["slots_stuck"] += 1
        slot.freeing_since_s = now_s
        if (worker := self.peers.named(slot.worker)) is not None:
            revoked = Revoked(code="released", message="the slot was not freed")
            self.say(worker.id, revoked, slot.tenant, slot.generation)

    def _why_hopeless(self, now_s: float) -> str:
        """Return why waiting makes no sense; empty while it does."""
        if self.is_draining:
            return "the service is stopping and takes no new sessions"
        patience_s = self.fabric.lease_timeout_s
        if self.peers.any_expected(now_s, self.started_at_s, patience_s):
            return ""
        return "no worker is running; look at `omni status` and the workers' logs"

    def _end_all_tickets(self, reason: str) -> None:
        for ticket in list(self.line):
            self.line.remove(ticket.session)
            self._end_ticket(ticket, "no_worker", reason)

    def _retry_after_s(self, now_s: float) -> float:
        first_s = min(_busy_until_s(self.peers, self.leases, self.eta, now_s), default=now_s + 5)
        return min(60.0, max(1.0, round(first_s - now_s, 1)))

    # --- requests ----------------------------------------------------------------------------

    def _on_request(
        self, peer: Peer, message: CancelTicket | SetEta | Drain | StatusQuery, now_s: float
    ) -> None:
        answer: Message
        match message:
            case StatusQuery():
                answer = status_of(self, message.request, now_s)
            case CancelTicket():
                ok = self._cancel(message.ticket_id)
                answer = Answer(
                    request=message.request, ok=ok, message="" if ok else "no such ticket"
                )
            case SetEta():
                problem = self.eta.replace_config(message.config)
                self.line.invalidate()
                answer = Answer(request=message.request, ok=not problem, message=problem)
            case Drain():
                ok = self._drain(message.worker)
                answer = Answer(
                    request=message.request, ok=ok, message="" if ok else "no such worker"
                )
        self.say(peer.id, answer)

    def _cancel(self, ticket_id: str) -> bool:
        ticket = self.line.by_id(ticket_id)
        if ticket is None:
            return False
        self.line.remove(ticket.session)
        self._end_ticket(ticket, "cancelled", "the ticket was cancelled")
        return True

    def _drain(self, name: str) -> bool:
        if not name:
            self.is_draining = True
            self._end_all_tickets("the service is stopping and takes no new sessions")
            return True
        peer = self.peers.named(name)
        if peer is None or peer.role != "worker":
            return False
        peer.is_drained = True
        self.line.invalidate()
        return True

    # --- telling -----------------------------------------------------------------------------

    def say(self, peer_id: bytes, message: Message, session: str = "", generation: int = 0) -> None:
        """Say *message* to a peer; the broker sends it."""
        header = Header(kind="", session=session, generation=generation)
        self.out.append(Outgoing(peer_id, header, message))

    def tell(self, peer_id: bytes | None, lease: Lease, message: Message) -> None:
        """Say *message* about *lease* to one of its ends, if that is there."""
        if peer_id is not None:
            self.say(peer_id, message, lease.session, lease.generation)

    def _tell_queued(self, ticket: Ticket) -> None:
        queued = Queued(
            ticket_id=ticket.ticket_id,
            position=ticket.position,
            estimated_wait_s=ticket.wait_s,
            queue_length=len(self.line),
        )
        self.say(ticket.web, queued, ticket.session)

    def tell_leased(self, lease: Lease, peer_id: bytes) -> None:
        """Tell one end of *lease* what it has; its worker must be there."""
        worker = self.peers.named(lease.worker)
        assert worker is not None and worker.capabilities is not None
        leased = Leased(
            worker=lease.worker,
            gpu=worker.gpu,
            slot=lease.slot,
            request_type=lease.request_type,
            client_id=lease.client_id,
            ticket_id=lease.ticket_id,
            capabilities=worker.capabilities,
        )
        self.tell(peer_id, lease, leased)

    def _end_ticket(
        self, ticket: Ticket, code: str, message: str, retry_after_s: float = 5.0
    ) -> None:
        self.counters[f"ended_{code}"] += 1
        ended = TicketEnded(code=code, message=message, retry_after_s=retry_after_s)
        self.say(ticket.web, ended, ticket.session)


def _busy_until_s(
    peers: PeerTable, leases: LeaseTable, eta: EtaBook, now_s: float
) -> Iterator[float]:
    """Yield when each busy slot is expected to be free, of workers that will lease it again."""
    for peer in peers.workers():
        if peer.is_drained or peer.state == "draining":
            continue
        for slot in leases.slots_of(peer.name):
            lease = leases.get(slot.tenant) if slot.tenant else None
            if lease is not None and lease.generation == slot.generation:
                elapsed_s = now_s - lease.started_at_s
                yield now_s + eta.remaining_s(lease.request_type, elapsed_s)
            elif not slot.is_free:
                yield now_s

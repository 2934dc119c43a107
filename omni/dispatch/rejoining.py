"""Leases that an earlier broker gave: a new one believes its peers about them, for a grace time.

A lease that both of its ends report is whole again; one that only one end reports ends with the
grace. `docs/protocol.md`, section 7, has the rules.
"""

from typing import TYPE_CHECKING

from attrs import Factory, define

from omni.dispatch.leases import Lease
from omni.dispatch.workers import Peer
from omni.messages import HeldLease, Rejoined, Revoked

if TYPE_CHECKING:  # the dispatcher imports this module
    from omni.dispatch.dispatcher import Dispatcher

#: A generation above it is a mistake; the next ones would not fit into the wire's 64 bits.
MAX_GENERATION = 2**62
#: Times that peers tell are believed up to a day.
MAX_TOLD_S = 86_400.0


@define(eq=False)
class Rejoining:
    """What peers report in hello, and what becomes of it. Part of its dispatcher."""

    _desk: "Dispatcher"
    _is_over: bool = False
    _claims: dict[str, tuple[bytes, HeldLease]] = Factory(dict)  # webs' leases, worker still away
    _given: set[str] = Factory(set)  # sessions that got their lease here, while in grace

    def tick(self, now_s: float) -> None:
        """End the grace when it is time."""
        if not self._is_over and not self.in_grace(now_s):
            self._end_grace(now_s)

    def note_given(self, session: str, now_s: float) -> None:
        """Remember that this broker itself gave a lease: no peer can claim an older one instead."""
        if self.in_grace(now_s):
            self._given.add(session)

    def forget(self, peer_id: bytes, session: str = "") -> None:
        """Forget what the web *peer_id* has claimed: one session, or all."""
        for claimed in [key for key, (web, _) in self._claims.items() if web == peer_id]:
            if session in ("", claimed):
                del self._claims[claimed]

    def in_grace(self, now_s: float) -> bool:
        return now_s - self._desk.started_at_s < self._desk.fabric.rejoin_grace_s

    def _may_restore(self, held: HeldLease, now_s: float) -> bool:
        """True for a lease that only an earlier broker can have given."""
        is_ours = held.session in self._given
        return self.in_grace(now_s) and not is_ours and 0 < held.generation < MAX_GENERATION

    def take_worker_leases(
        self, peer: Peer, held_leases: tuple[HeldLease, ...], now_s: float
    ) -> None:
        if peer.capabilities is None:
            return
        limit = self._desk.fabric.slots or peer.capabilities.num_slots
        self._desk.leases.add_slots(peer.name, min(limit, peer.capabilities.num_slots))
        for held in held_leases:
            self._take_worker_lease(peer, held, now_s)
        for session, (web, held) in list(self._claims.items()):
            if held.worker == peer.name and self._desk.leases.get(session) is None:
                del self._claims[session]
                self._refuse_lease(web, held, "worker_lost", f"{peer.name} has lost the session")

    def _take_worker_lease(self, peer: Peer, held: HeldLease, now_s: float) -> None:
        lease = self._desk.leases.get(held.session)
        if lease is None and self._may_restore(held, now_s):
            lease = _restored(held, now_s)
            if self._desk.leases.restore(lease):
                self._desk.counters["leases_restored"] += 1
                if (claim := self._claims.pop(held.session, None)) is not None:
                    lease.web, lease.web_received = claim[0], claim[1].received_seq
                elif (ticket := self._desk.line.remove(held.session)) is not None:
                    self.adopt(lease, ticket.web)
            else:
                lease = None
        if lease is None or (lease.worker, lease.generation) != (peer.name, held.generation):
            self._desk.leases.note_foreign_tenant(peer.name, held, now_s)
            self._refuse_lease(peer.id, held, "lease_expired", "no lease with this generation")
            return
        lease.worker_id, lease.worker_received = peer.id, held.received_seq
        self._say_rejoined(lease, peer.id)

    def take_web_leases(
        self, peer: Peer, held_leases: tuple[HeldLease, ...], now_s: float
    ) -> None:
        for held in held_leases:
            lease = self._desk.leases.get(held.session)
            if lease is None and self._may_restore(held, now_s):
                worker = self._desk.peers.named(held.worker)
                if worker is None or worker.capabilities is None:
                    self._claims[held.session] = (peer.id, held)
                    continue
            owner_fits = lease is not None and lease.web in (None, peer.id)
            if lease is None or not owner_fits or lease.generation != held.generation:
                self._refuse_lease(peer.id, held, "worker_lost", "the session was ended meanwhile")
                continue
            lease.web, lease.web_received = peer.id, held.received_seq
            self._say_rejoined(lease, peer.id)

    def adopt(self, lease: Lease, web: bytes) -> None:
        """Give a restored lease to its session, which asks again: it never heard of the lease."""
        lease.web, lease.web_received = web, 0
        self._desk.tell_leased(lease, web)
        self._say_rejoined(lease, web)

    def end_unreported(
        self, peer: Peer, held_leases: tuple[HeldLease, ...], now_s: float
    ) -> None:
        """End leases that *peer* says hello without; not young ones, of which it may not know."""
        reported = {held.session for held in held_leases}
        for lease in list(self._desk.leases):
            is_old = now_s - lease.started_at_s > self._desk.peers.silence_limit_s
            if lease.session in reported or not is_old:
                continue
            if lease.web == peer.id:
                left = Revoked(code="released", message="web has left it")
                self._desk.end_lease(lease, now_s, left)
            elif lease.worker_id == peer.id:
                self._desk.leases.note_freed(peer.name, lease.session, lease.generation)
                self._desk.end_with_worker(lease, f"{peer.name} has lost the session")

    def _say_rejoined(self, lease: Lease, sender: bytes) -> None:
        """Tell the ends of a lease that is whole what to send again; each what the other has."""
        if lease.web is None or lease.worker_id is None:
            return
        web_received, worker_received = lease.web_received, lease.worker_received
        lease.web_received = lease.worker_received = None
        if web_received is None or worker_received is None:  # only one end was away
            self._desk.tell(sender, lease, Rejoined())
            return
        self._desk.tell(lease.web, lease, Rejoined(received_seq=worker_received))
        self._desk.tell(lease.worker_id, lease, Rejoined(received_seq=web_received))

    def _refuse_lease(self, peer_id: bytes, held: HeldLease, code: str, message: str) -> None:
        self._desk.counters["leases_refused"] += 1
        revoked = Revoked(code=code, message=message)
        self._desk.say(peer_id, revoked, held.session, held.generation)

    def _end_grace(self, now_s: float) -> None:
        self._is_over = True
        for web, held in self._claims.values():
            self._refuse_lease(web, held, "worker_lost", f"{held.worker} did not come back")
        self._claims.clear()
        self._given.clear()
        for lease in [item for item in self._desk.leases if not item.is_whole]:
            self._desk.end_lease(lease, now_s, Revoked(code="released", message="no web claims it"))
        self._desk.serve(now_s)


def _restored(held: HeldLease, now_s: float) -> Lease:
    return Lease(
        held.session,
        held.client_id,
        held.request_type,
        "",
        held.worker,
        held.slot,
        held.generation,
        now_s - believed_s(held.elapsed_s),
    )


def believed_s(told_s: float) -> float:
    """Return a time that a peer told, within reason."""
    return min(MAX_TOLD_S, max(0.0, told_s))  # in this order NaN becomes 0

"""Who holds which slot: leases with generations, and slots that are free, held or being freed."""

from collections.abc import Iterator

from attrs import Factory, define

from omni.messages import HeldLease, RequestType


@define(eq=False)
class Lease:
    """The right of a session to a slot. Times are of the loop's clock.

    web, worker_id: routing ids of its two ends; None while that end has not reported it yet to a
    new broker. web_received, worker_received: highest seq each end said to have, see `Rejoined`.
    """

    session: str
    client_id: str
    request_type: RequestType
    ticket_id: str
    worker: str
    slot: int
    generation: int
    started_at_s: float
    web: bytes | None = None
    worker_id: bytes | None = None
    web_received: int | None = None
    worker_received: int | None = None

    @property
    def is_whole(self) -> bool:
        """True when both ends are known, so that messages can pass."""
        return self.web is not None and self.worker_id is not None


@define(eq=False)
class SlotState:
    """A slot of a worker. It is free again only when the worker says so.

    tenant: session of the lease that holds it, or held it last while it is being freed.
    freeing_since_s: when its lease ended; None while held.
    """

    worker: str
    index: int
    tenant: str = ""
    generation: int = 0
    freeing_since_s: float | None = None

    @property
    def is_free(self) -> bool:
        """True when it can be leased."""
        return not self.tenant


@define(eq=False)
class LeaseTable:
    """All slots of all known workers, and all leases.

    next_generation: grows with every lease, and starts above what an earlier broker gave.
    """

    next_generation: int
    _leases: dict[str, Lease] = Factory(dict)  # by session
    _slots: dict[str, list[SlotState]] = Factory(dict)  # by worker

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def get(self, session: str) -> Lease | None:
        """Return the lease of *session*."""
        return self._leases.get(session)

    def slots_of(self, worker: str) -> list[SlotState]:
        """Return the slots of *worker*, none if it is not there."""
        return self._slots.get(worker, [])

    def add_slots(self, worker: str, num_slots: int) -> None:
        """Note that *worker* offers *num_slots*; those that it had stay as they are."""
        slots = self._slots.setdefault(worker, [])
        slots += [SlotState(worker, index) for index in range(len(slots), num_slots)]

    def drop_slots(self, worker: str) -> list[Lease]:
        """Forget *worker* and return the leases that end with it."""
        self._slots.pop(worker, None)
        ended = [lease for lease in self if lease.worker == worker]
        for lease in ended:
            del self._leases[lease.session]
        return ended

    def free_slot(self, workers: list[str]) -> SlotState | None:
        """Return a free slot of the least busy of *workers*; None if there is none."""
        best: SlotState | None = None
        best_load = 0.0
        for worker in workers:
            free = [slot for slot in self.slots_of(worker) if slot.is_free]
            load = 1 - len(free) / max(1, len(self.slots_of(worker)))
            if free and (best is None or load < best_load):
                best, best_load = free[0], load
        return best

    def grant(self, lease: Lease) -> None:
        """Give the free slot that *lease* names to it; the lease gets the next generation."""
        lease.generation = self.next_generation
        self.restore(lease)

    def restore(self, lease: Lease) -> bool:
        """Take a lease that its worker holds already. False if its slot is held or is not there."""
        slots = self.slots_of(lease.worker)
        if not 0 <= lease.slot < len(slots) or not slots[lease.slot].is_free:
            return False
        slot = slots[lease.slot]
        slot.tenant, slot.generation, slot.freeing_since_s = lease.session, lease.generation, None
        self.next_generation = max(self.next_generation, lease.generation + 1)
        self._leases[lease.session] = lease
        return True

    def note_foreign_tenant(self, worker: str, held: HeldLease, now_s: float) -> None:
        """Keep a slot whose tenant we do not know from being leased until its worker frees it."""
        slots = self.slots_of(worker)
        if 0 <= held.slot < len(slots) and slots[held.slot].is_free:
            slot = slots[held.slot]
            slot.tenant, slot.generation = held.session, held.generation
            slot.freeing_since_s = now_s

    def end(self, lease: Lease, now_s: float) -> None:
        """End *lease*; its slot is being freed until the worker says `SlotFreed`."""
        del self._leases[lease.session]
        for slot in self.slots_of(lease.worker):
            if slot.tenant == lease.session and slot.generation == lease.generation:
                slot.freeing_since_s = now_s

    def note_freed(self, worker: str, session: str, generation: int) -> bool:
        """Make the slot of that tenant free. False if it is not the tenant of any of its slots."""
        for slot in self.slots_of(worker):
            if slot.tenant == session and slot.generation == generation:
                lease = self._leases.get(session)
                if lease is not None and lease.generation == generation:
                    del self._leases[session]
                slot.tenant, slot.freeing_since_s = "", None
                return True
        return False

    def stuck_slots(self, now_s: float, timeout_s: float) -> list[SlotState]:
        """Return the slots that are being freed for longer than *timeout_s*."""
        return [
            slot
            for slots in self._slots.values()
            for slot in slots
            if slot.freeing_since_s is not None and now_s - slot.freeing_since_s > timeout_s
        ]

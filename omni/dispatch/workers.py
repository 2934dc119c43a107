"""Peers of the broker: who is known under which name, who is alive, which worker takes leases."""

from collections.abc import Iterator
from typing import Literal

from attrs import Factory, define, field

from omni.engine import Capabilities
from omni.messages import Heartbeat, Hello, PeerState, Role

Standing = Literal["alive", "probation", "lost"]


@define(eq=False)
class Peer:
    """A process that has said hello. id: its routing id, unique for each start of a process."""

    id: bytes = field(repr=False)
    role: Role
    name: str
    pid: int
    host: str
    heard_at_s: float
    state: PeerState
    gpu: str = ""
    capabilities: Capabilities | None = None
    steps: int = 0
    load: int = 0
    is_drained: bool = False
    on_probation: bool = False

    @property
    def takes_leases(self) -> bool:
        """True for a worker that may get new sessions now."""
        return (
            self.role == "worker"
            and self.state == "ready"
            and self.capabilities is not None
            and not self.is_drained
            and not self.on_probation
        )

    def take_hello(self, hello: Hello) -> None:
        """Take what a repeated hello says."""
        self.state, self.gpu = hello.state, hello.gpu
        self.capabilities = hello.capabilities or self.capabilities

    def take_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take what a heartbeat says."""
        self.state, self.steps, self.load = heartbeat.state, heartbeat.steps, heartbeat.load


@define(eq=False)
class WorkerRecord:
    """What is remembered of a worker's name over its restarts.

    expected: it is there, or is awaited again. gone_at_s: when it was lost; None while it is there.
    """

    name: str
    pid: int = 0
    gpu: str = ""
    host: str = ""
    starts: int = 0
    expected: bool = True
    gone_at_s: float | None = None
    heard_at_s: float = 0.0
    num_sessions: int = 0
    total_duration_s: float = 0.0

    @property
    def mean_duration_ms(self) -> float:
        """Mean length of its sessions."""
        return 1000 * self.total_duration_s / self.num_sessions if self.num_sessions else 0.0


@define(eq=False)
class PeerTable:
    """All peers, and all worker names that were ever seen.

    interval_s, misses: a peer that missed one beat is on probation, after *misses* it is lost.
    """

    interval_s: float
    misses: int
    records: dict[str, WorkerRecord] = Factory(dict)  # by name
    _peers: dict[bytes, Peer] = Factory(dict)  # by id
    _names: dict[str, Peer] = Factory(dict)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def get(self, peer_id: bytes) -> Peer | None:
        """Return the peer with that routing id."""
        return self._peers.get(peer_id)

    def named(self, name: str) -> Peer | None:
        """Return the peer with that name."""
        return self._names.get(name)

    def add(self, peer: Peer) -> None:
        """Take a new peer. Its name must be free."""
        self._peers[peer.id] = peer
        self._names[peer.name] = peer
        if peer.role == "worker":
            record = self.records.setdefault(peer.name, WorkerRecord(peer.name))
            if (record.pid, record.host) != (peer.pid, peer.host):  # else: away for a moment only
                record.starts += 1
            record.pid, record.gpu, record.host = peer.pid, peer.gpu, peer.host
            record.expected, record.gone_at_s = True, None
            record.heard_at_s = peer.heard_at_s

    def remove(self, peer: Peer, now_s: float, *, expected: bool) -> None:
        """Forget *peer*. expected: a worker that will probably come back under its name."""
        self._peers.pop(peer.id, None)
        self._names.pop(peer.name, None)
        if (record := self.records.get(peer.name)) is not None and peer.role == "worker":
            record.expected, record.gone_at_s = expected, now_s
            record.heard_at_s = peer.heard_at_s

    @property
    def silence_limit_s(self) -> float:
        """Silence after which a peer is lost: half a beat of grace, as beats are never exact."""
        return (self.misses + 0.5) * self.interval_s

    def standing(self, peer: Peer, now_s: float) -> Standing:
        """Judge *peer* by its silence."""
        silence_s = now_s - peer.heard_at_s
        if silence_s >= self.silence_limit_s:
            return "lost"
        return "probation" if silence_s >= 1.5 * self.interval_s else "alive"

    def excuse(self, delay_s: float) -> None:
        """Do not blame the peers for *delay_s* in which nobody listened to them."""
        for peer in self:
            peer.heard_at_s += delay_s

    def workers(self) -> list[Peer]:
        """Return the workers that are there, by name."""
        return sorted((peer for peer in self if peer.role == "worker"), key=lambda peer: peer.name)

    def lease_takers(self) -> list[str]:
        """Return the names of the workers that may get new sessions now."""
        return [peer.name for peer in self.workers() if peer.takes_leases]

    def any_expected(self, now_s: float, started_at_s: float, patience_s: float) -> bool:
        """True while it makes sense to wait for a worker.

        One is there and not draining, or one that was lost is awaited again (for *patience_s*), or
        the broker is younger than *patience_s* and has not seen any.
        """
        if any(not peer.is_drained and peer.state != "draining" for peer in self.workers()):
            return True
        gone = [item for item in self.records.values() if item.gone_at_s is not None]
        if any(item.expected and now_s - (item.gone_at_s or 0) < patience_s for item in gone):
            return True
        return not self.records and now_s - started_at_s < patience_s

"""A dispatcher with a clock that the test moves, and what it has said to each peer."""

from attrs import define

from omni.dispatch.dispatcher import Dispatcher
from omni.engine import Capabilities
from omni.messages import (
    Enqueue,
    Header,
    Heartbeat,
    HeldLease,
    Hello,
    Leased,
    Message,
    Release,
    RequestType,
    Role,
    SlotFreed,
)
from omni.settings import FabricSettings, ServiceSettings

START_S = 1000.0
UNIX_S = 1_700_000_000.0


@define
class Heard:
    """One message that a peer got."""

    peer: str
    header: Header
    message: Message


class Desk:
    """Says things to a dispatcher in the name of peers, and notes what it answers."""

    def __init__(
        self, fabric: FabricSettings | None = None, service: ServiceSettings | None = None
    ) -> None:
        self.now_s = START_S
        self.heard: list[Heard] = []
        self.dispatcher = Dispatcher.create(
            fabric or FabricSettings(), service or ServiceSettings(), self.now_s, UNIX_S
        )

    def say(self, peer: str, message: Message, session: str = "", generation: int = 0) -> None:
        """Let *peer* send *message*; the answers are in `heard` afterwards."""
        header = Header(kind="", session=session, generation=generation)
        self.dispatcher.handle(peer.encode(), header, message, self.now_s)
        self._collect()

    def pass_time(self, by_s: float, *, alive: tuple[str, ...] = (), step_s: float = 0.05) -> None:
        """Let *by_s* pass in ticks; peers in *alive* beat all the time."""
        for _ in range(round(by_s / step_s)):
            self.now_s += step_s
            for name in alive:
                peer = self.dispatcher.peers.get(name.encode())
                assert peer is not None
                peer.heard_at_s = self.now_s
            self.dispatcher.tick(self.now_s)
            self._collect()

    def lose(self, peer: str) -> None:
        """Let *peer* be gone."""
        found = self.dispatcher.peers.get(peer.encode())
        assert found is not None
        self.dispatcher.lose(found, self.now_s, f"{peer} is gone")
        self._collect()

    def worker(
        self,
        name: str = "worker-0",
        num_slots: int = 1,
        pid: int = 10,
        leases: tuple[HeldLease, ...] = (),
    ) -> None:
        """Let a worker say hello that is ready."""
        capabilities = Capabilities(
            engine="null", model="null", modes=("chat",), num_slots=num_slots
        )
        self.say(name, hello("worker", name, pid, capabilities, leases))

    def web(self, name: str = "web-0", leases: tuple[HeldLease, ...] = ()) -> None:
        """Let a web say hello."""
        self.say(name, hello("web", name, 20, None, leases))

    def enqueue(
        self, session: str, request_type: RequestType = "chat", web: str = "web-0"
    ) -> None:
        """Let *web* ask for a slot."""
        self.say(web, Enqueue(request_type=request_type, client_id=f"c-{session}"), session)

    def finish(self, session: str, web: str = "web-0") -> None:
        """Let *web* release *session* and its worker free the slot."""
        lease = self.dispatcher.leases.get(session)
        assert lease is not None
        self.say(web, Release(), session, lease.generation)
        self.say(lease.worker, SlotFreed(), session, lease.generation)

    def told(self, peer: str, kind: type, session: str = "") -> list[Message]:
        """Return what *peer* was told of that kind (about *session*), in order."""
        return [
            item.message
            for item in self.heard
            if item.peer == peer
            and isinstance(item.message, kind)
            and session in ("", item.header.session)
        ]

    def leased_sessions(self) -> list[str]:
        """Return the sessions whose web was told of a lease, in order."""
        return [
            item.header.session
            for item in self.heard
            if isinstance(item.message, Leased) and item.peer.startswith("web")
        ]

    def generation(self, session: str) -> int:
        """Return the generation of the lease of *session*."""
        lease = self.dispatcher.leases.get(session)
        assert lease is not None
        return lease.generation

    def _collect(self) -> None:
        for peer, header, message in self.dispatcher.out:
            if not isinstance(message, Heartbeat):
                self.heard.append(Heard(peer.decode(), header, message))
        self.dispatcher.out.clear()


def hello(
    role: Role,
    name: str,
    pid: int = 1,
    capabilities: Capabilities | None = None,
    leases: tuple[HeldLease, ...] = (),
) -> Hello:
    """Return a hello of a process on this host."""
    return Hello(
        role=role, name=name, pid=pid, host="here", capabilities=capabilities, leases=leases
    )

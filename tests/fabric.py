"""Pieces of a running fabric for tests: real brokers, a worker without an engine, raw peers."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import zmq
from attrs import evolve

from omni.broker import Broker, open_broker
from omni.codec import decode, decode_header, encode
from omni.engine import (
    AudioChunk,
    Capabilities,
    ChatDone,
    ChatRequest,
    Close,
    Engine,
    Failed,
    SessionEvent,
    StopAnswer,
    UnitResult,
)
from omni.gpu_worker import Worker
from omni.messages import (
    Header,
    Heartbeat,
    Hello,
    Leased,
    Message,
    Revoked,
    Role,
    SlotFreed,
    Welcome,
)
from omni.settings import FabricSettings, ServiceSettings
from omni.wire import Side, connect_dealer, routing_id
from omni.worker_link import WorkerLink, open_worker_link
from tests.fakes import TIMEOUT_S

Kind = TypeVar("Kind")


@contextmanager
def no_leaked_contexts() -> Iterator[None]:
    """Fail when a ZeroMQ context made inside is left open, and close it with all its sockets."""
    gc.freeze()  # what is there already: half a million objects, once torch is loaded
    try:
        yield
        # By type: isinstance asks the object itself, and torch's deprecated ones then warn.
        made = [item for item in gc.get_objects() if issubclass(type(item), zmq.Context)]
    finally:
        gc.unfreeze()
    left = [item for item in made if not item.closed and not item._shadow]
    for context in left:
        context.destroy(linger=0)
    assert not left, "a ZeroMQ context was left open"


@contextmanager
def broker_thread(
    fabric: FabricSettings, service: ServiceSettings | None = None
) -> Iterator[Broker]:
    """Run a real broker in a thread."""
    with open_broker(fabric, service or ServiceSettings()) as (broker, poller):
        thread = threading.Thread(target=broker.run, args=(poller,), name="broker")
        thread.start()
        try:
            yield broker
        finally:
            broker.stop()
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


class BrokerProcess:
    """`python -m omni.broker`, to be killed and started again. Closes with the test."""

    def __init__(self, fabric: FabricSettings, *overrides: str) -> None:
        self._fabric = fabric
        self._overrides = overrides
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Pid of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; it is there when a link says that it is connected."""
        own = ("run_dir", "heartbeat_interval_s", "heartbeat_misses", "rejoin_grace_s")
        sets = [f"fabric.{name}={getattr(self._fabric, name)}" for name in own]
        flags = [item for text in [*sets, *self._overrides] for item in ("--set", text)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "omni.broker", "--parent", str(os.getpid()), *flags],
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("OMNI_")},
        )

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit status."""
        assert self._process is not None
        return self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT_S)


class EchoWorker:
    """A worker without an engine, in a thread: answers each chunk with its own sound.

    hangs: its engine loop makes no rounds, so it does not beat. takes: while cleared, it does not
    read its messages at all. frees: whether it gives slots back. seen: sessions' inputs, in order.
    """

    def __init__(
        self, fabric: FabricSettings, name: str = "worker-0", num_slots: int = 4
    ) -> None:
        self.hangs = False
        self.frees = True
        self.takes = threading.Event()
        self.takes.set()
        self.seen: list[tuple[str, object]] = []
        self.revoked: list[tuple[str, Revoked]] = []
        self.tenants: dict[str, int] = {}
        self.num_connects = 0
        self._fabric = fabric
        self._name = name
        self._num_slots = num_slots
        self._steps = 0
        self._stops = False
        self._link: WorkerLink | None = None
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Leave with a goodbye."""
        self._stops = True
        self.takes.set()
        if self._link is not None:
            self._link.wake()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def pcm_of(self, session: str) -> list[bytes]:
        """Return the sound that came for *session*, in order."""
        return [
            bytes(item.pcm)
            for key, item in list(self.seen)
            if key == session and isinstance(item, AudioChunk)
        ]

    def _run(self) -> None:
        capabilities = Capabilities(
            engine="null",
            model="echo",
            modes=("chat", "audio_duplex"),
            num_slots=self._num_slots,
        )
        with open_worker_link(self._fabric, self._name, "0", self._pulse) as self._link:
            self._link.announce("loading")
            self._link.announce("ready", capabilities)
            while not self._stops:
                self.takes.wait(TIMEOUT_S)
                for header, message in self._link.poll(0.05):
                    self._take(self._link, header, message)

    def _pulse(self) -> Heartbeat:
        self._steps += not self.hangs
        return Heartbeat(steps=self._steps, load=len(self.tenants))

    def _take(self, link: WorkerLink, header: Header, message: Message) -> None:
        match message:
            case Leased():
                self.tenants[header.session] = header.generation
            case Revoked():
                self.revoked.append((header.session, message))
                self._free(link, header)
            case Close():
                self._free(link, header)
            case AudioChunk() | ChatRequest() | StopAnswer() | Failed():
                self.seen.append((header.session, message))
                for event in self._answer(message):
                    link.send(evolve(header, kind=""), event)

    def _answer(
        self, message: AudioChunk | ChatRequest | StopAnswer | Failed
    ) -> Sequence[SessionEvent]:
        match message:
            case Failed():
                return [message]
            case AudioChunk():
                return [UnitResult(is_listen=False, pcm=message.pcm, text="echo")]
            case ChatRequest():
                return [ChatDone(text="done", input_tokens=1, generated_tokens=1)]
            case StopAnswer():
                return [Failed(code="generation_failed", message="asked to", fatal=False)]

    def _free(self, link: WorkerLink, header: Header) -> None:
        if self.frees and self.tenants.pop(header.session, None) is not None:
            link.send(
                Header(kind="", session=header.session, generation=header.generation), SlotFreed()
            )


class HostedWorker:
    """A worker's own loop in a thread of the test, with an engine that the test commands."""

    def __init__(self, fabric: FabricSettings, engine: Engine, name: str = "worker-0") -> None:
        self.name = name
        self.exit_code: int | None = None
        self.engine = engine
        self.worker = Worker(lambda: engine, fabric)
        self.thread = threading.Thread(target=self._run, args=(fabric,), name=name)
        self.thread.start()

    def _run(self, fabric: FabricSettings) -> None:
        with open_worker_link(fabric, self.name, "", self.worker.pulse) as link:
            self.exit_code = self.worker.run(link)

    def stop(self) -> None:
        """Have it leave as a process that is told to stop."""
        self.worker.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


class RawPeer:
    """A socket that says what the test wants, well-formed or not."""

    def __init__(self, fabric: FabricSettings, role: Role, name: str, pid: int = 1) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._name, self._role, self._pid = name, role, pid
        side: Side = "worker" if role == "worker" else "web"
        self.socket = connect_dealer(self._context, fabric, side, routing_id(name))
        self.socket.set(zmq.SNDTIMEO, int(1000 * TIMEOUT_S))

    def close(self) -> None:
        """Vanish without a word."""
        self.socket.close(0)
        self._context.term()

    def send_parts(self, *parts: bytes) -> None:
        """Send any bytes."""
        self.socket.send_multipart(parts)

    def say(self, message: Message, session: str = "", generation: int = 0, seq: int = 0) -> None:
        """Send a message."""
        header = Header(kind="", session=session, generation=generation, seq=seq)
        self.socket.send_multipart(encode(header, message))

    def hello(self, capabilities: Capabilities | None = None) -> None:
        """Say hello and wait for the welcome."""
        self.say(
            Hello(
                role=self._role,
                name=self._name,
                pid=self._pid,
                host="here",
                capabilities=capabilities,
            )
        )
        self.hear(Welcome)

    def hear(
        self, kind: type[Kind], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Header, Kind]:
        """Return the next message of that kind; others are passed over.

        meanwhile: is done whenever nothing came for a moment.
        """
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            if not self.socket.poll(50):
                meanwhile()
                continue
            parts = self.socket.recv_multipart()
            header = decode_header(parts[0])
            message = decode(header, parts[1:])
            if isinstance(message, kind):
                return header, message
        raise AssertionError(f"no {kind.__name__} came in {TIMEOUT_S} s")

    def beat(self, steps: int = 1) -> None:
        """Prove to be alive."""
        self.say(Heartbeat(steps=steps))


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[FabricSettings]:
    """Settings of a fabric of its own; fails when a socket's context is left open.

    Who stands still for some seconds, on a busy machine, is not lost in it.
    """
    with no_leaked_contexts():
        yield FabricSettings(run_dir=str(tmp_path), heartbeat_misses=40, rejoin_grace_s=10)

"""DEALER side of a worker, for its I/O thread: hello, heartbeat, reconnect, session messages.

Nothing here blocks but `poll`. The socket belongs to the thread that calls it; only `wake` may be
called from others.
"""

import logging
import math
import os
import select
import socket as sockets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import zmq

from omni.codec import Part, VersionMismatch, decode, decode_header, encode, stamped
from omni.delivery import Stream
from omni.engine import Capabilities, Close, Failed
from omni.errors import ProtocolError
from omni.messages import (
    KINDS,
    TO_WORKER,
    Ack,
    Goodbye,
    Header,
    Heartbeat,
    Hello,
    Leased,
    Message,
    PeerState,
    Refused,
    Rejoined,
    Revoked,
    SlotFreed,
    Welcome,
)
from omni.settings import FabricSettings
from omni.wire import MORE_NOW, NOW, connect_dealer, receive, routing_id
from omni.worker_lease import WorkerLease

log = logging.getLogger(__name__)

#: Messages taken in one `poll`; more wait in the socket, so that an outbox gets its turn.
MAX_BATCH = 64
#: While the broker has not answered, hello is said again so often.
HELLO_PAUSE_S = 0.05
FAREWELL_MS = 200
_ACK, _CLOSE = KINDS[Ack], KINDS[Close]


class WorkerLink:
    """The worker's end of the fabric; made by `open_worker_link`.

    pulse: says how the engine loop is. While the state is `ready`, a heartbeat is sent only if
    `steps` has grown since the last one: a hung engine is a silent worker.
    """

    def __init__(
        self,
        fabric: FabricSettings,
        socket: "zmq.Socket[bytes]",
        name: str,
        gpu: str,
        pulse: Callable[[], Heartbeat],
    ) -> None:
        self.connected = False
        self.num_dropped = 0  # messages for sessions that are not here (any more)
        self._fabric = fabric
        self._socket = socket
        self._name, self._gpu = name, gpu
        self._pulse = pulse
        self._state: PeerState = "loading"
        self._capabilities: Capabilities | None = None
        self._held: dict[str, WorkerLease] = {}
        self._unsent: set[str] = set()  # sessions whose messages wait here
        self._to_broker: deque[tuple[Header, Message]] = deque()  # bounded, see _tell
        self._own_inbox: list[tuple[Header, Message]] = []  # leases that ended here
        self._heard_at_s = self._kept_at_s = time.monotonic()
        self._hello_at_s = self._beat_due_s = 0.0
        self._must_say_hello = False
        self._beat_steps = -1
        self._host = sockets.gethostname()
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poller = select.poll()
        self._poller.register(int(socket.get(zmq.FD)), select.POLLIN)
        self._poller.register(self._wake_in.fileno(), select.POLLIN)
        # The socket's descriptor is ready once for all that came, and no more after any use of the
        # socket; so it is read till nothing is left, after sending too, before this thread waits.
        self._is_unread = True

    def announce(self, state: PeerState, capabilities: Capabilities | None = None) -> None:
        """Tell the broker, now and after each of its restarts, what this worker is."""
        self._state = state
        self._capabilities = capabilities or self._capabilities
        self._hello_at_s, self._must_say_hello = 0.0, True
        self._say_hello(time.monotonic())

    def say_goodbye(self, reason: str) -> None:
        """Tell the broker that this worker leaves; what it still holds ends at once."""
        self._send(encode(Header(kind=""), Goodbye(reason=reason)))

    def wake(self) -> None:
        """End the running `poll`. May be called from any thread."""
        try:
            self._wake_out.send(b"\0")
        except (BlockingIOError, OSError):  # it is being woken already, or closed
            pass

    def poll(self, timeout_s: float) -> list[tuple[Header, Message]]:
        """Return what came: `Leased`, `Revoked` and inputs of sessions; empty after *timeout_s*.

        In place of an input that is malformed comes the `Failed` that says why, for the worker to
        send. Raises: ProtocolError when the broker speaks another version.
        """
        inbox: list[tuple[Header, Message]] = []
        if self._is_unread:
            self._take_batch(inbox)
        if not (inbox or self._own_inbox or self._is_unread) and self._wait(timeout_s):
            self._take_batch(inbox)
        self._keep_alive(time.monotonic())
        self._flush_to_broker()
        for session in list(self._unsent):
            self._flush(session)
        if self._own_inbox:
            inbox += self._own_inbox
            self._own_inbox = []
        return inbox

    def send(self, header: Header, message: Message) -> None:
        """Send an event of header.session, or `SlotFreed`. Never blocks.

        header: session and generation; its stamps go on before this one. An event for a session
        that is not here is dropped. What its client does not take yet waits in the backlog; when
        that is full the session is ended: it gets a fatal `Failed`, and `poll` gives a `Revoked`.
        """
        held = self._held.get(header.session)
        if held is None or held.generation != header.generation:
            self.num_dropped += 1
        elif isinstance(message, SlotFreed):
            self._free(held)
        elif held.has_ended:
            self.num_dropped += 1
        elif held.take(header, message):
            self._flush(header.session)
        else:
            self._end_here(held, "no_capacity", "its events were not taken in time")

    def close(self) -> None:
        """Close what wakes `poll`; the socket is its opener's."""
        self._wake_in.close()
        self._wake_out.close()

    # --- in ----------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> bool:
        """Wait, and return whether something came from the broker."""
        has_come = False
        beat_in_s = max(0.0, self._beat_due_s - time.monotonic())
        limit_s = beat_in_s if self.connected else HELLO_PAUSE_S
        for descriptor, _ in self._poller.poll(math.ceil(1000 * min(timeout_s, limit_s))):
            if descriptor == self._wake_in.fileno():
                self._wake_in.recv(4096)
            else:
                has_come = True
        return has_come

    def _take_batch(self, inbox: list[tuple[Header, Message]]) -> None:
        for _ in range(MAX_BATCH):
            frames = receive(self._socket)
            if frames is None:
                self._is_unread = False
                return
            self._heard_at_s = time.monotonic()
            try:
                self._take([frame.bytes for frame in frames], inbox)
            except VersionMismatch:
                raise
            except ProtocolError as exc:
                log.warning("from the broker: %.200s", exc)

    def _take(self, parts: list[bytes], inbox: list[tuple[Header, Message]]) -> None:
        header = decode_header(parts[0])
        if header.kind in TO_WORKER:
            self._take_input(header, parts, inbox)
            return
        message = decode(header, parts[1:])
        match message:
            case Leased():
                self._take_leased(header, message, inbox)
            case Revoked():
                self._take_revoked(header, message, inbox)
            case Rejoined():
                if (held := self._held.get(header.session)) is not None:
                    held.stream.rejoin(message.received_seq)
                    self._unsent.add(header.session)
            case Welcome():
                self.connected = True
            case Refused():
                self._take_refused(message)
            case Goodbye():
                self._lose_broker("it stops")
            case _:
                pass  # a heartbeat; hearing it was enough

    def _take_input(
        self, header: Header, parts: list[bytes], inbox: list[tuple[Header, Message]]
    ) -> None:
        held = self._held.get(header.session)
        if held is None or held.generation != header.generation:
            self.num_dropped += 1
            return
        held.stream.take_ack(header.ack)
        if header.kind == _CLOSE:
            held.backlog.clear()  # nobody wants it any more
        elif held.backlog:
            self._flush(header.session)
        if header.kind == _ACK or not held.stream.accept(header.seq):
            return
        header = stamped(header, "worker", time.monotonic_ns())
        try:
            message = decode(header, parts[1:])
        except ProtocolError as exc:
            inbox.append((header, Failed(code="protocol_error", message=str(exc))))
            return
        inbox.append((header, message))

    def _take_leased(
        self, header: Header, leased: Leased, inbox: list[tuple[Header, Message]]
    ) -> None:
        if header.session not in self._held:
            now_s = time.monotonic()
            held = WorkerLease(header.session, header.generation, leased, now_s)
            self._held[header.session] = held
            inbox.append((header, leased))

    def _take_revoked(
        self, header: Header, revoked: Revoked, inbox: list[tuple[Header, Message]]
    ) -> None:
        held = self._held.get(header.session)
        if held is not None and held.generation == header.generation:
            held.backlog.clear()
            inbox.append((header, revoked))
        else:  # it was freed already, and the broker has not heard it
            self._tell(header, SlotFreed())

    def _take_refused(self, refused: Refused) -> None:
        if refused.code == "version":
            raise ProtocolError(refused.message)
        if refused.code == "name_taken" and not self.connected:
            log.debug("the broker refuses %s: %s", self._name, refused.message)
        elif self.connected:
            self._lose_broker("it does not know this worker")

    # --- out ---------------------------------------------------------------------------------

    def _flush(self, session: str) -> None:
        """Give the socket what *session* has to send, as far as its window goes."""
        held = self._held[session]
        stream = held.stream
        held.fill()
        while (parts := stream.next_unsent()) is not None:
            if not self.connected or stream.is_held or not self._send(parts):
                self._unsent.add(session)
                return
            stream.note_sent()
        self._unsent.discard(session)

    def _free(self, held: WorkerLease) -> None:
        """Say that the slot is empty; whatever its client has not taken goes first."""
        held.fill(is_last=True)
        self._flush(held.session)
        del self._held[held.session]
        self._unsent.discard(held.session)
        self._tell(Header(kind="", session=held.session, generation=held.generation), SlotFreed())

    def _tell(self, header: Header, message: Message) -> None:
        """Say *message* to the broker, later if it takes nothing now; it must not be lost.

        Bounded: `SlotFreed` alone is said so, once for each lease or for each `Revoked`, and while
        the broker is away neither comes.
        """
        self._to_broker.append((header, message))
        self._flush_to_broker()

    def _flush_to_broker(self) -> None:
        while self.connected and self._to_broker and self._send(encode(*self._to_broker[0])):
            self._to_broker.popleft()

    def _send(self, parts: Sequence[Part]) -> bool:
        self._is_unread = True
        try:
            for part in parts[:-1]:
                self._socket.send(part, MORE_NOW, copy=False)
            self._socket.send(parts[-1], NOW, copy=False)
        except zmq.Again:  # no connection, or its bound is reached: Welcome will tell
            if self.connected:
                self._lose_broker("it takes no messages")
            return False
        return True

    # --- liveness ----------------------------------------------------------------------------

    def _keep_alive(self, now_s: float) -> None:
        """Judge the broker, and prove to be alive. A thread that was away itself blames nobody."""
        away_s, self._kept_at_s = now_s - self._kept_at_s, now_s
        if away_s > 2 * self._fabric.heartbeat_interval_s:
            self._heard_at_s = min(now_s, self._heard_at_s + away_s)
        silence_s = now_s - self._heard_at_s
        interval_s = self._fabric.heartbeat_interval_s
        if self.connected and silence_s > interval_s * (self._fabric.heartbeat_misses + 0.5):
            self._lose_broker(f"it was silent for {silence_s:.1f} s")
        if not self.connected:
            self._say_hello(now_s)
            if silence_s > self._fabric.lease_timeout_s and self._held:
                for held in self._held.values():
                    self._end_here(held, "lease_expired", "the broker is away")
        elif self._must_say_hello:
            self._say_hello(now_s)
        if self.connected and now_s >= self._beat_due_s:
            self._beat(now_s)

    def _beat(self, now_s: float) -> None:
        beat = self._pulse()
        lives = beat.state != "ready" or beat.steps != self._beat_steps
        if lives and self._send(encode(Header(kind=""), beat)):
            self._beat_steps = beat.steps
            self._beat_due_s = now_s + self._fabric.heartbeat_interval_s
        else:
            self._beat_due_s = now_s + self._fabric.heartbeat_interval_s / 8

    def _lose_broker(self, why: str) -> None:
        log.warning("%s lost the broker: %s", self._name, why)
        self.connected = False
        self._hello_at_s = 0.0
        for held in self._held.values():
            held.stream.is_held = True

    def _say_hello(self, now_s: float) -> None:
        if now_s - self._hello_at_s < HELLO_PAUSE_S:
            return
        self._hello_at_s = now_s
        hello = Hello(
            role="worker",
            name=self._name,
            pid=os.getpid(),
            host=self._host,
            state=self._state,
            gpu=self._gpu,
            capabilities=self._capabilities,
            leases=tuple(held.held_lease(now_s) for held in self._held.values()),
        )
        self._must_say_hello = not self._send(encode(Header(kind=""), hello))

    def _end_here(self, held: WorkerLease, code: str, message: str) -> None:
        """Give the worker a `Revoked` of its own; it answers with `SlotFreed` as ever.

        The web learns why, if it is still there, by the last event that this session gets.
        """
        if held.has_ended:
            return
        header = Header(kind="revoked", session=held.session, generation=held.generation)
        held.backlog.clear()
        held.keep(header, Failed(code=code, message=message, fatal=True))
        self._flush(held.session)
        held.has_ended, held.stream = True, Stream(is_held=True)
        self._own_inbox.append((header, Revoked(code=code, message=message)))


@contextmanager
def open_worker_link(
    fabric: FabricSettings, name: str, gpu: str, pulse: Callable[[], Heartbeat]
) -> Iterator[WorkerLink]:
    """Open the worker's link in this thread; says goodbye at the end.

    Raises: SettingsError for an address that cannot be used.
    """
    context = zmq.Context()
    try:
        socket = connect_dealer(context, fabric, "worker", routing_id(name))
        try:
            with closing(WorkerLink(fabric, socket, name, gpu, pulse)) as link:
                yield link
                link.say_goodbye("the worker stops")
        finally:
            socket.close(FAREWELL_MS)
    finally:
        context.term()

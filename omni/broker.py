"""PROCESS: ROUTER to webs, ROUTER to workers, one loop. Routes by header, never opens a body.

    python -m omni.broker [--settings FILE] [--set section.field=value ...]

`dispatch` decides; here messages are taken, passed on and sent. What happens when a peer takes
nothing, and every other rule of the wire, is in `docs/protocol.md`.
"""

import fcntl
import logging
import math
import os
import select
import signal
import socket as sockets
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zmq

from omni.codec import VersionMismatch, decode, decode_header, encode, relay_header
from omni.dispatch.dispatcher import Dispatcher
from omni.errors import OmniError, ProtocolError, SettingsError
from omni.log import set_up_logging
from omni.messages import FABRIC, TO_WEB, TO_WORKER, Goodbye, Header, Heartbeat, Queued, Refused
from omni.process import EXIT_CANNOT_START, process_settings, spare_the_loaded
from omni.settings import FabricSettings, ServiceSettings, Settings
from omni.wire import MORE_NOW, NOW, Side, broker_keys, endpoints, receive, set_up_socket

log = logging.getLogger(__name__)

#: Messages taken from one side before the other is looked at.
MAX_BATCH = 64
#: The loop looks at its timers at least so often; the finest of them are heartbeats (250 ms).
TICK_S = 0.05
#: While a peer takes nothing, its held messages are tried again so often.
RETRY_S = 0.005
#: Largest body of a message that the broker itself opens.
MAX_FABRIC_BYTES = 1_048_576
#: Time that farewells get to leave when the broker stops.
FAREWELL_MS = 200
#: Malformed messages are logged one in so many; all are counted.
LOG_EVERY = 1000

_TAGS: dict[Side, bytes] = {"web": b"e", "worker": b"k"}
_SIDES = {tag: side for side, tag in _TAGS.items()}
_ROUTED: dict[Side, dict[str, type]] = {"web": TO_WORKER, "worker": TO_WEB}

Parts = Sequence[bytes | memoryview | zmq.Frame]


class Broker:
    """The loop. A peer's key is its side's tag and its routing id; `dispatch` sees keys only."""

    def __init__(
        self, dispatcher: Dispatcher, side_sockets: "dict[Side, zmq.Socket[bytes]]"
    ) -> None:
        self.dispatcher = dispatcher
        self._sockets = side_sockets
        self._by_tag = {_TAGS[side]: socket for side, socket in side_sockets.items()}
        self._sides = {int(socket.get(zmq.FD)): side for side, socket in side_sockets.items()}
        self._unread = set(side_sockets)  # sides where messages may wait
        self._held: dict[bytes, deque[Parts]] = {}  # per peer that takes nothing now
        self._max_held = dispatcher.fabric.max_inflight_messages
        self._ticked_at_s = time.monotonic()
        self._stops = False

    def stop(self) -> None:
        """Leave the loop at its next turn."""
        self._stops = True

    def run(self, poller: "select.poll") -> None:
        """Serve until `stop`. *poller* has both sockets' descriptors, and what else may wake it.

        A socket's descriptor is ready once for all that came, and no more after any use of the
        socket: so a side is read till nothing is left whenever it was sent to, too.
        """
        self._ticked_at_s = time.monotonic()
        while not self._stops:
            pause_s = 0.0 if self._unread else self._pause_s()
            for descriptor, _ in poller.poll(math.ceil(pause_s * 1000)):
                if (side := self._sides.get(descriptor)) is not None:
                    self._unread.add(side)
            for side in _TAGS:  # webs first: what they say goes to workers mostly
                if side in self._unread:
                    self._take_batch(side)
            self._tick()

    def say_goodbye(self) -> None:
        """Tell all peers that the broker leaves, so that they need not wait for its silence."""
        for peer in list(self.dispatcher.peers):  # who is found to be gone is struck off
            self._send(peer.id, encode(Header(kind=""), Goodbye(reason="the broker stops")))

    # --- in ----------------------------------------------------------------------------------

    def _take_batch(self, side: Side) -> None:
        socket = self._sockets[side]
        for _ in range(MAX_BATCH):
            frames = receive(socket)
            if frames is None:
                self._unread.discard(side)
                return
            try:
                self._take(side, frames)
                if self.dispatcher.out:
                    self._flush()
            except Exception:  # one peer's message must not end everybody's sessions
                self.dispatcher.counters["errors"] += 1
                log.exception("a message from the side of %ss failed", side)

    def _take(self, side: Side, frames: list[zmq.Frame]) -> None:
        sender = _TAGS[side] + frames[0].bytes
        try:
            if len(frames) < 3:
                raise ProtocolError("a message has a header and a body")
            relayed = relay_header(frames[1].bytes, "broker", time.monotonic_ns())
            if relayed.kind in _ROUTED[side]:
                self._relay(sender, relayed.session, relayed.generation, relayed.part, frames)
            elif relayed.kind in FABRIC:
                self._take_fabric(side, sender, frames)
            else:
                raise ProtocolError(f"kind {relayed.kind[:40]!r} from the side of {side}s")
        except VersionMismatch as exc:
            self._count_malformed(side, exc)
            self._refuse_version(sender, exc)
        except ProtocolError as exc:
            self._count_malformed(side, exc)

    def _relay(
        self, sender: bytes, session: str, generation: int, header: bytes, frames: list[zmq.Frame]
    ) -> None:
        """Pass a session message on: the header stamped, the other parts as they came."""
        dispatcher = self.dispatcher
        now_s = time.monotonic()
        peer = dispatcher.peers.get(sender)
        if peer is None:
            dispatcher.refuse_stranger(sender, now_s)
            return
        peer.heard_at_s = now_s
        target = dispatcher.route(sender, session, generation)
        if target is None:
            return
        dispatcher.counters["relayed"] += 1
        if target in self._held or not self._send(target, [header, *frames[2:]]):
            dispatcher.counters["revoked_slow"] += 1
            text = "the other side takes messages too slowly"
            dispatcher.revoke(session, "no_capacity", text, now_s)

    def _take_fabric(self, side: Side, sender: bytes, frames: list[zmq.Frame]) -> None:
        bodies = [frame.bytes for frame in frames[2:]]
        if sum(map(len, bodies)) > MAX_FABRIC_BYTES:
            raise ProtocolError(f"a message for the broker has at most {MAX_FABRIC_BYTES} bytes")
        header = decode_header(frames[1].bytes)
        message = decode(header, bodies)
        role = getattr(message, "role", None)
        if role is not None and (role == "worker") != (side == "worker"):
            raise ProtocolError(f"a {role} says hello on the side of {side}s")
        self.dispatcher.handle(sender, header, message, time.monotonic())

    def _count_malformed(self, side: Side, error: ProtocolError) -> None:
        counters = self.dispatcher.counters
        counters["malformed"] += 1
        if counters["malformed"] % LOG_EVERY == 1:
            log.warning(
                "%d malformed messages by now, one from the side of %ss: %.200s",
                counters["malformed"],
                side,
                error,
            )

    def _refuse_version(self, sender: bytes, error: VersionMismatch) -> None:
        """Answer in the peer's own version number: `refused` is the same in every version."""
        version = error.version if isinstance(error.version, int) else 0
        refused = Refused(code="version", message=f"the broker says: {error}")
        self._send(sender, encode(Header(kind="", version=version), refused))

    # --- out ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what the dispatcher has to say; to a peer that takes nothing, later and in order."""
        out = self.dispatcher.out
        while out:
            batch = out[:]
            out.clear()
            for peer_id, header, message in batch:
                parts = encode(header, message)
                if peer_id not in self._held and self._send(peer_id, parts):
                    continue
                if isinstance(message, (Heartbeat, Queued)):
                    self.dispatcher.counters["dropped_updates"] += 1
                elif self.dispatcher.peers.get(peer_id) is not None:
                    self._hold(peer_id, parts)

    def _hold(self, peer_id: bytes, parts: Parts) -> None:
        held = self._held.setdefault(peer_id, deque())
        held.append(parts)
        if len(held) > self._max_held:
            self._lose(peer_id, "takes no messages")

    def _retry_held(self) -> None:
        for peer_id, held in list(self._held.items()):
            if self.dispatcher.peers.get(peer_id) is None:
                self._held.pop(peer_id, None)
                continue
            while held and self._send(peer_id, held[0]):
                held.popleft()
            if not held:
                self._held.pop(peer_id, None)

    def _send(self, peer_id: bytes, parts: Parts) -> bool:
        """Send without waiting. False if the peer takes nothing now; if it is gone, it is lost."""
        tag = peer_id[:1]
        socket = self._by_tag[tag]
        self._unread.add(_SIDES[tag])
        try:
            socket.send(peer_id[1:], MORE_NOW)
            for part in parts[:-1]:
                socket.send(part, MORE_NOW, copy=False)
            socket.send(parts[-1], NOW, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as exc:
            if exc.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(peer_id, "closed its connection")
        return True

    def _lose(self, peer_id: bytes, why: str) -> None:
        self._held.pop(peer_id, None)
        if (peer := self.dispatcher.peers.get(peer_id)) is not None:
            self.dispatcher.lose(peer, time.monotonic(), f"{peer.name} {why}")

    # --- time --------------------------------------------------------------------------------

    def _pause_s(self) -> float:
        pause_s = self.dispatcher.line.pause_s(time.monotonic())
        limit_s = RETRY_S if self._held else TICK_S
        return limit_s if pause_s is None else min(pause_s, limit_s)

    def _tick(self) -> None:
        """Do what is due. A loop that was away itself (stopped, swapped out) blames nobody."""
        now_s = time.monotonic()
        away_s = now_s - self._ticked_at_s
        if away_s > self.dispatcher.fabric.heartbeat_interval_s:
            self.dispatcher.counters["loop_late"] += 1
            self.dispatcher.peers.excuse(away_s)
        if away_s >= TICK_S:
            self._ticked_at_s = now_s
            self.dispatcher.tick(now_s)
        elif len(self.dispatcher.line):
            self.dispatcher.tell_waiting(now_s)
        if self._held:
            self._retry_held()
        if self.dispatcher.out:
            self._flush()


@contextmanager
def open_broker(
    fabric: FabricSettings, service: ServiceSettings
) -> "Iterator[tuple[Broker, select.poll]]":
    """Bind both sockets and give the broker with its poller; close all at the end.

    Raises: SettingsError when another broker runs there, or an address or key is wrong.
    """
    with ExitStack() as stack:
        stack.enter_context(_sole_broker(Path(fabric.run_dir)))
        context = zmq.Context()
        stack.callback(context.term)
        poller = select.poll()
        if endpoints(fabric).uses_curve:
            stack.enter_context(_zap(context, broker_keys(fabric).other))
        pair: dict[Side, zmq.Socket[bytes]] = {}
        for side in _TAGS:
            socket = context.socket(zmq.ROUTER)
            stack.callback(socket.close, FAREWELL_MS)
            _bind(socket, fabric, side)
            poller.register(int(socket.get(zmq.FD)), select.POLLIN)
            pair[side] = socket
        dispatcher = Dispatcher.create(fabric, service, time.monotonic(), time.time())
        yield Broker(dispatcher, pair), poller


def _bind(socket: "zmq.Socket[bytes]", fabric: FabricSettings, side: Side) -> None:
    places = endpoints(fabric)
    address = places.of(side)
    set_up_socket(socket, fabric)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.ROUTER_HANDOVER, 1)
    if places.uses_curve:
        keys = broker_keys(fabric)
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_server = True
    try:
        socket.bind(address)
    except zmq.ZMQError as exc:
        raise SettingsError(f"the broker cannot listen on {address}: {exc}") from exc
    if address.startswith("ipc://"):
        os.chmod(address.removeprefix("ipc://"), 0o600)


@contextmanager
def _sole_broker(run_dir: Path) -> Iterator[None]:
    """Hold the lock of *run_dir*: a second broker would take over the addresses unnoticed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "broker.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SettingsError(
                f"another broker runs in {run_dir}: stop it, or choose another fabric.run_dir"
            ) from exc
        yield


@contextmanager
def _zap(context: "zmq.Context[Any]", allowed_key: bytes) -> Iterator[None]:
    """Let in only peers that have the peers' key; without this CURVE lets in anybody's."""
    from zmq.auth.thread import ThreadAuthenticator  # only where CURVE is used

    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    try:
        authenticator.configure_curve_callback("*", _OneKey(allowed_key))
        yield
    finally:
        authenticator.stop()


class _OneKey:
    """Credentials as pyzmq's authenticator asks for them."""

    def __init__(self, allowed_key: bytes) -> None:
        self._allowed_key = allowed_key

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether *key* (Z85) is the peers' key."""
        return key == self._allowed_key


@contextmanager
def _signals_stop(broker: Broker, poller: "select.poll") -> Iterator[None]:
    """Have SIGTERM and SIGINT stop the loop: the handler only notes, the wake-up ends the poll."""
    ours, theirs = sockets.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        handlers = {
            number: signal.signal(number, lambda *_: broker.stop())
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        poller.register(ours.fileno(), select.POLLIN)
        try:
            yield
        finally:
            poller.unregister(ours.fileno())
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)


def serve(settings: Settings) -> None:
    """Run a broker until SIGTERM or SIGINT."""
    with open_broker(settings.fabric, settings.service) as (broker, poller):
        with _signals_stop(broker, poller):
            places = endpoints(settings.fabric)
            spare_the_loaded()
            log.info("broker %s: %s %s", broker.dispatcher.broker_id, places.web, places.worker)
            broker.run(poller)
        broker.say_goodbye()
        log.info("broker stops")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker process; returns its exit status."""
    settings = process_settings(argv)
    set_up_logging("broker", settings.fabric.run_dir)
    try:
        serve(settings)
    except SettingsError as exc:
        log.error("%s", exc)
        return EXIT_CANNOT_START
    except OmniError as exc:
        log.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the broker listens, and how every socket of the fabric is set up: limits, linger, keys."""

import ipaddress
import os
import secrets
import socket as sockets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import zmq
from attrs import frozen
from zmq.auth import load_certificate

from omni.codec import ZERO_COPY_BYTES
from omni.errors import SettingsError
from omni.settings import FabricSettings

Side = Literal["web", "worker"]

#: Port for webs where `fabric.broker_url` names none; workers have the next one.
DEFAULT_PORT = 22400
#: Longest path of a Unix socket, less room for the null byte. Source: sockaddr_un on Linux.
MAX_IPC_PATH_BYTES = 107
#: Largest part that a socket takes (a chat request with a whole video); the peer is cut above it.
MAX_PART_BYTES = 256 * 1024 * 1024
#: Flags of what does not wait. Plain ints: joining zmq's own enums costs 3 us each time.
NOW = int(zmq.NOBLOCK)
MORE_NOW = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
RECONNECT_MS = 20
RECONNECT_MAX_MS = 320


@frozen
class Keys:
    """CURVE keys (Z85) of one process: its own pair, and the public key of the other side."""

    public: bytes
    secret: bytes
    other: bytes


@frozen
class Endpoints:
    """Addresses of the broker, for webs (also launcher and cli) and for workers.

    uses_curve: the keys in `keys_dir` are needed.
    """

    web: str
    worker: str
    uses_curve: bool

    def of(self, side: Side) -> str:
        """Return the address of one side."""
        return self.web if side == "web" else self.worker


def keys_dir(fabric: FabricSettings) -> Path:
    """Return where the key files lie: `broker.key`, `peer.key`, and each with `_secret`."""
    return Path(fabric.run_dir) / "keys"


def endpoints(fabric: FabricSettings) -> Endpoints:
    """Return where the broker of these settings is.

    Raises: SettingsError for a URL that is not tcp://host[:port], for TCP beyond this host without
    keys, and for a run_dir too deep for a Unix socket.
    """
    if not fabric.broker_url:
        return Endpoints(_ipc(fabric, "web"), _ipc(fabric, "worker"), False)
    host, port = _host_and_port(fabric.broker_url)
    has_keys = (keys_dir(fabric) / "broker.key").exists()
    if not has_keys and not _is_loopback(host):
        raise SettingsError(
            f"fabric.broker_url = {fabric.broker_url!r} leaves this host, and there are no keys in "
            f"{keys_dir(fabric)}: make them with `omni keys` and copy them to each host"
        )
    shown = f"[{host}]" if ":" in host else host
    return Endpoints(f"tcp://{shown}:{port}", f"tcp://{shown}:{port + 1}", has_keys)


def routing_id(name: str) -> bytes:
    """Return a routing id for one start of the process *name*; a second start gets another."""
    return f"{name}.{os.getpid()}.{secrets.token_hex(4)}".encode()


def broker_keys(fabric: FabricSettings) -> Keys:
    """Return the broker's keys. Raises: SettingsError when a file is missing or broken."""
    return _keys(fabric, own="broker", other="peer")


def set_up_socket(socket: "zmq.Socket[Any]", fabric: FabricSettings) -> None:
    """Set what every socket of the fabric has: bounds in both directions, no linger."""
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, fabric.max_inflight_messages)
    socket.set(zmq.RCVHWM, fabric.max_inflight_messages)
    socket.set(zmq.MAXMSGSIZE, MAX_PART_BYTES)
    socket.set(zmq.IPV6, 1)
    socket.copy_threshold = ZERO_COPY_BYTES


def has_message(socket: "zmq.Socket[Any]") -> bool:
    """Say whether *socket* has a message, whatever its descriptor says."""
    return bool(int(socket.get(_EVENTS)) & _READABLE)


def receive(socket: "zmq.Socket[Any]") -> list[zmq.Frame] | None:
    """Return the parts of the next message, None when there is none; never waits.

    It asks first: pyzmq's exception for an empty socket costs twice the question, and its
    recv_multipart asks the socket after each part.
    """
    if not has_message(socket):
        return None
    try:
        frames = [socket.recv(NOW, copy=False)]
    except zmq.Again:  # its sender went away meanwhile
        return None
    while frames[-1].more:
        frames.append(socket.recv(copy=False))
    return frames


def connect_dealer(
    context: "zmq.Context[Any]", fabric: FabricSettings, side: Side, routing_id: bytes
) -> "zmq.Socket[bytes]":
    """Return a DEALER that connects to the broker, now and whenever the broker comes back.

    It holds no messages for a broker that is away (IMMEDIATE): those are the link's to keep.
    """
    places = endpoints(fabric)
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    try:
        set_up_socket(socket, fabric)
        socket.set(zmq.ROUTING_ID, routing_id)
        socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        if places.uses_curve:
            keys = _keys(fabric, own="peer", other="broker")
            socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
            socket.curve_serverkey = keys.other
        socket.connect(places.of(side))
    except BaseException:
        socket.close(0)
        raise
    return socket


def _ipc(fabric: FabricSettings, side: Side) -> str:
    """Return the shorter of the absolute and the relative form; all processes share one cwd."""
    path = Path(fabric.run_dir) / f"broker.{side}"
    forms = (os.path.abspath(path), os.path.relpath(path))
    best = min(forms, key=lambda form: len(os.fsencode(form)))
    if len(os.fsencode(best)) > MAX_IPC_PATH_BYTES:
        raise SettingsError(
            f"fabric.run_dir = {fabric.run_dir!r} is too deep for a Unix socket "
            f"({best} has more than {MAX_IPC_PATH_BYTES} bytes): choose a shorter one"
        )
    return f"ipc://{best}"


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError as exc:
        raise SettingsError(f"fabric.broker_url = {url!r}: {exc}") from exc
    if parts.scheme != "tcp" or not host or parts.path or port > 65534:
        raise SettingsError(f"fabric.broker_url = {url!r} is not allowed; it is tcp://host[:port]")
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        found = sockets.getaddrinfo(host, None, type=sockets.SOCK_STREAM)
    except OSError as exc:
        raise SettingsError(f"fabric.broker_url: host {host!r} is not known: {exc}") from exc
    return all(ipaddress.ip_address(item[4][0]).is_loopback for item in found)


def _keys(fabric: FabricSettings, own: str, other: str) -> Keys:
    folder = keys_dir(fabric)
    try:
        public, secret = load_certificate(folder / f"{own}.key_secret")
        other_public, _ = load_certificate(folder / f"{other}.key")
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read the keys in {folder}: {exc}; see `omni keys`") from exc
    if secret is None:
        raise SettingsError(f"{folder / own}.key_secret holds no secret key; see `omni keys`")
    return Keys(public, secret, other_public)

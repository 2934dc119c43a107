"""The broker with real sockets: what it passes on and refuses, and whom it does not wait for."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgpack
import pytest
import zmq
from attrs import evolve
from zmq.auth import create_certificates

from omni.broker import Broker, open_broker
from omni.codec import decode, encode, encode_header
from omni.engine import AudioChunk, Buffer, Capabilities, UnitResult
from omni.errors import SettingsError
from omni.messages import (
    PROTOCOL_VERSION,
    Enqueue,
    Goodbye,
    Header,
    Hello,
    Leased,
    Queued,
    Refused,
    Release,
    Revoked,
    SlotFreed,
    Status,
    StatusQuery,
)
from omni.settings import FabricSettings, ServiceSettings
from omni.wire import connect_dealer, endpoints, routing_id
from tests.fabric import BrokerProcess, RawPeer, broker_thread, fabric
from tests.fakes import TIMEOUT_S, until

__all__ = ["fabric"]  # a fixture

CAPABILITIES = Capabilities(engine="null", model="null", modes=("audio_duplex",), num_slots=8)


class Fabric:
    """A broker in a thread with raw peers, who are not lost when they do not beat."""

    def __init__(self, stack: ExitStack, settings: FabricSettings) -> None:
        self.settings = evolve(settings, heartbeat_misses=1000)
        self.broker: Broker = stack.enter_context(broker_thread(self.settings))
        self._stack = stack
        self._workers: list[RawPeer] = []

    def web(self, name: str = "web-0") -> RawPeer:
        """Return a web that has said hello."""
        peer = RawPeer(self.settings, "web", name)
        self._stack.callback(peer.close)
        peer.hello()
        return peer

    def worker(self, name: str = "worker-0") -> RawPeer:
        """Return a ready worker."""
        peer = RawPeer(self.settings, "worker", name)
        self._stack.callback(peer.close)
        peer.hello(CAPABILITIES)
        self._workers.append(peer)
        return peer

    def lease(self, web: RawPeer, session: str) -> int:
        """Return the generation of a new lease of *session*."""
        web.say(Enqueue(request_type="audio_duplex", client_id="c"), session)
        header, _ = web.hear(Leased, meanwhile=self._beat)
        return header.generation

    def counter(self, name: str) -> int:
        """Return one of the broker's counters."""
        return self.broker.dispatcher.counters[name]

    def _beat(self) -> None:
        for worker in self._workers:  # one that was silent for a moment gets no new lease
            worker.beat()


@pytest.fixture
def make_fabric(fabric: FabricSettings) -> Iterator[Callable[..., Fabric]]:
    """Give a function that starts a broker with such settings."""
    with ExitStack() as stack:
        yield lambda **changes: Fabric(stack, evolve(fabric, **changes))


MakeFabric = Callable[..., Fabric]


# --- passing on --------------------------------------------------------------------------------


def test_a_chunk_goes_to_the_worker_and_its_answer_comes_back(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    worker, web = it.worker(), it.web()
    generation = it.lease(web, "s_1")

    web.say(AudioChunk(pcm=Buffer(b"\1" * 64_000)), "s_1", generation, seq=1)
    header, chunk = worker.hear(AudioChunk)
    worker.say(UnitResult(is_listen=True, text="ok"), "s_1", generation, seq=1)
    _, result = web.hear(UnitResult)

    assert (header.session, header.generation, chunk.pcm) == ("s_1", generation, b"\1" * 64_000)
    assert [stamp.hop for stamp in header.stamps] == ["broker"]
    assert result.text == "ok"


def test_bodies_and_buffers_of_sessions_are_never_opened(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    worker, web = it.worker(), it.web()
    generation = it.lease(web, "s_1")
    header = Header(kind="audio_chunk", session="s_1", generation=generation)

    web.send_parts(encode_header(header), b"\xc1 not msgpack", b"", b"x" * 200_000)
    parts = _next_parts(worker, PROTOCOL_VERSION, "audio_chunk")

    assert parts[1:] == [b"\xc1 not msgpack", b"", b"x" * 200_000]


def test_an_older_generation_hears_and_says_nothing(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    worker, web = it.worker(), it.web()
    generation = it.lease(web, "s_1")

    worker.say(UnitResult(is_listen=True, text="old"), "s_1", generation - 1)
    worker.say(UnitResult(is_listen=True, text="new"), "s_1", generation)

    assert web.hear(UnitResult)[1].text == "new"
    assert it.counter("dropped_stale") == 1


def test_a_web_cannot_speak_in_another_webs_session(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    worker, web, other = it.worker(), it.web(), it.web("web-1")
    generation = it.lease(web, "s_1")

    other.say(AudioChunk(pcm=Buffer(b"false")), "s_1", generation)
    until(lambda: it.counter("dropped_foreign") == 1)
    web.say(AudioChunk(pcm=Buffer(b"true")), "s_1", generation)

    assert worker.hear(AudioChunk)[1].pcm == b"true"


def test_a_session_message_of_a_stranger_is_answered_with_say_hello(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric()
    stranger = RawPeer(it.settings, "web", "web-0")

    stranger.say(AudioChunk(pcm=Buffer(b"")), "s_1", 1)
    _, refused = stranger.hear(Refused)
    stranger.close()

    assert refused.code == "unknown_peer"


# --- refusing ----------------------------------------------------------------------------------


def test_another_protocol_version_is_refused_in_its_own_with_both_numbers(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric()
    web = it.web()
    hello = Hello(role="web", name="web-9", pid=1, host="here")

    web.send_parts(*encode(Header(kind="", version=7), hello))  # type: ignore[arg-type]
    parts = _next_parts(web, 7, "refused")

    refused = decode(Header(kind="refused"), parts[1:])
    assert isinstance(refused, Refused)
    assert f"protocol 7, this is {PROTOCOL_VERSION}" in refused.message


def _next_parts(peer: RawPeer, version: int, kind: str) -> list[bytes]:
    while True:
        assert peer.socket.poll(int(1000 * TIMEOUT_S)), f"no {kind}"
        parts = peer.socket.recv_multipart()
        if msgpack.unpackb(parts[0])[:2] == [version, kind]:
            return parts


def test_a_worker_cannot_say_hello_on_the_side_of_webs(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    web = it.web()

    web.say(Hello(role="worker", name="worker-9", pid=1, host="here"))

    until(lambda: it.counter("malformed") == 1)
    assert it.broker.dispatcher.peers.named("worker-9") is None


def test_a_name_in_use_is_refused(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    it.worker()
    second = RawPeer(it.settings, "worker", "worker-0", pid=2)

    second.say(Hello(role="worker", name="worker-0", pid=2, host="here"))
    _, refused = second.hear(Refused)
    second.close()

    assert refused.code == "name_taken"


GOOD_HEADERS = [
    encode_header(Header(kind=kind, session="s_1", generation=1))
    for kind in ("hello", "enqueue", "release", "slot_freed", "heartbeat", "status_query", "drain")
]


def test_random_parts_never_end_the_broker_and_are_counted(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    worker, web = it.worker(), it.web()
    draw = random.Random(1)
    num_sent = 0

    for peer in (worker, web):
        for _ in range(500):
            parts = [draw.randbytes(draw.randrange(40)) for _ in range(draw.randrange(1, 5))]
            if draw.random() < 0.5:
                parts[0] = draw.choice(GOOD_HEADERS)
            if draw.random() < 0.3:
                parts[0] = draw.choice(GOOD_HEADERS)[: draw.randrange(1, 10)]
            peer.send_parts(*parts)
            num_sent += 1
    until(lambda: it.counter("malformed") + it.counter("errors") >= num_sent * 0.9)
    generation = it.lease(web, "s_after")
    web.say(AudioChunk(pcm=Buffer(b"still here")), "s_after", generation)

    assert worker.hear(AudioChunk)[1].pcm == b"still here"
    assert it.counter("errors") == 0


@pytest.mark.parametrize("num_parts", [0, 1])
def test_a_message_that_is_too_short_is_counted(make_fabric: MakeFabric, num_parts: int) -> None:
    it = make_fabric()
    web = it.web()

    web.send_parts(*[encode_header(Header(kind="heartbeat"))][:num_parts] or [b""])

    until(lambda: it.counter("malformed") == 1)


def test_a_fabric_message_with_a_huge_body_is_not_opened(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    web = it.web()

    web.send_parts(encode_header(Header(kind="heartbeat")), bytes(2_000_000))

    until(lambda: it.counter("malformed") == 1)


# --- slow and vanishing peers --------------------------------------------------------------------


def test_a_web_that_takes_nothing_loses_its_session_and_disturbs_nobody(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric(max_inflight_messages=8)
    worker, slow, other = it.worker(), it.web("web-0"), it.web("web-1")
    slow_generation = it.lease(slow, "s_slow")
    generation = it.lease(other, "s_ok")

    big = UnitResult(is_listen=True, pcm=Buffer(bytes(200_000)))
    for _ in range(200):
        worker.say(big, "s_slow", slow_generation)
    revoked = worker.hear(Revoked)[0]
    other.say(AudioChunk(pcm=Buffer(b"quick")), "s_ok", generation)

    assert revoked.session == "s_slow"
    assert worker.hear(AudioChunk)[1].pcm == b"quick"
    assert it.counter("revoked_slow") == 1


def test_a_worker_that_takes_nothing_loses_the_session_and_the_web_is_told(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric(max_inflight_messages=8)
    slow, web = it.worker("worker-0"), it.web()
    generation = it.lease(web, "s_1")

    for _ in range(200):
        web.say(AudioChunk(pcm=Buffer(bytes(200_000))), "s_1", generation)
    header, revoked = web.hear(Revoked)

    assert (header.session, revoked.code) == ("s_1", "no_capacity")
    assert it.counter("revoked_slow") == 1
    del slow


def test_what_a_slow_peer_must_know_reaches_it_in_order_when_it_reads_again(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric(max_inflight_messages=8)
    worker, slow = it.worker(), it.web("web-0")
    generations = [it.lease(slow, f"s_{index}") for index in range(4)]

    for _ in range(100):
        worker.say(UnitResult(is_listen=True, pcm=Buffer(bytes(200_000))), "s_0", generations[0])
    until(lambda: it.counter("revoked_slow") == 1)
    for index in range(1, 4):
        worker.say(SlotFreed(), f"s_{index}", generations[index])
    revoked = [slow.hear(Revoked)[0].session for _ in range(4)]

    assert revoked == ["s_0", "s_1", "s_2", "s_3"]


def test_a_web_that_vanishes_is_noticed_when_something_is_sent_to_it(
    make_fabric: MakeFabric,
) -> None:
    it = make_fabric()
    worker, web = it.worker(), RawPeer(it.settings, "web", "web-9")
    web.hello()
    it.lease(web, "s_1")

    web.close()

    assert worker.hear(Revoked)[0].session == "s_1"  # heartbeats cannot be delivered
    assert it.counter("webs_lost") == 1


def test_a_vanished_worker_ends_its_sessions_at_once(make_fabric: MakeFabric) -> None:
    it = make_fabric()
    web, worker = it.web(), RawPeer(it.settings, "worker", "worker-9")
    worker.hello(CAPABILITIES)
    it.lease(web, "s_1")

    worker.close()

    assert web.hear(Revoked)[1].code == "worker_lost"


def test_a_silent_worker_is_lost(fabric: FabricSettings) -> None:
    settings = evolve(fabric, heartbeat_misses=12)
    with broker_thread(settings), ExitStack() as stack:
        web, worker = RawPeer(settings, "web", "web-0"), RawPeer(settings, "worker", "worker-0")
        stack.callback(web.close)
        stack.callback(worker.close)
        web.hello()
        worker.hello(CAPABILITIES)
        web.say(Enqueue(request_type="chat", client_id="c"), "s_1")
        web.hear(Leased, meanwhile=worker.beat)

        _, revoked = web.hear(Revoked, meanwhile=web.beat)  # the worker does not beat

        assert revoked.code == "worker_lost"


def test_a_ticket_is_withdrawn_before_it_is_served(make_fabric: MakeFabric) -> None:
    it = make_fabric(slots=1)
    worker, web = it.worker(), it.web()
    generation = it.lease(web, "s_1")
    web.say(Enqueue(request_type="chat", client_id="c"), "s_2")
    web.hear(Queued)
    web.say(Enqueue(request_type="chat", client_id="c"), "s_3")
    web.hear(Queued)

    web.say(Release(), "s_2")
    web.say(Release(), "s_1", generation)
    worker.hear(Revoked)  # so the broker has read both: what two peers say has no common order
    worker.say(SlotFreed(), "s_1", generation)

    assert web.hear(Leased)[0].session == "s_3"


# --- the process -------------------------------------------------------------------------------


def test_a_second_broker_in_one_directory_is_refused(fabric: FabricSettings) -> None:
    with open_broker(fabric, ServiceSettings()):
        with pytest.raises(SettingsError, match="another broker runs"):
            with open_broker(fabric, ServiceSettings()):
                pass


def test_sigterm_ends_the_process_cleanly_and_peers_are_told(fabric: FabricSettings) -> None:
    process = BrokerProcess(fabric)
    web = RawPeer(fabric, "web", "web-0")
    try:
        process.start()
        web.hello()

        process.signal(signal.SIGTERM)
        web.hear(Goodbye)

        assert process.wait() == 0
    finally:
        web.close()
        process.close()


def test_peers_that_vanished_do_not_end_the_farewell(fabric: FabricSettings) -> None:
    """The first was struck off the table while the broker went through that."""
    with open_broker(fabric, ServiceSettings()) as (broker, _):
        for number in range(2):
            hello = Hello(role="web", name=f"web-{number}", pid=1, host="here")
            peer_id = f"enobody-{number}".encode()
            broker.dispatcher.handle(peer_id, Header(kind=""), hello, time.monotonic())

        broker.say_goodbye()

        assert list(broker.dispatcher.peers) == []


def test_a_wrong_setting_ends_the_process_with_its_own_status(fabric: FabricSettings) -> None:
    process = BrokerProcess(fabric, "fabric.broker_url=udp://example")
    process.start()

    assert process.wait() == 78


def test_a_stopped_and_continued_broker_blames_nobody(fabric: FabricSettings) -> None:
    misses = 12
    process = BrokerProcess(fabric, f"fabric.heartbeat_misses={misses}")
    web, worker = RawPeer(fabric, "web", "web-0"), RawPeer(fabric, "worker", "worker-0")
    try:
        process.start()
        web.hello()
        worker.hello(CAPABILITIES)
        process.signal(signal.SIGSTOP)
        for _ in range(misses + 2):  # all unread
            time.sleep(fabric.heartbeat_interval_s)
            web.beat()
            worker.beat()

        process.signal(signal.SIGCONT)
        web.say(StatusQuery(request=1))
        _, status = web.hear(Status)

        assert [view.state for view in status.workers] == ["ready"]
        assert "workers_lost" not in status.counters
    finally:
        web.close()
        worker.close()
        process.close()


# --- addresses and keys ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://host", "tcp://", "tcp://127.0.0.1:70000", "tcp://127.0.0.1/x", "ipc:///tmp/x"]
)
def test_a_url_that_is_no_tcp_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="broker_url"):
        endpoints(FabricSettings(broker_url=url))


def test_tcp_beyond_this_host_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="omni keys"):
        endpoints(FabricSettings(broker_url="tcp://10.1.2.3", run_dir=str(tmp_path)))


def test_tcp_on_this_host_needs_none(tmp_path: Path) -> None:
    places = endpoints(FabricSettings(broker_url="tcp://127.0.0.1:5000", run_dir=str(tmp_path)))

    assert (places.web, places.worker) == ("tcp://127.0.0.1:5000", "tcp://127.0.0.1:5001")
    assert not places.uses_curve


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose a shorter one"):
        endpoints(FabricSettings(run_dir=str(tmp_path / ("x" * 60) / ("y" * 60))))


def make_keys(folder: Path) -> None:
    """Make the key files of a fabric."""
    folder.mkdir()
    for name in ("broker", "peer"):
        create_certificates(folder, name)


def free_pair() -> int:
    """Return a port that is free together with the next one."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as one:
        for _ in range(100):  # below those that the system gives to others meanwhile
            port = one.bind_to_random_port("tcp://127.0.0.1", 20_000, 32_000)
            with context.socket(zmq.ROUTER) as two:
                try:
                    two.bind(f"tcp://127.0.0.1:{port + 1}")
                    return port
                except zmq.ZMQError:
                    one.unbind(f"tcp://127.0.0.1:{port}")
    raise AssertionError("no two free ports in a row")


def test_peers_with_the_key_are_served_over_tcp(fabric: FabricSettings) -> None:
    make_keys(Path(fabric.run_dir) / "keys")
    settings = evolve(fabric, broker_url=f"tcp://127.0.0.1:{free_pair()}")
    web = RawPeer(settings, "web", "web-0")
    try:
        with broker_thread(settings):
            web.hello()
    finally:
        web.close()


def test_peers_with_other_keys_are_not_heard(fabric: FabricSettings, tmp_path: Path) -> None:
    make_keys(Path(fabric.run_dir) / "keys")
    settings = evolve(fabric, broker_url=f"tcp://127.0.0.1:{free_pair()}")
    thief_dir = tmp_path / "thief"
    thief_dir.mkdir()
    make_keys(thief_dir / "keys")
    public = Path(fabric.run_dir) / "keys" / "broker.key"
    (thief_dir / "keys" / "broker.key").write_bytes(public.read_bytes())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    thief = connect_dealer(
        context, evolve(settings, run_dir=str(thief_dir)), "web", routing_id("web-0")
    )
    monitor = thief.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    try:
        with broker_thread(settings) as broker:
            assert monitor.poll(int(1000 * TIMEOUT_S)), "the handshake was not refused"
            assert len(list(broker.dispatcher.peers)) == 0
    finally:
        context.destroy(linger=0)


def test_the_version_on_the_wire_is_that_of_the_messages() -> None:
    assert msgpack.unpackb(encode_header(Header(kind="heartbeat")))[0] == PROTOCOL_VERSION

"""What a client sees when something dies, hangs or misbehaves: faults of the reference."""

import asyncio
import base64
import signal
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import SPEECH, Client, connected


@pytest.fixture(scope="module")
def two(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with two workers of one slot each."""
    running = start_omni({"fabric.slots": 1}, "--workers", "2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def touchy(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server that waits shortly for what a client should say, and takes small frames only."""
    running = start_omni({"web.max_frame_mb": 1, "duplex.pause_timeout": 2})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def impatient(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server that waits shortly for clients to take what it says and to answer its pings.

    On a busy machine it takes anybody for dead: only for those who are to be.
    """
    running = start_omni({"web.ping_interval_s": 2, "web.send_timeout_s": 1})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def brokerless(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server whose broker is away, and whose web knows it."""
    running = start_omni({"fabric.restart_backoff_s": 60, "fabric.restart_backoff_max_s": 60})
    running.kill("broker")
    asyncio.run(_until_alone(running.address))
    yield running
    running.stop()


async def _until_alone(address: str) -> None:
    async with aiohttp.ClientSession(address) as http, asyncio.timeout(TIMEOUT_S):
        reachable = True
        while reachable:
            async with http.get("/health") as reply:
                reachable = (await reply.json())["broker"]


async def _busy_slots(address: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/status") as reply:
        return int((await reply.json())["busy_slots"])


async def _until_free(address: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await _busy_slots(address):
            continue


async def _idle_workers(address: str, number: int) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(TIMEOUT_S):
        while True:
            async with http.get(f"{address}/status") as reply:
                if (await reply.json())["idle_workers"] == number:
                    return


async def _worker_of(address: str, client_id: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/workers") as reply:
        workers = (await reply.json())["workers"]
    name: str = next(w["worker_id"] for w in workers if w["current_session_id"] == client_id)
    return name.replace("_", "-")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_worker_is_told_and_ends_only_its_own_session(
    two: RunningOmni, number: signal.Signals
) -> None:
    """The reference dropped the socket without a word (killed), or was silent for 39 s (frozen)."""
    await _idle_workers(two.address, 2)
    async with (
        connected(two.address, "/ws/duplex/adx_1") as victim,
        connected(two.address, "/ws/duplex/adx_2") as other,
    ):
        await victim.prepare()
        await other.prepare()
        async with connected(two.address, "/ws/duplex/adx_3") as waiting:
            await waiting.expect("queued")
            two.kill(await _worker_of(two.address, "adx_1"), number)
            error = await victim.until("error")
            code = await victim.closed()
            await other.send_chunk()
            await other.expect("result")
            await waiting.prepare()

    assert (error["error"], code) == ("Worker lost", 1011)


async def test_a_worker_lost_before_prepared_asks_to_try_again(two: RunningOmni) -> None:
    await _idle_workers(two.address, 2)
    async with connected(two.address, "/ws/duplex/adx_4") as client:
        await client.until("queue_done")
        two.kill(await _worker_of(two.address, "adx_4"))
        error = await client.expect("error")

        assert await client.closed() == 1013
    assert error["error"] == "Worker lost"


async def test_a_chat_whose_worker_dies_is_told(two: RunningOmni) -> None:
    await _idle_workers(two.address, 2)
    async with connected(two.address, "/ws/half_duplex/hdx_1") as client:
        await client.prepare()
        await client.send_chunk(SPEECH)
        await client.until("vad_state")
        two.kill(await _worker_of(two.address, "hdx_1"))

        assert (await client.until("error"))["error"] == "Worker lost"


async def test_a_restarted_broker_is_not_noticed_by_a_session(two: RunningOmni) -> None:
    await _idle_workers(two.address, 2)
    async with connected(two.address, "/ws/duplex/adx_5") as client:
        await client.prepare()
        two.kill("broker")
        for _ in range(20):
            await client.send_chunk()
            await client.expect("result")


async def test_a_frame_above_the_limit_is_named_before_the_close(touchy: RunningOmni) -> None:
    """The reference dropped the socket (1006).

    So did we for long frames: closed with the rest of one unread, TCP resets the connection.
    """
    async with connected(touchy.address, "/ws/duplex/adx_6") as client:
        await client.prepare()
        await client.socket.send_bytes(bytes(16 * 2**20))
        error = await client.expect("error")

        assert await client.closed() == 1009
    assert error["error"] == "Frame above 1 MiB"


async def test_a_session_that_is_only_opened_gives_its_slot_back(touchy: RunningOmni) -> None:
    async with connected(touchy.address, "/ws/duplex/adx_7") as client:
        await client.expect("queue_done")
        error = await client.expect("error")

        assert await client.closed() == 1013
    assert error["error"] == "Prepare timeout (2.0s)"
    await _until_free(touchy.address)


async def test_a_frozen_client_frees_its_slot(impatient: RunningOmni) -> None:
    """It neither reads nor answers pings; the reference kept its worker 33 s and more."""
    frozen = await asyncio.to_thread(_raw_socket, impatient.address, "/ws/half_duplex/hdx_2")
    with frozen:
        frozen.sendall(_masked(b'{"type":"prepare"}'))
        await asyncio.to_thread(_read_until, frozen, b'"prepared"')

        await _until_free(impatient.address)


async def test_a_client_that_takes_nothing_frees_its_slot(impatient: RunningOmni) -> None:
    """It goes on sending, so that only the full socket tells that it does not read."""
    deaf = await asyncio.to_thread(_raw_socket, impatient.address, "/ws/duplex/adx_8")
    sound = base64.b64encode(bytes(64))
    chunk = _masked(b'{"type":"audio_chunk","audio_base64":"' + sound + b'"}')
    gone = threading.Event()

    def talk() -> None:
        try:
            deaf.sendall(_masked(b'{"type":"prepare"}'))
            while not gone.wait(0.001):
                deaf.sendall(chunk)
        except OSError:
            gone.set()

    with deaf:
        talker = threading.Thread(target=talk)
        talker.start()
        try:
            assert await asyncio.to_thread(gone.wait, TIMEOUT_S)
        finally:
            gone.set()
            talker.join()
    await _until_free(impatient.address)


async def test_a_client_that_vanishes_frees_its_slot(touchy: RunningOmni) -> None:
    async with connected(touchy.address, "/ws/duplex/adx_9") as client:
        await client.prepare()
        raw: socket.socket = client.socket.get_extra_info("socket")
        raw.shutdown(socket.SHUT_RDWR)

        await _until_free(touchy.address)


async def test_a_stopping_server_says_so(start_omni: StartOmni) -> None:
    running = start_omni()
    async with connected(running.address, "/ws/duplex/adx_10") as client:
        await client.prepare()
        running.kill("web-0", signal.SIGTERM)
        error = await client.expect("error")

        assert await client.closed() == 1001
    running.stop()
    assert "stopping" in error["error"]


async def test_a_server_without_broker_says_so(brokerless: RunningOmni) -> None:
    """The demo refuses the upgrade then, which a browser shows as 1006 without a reason."""
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{brokerless.address}/status") as reply:
            status, detail = reply.status, (await reply.json())["detail"]
    async with connected(brokerless.address, "/ws/duplex/adx_11") as client:
        error = await client.expect("error")

        assert await client.closed() == 1013
    assert error["error"] == "Service not ready"
    assert (status, detail) == (503, "Service not ready")


@pytest.mark.parametrize("query", ["dialect=r1", "dialect=r2", "mode=audio", "mode=chat"])
async def test_without_a_broker_each_dialect_says_to_come_back(
    brokerless: RunningOmni, query: str
) -> None:
    async with connected(brokerless.address, f"/v1/realtime?{query}") as client:
        error = (await client.expect("error"))["error"]

        assert await client.closed() == 1013
    assert (error["code"], error["type"]) == ("service_unavailable", "server_error")


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats()
_FIELDS = st.dictionaries(
    st.sampled_from(["audio_base64", "config", "system_content", "messages", "timeout", "tts"]),
    _VALUES | st.lists(_VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), _VALUES),
    max_size=3,
)
_KINDS = st.sampled_from(["audio_chunk", "prepare", "pause", "generate", ""])


@pytest.mark.parametrize("path", ["/ws/duplex/adx_f", "/ws/half_duplex/hdx_f", "/ws/chat"])
@settings(max_examples=40)
@given(frames=st.lists(st.binary(max_size=40) | st.tuples(_KINDS, _FIELDS), min_size=1, max_size=8))
def test_no_malformed_frame_costs_a_worker(
    omni: RunningOmni, path: str, frames: list[bytes | tuple[str, dict[str, object]]]
) -> None:
    """After any mixture of broken frames there was an answer, and the same worker still serves."""
    pid = omni.pid("worker-0")

    async def talk() -> None:
        async with connected(omni.address, path) as client:
            for frame in frames:
                if client.socket.closed:
                    break
                await _send(client, frame)
            await client.send("stop")
            while (await client.socket.receive(TIMEOUT_S)).type is aiohttp.WSMsgType.TEXT:
                continue
            assert client.socket.close_code in (1000, 1003)

    asyncio.run(talk())

    assert omni.pid("worker-0") == pid


async def _send(client: Client, frame: bytes | tuple[str, dict[str, object]]) -> None:
    try:
        if isinstance(frame, bytes):
            await client.socket.send_bytes(frame)
        else:
            kind, fields = frame
            fields = {name: value for name, value in fields.items() if _fits_json(value)}
            await client.send(kind, **fields)
    except ConnectionError:
        return  # a chat socket ends at its first error


def _fits_json(value: object) -> bool:
    """orjson writes 64 bits at most."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, list):
        return all(map(_fits_json, value))
    return all(map(_fits_json, value.values())) if isinstance(value, dict) else True


def _raw_socket(address: str, path: str) -> socket.socket:
    """Return a connection that was upgraded by hand, so that nothing reads or answers for it."""
    host = urlsplit(address).netloc
    raw = socket.create_connection((host.split(":")[0], int(host.split(":")[1])), timeout=TIMEOUT_S)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    raw.sendall(request.encode())
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def _read_until(raw: socket.socket, word: bytes) -> None:
    """Return when *word* has come, in whatever frame."""
    heard = b""
    while word not in heard:
        part = raw.recv(4096)
        assert part, f"it was cut after {heard!r}"
        heard += part


def _masked(payload: bytes) -> bytes:
    """Return a text frame of at most 125 bytes or 64 KiB, masked with zeros."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + bytes(4) + payload

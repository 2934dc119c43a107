"""`/ws/duplex/{id}` of a whole server with the null engine."""

import base64
import random
import signal
from collections.abc import Iterator

import aiohttp
import numpy as np
import pytest

from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import Client, Event, connected

#: As many as a client may have unanswered without one being dropped, by default.
MAX_BACKLOG_CHUNKS = 8


def _quiet(num_samples: int) -> str:
    return base64.b64encode(bytes(4 * num_samples)).decode()


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


@pytest.fixture(scope="module")
def stoppable(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server that waits long for a worker that is stopped: an engine that computes for long."""
    running = start_omni({"fabric.heartbeat_misses": 1000, "web.max_backlog_chunks": 3})
    yield running
    running.stop()


async def test_a_session_goes_from_queue_done_to_stopped(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_1") as client:
        await client.expect("queue_done")
        await client.send("prepare", config={"chunk_ms": 200})
        prepared = await client.expect("prepared")
        await client.send_chunk()
        result = await client.expect("result")
        await client.send("stop")
        await client.expect("stopped")

        assert await client.closed() == 1000
    assert isinstance(prepared["prompt_length"], int)
    assert (prepared["chunk_ms"], prepared["engine"]) == (200, "null")
    assert "recording_session_id" not in prepared
    assert (result["is_listen"], result["audio_data"], result["current_time"]) == (True, None, 1)


async def test_every_chunk_of_any_size_gets_one_result_in_order(address: str) -> None:
    draw = random.Random(1)
    async with connected(address, "/ws/duplex/adx_2") as client:
        await client.prepare()
        heard: list[Event] = []
        while len(heard) < 300:
            in_flight = min(draw.randint(1, MAX_BACKLOG_CHUNKS), 300 - len(heard))
            for number in range(in_flight):
                await client.send_chunk(_quiet(draw.randint(1, 16_000)))
                if number % draw.randint(1, 4) == 0:
                    await client.send("client_diagnostic", event="gap")
            heard += [await client.expect("result") for _ in range(in_flight)]
        await client.send("stop")
        await client.expect("stopped")

    assert [result["current_time"] for result in heard] == list(range(1, 301))
    assert [bool(result["text"]) for result in heard] == [n % 4 == 0 for n in range(1, 301)]
    assert not any(result["dropped"] for result in heard)


async def test_speech_comes_as_float32_and_ends_its_turn(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_3") as client:
        await client.prepare()
        for _ in range(4):
            await client.send_chunk()
        spoken = [await client.expect("result") for _ in range(4)][-1]

    assert (spoken["is_listen"], spoken["end_of_turn"]) == (False, True)
    assert spoken["text"].strip()
    assert len(base64.b64decode(spoken["audio_data"])) == 4 * 24_000


async def test_force_listen_reaches_the_engine(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_4") as client:
        await client.prepare()
        for _ in range(8):
            await client.send_chunk(force_listen=True)
        results = [await client.expect("result") for _ in range(8)]

    assert all(result["is_listen"] for result in results)


async def test_sound_can_go_both_ways_as_binary_frames(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_5") as client:
        await client.prepare(sound="pcm16")
        for _ in range(4):
            await client.socket.send_bytes(b"S16L" + bytes(3200))
        results = [await client.expect("result") for _ in range(4)]
        sound = await client.socket.receive_bytes(timeout=20)

    assert [result.get("audio_follows", False) for result in results] == [False] * 3 + [True]
    assert sound[:4] == b"S16L" and len(sound) == 4 + 2 * 24_000


async def test_a_configuration_lasts_for_its_own_session_only(address: str) -> None:
    """The reference left temperature and the like on the worker for whoever came next."""
    sounds = []
    for number, config in enumerate([{"generate_audio": False}, {}]):
        async with connected(address, f"/ws/duplex/adx_6{number}") as client:
            await client.prepare(config=config)
            for _ in range(4):
                await client.send_chunk()
            sounds.append([await client.expect("result") for _ in range(4)][-1]["audio_data"])

    assert sounds[0] is None and sounds[1] is not None


async def test_frames_may_come_with_the_sound(address: str) -> None:
    picture = base64.b64encode(b"\xff\xd8\xff" + bytes(50_000)).decode()
    async with connected(address, "/ws/duplex/omni_1") as client:
        await client.prepare()
        await client.send_chunk(frame_base64_list=[picture], max_slice_nums=2)

        assert (await client.expect("result"))["is_listen"]


async def test_a_pause_refuses_chunks_until_it_is_over(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_7") as client:
        await client.prepare()
        await client.send("pause", timeout=30)
        paused = await client.expect("paused")
        await client.send_chunk()
        error = await client.expect("error")
        await client.send("resume")
        await client.expect("resumed")
        await client.send_chunk()
        await client.expect("result")

    assert paused["timeout"] == 30
    assert "paused" in error["error"]


async def test_a_paused_session_shows_in_the_list_of_workers(
    omni: RunningOmni, address: str
) -> None:
    await omni.until_idle()  # a worker is named by the first of its sessions
    async with connected(address, "/ws/duplex/adx_7b") as client, aiohttp.ClientSession() as http:
        await client.prepare()
        await client.send("pause")
        await client.expect("paused")
        async with http.get(f"{address}/workers") as reply:
            (worker,) = (await reply.json())["workers"]

    assert (worker["status"], worker["current_session_id"]) == ("duplex_paused", "adx_7b")


async def test_a_pause_that_lasts_too_long_ends_the_session(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_8") as client:
        await client.prepare()
        await client.send("pause", timeout=1)
        await client.expect("paused")
        timeout = await client.expect("timeout")

        assert await client.closed() == 1000
    assert timeout["reason"] == "Pause timeout (1.0s)"


async def test_interrupt_is_answered(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_9") as client:
        await client.prepare()
        await client.send("interrupt")
        await client.expect("interrupted")


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"a": 1}',
        '{"type": 5}',
        '{"type": "dance"}',
        '{"type": "audio_chunk"}',
        '{"type": "audio_chunk", "audio_base64": 5}',
        '{"type": "audio_chunk", "audio_base64": "%%%"}',
        '{"type": "audio_chunk", "audio_base64": "AAAA"}',
        '{"type": "audio_chunk", "audio_base64": "AAAAAA==", "frame_base64_list": 3}',
        '{"type": "audio_chunk", "audio_base64": "AAAAAA==", "frame_base64_list": ["?"]}',
        '{"type": "pause", "timeout": -1}',
        '{"type": "prepare"}',
        b"",
        b"binary that is no sound",
        b"\xff\xfe\x00",
    ],
)
async def test_a_wrong_frame_gets_an_error_and_the_session_goes_on(
    address: str, frame: str | bytes
) -> None:
    """The reference dropped the socket (1006) without a word for binary and non-JSON frames."""
    async with connected(address, "/ws/duplex/adx_10") as client:
        await client.prepare()
        if isinstance(frame, bytes):
            await client.socket.send_bytes(frame)
        else:
            await client.socket.send_str(frame)
        error = await client.expect("error")
        await client.send_chunk()
        await client.expect("result")

    assert error["error"] and error["message"]


async def test_sound_before_prepare_is_an_error_and_prepare_still_works(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_11") as client:
        await client.expect("queue_done")
        await client.send_chunk()
        error = await client.expect("error")
        await client.prepare()

    assert error["error"] == "Not prepared yet"


async def test_a_wrong_prepare_names_its_field_and_may_be_said_again(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_12") as client:
        await client.expect("queue_done")
        await client.send("prepare", config={"temperature": 9})
        error = await client.expect("error")
        await client.prepare()

    assert error["error"].startswith("config.temperature")


async def test_one_id_never_holds_two_slots(address: str) -> None:
    """In the reference one session id twice got two workers."""
    async with connected(address, "/ws/duplex/adx_13") as first:
        await first.prepare()
        async with connected(address, "/ws/duplex/adx_13") as second:
            await second.prepare()
            async with aiohttp.ClientSession(address) as http:
                async with http.get("/status") as reply:
                    tasks = (await reply.json())["running_tasks"]
        error, code = await first.until("error"), await first.closed()

    assert [task["session_id"] for task in tasks].count("adx_13") == 1
    assert "was opened again" in error["error"] and code == 1000


async def test_a_client_that_comes_back_with_its_id_is_served_at_once(address: str) -> None:
    """Its network was away: the first socket is open and dead, and nobody has noticed yet."""
    async with connected(address, "/ws/duplex/adx_17") as dead:
        await dead.prepare()
        for _ in range(3):
            async with connected(address, "/ws/duplex/adx_17") as client:
                await client.prepare()
                await client.send_chunk()
                await client.expect("result")


async def test_an_id_is_free_again_after_its_session(address: str) -> None:
    for _ in range(3):
        async with connected(address, "/ws/duplex/adx_14") as client:
            await client.prepare()


async def test_no_compression_is_agreed_on(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_15", compress=15) as client:
        assert not client.socket.compress
        await client.prepare()


async def test_overload_is_answered_with_listen_in_order(stoppable: RunningOmni) -> None:
    async with connected(stoppable.address, "/ws/duplex/adx_16") as client:
        await client.prepare()
        stoppable.kill("worker-0", signal.SIGSTOP)
        try:
            for _ in range(20):
                await client.send_chunk()
            await client.send("interrupt")  # answered when all chunks before it were taken
            await client.expect("interrupted")
        finally:
            stoppable.kill("worker-0", signal.SIGCONT)
        results = [await client.expect("result") for _ in range(20)]
        await client.send_chunk()
        after = await client.expect("result")

    assert [result["dropped"] for result in results] == [False] * 3 + [True] * 17
    assert all(result["is_listen"] for result in results[3:])
    assert [result["current_time"] for result in results] == list(range(1, 21))
    assert after["dropped"] is False


async def _results(client: Client, number: int) -> list[object]:
    return [(await client.expect("result"))["current_time"] for _ in range(number)]


async def test_sessions_at_once_count_their_own_chunks(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_17") as one:
        async with connected(address, "/ws/duplex/adx_18") as other:
            await one.prepare()
            await other.prepare()
            for _ in range(5):
                await one.send_chunk()
                await other.send_chunk()

            assert await _results(one, 5) == await _results(other, 5) == [1, 2, 3, 4, 5]


async def test_a_wav_is_taken_as_well(address: str) -> None:
    wav = base64.b64encode(wav_from_waveform(np.zeros(1600, np.float32), 16_000)).decode()
    async with connected(address, "/ws/duplex/adx_19") as client:
        await client.prepare(ref_audio_base64=wav)
        await client.send_chunk(wav)
        await client.expect("result")


async def test_a_page_of_another_site_may_not_connect(address: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(address, "/ws/duplex/adx_20", origin="https://evil.example"):
            pass

    assert refused.value.status == 403


async def test_our_own_pages_may_connect(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_21", origin=address) as client:
        await client.prepare()


async def test_an_unknown_socket_is_refused_at_the_handshake(address: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(address, "/ws/nothing"):
            pass

    assert refused.value.status == 403


async def test_a_result_tells_its_way_when_asked(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_22") as client:
        await client.prepare(trace=True)
        await client.send_chunk()
        trace = (await client.expect("result"))["trace"]

    hops, times = [hop for hop, _ in trace], [at_ns for _, at_ns in trace]
    assert hops[0] == hops[-1] == "web" and hops.count("broker") == 2 and "engine" in hops
    assert times == sorted(times)

"""`omni up --model DIR`: the engine in its own process behind the whole server, and its death."""

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from tests.conftest import RunningOmni, StartOmni
from tests.minicpmo.pictures import golden_picture
from tests.realtime.client import Client, Event, connected

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def running(
    start_omni: StartOmni, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOmni]:
    """A server with two workers of two slots, which compute on the tiny checkpoint."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    settings = {"model.engine": "auto", "fabric.slots": 2, "fabric.heartbeat_misses": 100}
    started = start_omni(settings, "--workers", "2", "--model", str(directory))
    yield started
    started.stop()


def second(loudness: float) -> str:
    """Return a second of noise, base64 of float32 at 16 kHz."""
    samples = np.random.default_rng(3).normal(0, loudness, 16_000)
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def picture() -> str:
    file = io.BytesIO()
    golden_picture(320, 240, 1).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


async def talk(client: Client, count: int, **fields: object) -> list[Event]:
    """Send *count* seconds, loud and quiet by turns, and return their results."""
    for number in range(count):
        await client.send_chunk(second(0.3 if number % 3 == 0 else 0.001), **fields)
    async with asyncio.timeout(TIMEOUT_S):
        return [await client.expect("result") for _ in range(count)]


async def test_an_audio_call_listens_and_speaks(running: RunningOmni) -> None:
    async with connected(running.address, "/ws/duplex/adx_1") as client:
        prepared = await client.prepare(config={"force_listen_count": 0})
        results = await talk(client, 6)

    assert (prepared["engine"], prepared["chunk_ms"]) == ("minicpmo", 1000)
    assert [result["current_time"] for result in results] == [1, 2, 3, 4, 5, 6]
    assert {result["is_listen"] for result in results} == {True, False}
    for result in results:
        sound = base64.b64decode(result["audio_data"] or "")
        assert bool(sound) is not result["is_listen"]
        assert result["kv_cache_length"] > 0


async def test_an_omni_call_sees(running: RunningOmni) -> None:
    async with connected(running.address, "/ws/duplex/omni_1") as client:
        await client.prepare(config={"force_listen_count": 0})
        results = await talk(client, 3, frame_base64_list=[picture()])

    assert [result["vision_slices"] for result in results] == [1, 1, 1]
    assert [result["vision_tokens"] for result in results] == [64, 64, 64]


async def test_a_broken_picture_is_told_and_the_call_goes_on(running: RunningOmni) -> None:
    broken = base64.b64encode(b"\xff\xd8\xff no picture").decode()
    async with connected(running.address, "/ws/duplex/omni_2") as client:
        await client.prepare(config={"force_listen_count": 0})
        await client.send_chunk(second(0.3), frame_base64_list=[broken])
        seen = [(await client.receive())["type"] for _ in range(2)]
        results = await talk(client, 2)

    assert sorted(seen) == ["error", "result"]
    assert len(results) == 2


async def test_a_worker_killed_in_mid_batch_ends_only_its_own_calls(running: RunningOmni) -> None:
    """Four calls on two workers; one worker dies while it computes for two of them."""
    names = [f"adx_k{number}" for number in range(4)]
    async with AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for name in names:
            place = connected(running.address, f"/ws/duplex/{name}")
            clients[name] = await stack.enter_async_context(place)
            await clients[name].prepare(config={"force_listen_count": 0})
            await talk(clients[name], 1)
        view = (await running.status()).workers[0]
        lost = {task.client_id for task in view.tasks}
        for name in lost:
            for _ in range(4):
                await clients[name].send_chunk(second(0.001))
        await clients[min(lost)].expect("result")  # the next ones are being computed
        running.kill(view.name)

        async with asyncio.timeout(TIMEOUT_S):
            errors = [await clients[name].until("error") for name in lost]
        results = [await talk(clients[name], 3) for name in names if name not in lost]

    assert len(lost) == len(results) == 2
    assert [error["code"] for error in errors] == ["worker_lost", "worker_lost"]
    assert all([unit["current_time"] for unit in each] == [2, 3, 4] for each in results)


async def test_a_killed_worker_comes_back_and_serves(running: RunningOmni) -> None:
    async with asyncio.timeout(2 * TIMEOUT_S):
        while [view.state for view in (await running.status()).workers] != ["ready", "ready"]:
            await asyncio.sleep(0.1)
    async with (
        connected(running.address, "/ws/duplex/adx_4") as first,
        connected(running.address, "/ws/duplex/adx_5") as second_call,
    ):
        for client in (first, second_call):
            await client.prepare(config={"force_listen_count": 0})
            assert len(await talk(client, 2)) == 2

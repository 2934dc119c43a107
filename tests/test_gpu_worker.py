"""A worker between a real broker and an engine: what goes through, and what a bad engine costs."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    Emission,
    Failed,
    Prepared,
    PrepareDuplex,
    UnitResult,
)
from omni.errors import CheckpointError, EngineDead, WorkerLost
from omni.link import BrokerLink, LinkedSession, open_link
from omni.process import EXIT_CANNOT_START, EXIT_ENGINE_DEAD
from tests.conftest import RunningOmni, StartOmni, status_of
from tests.fabric import HostedWorker
from tests.fakes import TIMEOUT_S, FakeEngine, until

CHUNK = AudioChunk(pcm=Buffer(bytes(64)))
DUPLEX = PrepareDuplex(mode="audio_duplex")
NAME = "worker-7"


@pytest.fixture(scope="module")
def broker(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A whole omni whose own worker is drained, so that every session goes to the hosted one."""
    running = start_omni({"fabric.heartbeat_misses": 16})
    yield running
    running.stop()


@pytest.fixture
async def link(broker: RunningOmni) -> AsyncIterator[BrokerLink]:
    async with open_link(broker.fabric, role="web", name="web-test") as link:
        await link.wait_connected(TIMEOUT_S)
        await link.drain("worker-0")
        yield link


def answer(arrival: Arrival) -> list[Emission]:
    """Answer as an engine must."""
    if isinstance(arrival.input, PrepareDuplex):
        return [Emission(arrival.slot, Prepared())]
    if isinstance(arrival.input, AudioChunk):
        return [Emission(arrival.slot, UnitResult(is_listen=True))]
    return []


@pytest.fixture
def engine() -> FakeEngine:
    """The engine of `hosted`."""
    engine = FakeEngine()
    engine.answer = answer
    return engine


@pytest.fixture
async def hosted(
    broker: RunningOmni, link: BrokerLink, engine: FakeEngine
) -> AsyncIterator[HostedWorker]:
    hosted = HostedWorker(broker.fabric, engine, NAME)
    await until_state(link, hosted, "ready")
    yield hosted
    engine.gate.set()
    await asyncio.to_thread(hosted.stop)
    await until_state(link, hosted, "offline")


async def until_state(link: BrokerLink, hosted: HostedWorker, *states: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await state_of(link, hosted) not in states:
            await asyncio.sleep(0.01)


async def state_of(link: BrokerLink, hosted: HostedWorker) -> str:
    views = [view for view in (await status_of(link)).workers if view.name == hosted.name]
    return views[0].state if views else "offline"


async def opened(link: BrokerLink) -> LinkedSession:
    """Return a prepared duplex session."""
    session = link.open_session("adx_1", "audio_duplex")
    async with asyncio.timeout(TIMEOUT_S):
        async for _ in session.wait_for_lease():
            pass
        session.send(DUPLEX)
        assert isinstance(await session.receive(), Prepared)
    return session


async def test_an_answer_tells_its_whole_way(hosted: HostedWorker, link: BrokerLink) -> None:
    session = await opened(link)
    session.send(CHUNK)

    await asyncio.wait_for(session.receive(), TIMEOUT_S)

    hops = [stamp.hop for stamp in session.last_stamps]
    times = [stamp.at_ns for stamp in session.last_stamps]
    wanted = ["web", "broker", "worker", "worker queue", "engine", "worker", "broker"]
    assert hops[: len(wanted)] == wanted
    assert times == sorted(times)
    session.close()


async def test_an_unreadable_chunk_costs_only_itself(
    hosted: HostedWorker, link: BrokerLink
) -> None:
    session, other = await opened(link), await opened(link)
    wrong = AudioChunk(pcm=Buffer(b""), force_listen="yes")  # type: ignore[arg-type]  # the point

    for item in (wrong, CHUNK):
        session.send(item)
    other.send(CHUNK)

    async with asyncio.timeout(TIMEOUT_S):
        events = [await session.receive() for _ in range(3)]
        assert isinstance(await other.receive(), UnitResult)
    failed = events[0]
    assert isinstance(failed, Failed) and "force_listen" in failed.message and not failed.fatal
    assert [type(event) for event in events[1:]] == [UnitResult, UnitResult]
    session.close()
    other.close()


async def test_a_closed_session_gives_its_slot_to_the_next(
    hosted: HostedWorker, link: BrokerLink, engine: FakeEngine
) -> None:
    for _ in range(2 * engine.num_slots):
        session = await opened(link)
        session.close()

    tenants = {arrival.slot for arrival in engine.seen}
    assert len(tenants) == 2 * engine.num_slots


async def test_a_stuck_step_is_a_lost_worker_that_comes_back(
    hosted: HostedWorker, link: BrokerLink, engine: FakeEngine
) -> None:
    """The I/O thread lives on, and still the broker must not believe the worker well."""
    session = await opened(link)
    engine.gate.clear()

    await until_state(link, hosted, "offline")
    with pytest.raises(WorkerLost):
        await asyncio.wait_for(session.receive(), TIMEOUT_S)

    engine.gate.set()
    await until_state(link, hosted, "ready")
    (await opened(link)).close()


async def test_a_dead_engine_ends_its_process_and_its_sessions(
    broker: RunningOmni, link: BrokerLink, engine: FakeEngine
) -> None:
    hosted = HostedWorker(broker.fabric, engine, NAME)
    await until_state(link, hosted, "ready")
    session = await opened(link)

    engine.fail_with = EngineDead("the device fell off the bus")

    with pytest.raises(WorkerLost):
        await asyncio.wait_for(session.receive(), TIMEOUT_S)
    await asyncio.to_thread(hosted.thread.join, TIMEOUT_S)
    assert hosted.exit_code == EXIT_ENGINE_DEAD
    assert engine.is_closed
    await until_state(link, hosted, "offline")


async def test_a_checkpoint_that_is_broken_is_not_worth_a_restart(
    broker: RunningOmni, engine: FakeEngine
) -> None:
    engine.fail_load_with = CheckpointError("model-00001 is truncated")

    hosted = HostedWorker(broker.fabric, engine, NAME)

    await asyncio.to_thread(until, lambda: hosted.exit_code is not None)
    assert hosted.exit_code == EXIT_CANNOT_START

"""Every kind of process is killed or stopped under load; who lives goes on, who lost is told.

A whole omni with two workers. Times are for `bench/faults.py`; here only what happens counts.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from omni.errors import NoWorker, WorkerLost
from omni.link import BrokerLink, open_link
from omni.messages import Status
from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import SPEECH, connected
from tests.talker import Talker, talking

NUM_SLOTS = 2
PAUSE_S = 0.02
DEADLINE_S = 2 * TIMEOUT_S


@pytest.fixture(scope="module")
def running(start_omni: StartOmni) -> Iterator[RunningOmni]:
    settings = {
        "fabric.slots": NUM_SLOTS,
        "fabric.heartbeat_misses": 12,
        "fabric.rejoin_grace_s": 10,  # all have to come back, however slow the machine is
        "fabric.stop_timeout_s": 4,  # what is continued at once must be heard before
    }
    running = start_omni(settings, "--workers", "2")
    yield running
    running.stop()


@pytest.fixture
async def link(running: RunningOmni) -> AsyncIterator[BrokerLink]:
    """A web's link, whose sessions load the workers; everything is whole before and after."""
    async with open_link(running.fabric, role="web", name="web-test") as link:
        await link.wait_connected(TIMEOUT_S)
        await until_whole(link)
        yield link
        await until_whole(link)


async def until_status(link: BrokerLink, is_true: Callable[[Status], bool]) -> Status:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(NoWorker):  # the broker is away: it was killed just now
                if is_true(status := await link.status()):
                    return status
            await asyncio.sleep(PAUSE_S)


async def until_whole(link: BrokerLink) -> None:
    """Return when both workers are ready and nobody talks or waits."""

    def is_whole(status: Status) -> bool:
        states = [worker.state for worker in status.workers]
        is_idle = not status.tickets and not any(worker.tasks for worker in status.workers)
        return states == ["ready", "ready"] and is_idle and "web-0" in status.webs

    await until_status(link, is_whole)


async def all_talk(talkers: list[Talker]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        for talker in talkers:
            await talker.is_leased.wait()
    await asyncio.gather(*(talker.until_results() for talker in talkers))


def on_worker(talkers: list[Talker], name: str) -> tuple[list[Talker], list[Talker]]:
    """Return those who talk to worker *name*, and those who do not."""
    there = [talker for talker in talkers if talker.session.lease.worker == name]
    return there, [talker for talker in talkers if talker not in there]


async def other_pid(link: BrokerLink, name: str, pid: int) -> None:
    """Return when worker *name* is ready as another process than *pid*."""

    def is_back(status: Status) -> bool:
        return any(
            view.name == name and view.pid != pid and view.state == "ready"
            for view in status.workers
        )

    await until_status(link, is_back)


async def test_a_killed_worker_ends_only_its_own_sessions_and_comes_back(
    running: RunningOmni, link: BrokerLink
) -> None:
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)
        lost, kept = on_worker(talkers, "worker-0")

        pid = running.kill("worker-0")

        for talker in lost:
            assert isinstance(await talker.until_ended(), WorkerLost)
        await asyncio.gather(*(talker.until_results() for talker in kept))
        await other_pid(link, "worker-0", pid)
        await asyncio.gather(*(talker.until_results() for talker in kept))
    assert len(lost) == NUM_SLOTS and not any(talker.error for talker in kept)


async def test_a_stopped_worker_is_lost_and_comes_back_by_itself(
    running: RunningOmni, link: BrokerLink
) -> None:
    """Nobody continues it: the launcher sees that it hangs, kills it and starts another."""
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)
        lost, kept = on_worker(talkers, "worker-1")

        pid = running.kill("worker-1", signal.SIGSTOP)

        for talker in lost:
            assert isinstance(await talker.until_ended(), WorkerLost)
        await other_pid(link, "worker-1", pid)
        await asyncio.gather(*(talker.until_results() for talker in kept))
    assert not any(talker.error for talker in kept)
    assert "worker-1 hangs" in running.log("launcher")


async def test_a_worker_that_was_stopped_for_a_moment_keeps_its_process(
    running: RunningOmni, link: BrokerLink
) -> None:
    pid = running.kill("worker-0", signal.SIGSTOP)
    await until_status(link, lambda status: status.workers[0].state == "offline")

    running.kill("worker-0", signal.SIGCONT)

    status = await until_status(link, lambda status: status.workers[0].state == "ready")
    assert status.workers[0].pid == pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_tickets_are_served_by_the_other_worker(
    running: RunningOmni, link: BrokerLink, number: signal.Signals
) -> None:
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)
        _, kept = on_worker(talkers, "worker-0")
        async with talking(link, 1) as [waiting]:
            await until_status(link, lambda status: len(status.tickets) == 1)

            running.kill("worker-0", number)
            kept[0].session.close()

            async with asyncio.timeout(DEADLINE_S):
                await waiting.is_leased.wait()
            await waiting.until_results()


async def test_sessions_go_on_after_a_broker_was_killed(
    running: RunningOmni, link: BrokerLink
) -> None:
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)

        pid = running.kill("broker")

        async with asyncio.timeout(DEADLINE_S):  # results of the old one may still come
            while running.pid("broker") in (0, pid):
                await asyncio.sleep(PAUSE_S)
        await until_status(
            link,
            lambda status: "web-0" in status.webs
            and sum(len(worker.tasks) for worker in status.workers) == 2 * NUM_SLOTS,
        )
        await asyncio.gather(*(talker.until_results(20) for talker in talkers))
    assert not any(talker.error for talker in talkers)


async def test_a_host_that_slept_ends_no_call(running: RunningOmni, link: BrokerLink) -> None:
    """All stand still for longer than a silence may last, but nobody was silent to anybody."""
    names = ["broker", "worker-0", "worker-1", "web-0"]
    async with connected(running.address, "/ws/duplex/adx_sleeper") as client:
        await client.prepare()
        before = {name: len(running.log(name)) for name in names}
        pids = [running.launcher.pid, *map(running.pid, names)]

        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        fabric = running.fabric
        await asyncio.sleep((fabric.heartbeat_misses + 2) * fabric.heartbeat_interval_s)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

        await client.send_chunk(SPEECH)
        await client.expect("result")
    said = {name: running.log(name)[before[name] :] for name in names}
    assert not [name for name in names if "silent" in said[name]]


async def test_a_ticket_outlives_a_broker(running: RunningOmni, link: BrokerLink) -> None:
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)
        async with talking(link, 1) as [waiting]:
            await until_status(link, lambda status: len(status.tickets) == 1)

            running.kill("broker")

            await until_status(link, lambda status: len(status.tickets) == 1)
            talkers[0].session.close()
            async with asyncio.timeout(DEADLINE_S):
                await waiting.is_leased.wait()


async def test_sessions_go_on_after_a_broker_hung(
    running: RunningOmni, link: BrokerLink
) -> None:
    async with talking(link, NUM_SLOTS) as talkers:
        await all_talk(talkers)

        pid = running.kill("broker", signal.SIGSTOP)

        await asyncio.gather(*(talker.until_results(200) for talker in talkers))
        await until_status(link, lambda status: len(status.workers) == 2)
        assert running.pid("broker") in (0, pid) or "broker hangs" in running.log("launcher")
    assert not any(talker.error for talker in talkers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_web_frees_its_slots_and_comes_back(
    running: RunningOmni, link: BrokerLink, number: signal.Signals
) -> None:
    async with aiohttp.ClientSession() as http:
        socket = await http.ws_connect(f"{running.websocket_address}/ws/duplex/adx_faults")
        await socket.send_json({"type": "prepare"})
        await until_status(link, lambda status: any(view.tasks for view in status.workers))

        pid = running.kill("web-0", number)

        await until_status(link, lambda status: not any(view.tasks for view in status.workers))
        await until_status(
            link, lambda status: "web-0" in status.webs and running.pid("web-0") not in (0, pid)
        )
        await until_healthy(http, running)
        await socket.close()


async def until_healthy(http: aiohttp.ClientSession, running: RunningOmni) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):  # it listens in a moment
                async with http.get(f"{running.address}/health") as response:
                    assert response.status == 200
                    return
            await asyncio.sleep(PAUSE_S)


async def test_sessions_of_other_webs_do_not_notice_a_lost_web(
    running: RunningOmni, link: BrokerLink
) -> None:
    async with talking(link, 2 * NUM_SLOTS) as talkers:
        await all_talk(talkers)

        pid = running.kill("web-0")

        await until_status(
            link, lambda status: "web-0" in status.webs and running.pid("web-0") not in (0, pid)
        )
        await asyncio.gather(*(talker.until_results() for talker in talkers))
    assert not any(talker.error for talker in talkers)

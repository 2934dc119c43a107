"""A server whose answers take long, for what comes in their midst."""

import asyncio
from collections.abc import Iterator

import pytest

from omni.engine.null import NullEngine, Script
from tests.conftest import RunningOmni, StartOmni, status_of
from tests.fabric import HostedWorker
from tests.fakes import TIMEOUT_S


@pytest.fixture(scope="package")
def slow(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server that says a long answer for minutes: whatever comes, comes in its midst.

    Its own worker is drained, another one is here, with one slot.
    """
    running = start_omni()
    asyncio.run(drain(running, "worker-0"))
    worker = HostedWorker(running.fabric, NullEngine(1, Script(delay_s=0.02)), "worker-1")
    asyncio.run(until_ready(running, "worker-1"))
    yield running
    worker.stop()
    running.stop()


async def drain(running: RunningOmni, name: str) -> None:
    """Have a worker take nobody any more."""
    async with running.link() as link:
        await link.drain(name)


async def until_ready(running: RunningOmni, name: str) -> None:
    """Return when a worker is ready."""
    async with running.link() as link, asyncio.timeout(TIMEOUT_S):
        while not [
            view
            for view in (await status_of(link)).workers
            if (view.name, view.state) == (name, "ready")
        ]:
            await asyncio.sleep(0.02)

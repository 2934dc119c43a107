"""Live calls go on while all threads for files stand still."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from omni.call_threads import in_call_thread
from omni.process import ROOT
from tests.fakes import TIMEOUT_S

#: More than asyncio has threads. Source: `concurrent.futures.ThreadPoolExecutor`.
TOO_MANY = (os.cpu_count() or 1) + 32


@pytest.fixture
def disk() -> Iterator[threading.Event]:
    """Stands still until it is set."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_goes_on_while_every_thread_for_files_waits(disk: threading.Event) -> None:
    files = [asyncio.create_task(asyncio.to_thread(disk.wait)) for _ in range(TOO_MANY)]

    async with asyncio.timeout(TIMEOUT_S):
        assert await in_call_thread(sum, [1, 2, 3]) == 6
    assert not any(file.done() for file in files)
    disk.set()
    await asyncio.gather(*files)


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_call_thread(divmod, 1, 0)


async def test_the_work_knows_whose_it_is() -> None:
    whose = ContextVar("whose", default="nobody's")
    whose.set("adx_1's")

    assert await in_call_thread(whose.get) == "adx_1's"


def test_no_call_waits_for_the_threads_for_files() -> None:
    modules = sorted((ROOT / "omni" / "realtime").rglob("*.py"))

    assert modules and not [path for path in modules if "to_thread" in path.read_text("utf-8")]

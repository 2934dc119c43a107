"""What the launcher does about children that behave badly. Real processes, the launcher in here."""

import asyncio
import contextlib
import io
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

import pytest
from attrs import evolve

from omni.children import ChildSpec, exit_reason
from omni.errors import NoWorker
from omni.launcher import MAX_START_RETRIES, Launcher, StartFailed
from omni.messages import Status
from omni.progress import Progress
from omni.settings import load_settings
from tests.fakes import TIMEOUT_S
from tests.test_messages import STATUS

FAST = [
    "fabric.restart_backoff_s=0.01",
    "fabric.restart_backoff_max_s=0.02",
]


class Bench:
    """A launcher for *behaviours* (name -> behaviour). out: where it prints; else in `printed`."""

    def __init__(
        self,
        folder: Path,
        behaviours: dict[str, str],
        *overrides: str,
        out: TextIO | None = None,
    ) -> None:
        sets = [f"fabric.run_dir={folder}", *FAST, *overrides]
        self.folder = folder
        self.printed = io.StringIO()
        self.launcher = Launcher(
            load_settings(overrides=sets),
            [
                ChildSpec(
                    name=name, module="tests.badly_behaved", arguments=("--behaviour", behaviour)
                )
                for name, behaviour in behaviours.items()
            ],
            Progress(out or self.printed),
            lambda children, status, took_s: None,
        )

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text("utf-8"))

    def num_starts(self, name: str) -> int:
        try:
            return (self.folder / f"{name}.log").read_text("utf-8").count("\n")
        except FileNotFoundError:
            return 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[int]"]:
        """Run the launcher, and end it the hard way at last."""
        task = asyncio.create_task(self.launcher.run(), name="launcher")
        try:
            yield task
        finally:
            if not task.done():
                self.launcher.note_signal(signal.SIGINT)
                self.launcher.note_signal(signal.SIGINT)
                await asyncio.wait([task], timeout=TIMEOUT_S)

    async def until_started(self, name: str, times: int = 1) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.num_starts(name) < times:
                await asyncio.sleep(0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="omni-") as name:
        yield Path(name)


async def test_a_child_that_keeps_dying_is_given_up_with_its_last_words(folder: Path) -> None:
    bench = Bench(folder, {"worker-0": "exits-3"})

    async with bench.running() as task:
        with pytest.raises(StartFailed, match="exited with code 3") as failure:
            await asyncio.wait_for(task, TIMEOUT_S)

    assert "these are its last words" in str(failure.value)
    assert bench.num_starts("worker-0") == 1 + MAX_START_RETRIES


async def test_a_child_that_cannot_start_is_not_tried_again(folder: Path) -> None:
    bench = Bench(folder, {"worker-0": "exits-78"})

    async with bench.running() as task:
        with pytest.raises(StartFailed):
            await asyncio.wait_for(task, TIMEOUT_S)

    assert bench.num_starts("worker-0") == 1


async def test_a_killed_child_is_started_again(folder: Path) -> None:
    bench = Bench(folder, {"worker-0": "good"})

    async with bench.running():
        await bench.until_started("worker-0")
        first = bench.pid("worker-0")
        os.kill(first, signal.SIGKILL)
        await bench.until_started("worker-0", times=2)
        second = bench.pid("worker-0")

    assert second != first
    assert "worker-0 was ended by SIGKILL" in bench.printed.getvalue()


async def test_a_terminal_that_was_closed_ends_nothing(folder: Path) -> None:
    """The first word about a child that died could not be said, and ended the launcher."""
    ours, theirs = os.openpty()
    os.close(ours)
    closed = open(theirs, "w")
    bench = Bench(folder, {"worker-0": "good"}, out=closed)
    try:
        async with bench.running() as task:
            await bench.until_started("worker-0")
            os.kill(bench.pid("worker-0"), signal.SIGKILL)
            await bench.until_started("worker-0", times=2)
            assert not task.done()

            bench.launcher.note_signal(signal.SIGTERM)

            assert await asyncio.wait_for(task, TIMEOUT_S) == 0
    finally:
        with contextlib.suppress(OSError):  # what was not said is still in its buffer
            closed.close()


async def test_a_child_that_lived_long_enough_counts_anew(folder: Path) -> None:
    """restart_stable_s = 0: every life counts as long, so no number of restarts is too many."""
    bench = Bench(folder, {"worker-0": "exits-3"}, "fabric.restart_stable_s=0")

    async with bench.running() as task:
        await bench.until_started("worker-0", times=6)
        assert not task.done()


async def test_a_second_signal_kills_what_does_not_stop(folder: Path) -> None:
    bench = Bench(folder, {"worker-0": "deaf"}, "fabric.stop_timeout_s=1000")

    async with bench.running() as task:
        await bench.until_started("worker-0")
        pid = bench.pid("worker-0")
        bench.launcher.note_signal(signal.SIGINT)
        await asyncio.sleep(0)
        assert not task.done()
        bench.launcher.note_signal(signal.SIGINT)

        assert await asyncio.wait_for(task, TIMEOUT_S) == 0

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_deaf_child_is_killed_after_its_time(folder: Path) -> None:
    bench = Bench(folder, {"worker-0": "deaf"}, "fabric.stop_timeout_s=0.1")

    async with bench.running() as task:
        await bench.until_started("worker-0")
        bench.launcher.note_signal(signal.SIGTERM)

        assert await asyncio.wait_for(task, TIMEOUT_S) == 0


async def test_what_is_not_ready_in_time_fails_the_start(folder: Path) -> None:
    bench = Bench(folder, {"web-0": "good"}, "fabric.start_timeout_s=1")

    async with bench.running() as task:
        with pytest.raises(StartFailed, match="web-0 not ready after 1 s"):
            await asyncio.wait_for(task, TIMEOUT_S)


class LateBroker:
    """A link whose first two questions are answered too late."""

    connected = True
    num_asked = 0

    async def status(self) -> Status:
        self.num_asked += 1
        if self.num_asked <= 2:
            raise NoWorker("it is late")
        return STATUS


async def test_an_answer_that_is_late_is_asked_for_again_at_once(folder: Path) -> None:
    """Two late answers seconds apart killed a broker that had answered nothing but these late."""
    patience = ("fabric.stop_timeout_s=20", "fabric.heartbeat_misses=100")
    launcher = Bench(folder, {"broker": "good"}, *patience).launcher
    [child] = launcher._children
    child.start()
    child.note_ready()
    link = LateBroker()
    watch = asyncio.create_task(launcher._watch(link), name="watch")  # type: ignore[arg-type]
    try:
        launcher._exited.set()  # so that it looks now
        async with asyncio.timeout(TIMEOUT_S):
            while link.num_asked < 3:
                await asyncio.sleep(0.01)
        assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    finally:
        watch.cancel()
        child.signal_group(signal.SIGKILL)
        await child.exited()


async def test_who_was_started_again_has_a_minute_for_a_first_sign(folder: Path) -> None:
    """On a very busy machine a web took longer than ten seconds, was killed each time, given up."""
    launcher = Bench(folder, {"web-0": "good"}).launcher
    [child] = launcher._children
    child.started_s = time.monotonic()

    patience_s = launcher._patience_s(child)
    child.note_ready()

    assert patience_s == 60 > launcher._patience_s(child)


async def test_a_worker_that_loads_for_longer_than_a_start_may_take_is_hung(folder: Path) -> None:
    """One that was started again could load without an end: it beat, and nobody looked closer."""
    launcher = Bench(folder, {"worker-0": "good"}, "fabric.start_timeout_s=1000").launcher
    [child] = launcher._children
    loading = evolve(STATUS.workers[0], name="worker-0", state="loading", pid=0)
    status = evolve(STATUS, workers=(loading,))
    child.started_s = time.monotonic()
    assert launcher._gives_sign(child, status) and launcher._patience_s(child) == 1000

    child.started_s -= 1000

    assert not launcher._gives_sign(child, status)
    assert launcher._patience_s(child) == launcher._fabric.stop_timeout_s


def test_exits_are_told_in_words() -> None:
    assert exit_reason(-9) == "was ended by SIGKILL"
    assert exit_reason(1) == "exited with code 1"

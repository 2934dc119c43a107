"""What waiting costs: up to 1,000 tickets at a real broker, one slot, no engine.

    python -m bench.queue [--waiters 10,100,1000] [--json FILE]

enqueue: ticket asked for -> place in the line told, with so many waiting already. told: somebody
near the head hangs up -> the last in the line knows its new position. chunk: a running session's
64 KB there and back meanwhile. CPU and memory are the broker's, from /proc; waiters live here.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from bench import report
from bench.usage import Usage
from omni.engine import AudioChunk, Buffer, Capabilities, Close, UnitResult
from omni.link import BrokerLink, LinkedSession, open_link
from omni.messages import Header, Heartbeat, Leased, Queued, Revoked, SlotFreed
from omni.settings import FabricSettings
from omni.worker_link import open_worker_link

TIMEOUT_S = 60.0
NUM_NEWCOMERS = 300
NUM_LEAVERS = 20
QUIET_S = 9.0
CHUNK = AudioChunk(pcm=Buffer(bytes(64_000)))


class Waiter:
    """A session that waits; notes its last position and when it heard of it."""

    def __init__(self, link: BrokerLink, tasks: asyncio.TaskGroup, number: int) -> None:
        self.session = link.open_session(f"w{number}", "chat")
        self.num_updates = 0
        self.position = 0
        self.heard_at_s = 0.0
        self.first = asyncio.Event()
        self._task = tasks.create_task(self._wait(), name=f"waiter {number}")

    def leave(self) -> None:
        """Hang up."""
        self._task.cancel()
        self.session.close()

    async def _wait(self) -> None:
        async for queued in self.session.wait_for_lease():
            self._note(queued)

    def _note(self, queued: Queued) -> None:
        self.num_updates += 1
        self.position, self.heard_at_s = queued.position, time.perf_counter()
        self.first.set()


class Bench:
    """A broker with one busy slot, and a line of waiters."""

    def __init__(self, link: BrokerLink, tasks: asyncio.TaskGroup, broker_pid: int) -> None:
        self._link, self._tasks, self._pid = link, tasks, broker_pid
        self._num_started = 0
        self.waiters: list[Waiter] = []

    async def measure(self, num_waiters: int, session: LinkedSession) -> report.Row:
        """Return one row: everything with *num_waiters* in the line."""
        await self.grow(num_waiters)
        enqueue_ms, cpu_ms = await self.newcomers()
        quiet_cpu, per_s = await self.quiet()
        told_ms, chunk_ms = await self.leavers(session)
        return {
            "waiters": num_waiters,
            **{f"enqueue {k} ms": v for k, v in report.percentiles(enqueue_ms).items()},
            "cpu/enqueue ms": round(cpu_ms, 3),
            "updates/s": round(per_s, 1),
            "cpu while quiet %": round(100 * quiet_cpu, 2),
            **{f"told {k} ms": v for k, v in report.percentiles(told_ms).items()},
            **{f"chunk {k} ms": v for k, v in report.percentiles(chunk_ms).items()},
        }

    async def grow(self, num_waiters: int) -> None:
        """Let as many wait."""
        while len(self.waiters) < num_waiters:
            self.waiters.append(self._start())
        await asyncio.gather(*(waiter.first.wait() for waiter in self.waiters))

    async def newcomers(self) -> tuple[list[float], float]:
        """Return how long newcomers wait for their place, and the broker's CPU for one of them."""
        times_ms: list[float] = []
        before = Usage.of(self._pid)
        for _ in range(NUM_NEWCOMERS):
            began_s = time.perf_counter()
            newcomer = self._start()
            await newcomer.first.wait()
            times_ms.append(1000 * (newcomer.heard_at_s - began_s))
            newcomer.leave()
        cpu_s = Usage.of(self._pid).cpu_s - before.cpu_s
        return times_ms, 1000 * cpu_s / NUM_NEWCOMERS

    async def quiet(self) -> tuple[float, float]:
        """Return the broker's CPU share and the updates a second while nothing happens."""
        num_before = sum(waiter.num_updates for waiter in self.waiters)
        before = Usage.of(self._pid)
        await asyncio.sleep(QUIET_S)
        cpu_s = Usage.of(self._pid).cpu_s - before.cpu_s
        num_updates = sum(waiter.num_updates for waiter in self.waiters) - num_before
        return cpu_s / QUIET_S, num_updates / QUIET_S

    async def leavers(self, session: LinkedSession) -> tuple[list[float], list[float]]:
        """Let the first in the line hang up, one after another, while a session goes on."""
        told_ms: list[float] = []
        chunk_ms: list[float] = []
        for _ in range(min(NUM_LEAVERS, len(self.waiters) - 1)):
            last, expected = self.waiters[-1], len(self.waiters) - 1
            began_s = time.perf_counter()
            self.waiters.pop(0).leave()
            while last.position != expected:
                chunk_ms.append(await _there_and_back(session))
            told_ms.append(1000 * (last.heard_at_s - began_s))
        return told_ms, chunk_ms

    def _start(self) -> Waiter:
        self._num_started += 1
        return Waiter(self._link, self._tasks, self._num_started)


async def _there_and_back(session: LinkedSession) -> float:
    began_s = time.perf_counter()
    session.send(CHUNK)
    await session.receive()
    return 1000 * (time.perf_counter() - began_s)


@contextlib.contextmanager
def _broker(fabric: FabricSettings, max_queue_size: int) -> Iterator[int]:
    sets = (f"fabric.run_dir={fabric.run_dir}", f"service.max_queue_size={max_queue_size}")
    words = [word for chosen in sets for word in ("--set", chosen)]
    command = [sys.executable, "-m", "omni.broker", "--parent", str(os.getpid()), *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


class _Worker:
    """One slot that answers each chunk with nothing."""

    def __init__(self, fabric: FabricSettings) -> None:
        self._fabric = fabric
        self._steps = 0
        self._stops = False
        self._thread = threading.Thread(target=self._run, name="worker")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it for the time of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stops = True
            self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        capabilities = Capabilities(engine="null", model="none", modes=("chat",), num_slots=1)
        with open_worker_link(self._fabric, "worker-0", "", self._pulse) as link:
            link.announce("ready", capabilities)
            while not self._stops:
                for header, message in link.poll(0.1):
                    reply = Header(kind="", session=header.session, generation=header.generation)
                    if isinstance(message, (Revoked, Close)):
                        link.send(reply, SlotFreed())
                    elif not isinstance(message, Leased):
                        link.send(reply, UnitResult(is_listen=True))

    def _pulse(self) -> Heartbeat:
        self._steps += 1
        return Heartbeat(steps=self._steps)


@contextlib.asynccontextmanager
async def _leased(link: BrokerLink) -> AsyncIterator[LinkedSession]:
    session = link.open_session("adx_bench", "audio_duplex")
    async for _ in session.wait_for_lease():
        pass
    yield session
    session.close()


async def _measure(fabric: FabricSettings, pid: int, sizes: Sequence[int]) -> list[report.Row]:
    rows: list[report.Row] = []
    async with open_link(fabric, role="web", name="web-bench") as link:
        await link.wait_connected(TIMEOUT_S)
        async with _leased(link) as session, asyncio.TaskGroup() as tasks:
            bench = Bench(link, tasks, pid)
            before = (Usage.of(pid), Usage.of(os.getpid()))
            for size in sizes:
                rows.append(await bench.measure(size, session))
                after = (Usage.of(pid), Usage.of(os.getpid()))
                used = [end.rss_bytes - start.rss_bytes for start, end in zip(before, after)]
                rows[-1] = {
                    **rows[-1],
                    "broker KiB/waiter": round(used[0] / size / 1024, 2),
                    "here KiB/waiter": round(used[1] / size / 1024, 2),
                }
            for waiter in bench.waiters:
                waiter.leave()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what waiting costs")
    parser.add_argument("--waiters", default="10,100,1000", help="lengths of the line")
    parser.add_argument("--json", default="", help="write the figures to this file, too")
    args = parser.parse_args()
    sizes = [int(text) for text in args.waiters.split(",")]
    max_queue_size = max(sizes) + 1  # a newcomer finds a place behind all of them
    with tempfile.TemporaryDirectory(prefix="omni-") as folder:
        fabric = FabricSettings(run_dir=folder)
        with _broker(fabric, max_queue_size) as pid, _Worker(fabric).running():
            rows = asyncio.run(_measure(fabric, pid, sizes))
    print(report.table([{"what": k, "": v} for k, v in report.machine().items()]))
    print(report.table(_transposed(rows)))
    settings = {"max_queue_size": max_queue_size, "slots": 1, "newcomers": NUM_NEWCOMERS}
    report.write_json(
        args.json, {"machine": report.machine(), "settings": settings, "rows": rows}
    )


def _transposed(rows: Sequence[report.Row]) -> list[report.Row]:
    """Return one line for each figure: there are more of them than lengths of the line."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "waiters"))
    return [
        {"figure": name, **{f"{row['waiters']} waiting": row.get(name) for row in rows}}
        for name in names
    ]


if __name__ == "__main__":
    main()

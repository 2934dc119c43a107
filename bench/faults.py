"""How soon a fault is noticed and mended: kills and stops every kind of process under load.

Starts an omni of its own (null engine, two workers) and measures, over `--rounds` rounds each: from
the signal to the session's WorkerLost; to the process being ready again; the longest gap in the
answers of the sessions that go on. A round takes about 35 s; each step is told as it ends, and one
that does not end within a minute is named.
"""

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from attrs import define, evolve, field

from bench import report
from bench.server import running
from omni.engine import AudioChunk, Buffer, Prepared, PrepareDuplex, UnitResult
from omni.errors import NoWorker, OmniError, WorkerLost
from omni.link import BrokerLink, open_link
from omni.messages import Status
from omni.running import pid_path
from omni.settings import FabricSettings
from omni.table import render_table

PACE_S = 0.05
CHUNK = AudioChunk(pcm=Buffer(bytes(3200)))
LIMIT_S = 60.0


@define
class Talk:
    """A paced session. at_s: when each answer came. lost_s: when it heard of its end."""

    worker: str = ""
    at_s: list[float] = field(factory=list)
    lost_s: float = 0.0

    async def run(self, link: BrokerLink) -> None:
        """Talk until cancelled or lost."""
        session = link.open_session("adx_bench", "audio_duplex")
        try:
            async for _ in session.wait_for_lease():
                pass
            self.worker = session.lease.worker
            session.send(PrepareDuplex(mode="audio_duplex", chunk_ms=50))
            assert isinstance(await session.receive(), Prepared)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(session.send), name="send")
                while True:
                    if isinstance(await session.receive(), UnitResult):
                        self.at_s.append(time.monotonic())
        except* WorkerLost:
            self.lost_s = time.monotonic()
        finally:
            session.close()

    async def _send(self, send: Callable[[AudioChunk], None]) -> None:
        while True:
            with suppress(OmniError):  # `receive` says it
                send(CHUNK)
            await asyncio.sleep(PACE_S)

    def longest_gap_s(self, since_s: float) -> float:
        """Return the longest time without an answer after *since_s*."""
        times = [since_s, *(at_s for at_s in self.at_s if at_s > since_s)]
        return max((after - before for before, after in zip(times, times[1:])), default=0.0)


@asynccontextmanager
async def talking(link: BrokerLink, count: int) -> AsyncIterator[list[Talk]]:
    """Have *count* sessions talk while inside."""
    async with asyncio.TaskGroup() as group:
        talks = [Talk() for _ in range(count)]
        tasks = [group.create_task(talk.run(link), name="talk") for talk in talks]
        try:
            await until(lambda: all(len(talk.at_s) > 3 for talk in talks), "all sessions talk")
            yield talks
        finally:
            for task in tasks:
                task.cancel()


async def until(is_true: Callable[[], bool], what: str) -> None:
    """Return when *is_true*. Raises: TimeoutError that says *what* did not come true."""
    with bounded(what):
        async with asyncio.timeout(LIMIT_S):
            while not is_true():
                await asyncio.sleep(0.005)


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Say *what* a timeout inside was about."""
    try:
        yield
    except TimeoutError:
        raise TimeoutError(f"not within {LIMIT_S:.0f} s: {what}") from None


async def until_ready(link: BrokerLink, name: str, not_pid: int) -> None:
    """Return when worker *name* is ready as another process than *not_pid*."""
    with bounded(f"{name} is ready again"):
        await _until_ready(link, name, not_pid)


async def _until_ready(link: BrokerLink, name: str, not_pid: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            with suppress(NoWorker):
                views = {view.name: view for view in (await link.status()).workers}
                view = views.get(name)
                if view is not None and view.state == "ready" and view.pid != not_pid:
                    return
            await asyncio.sleep(0.005)


async def until_idle(link: BrokerLink) -> None:
    """Return when both workers are ready and empty."""

    def is_idle(status: Status) -> bool:
        return [view.state for view in status.workers] == ["ready"] * 2 and not any(
            view.tasks for view in status.workers
        )

    with bounded("both workers are ready and empty"):
        await _until_status(link, is_idle)


async def _until_status(link: BrokerLink, is_idle: Callable[[Status], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            with suppress(NoWorker):
                if is_idle(await link.status()):
                    return
            await asyncio.sleep(0.02)


class Faults:
    """The running omni under test and what was measured of it, in ms."""

    def __init__(self, run_dir: str, link: BrokerLink, sessions: int) -> None:
        self._run_dir, self._link, self._sessions = run_dir, link, sessions
        self.measured_ms: dict[str, list[float]] = {}

    async def worker(self, number: signal.Signals) -> None:
        """Kill or stop worker-0 while all talk."""
        name = f"worker {number.name}"
        async with talking(self._link, self._sessions) as talks:
            pid, at_s = self._signal("worker-0", number)
            lost = [talk for talk in talks if talk.worker == "worker-0"]
            await until(lambda: all(talk.lost_s for talk in lost), "its sessions are told")
            for talk in lost:
                self._note(f"{name} -> its sessions are told", talk.lost_s - at_s)
            await until_ready(self._link, "worker-0", pid)
            self._note(f"{name} -> ready again", time.monotonic() - at_s)
            for talk in talks:
                if talk not in lost:
                    self._note(f"{name}: gap of the others", talk.longest_gap_s(at_s))

    async def broker(self, number: signal.Signals) -> None:
        """Kill or stop the broker while all talk."""
        async with talking(self._link, self._sessions) as talks:
            pid, at_s = self._signal("broker", number)
            await until(lambda: self._pid("broker") not in (0, pid), "the broker is started again")
            self._note(f"broker {number.name} -> started again", time.monotonic() - at_s)
            restarted_s = time.monotonic()
            await until(
                lambda: all(talk.at_s[-1] > restarted_s for talk in talks), "all sessions go on"
            )
            await asyncio.sleep(20 * PACE_S)
            for talk in talks:
                self._note(f"broker {number.name}: gap of all", talk.longest_gap_s(at_s))

    async def web(self, number: signal.Signals, address: str) -> None:
        """Kill or stop the web, and wait until it answers again."""
        pid, at_s = self._signal("web-0", number)
        await until(lambda: self._pid("web-0") not in (0, pid), "web is started again")
        with bounded("web answers"):
            async with asyncio.timeout(LIMIT_S):
                while not await answers(address):
                    await asyncio.sleep(0.01)
        self._note(f"web {number.name} -> answers again", time.monotonic() - at_s)

    def _signal(self, name: str, number: signal.Signals) -> tuple[int, float]:
        pid = self._pid(name)
        at_s = time.monotonic()
        os.kill(pid, number)
        return pid, at_s

    def _pid(self, name: str) -> int:
        try:
            return int(pid_path(self._run_dir, name).read_text("utf-8"))
        except (OSError, ValueError):
            return 0

    def _note(self, what: str, took_s: float) -> None:
        self.measured_ms.setdefault(what, []).append(1000 * took_s)


async def answers(address: str) -> bool:
    """True when the web at *address* answers a request."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return b" 200 " in line
    except (OSError, TimeoutError):
        return False


async def measure(fabric: FabricSettings, address: str, args: argparse.Namespace) -> Faults:
    """Run all rounds against the omni in *fabric*'s run directory."""
    async with open_link(fabric, role="web", name="web-bench") as link:
        await link.wait_connected(LIMIT_S)
        faults = Faults(fabric.run_dir, link, args.sessions)
        for round_number in range(1, args.rounds + 1):
            for number in (signal.SIGKILL, signal.SIGSTOP):
                for name, step in (
                    ("worker", partial(faults.worker, number)),
                    ("broker", partial(faults.broker, number)),
                    ("web", partial(faults.web, number, address)),
                ):
                    begun_s = time.monotonic()
                    await until_idle(link)
                    await step()
                    took_s = time.monotonic() - begun_s
                    what = f"round {round_number} of {args.rounds}: {name} {number.name}"
                    print(f"{what}, {took_s:.1f} s", flush=True)
        return faults


def main() -> None:
    """Start an omni, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=8)
    args = parser.parse_args()
    settings = {
        "model.engine": "null",
        "fabric.slots": args.sessions,
        # every restart is the first: else pauses grow, and after ten a process is given up
        "fabric.restart_stable_s": 1,
    }
    with running(settings, "--workers", "2") as server:
        fabric = evolve(FabricSettings(), run_dir=str(server.run_dir))
        faults = asyncio.run(measure(fabric, server.address, args))
    tell(faults, args)


def tell(faults: Faults, args: argparse.Namespace) -> None:
    """Print what was measured."""
    machine = report.machine()
    print(machine)
    print(f"{args.rounds} rounds, {args.sessions} sessions at {1000 * PACE_S:.0f} ms; ms\n")
    rows = []
    for what, taken in faults.measured_ms.items():
        taken.sort()
        rows.append([what, f"{taken[len(taken) // 2]:.0f}", f"{taken[-1]:.0f}", str(len(taken))])
    print(render_table(("fault", "median", "worst", "n"), rows))
    print(json.dumps({"machine": machine, "ms": faults.measured_ms}))


if __name__ == "__main__":
    main()

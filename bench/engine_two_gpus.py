"""One omni on two GPUs: calls spread over both, one worker is killed, the other's calls go on.

    python -m bench.engine_two_gpus                    random weights at the published size, 2 GPUs
    python -m bench.engine_two_gpus --model DIR        a checkpoint that is there
    python -m bench.engine_two_gpus --tiny --sessions 4 --seconds 4   a dry run on a CPU

Starts `omni up --model DIR --gpus 0,1`, opens calls that send a second of sound each second over
real WebSockets, kills worker-0 with SIGKILL in mid-call, and watches both sides: how soon its
callers are told, what the other callers lose, how soon the worker serves again. Prints tables, and
JSON with --json; fails when a call of the other worker lost anything.
"""

import argparse
import asyncio
import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from random import Random

import aiohttp
import orjson
from aiohttp import WSMsgType
from attrs import define, evolve, field

from bench import report
from bench.random_engine import numbers, second_of_noise
from bench.server import Server, running
from omni.link import BrokerLink, open_link
from omni.messages import WorkerView
from omni.settings import FabricSettings

UNIT_S = 1.0
KILLED, SURVIVOR = "worker-0", "worker-1"
_TIMEOUT_S = 300.0  # a worker comes back: its weights are read again
_DRAIN_S = 5.0
_OPENING = '{"type":"prepare","config":{"force_listen_count":0}}'


@define(eq=False)
class Call:
    """A paced call. due_s: of the units that wait for their answer. lost_s: when it was told."""

    name: str
    frames: Sequence[bytes]
    worker: str = ""
    num_sent: int = 0
    due_s: deque[float] = field(factory=deque)
    answered: list[tuple[float, float]] = field(factory=list)  # due, latency
    num_spoken: int = 0
    error: str = ""
    lost_s: float = 0.0

    async def run(
        self, socket: aiohttp.ClientWebSocketResponse, phase_s: float, stop: asyncio.Event
    ) -> None:
        """Send and hear until *stop* or until the call is lost."""
        sending = asyncio.create_task(self._send(socket, phase_s, stop), name=f"send {self.name}")
        try:
            await self._hear(socket, stop)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(
        self, socket: aiohttp.ClientWebSocketResponse, phase_s: float, stop: asyncio.Event
    ) -> None:
        begin_s = time.monotonic() + phase_s
        while not stop.is_set():
            due_s = begin_s + self.num_sent * UNIT_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            frame = self.frames[self.num_sent % len(self.frames)]
            self.due_s.append(due_s)
            self.num_sent += 1
            await socket.send_frame(frame, WSMsgType.TEXT)

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, stop: asyncio.Event) -> None:
        end_s = 0.0
        while not (stop.is_set() and not self.due_s):
            end_s = end_s or (time.monotonic() + _DRAIN_S if stop.is_set() else 0.0)
            if end_s and time.monotonic() > end_s:
                return
            try:
                message = await socket.receive(timeout=0.2)
            except TimeoutError:
                continue
            now_s = time.monotonic()
            if message.type is not WSMsgType.TEXT:
                self.error, self.lost_s = self.error or "closed", self.lost_s or now_s
                return
            event = orjson.loads(message.data)
            if event["type"] == "error":
                self.error, self.lost_s = event.get("code", "error"), now_s
                return
            if event["type"] == "result":
                due_s = self.due_s.popleft()
                self.answered.append((due_s, now_s - due_s))
                self.num_spoken += not event["is_listen"]

    def row(self, since_s: float, until_s: float) -> list[float]:
        """Return the latencies of the units due in that time."""
        return [latency_s for due_s, latency_s in self.answered if since_s <= due_s < until_s]


@contextmanager
def checkpoint(options: argparse.Namespace) -> Iterator[Path]:
    """Give the checkpoint's directory; a random one is made, and gone afterwards."""
    if options.model:
        yield Path(options.model).resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="omni-model-", dir=options.folder or None))
    words = ["--tiny", "--device", "cpu"] if options.tiny else []
    try:
        # A process of its own: it leaves nothing in the GPU's memory.
        command = [sys.executable, "-m", "bench.engine_weights", str(folder / "model"), *words]
        subprocess.run(command, cwd=report.ROOT, check=True, stdout=subprocess.DEVNULL)
        yield folder / "model"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    """The running omni, its broker's word, and the calls."""

    def __init__(self, server: Server, link: BrokerLink, options: argparse.Namespace) -> None:
        self._server, self._link, self._options = server, link, options
        self._stack = AsyncExitStack()
        self.figures: dict[str, object] = {}

    async def workers(self) -> dict[str, WorkerView]:
        """Return the workers by name."""
        return {view.name: view for view in (await self._link.status()).workers}

    async def run(self) -> list[Call]:
        """Call, kill, watch; return the calls of the first round."""
        views = await self.workers()
        self.figures["workers"] = [
            {"worker": view.name, "gpu": view.gpu, "sessions that fit": view.num_slots}
            for view in views.values()
        ]
        self.figures["gpus of processes"] = gpu_processes(self._server.pids())
        async with aiohttp.ClientSession() as http:
            return await self._rounds(http)

    async def _rounds(self, http: aiohttp.ClientSession) -> list[Call]:
        stop = asyncio.Event()
        async with AsyncExitStack() as sockets:
            calls = await self._open(http, sockets, "a", self._options.sessions)
            random = Random(1)
            async with asyncio.TaskGroup() as group:
                for call, socket in calls:
                    talk = call.run(socket, random.uniform(0, UNIT_S), stop)
                    group.create_task(talk, name=call.name)
                begun_s = time.monotonic()
                await asyncio.sleep(self._options.seconds)
                pid = self._server.pids()[KILLED]
                os.kill(pid, signal.SIGKILL)
                killed_s = time.monotonic()
                back_s = await self._until_back(pid)
                await asyncio.sleep(max(0.0, killed_s + self._options.seconds - time.monotonic()))
                ended_s = time.monotonic()
                stop.set()
        first = [call for call, _ in calls]
        self._note(first, begun_s, killed_s, ended_s)
        self.figures["worker ready again s"] = round(back_s - killed_s, 1)
        self.figures["calls afterwards"] = await self._afterwards(http)
        return first

    async def _open(
        self, http: aiohttp.ClientSession, sockets: AsyncExitStack, tag: str, count: int
    ) -> list[tuple[Call, aiohttp.ClientWebSocketResponse]]:
        opened = []
        for number in range(count):
            name = f"adx_{tag}{os.getpid()}x{number}"
            url = f"{self._server.address}/ws/duplex/{name}"
            opening = http.ws_connect(url, max_msg_size=0, compress=0)
            socket = await sockets.enter_async_context(opening)
            await socket.send_str(_OPENING)
            async with asyncio.timeout(_TIMEOUT_S):
                while (event := await socket.receive_json())["type"] != "prepared":
                    assert event["type"] != "error", event
            opened.append((Call(name, _frames(number)), socket))
        places = {
            task.client_id: view.name
            for view in (await self.workers()).values()
            for task in view.tasks
        }
        for call, _ in opened:
            call.worker = places[call.name]
        return opened

    async def _until_back(self, not_pid: int) -> float:
        """Return when the killed worker was ready as another process."""
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                view = (await self.workers()).get(KILLED)
                if view is not None and view.state == "ready" and view.pid != not_pid:
                    return time.monotonic()
                await asyncio.sleep(0.05)

    async def _afterwards(self, http: aiohttp.ClientSession) -> dict[str, int]:
        """Have as many calls as before for three units; return the calls answered by worker."""
        stop = asyncio.Event()
        async with AsyncExitStack() as sockets:
            calls = await self._open(http, sockets, "b", self._options.sessions)
            async with asyncio.TaskGroup() as group:
                for call, socket in calls:
                    group.create_task(call.run(socket, 0.0, stop), name=call.name)
                await asyncio.sleep(3 * UNIT_S)
                stop.set()
        return dict(Counter(call.worker for call, _ in calls if call.answered and not call.error))

    def _note(
        self, calls: Sequence[Call], begun_s: float, killed_s: float, ended_s: float
    ) -> None:
        lost = [call for call in calls if call.worker == KILLED]
        others = [call for call in calls if call.worker != KILLED]
        told = [1000 * (call.lost_s - killed_s) for call in lost if call.lost_s]
        self.figures |= {
            "calls by worker": dict(Counter(call.worker for call in calls)),
            "told": dict(Counter(call.error or "nothing" for call in lost)),
            "told after ms": report.percentiles(told, digits=0),
            "others: calls that ended": sum(bool(call.error) for call in others),
            "others: units unanswered": sum(len(call.due_s) for call in others),
            "units": [
                _units("all, before", calls, begun_s, killed_s - 2 * UNIT_S),
                _units("others, before", others, begun_s, killed_s - 2 * UNIT_S),
                _units("others, after", others, killed_s - 2 * UNIT_S, ended_s),
            ],
        }

    def is_undisturbed(self) -> bool:
        """Say whether the other worker's calls lost nothing."""
        ended, unanswered = (
            self.figures[f"others: {what}"] for what in ("calls that ended", "units unanswered")
        )
        return ended == unanswered == 0


def _units(name: str, calls: Sequence[Call], since_s: float, until_s: float) -> report.Row:
    latencies = [latency_s for call in calls for latency_s in call.row(since_s, until_s)]
    return {
        "units": name,
        "calls": len(calls),
        "answered": len(latencies),
        "late": sum(latency_s > UNIT_S for latency_s in latencies),
        **report.percentiles([1000 * latency_s for latency_s in latencies], digits=0),
    }


def _frames(number: int) -> list[bytes]:
    """Return the chunks of a call, over and over: someone speaks, and is silent for an answer."""
    loudness = deque([0.3] * 3 + [0.001] * 4)
    loudness.rotate(number)
    sounds = [second_of_noise(number, each) for each in loudness]
    return [
        orjson.dumps({"type": "audio_chunk", "audio_base64": base64.b64encode(sound).decode()})
        for sound in sounds
    ]


def gpu_processes(pids: dict[str, int]) -> dict[str, str]:
    """Return the GPU and memory of each of our processes, as nvidia-smi sees them."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_bus_id,used_memory"]
    command = [*query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    names = {str(pid): name for name, pid in pids.items()}
    return {names.get(row[0], row[0]): ", ".join(row[1:]) for row in rows}


async def measure(server: Server, options: argparse.Namespace) -> Bench:
    """Run against *server*."""
    fabric = evolve(FabricSettings(), run_dir=str(server.run_dir))
    async with open_link(fabric, role="cli", name="bench") as link:
        await link.wait_connected(_TIMEOUT_S)
        bench = Bench(server, link, options)
        calls = await bench.run()
        units = sum(len(call.answered) for call in calls)
        speaking = sum(call.num_spoken for call in calls)
        bench.figures["speak %"] = round(100 * speaking / max(1, units))
        return bench


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--model", default="", metavar="DIR", help="a checkpoint; else random")
    parser.add_argument("--folder", default="", metavar="DIR", help="where a random one is made")
    parser.add_argument("--gpus", default="0,1", help="as nvidia-smi counts")
    parser.add_argument("--sessions", type=int, default=32, help="calls on both together")
    parser.add_argument("--slots", type=int, default=32, help="of each worker")
    parser.add_argument("--seconds", type=float, default=20.0, help="before and after the kill")
    parser.add_argument("--logs", default="", metavar="DIR", help="where the logs are copied to")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(argv)
    if len(numbers(options.gpus)) != 2:
        parser.error(f"--gpus {options.gpus}: two are wanted")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Start an omni, measure, print, write."""
    options = parse(argv)
    settings: dict[str, object] = {"fabric.slots": options.slots, "model.engine": "auto"}
    if options.tiny:
        settings["fabric.heartbeat_misses"] = 100  # two workers on few cores
    with checkpoint(options) as directory:
        flags = ["--model", str(directory), "--workers", "2", "--gpus", options.gpus]
        with running(settings, *flags) as server:
            try:
                bench = asyncio.run(measure(server, options))
            finally:
                _copy_logs(server, options.logs)
    units = bench.figures.pop("units")
    assert isinstance(units, list)
    for name, value in bench.figures.items():
        print(f"{name}: {orjson.dumps(value).decode()}")
    print(f"\n{report.table(units)}")
    document = {
        "bench": "engine_two_gpus",
        "machine": report.machine(),
        "settings": vars(options),
        **bench.figures,
        "units": units,
    }
    report.write_json(options.json, document)
    return 0 if bench.is_undisturbed() else 1


def _copy_logs(server: Server, folder: str) -> None:
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in [*server.run_dir.glob("*.log"), server.run_dir.parent / "up.txt"]:
            shutil.copy(path, folder)


if __name__ == "__main__":
    sys.exit(main())

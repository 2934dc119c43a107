"""`omni status` and `omni drain`: what the broker knows, as a table or as JSON."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import asdict

from omni.errors import NoWorker
from omni.link import BrokerLink, open_link
from omni.messages import Status, WorkerView
from omni.running import find_running
from omni.settings import FabricSettings
from omni.table import render_table

CONNECT_TIMEOUT_S = 2.0
REFRESH_S = 1.0
POLL_S = 0.2
CLEAR_SCREEN = "\x1b[H\x1b[2J"


async def show_status(fabric: FabricSettings, *, as_json: bool, is_live: bool) -> int:
    """Print the status once, or again and again until Ctrl-C. Raises: NoWorker."""
    running = find_running(fabric.run_dir)
    address = running.address if running else ""
    async with _connected(fabric) as link:
        while True:
            status = await link.status()
            if as_json:
                print(json.dumps({"address": address, **asdict(status)}, indent=2))
            else:
                sys.stdout.write(CLEAR_SCREEN if is_live else "")
                print(render_status(status, address), flush=True)
            if not is_live:
                return 0
            await asyncio.sleep(REFRESH_S)


async def drain(fabric: FabricSettings, worker: str) -> int:
    """Give no new leases, and wait for what runs, at most `drain_timeout_s`.

    Returns 0 when nothing runs any more. Raises: NoWorker.
    """
    async with _connected(fabric) as link:
        if not await link.drain(worker):
            print(f"there is no worker {worker!r}; see `omni status`")
            return 1
        end_s = time.monotonic() + fabric.drain_timeout_s
        while num_running := _num_running(await link.status(), worker):
            if time.monotonic() > end_s:
                print(f"{num_running} sessions still run after {fabric.drain_timeout_s:.0f} s")
                return 1
            await asyncio.sleep(POLL_S)
    print(f"drained: {worker or 'all workers'}")
    return 0


@asynccontextmanager
async def _connected(fabric: FabricSettings) -> AsyncIterator[BrokerLink]:
    async with open_link(fabric, role="cli", name="cli") as link:
        try:
            await link.wait_connected(CONNECT_TIMEOUT_S)
        except NoWorker as exc:
            raise NoWorker(
                f"no broker answers in {fabric.run_dir}: omni does not run here, or it is just "
                "starting. Start it with `omni up`; look at `omni doctor` if you did"
            ) from exc
        yield link


def _num_running(status: Status, worker: str) -> int:
    return sum(len(view.tasks) for view in status.workers if worker in ("", view.name))


def render_status(status: Status, address: str = "") -> str:
    """Return *status* as people read it."""
    models = {view.capabilities.model for view in status.workers if view.capabilities}
    lines = [
        f"{address or 'omni'}: up {_time(status.uptime_s)}, "
        f"{len(status.tickets)} of {status.max_queue_size} waiting, "
        f"{_num_running(status, '')} talking. {'; '.join(sorted(models))}".rstrip(),
        "",
        render_table(
            ("worker", "state", "gpu", "pid", "sessions", "served", "mean", "restarts"),
            [_worker_row(view) for view in status.workers],
        ),
    ]
    tasks = [
        [view.name, task.request_type, task.client_id, _time(task.elapsed_s)]
        for view in status.workers
        for task in view.tasks
    ]
    if tasks:
        lines += ["", render_table(("worker", "session", "id", "since"), tasks)]
    tickets = [
        [
            str(ticket.position),
            ticket.request_type,
            ticket.client_id,
            _time(ticket.waited_s),
            _time(ticket.estimated_wait_s),
        ]
        for ticket in status.tickets
    ]
    if tickets:
        head = ("place", "ticket", "id", "waits since", "about to wait")
        lines += ["", render_table(head, tickets)]
    return "\n".join(lines)


def _worker_row(view: WorkerView) -> list[str]:
    mean = f"{view.mean_duration_ms / 1000:.1f} s" if view.total_requests else "-"
    return [
        view.name,
        view.state,
        view.gpu or "cpu",
        str(view.pid),
        f"{len(view.tasks)}/{view.num_slots}",
        str(view.total_requests),
        mean,
        str(view.restarts),
    ]


def _time(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"

"""Health, status, workers and caches, in the demo's own shapes."""

import re
from datetime import datetime

from aiohttp import web

from omni import __version__
from omni.messages import RequestType, Status, TaskView, WorkerView
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    describe,
    list_of,
    one_of,
    or_null,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.gate import GUARD, VISITOR
from omni.routes.keys import LINK, LIVE

_BUSY: dict[RequestType, str] = {
    "chat": "busy_chat",
    "streaming": "busy_chat",
    "half_duplex_audio": "busy_half_duplex",
    "audio_duplex": "duplex_active",
    "omni_duplex": "duplex_active",
}


TAG = "Service"
_STATES = ("offline", "loading", "idle", "error", "duplex_paused", *sorted(set(_BUSY.values())))
#: With the id of a session its recording is found.
SESSION_ID = said(TEXT, "empty where it is another key's, and the admin key is not shown")
#: Of what runs now; `/api/queue` shows it, too.
TASK = record(
    {
        "worker_id": TEXT,
        "request_type": TEXT,
        "session_id": SESSION_ID,
        "started_at": TEXT,
        "elapsed_s": NUMBER,
        "estimated_remaining_s": NUMBER,
    }
)
_COUNTS = (
    "total_workers",
    "idle_workers",
    "busy_workers",
    "duplex_workers",
    "loading_workers",
    "error_workers",
    "offline_workers",
    "queue_length",
    "max_queue_size",
    "total_slots",
    "busy_slots",
    "free_slots",
)
_WORKER = record(
    {
        "worker_id": TEXT,
        "host": TEXT,
        "port": WHOLE,
        "gpu_id": WHOLE,
        "gpu": TEXT,
        "pid": WHOLE,
        "status": one_of(*_STATES),
        "state": TEXT,
        "num_slots": WHOLE,
        "busy_slots": WHOLE,
        "current_session_id": or_null(SESSION_ID),
        "total_requests": WHOLE,
        "avg_inference_time_ms": NUMBER,
        "last_heartbeat": or_null(TEXT),
        "current_request_type": or_null(TEXT),
        "task_started_at": or_null(TEXT),
        "restarts": WHOLE,
        "model": or_null(TEXT),
    }
)


@describe(
    "Ask whether the server answers",
    tag=TAG,
    reply=record({"status": TEXT, "timestamp": TEXT, "version": TEXT, "broker": FLAG}),
)
async def get_health(request: web.Request) -> web.Response:
    """Say that this process answers, and whether it reaches the broker."""
    return json_reply(
        {
            "status": "healthy",
            "timestamp": datetime.now().isoformat(),
            "version": __version__,
            "broker": request.app[LINK].connected,
        }
    )


@describe(
    "Get the counts",
    tag=TAG,
    help=(
        "What pages poll: workers by state, slots, the length of the queue and what runs. An idle "
        "worker is one that a session could begin on now: with sessions and a free slot it is "
        "among the busy ones as well."
    ),
    reply=record(
        {"gateway_healthy": FLAG, **dict.fromkeys(_COUNTS, WHOLE), "running_tasks": list_of(TASK)}
    ),
    errors=(503,),
)
async def get_status(request: web.Request) -> web.Response:
    """Return the counts that pages poll."""
    status = await request.app[LINK].status()
    states = [worker_state(worker, set()) for worker in status.workers]
    num_slots = sum(worker.num_slots for worker in status.workers if worker.state == "ready")
    num_busy = sum(len(worker.tasks) for worker in status.workers)
    return json_reply(
        {
            "gateway_healthy": True,
            "total_workers": len(states),
            "idle_workers": sum(map(_has_room, status.workers)),
            "busy_workers": sum(state.startswith(("busy", "duplex")) for state in states),
            "duplex_workers": sum(state.startswith("duplex") for state in states),
            "loading_workers": states.count("loading"),
            "error_workers": states.count("error"),
            "offline_workers": states.count("offline"),
            "queue_length": len(status.tickets),
            "max_queue_size": status.max_queue_size,
            "running_tasks": running_tasks(request, status),
            "total_slots": num_slots,
            "busy_slots": num_busy,
            "free_slots": max(0, num_slots - num_busy),
        }
    )


@describe(
    "List the workers",
    tag=TAG,
    reply=record({"total": WHOLE, "workers": list_of(_WORKER)}),
    errors=(503,),
)
async def get_workers(request: web.Request) -> web.Response:
    """Return every worker."""
    status = await request.app[LINK].status()
    workers = [_worker(request, worker) for worker in status.workers]
    return json_reply({"total": len(workers), "workers": workers})


@describe(
    "List the workers' caches",
    tag=TAG,
    help="They are empty between sessions, so this is each worker's state.",
    reply=record(
        {"workers": list_of(record({"worker_id": TEXT, "status": one_of(*_STATES)}))}
    ),
    errors=(503,),
)
async def get_cache(request: web.Request) -> web.Response:
    """Return the workers again; their caches are empty between sessions."""
    status = await request.app[LINK].status()
    paused_ids = request.app[LIVE].paused_ids()
    workers = [
        {"worker_id": worker_id(worker.name), "status": worker_state(worker, paused_ids)}
        for worker in status.workers
    ]
    return json_reply({"workers": workers})


def running_tasks(request: web.Request, status: Status) -> list[dict[str, object]]:
    """Return what every worker does now."""
    return [
        {
            "worker_id": worker_id(task.worker),
            "request_type": task.request_type,
            "session_id": shown_id(request, task.client_id),
            "started_at": local_iso(task.started_at),
            "elapsed_s": round(task.elapsed_s, 1),
            "estimated_remaining_s": round(task.estimated_remaining_s, 1),
        }
        for worker in status.workers
        for task in worker.tasks
    ]


def shown_id(request: web.Request, client_id: str) -> str:
    """Return the id of a session as *request* may see it: "" where it is somebody else's."""
    return client_id if request.app[GUARD].owns(request[VISITOR], client_id) else ""


def worker_state(worker: WorkerView, paused_ids: set[str]) -> str:
    """Return the demo's word for a worker; with several sessions the first one names it."""
    if worker.state in ("offline", "loading", "error"):
        return worker.state
    if worker.tasks:
        task = worker.tasks[0]
        return "duplex_paused" if task.client_id in paused_ids else _BUSY[task.request_type]
    return "idle" if worker.state == "ready" else "offline"


def _has_room(worker: WorkerView) -> bool:
    """Return whether a session could begin on *worker* now: what `idle` means to the demo's pages.

    They show a server without an idle worker as one that cannot be used.
    """
    return worker.state == "ready" and len(worker.tasks) < worker.num_slots


def worker_id(name: str) -> str:
    """Return the demo's name of a worker: `worker_0` for `worker-0`."""
    return name.replace("-", "_")


def local_iso(unix_s: float) -> str:
    """Return Unix seconds as the naive local time that the demo shows."""
    return datetime.fromtimestamp(unix_s).isoformat()


def _worker(request: web.Request, worker: WorkerView) -> dict[str, object]:
    task: TaskView | None = worker.tasks[0] if worker.tasks else None
    index = re.search(r"\d+$", worker.gpu) or re.search(r"\d+$", worker.name)
    return {
        "worker_id": worker_id(worker.name),
        "host": worker.host,
        "port": 0,
        "gpu_id": int(index.group()) if index else 0,
        "gpu": worker.gpu,
        "pid": worker.pid,
        "status": worker_state(worker, request.app[LIVE].paused_ids()),
        "state": worker.state,
        "num_slots": worker.num_slots,
        "busy_slots": len(worker.tasks),
        "current_session_id": shown_id(request, task.client_id) if task else None,
        "total_requests": worker.total_requests,
        "avg_inference_time_ms": round(worker.mean_duration_ms, 1),
        "last_heartbeat": local_iso(worker.last_heartbeat) if worker.last_heartbeat else None,
        "current_request_type": task.request_type if task else None,
        "task_started_at": local_iso(task.started_at) if task else None,
        "restarts": worker.restarts,
        "model": worker.capabilities.model if worker.capabilities else None,
    }

"""`/metrics` for Prometheus, and what is counted of every request."""

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import web
from attrs import define, field

from omni.errors import NoWorker
from omni.exposition import CONTENT_TYPE, Exposition, Snapshot
from omni.messages import Status
from omni.meter import Answered, Tally
from omni.recording.recorder import RecordingCounters
from omni.routes.describe import TEXT, Reply, describe
from omni.routes.errors import CLIENT_LEFT, Handler
from omni.routes.gate import GUARD, is_websocket, pattern_of
from omni.routes.keys import LINK, RECORDINGS

EXPOSITION = web.AppKey("exposition", Exposition)
#: A scrape waits so long for the broker; without it the broker's part is left out.
_STATUS_TIMEOUT_S = 1.0
_LAG_EVERY_S = 0.5
#: Whatever else is sent as a method is one label.
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}


@describe(
    "Metrics for Prometheus",
    tag="Status",
    help="Where keys are needed any key will do.",
    reply=Reply(schema=TEXT, content_types=("text/plain",)),
)
async def get_metrics(request: web.Request) -> web.Response:
    """Return everything that is counted, in Prometheus' text format."""
    app = request.app
    link = app[LINK]
    counters = getattr(app[RECORDINGS], "counters", None)  # where sessions are recorded
    snapshot = Snapshot(
        meter=link.meter,
        sessions=link.count_sessions(),
        status=await _status(app),
        recordings=counters if isinstance(counters, RecordingCounters) else None,
        callers=len(app[GUARD].limits),
    )
    text = app[EXPOSITION].text(snapshot)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


@web.middleware
async def measured(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count each request by its route and status. Stands round all other middlewares."""
    began_s, status = time.monotonic(), CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as exc:
        status = exc.status
        raise
    finally:
        method = request.method if request.method in _METHODS else "other"
        took_s = None if is_websocket(request) else time.monotonic() - began_s
        answered = Answered(method, pattern_of(request), status)
        request.app[LINK].meter.replied(answered, took_s)


async def watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Measure how late the event loop is, from the start of *app* to its end."""
    watch = _LoopWatch(asyncio.get_running_loop(), app[LINK].meter.loop_lag)
    watch.look_again()
    yield
    watch.stop()


@define
class _LoopWatch:
    """Asks the loop to be called at a time, and notes how much later that was."""

    _loop: asyncio.AbstractEventLoop
    _lag: Tally
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def look_again(self) -> None:
        """Have the loop call at its time."""
        due_s = time.monotonic() + _LAG_EVERY_S
        self._timer = self._loop.call_later(_LAG_EVERY_S, self._note, due_s)

    def stop(self) -> None:
        """Be called no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _note(self, due_s: float) -> None:
        self._lag.add(max(0.0, time.monotonic() - due_s))
        self.look_again()


async def _status(app: web.Application) -> Status | None:
    try:
        async with asyncio.timeout(_STATUS_TIMEOUT_S):
            return await app[LINK].status()
    except (TimeoutError, NoWorker):
        return None

"""PROCESS: starts broker, workers and web, waits until each is ready, watches and stops them.

Nothing here imports what it starts. A child that dies is told to the broker at once and started
again with back-off; one that hangs is killed, and then the same; one that keeps dying is reported,
and the rest goes on serving.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
import time
from collections.abc import Callable, Iterable, Iterator

from omni.children import Child, ChildSpec, exit_reason
from omni.errors import NoWorker, OmniError
from omni.link import BrokerLink, open_link
from omni.messages import Status
from omni.process import EXIT_CANNOT_START
from omni.progress import Progress
from omni.settings import FabricSettings, Settings

log = logging.getLogger(__name__)

READY_POLL_S = 0.05
HTTP_TIMEOUT_S = 5.0
#: A process that was never ready is given up sooner: somebody waits in front of the terminal.
MAX_START_RETRIES = 2
#: Broker and web that were started again say hello in about a second, and in 15 s on a machine that
#: is very busy: who is killed for that is killed again and again, and given up.
FIRST_SIGN_S = 60.0
#: The broker answers within a millisecond; a busy machine needs longer, and then a miss is no harm.
HEARTBEATS_PER_ANSWER = 2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StartFailed(OmniError):
    """A process cannot start; the text shows its last words."""


class Launcher:
    """Runs the children of one `omni up`."""

    def __init__(
        self,
        settings: Settings,
        specs: Iterable[ChildSpec],
        progress: Progress,
        on_ready: Callable[[list[Child], Status, float], None],
    ) -> None:
        self._settings = settings
        self._fabric: FabricSettings = settings.fabric
        self._children = [Child(spec, settings.fabric.run_dir) for spec in specs]
        self._progress = progress
        self._on_ready = on_ready
        self._signals: list[signal.Signals] = []
        self._signalled = asyncio.Event()
        self._exited = asyncio.Event()  # some child did; the watch looks closer for a while
        self._failure: StartFailed | None = None
        self._is_serving = False

    async def run(self) -> int:
        """Serve until a signal or a start that fails; return the exit code.

        Raises: StartFailed, after all children have ended.
        """
        with self._signals_noted():
            async with open_link(self._fabric, role="launcher", name="launcher") as link:
                async with asyncio.TaskGroup() as group:
                    for child in self._children:
                        watch = self._supervise(child, link)
                        group.create_task(watch, name=f"watch {child.name}")
                    serve = group.create_task(self._serve(link), name="serve")
                    await self._signalled.wait()
                    serve.cancel()
                    await self._stop_all()
        if self._failure is not None:
            raise self._failure
        return 0

    # --- signals: handlers note, the loop acts ----------------------------------------------

    @contextlib.contextmanager
    def _signals_noted(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # nohup ignores SIGHUP, and means it
        heard = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        for number in heard:
            loop.add_signal_handler(number, self.note_signal, number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def note_signal(self, number: signal.Signals) -> None:
        """Have *number* acted on: the first stops all, a second kills what is left."""
        self._signals.append(number)
        self._signalled.set()
        if len(self._signals) > 1:
            for child in self._children:
                if child.is_alive:
                    child.signal_group(signal.SIGKILL)

    def _is_stopping(self) -> bool:
        return self._signalled.is_set()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or StartFailed(reason)
        self._signalled.set()

    # --- one child --------------------------------------------------------------------------

    async def _supervise(self, child: Child, link: BrokerLink) -> None:
        """Keep *child* running until the launcher stops or the child is given up."""
        failures = 0
        while not self._is_stopping():
            child.start()
            pid, code = child.pid, await child.exited()
            self._exited.set()
            age_s = child.age_s
            given_up = self._is_hopeless(child, code, failures + 1)
            link.send_peer_exited(child.name, pid, given_up=given_up)
            if self._is_stopping():
                return
            failures = 1 if age_s >= self._fabric.restart_stable_s else failures + 1
            log.warning("%s %s after %.1f s", child.name, exit_reason(code), age_s)
            self._progress.note(child.name, exit_reason(code))
            if given_up:
                self._give_up(child, code)
                return
            await self._pause(self._backoff_s(failures))

    def _is_hopeless(self, child: Child, code: int, failures: int) -> bool:
        if code == EXIT_CANNOT_START and not child.was_ready:
            return True
        limit = self._fabric.restart_limit
        if not child.was_ready:
            limit = min(limit, MAX_START_RETRIES)
        return child.age_s < self._fabric.restart_stable_s and failures > limit

    def _backoff_s(self, failures: int) -> float:
        pause_s = self._fabric.restart_backoff_s
        for _ in range(failures - 1):
            pause_s = min(2 * pause_s, self._fabric.restart_backoff_max_s)
        return pause_s

    async def _pause(self, pause_s: float) -> None:
        try:
            await asyncio.wait_for(self._signalled.wait(), pause_s)
        except TimeoutError:
            return

    def _give_up(self, child: Child, code: int) -> None:
        """Report a child that is not started again; a start without it has failed."""
        reason = f"{child.name} {exit_reason(code)} and is given up; its last words:"
        log.error("%s see its log", reason)
        text = f"{reason}\n{child.last_words()}"
        is_needed = child.name in ("broker", "web-0") or not self._is_serving
        if is_needed or not any(other.is_alive for other in self._workers()):
            self._fail(text)
        else:
            self._progress.say(text)

    def _workers(self) -> list[Child]:
        return [child for child in self._children if child.name.startswith("worker-")]

    # --- all of them ------------------------------------------------------------------------

    async def _serve(self, link: BrokerLink) -> None:
        """Wait until everything is ready, say so, and watch for what hangs."""
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._fabric.start_timeout_s):
                status = await self._wait_ready(link)
        except TimeoutError:
            late = [child.name for child in self._children if not child.is_ready]
            self._fail(
                f"{', '.join(late)} not ready after {self._fabric.start_timeout_s:.0f} s "
                "(fabric.start_timeout_s); see the logs"
            )
            return
        self._is_serving = True
        self._progress.finish()
        self._on_ready(self._children, status, time.monotonic() - started_s)
        await self._watch(link)

    async def _wait_ready(self, link: BrokerLink) -> Status:
        while True:
            status = await self._status(link)
            for child in self._children:
                if not child.is_ready and child.is_alive and await self._answers(child, status):
                    child.note_ready()
            self._progress.update(self._children)
            if status is not None and all(child.is_ready for child in self._children):
                return status
            await asyncio.sleep(READY_POLL_S)

    async def _status(self, link: BrokerLink) -> Status | None:
        if not link.connected:
            return None
        try:
            async with asyncio.timeout(self._fabric.heartbeat_interval_s * HEARTBEATS_PER_ANSWER):
                return await link.status()
        except (NoWorker, TimeoutError):
            return None

    async def _answers(self, child: Child, status: Status | None) -> bool:
        """True when *child* does its work: alive is not ready."""
        if status is None:
            return False
        if child.name == "broker":
            return True
        if child.name.startswith("web-"):
            return child.name in status.webs and await self._web_answers()
        return any(
            worker.name == child.name and worker.pid == child.pid and worker.state == "ready"
            for worker in status.workers
        )

    async def _web_answers(self) -> bool:
        web, port = self._settings.web, self._settings.service.gateway_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)
        context = None
        if web.https:  # our own certificate: nobody has to vouch for it here
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(HTTP_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port, ssl=context)
                try:
                    writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    # --- what hangs -------------------------------------------------------------------------

    async def _watch(self, link: BrokerLink) -> None:
        """Kill what lives but gives no sign of it for `stop_timeout_s`; its exit does the rest."""
        silent_since_s: dict[tuple[str, int], float] = {}
        calm_s = self._fabric.heartbeat_interval_s * self._fabric.heartbeat_misses
        while True:
            # one answer that is late must not count until the next calm look
            is_calm = not silent_since_s and all(child.is_ready for child in self._children)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(calm_s if is_calm else READY_POLL_S):
                    await self._exited.wait()
            self._exited.clear()
            status = await self._status(link)
            now_s = time.monotonic()
            silent = {
                (child.name, child.pid): child
                for child in self._children
                if child.is_alive and not self._gives_sign(child, status)
            }
            silent_since_s = {key: silent_since_s.get(key, now_s) for key in silent}
            for key, child in silent.items():
                if now_s - silent_since_s[key] >= self._patience_s(child):
                    log.error("%s hangs (process %s); killing it", child.name, child.pid)
                    self._progress.note(child.name, "hangs and is killed")
                    child.signal_group(signal.SIGKILL)
                    silent_since_s[key] = now_s

    def _gives_sign(self, child: Child, status: Status | None) -> bool:
        """True while nothing speaks against *child*; without a broker, against nobody else."""
        if child.name == "broker":
            is_there = is_ready = status is not None
        elif status is None:
            return True
        elif child.name.startswith("web-"):
            is_there = is_ready = child.name in status.webs
        else:
            views = [view for view in status.workers if view.name == child.name]
            is_there = any(view.state not in ("offline", "error") for view in views)
            is_ready = any(view.pid == child.pid and view.state == "ready" for view in views)
        if is_ready and not child.is_ready:
            child.note_ready()
        return is_there and (child.is_ready or not self._is_overdue(child))

    def _is_overdue(self, child: Child) -> bool:
        return child.age_s >= self._fabric.start_timeout_s

    def _patience_s(self, child: Child) -> float:
        """What was ready, or had its time to be, and is silent is hung. A worker that loads may be
        silent for long: taking a big library into the process stops all of its threads."""
        if child.is_ready or self._is_overdue(child):
            return self._fabric.stop_timeout_s
        if child.name.startswith("worker-"):
            return self._fabric.start_timeout_s
        return max(self._fabric.stop_timeout_s, FIRST_SIGN_S)

    # --- stop -------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        """End all children: web first, so that sessions end in order; then workers; the broker."""
        self._progress.finish()
        log.info("stopping: %s", self._failure or ", ".join(n.name for n in self._signals))
        for kind in ("web-", "worker-", "broker"):
            group = [child for child in self._children if child.name.startswith(kind)]
            for child in group:
                if child.is_alive:
                    child.signal_group(signal.SIGTERM)
                    child.signal_group(signal.SIGCONT)  # a stopped process cannot hear
            await self._wait_ended(group)
        log.info("stopped")

    async def _wait_ended(self, group: list[Child]) -> None:
        end_s = time.monotonic() + self._fabric.stop_timeout_s
        while any(child.is_alive for child in group):
            if time.monotonic() > end_s:
                for child in group:
                    if child.is_alive:
                        log.warning("%s does not stop; killing it", child.name)
                        child.signal_group(signal.SIGKILL)
                end_s = time.monotonic() + self._fabric.stop_timeout_s  # it may be in its driver
            await asyncio.sleep(READY_POLL_S / 2)

"""Shared fixtures: a whole omni as a user starts it, on a free port, in its own directories."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define
from hypothesis import HealthCheck, settings

from omni.errors import NoWorker
from omni.link import BrokerLink, open_link
from omni.messages import Status, WorkerView
from omni.process import ROOT
from omni.running import find_running, is_ours, left_over, pid_path
from omni.settings import FabricSettings
from tests.fakes import until

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0

# Every run draws the same examples, and none fails for the time that it takes on a busy machine.
# Fixtures that serve all examples of a test are servers: what one leaves behind the next may find.
settings.register_profile(
    "omni",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("omni")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the pocket engine's tests first: they give back what they take.

    What torch loads to compile stays in the process, and would be there beside all of it.
    """
    items.sort(key=lambda item: item.path.parent.name != "pocket")


@define
class RunningOmni:
    """An `omni up` of a test. address: `http://127.0.0.1:PORT`. fabric: for `open_link`."""

    launcher: subprocess.Popen[bytes]
    folder: Path
    fabric: FabricSettings
    address: str = ""

    @property
    def websocket_address(self) -> str:
        """The address with the scheme of WebSockets."""
        return "ws" + self.address.removeprefix("http")

    @property
    def data_dir(self) -> Path:
        """Where it keeps recordings and voices."""
        return self.folder / "data"

    def output(self) -> str:
        """Return what `omni up` printed."""
        return (self.folder / "up.txt").read_text("utf-8", "replace")

    def log(self, name: str) -> str:
        """Return the log of process *name*."""
        return (Path(self.fabric.run_dir) / f"{name}.log").read_text("utf-8", "replace")

    def pid(self, name: str) -> int:
        """Return the pid of `broker`, `web-0`, `worker-0`, ...; 0 while there is none."""
        try:
            return int(pid_path(self.fabric.run_dir, name).read_text("utf-8"))
        except (OSError, ValueError):
            return 0

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one process, and return its pid."""
        pid = self.pid(name)
        assert pid, f"{name} does not run"  # 0 would mean all processes of the tests
        os.kill(pid, number)
        return pid

    @asynccontextmanager
    async def link(self) -> AsyncIterator[BrokerLink]:
        """Open a link to its broker, as `omni status` does."""
        async with open_link(self.fabric, role="cli", name="cli") as link:
            await link.wait_connected(START_TIMEOUT_S)
            yield link

    async def status(self) -> Status:
        """Return the broker's status."""
        async with self.link() as link:
            return await status_of(link)

    async def worker(self, name: str) -> WorkerView:
        """Return one worker as the broker sees it."""
        return next(view for view in (await self.status()).workers if view.name == name)

    async def until_idle(self) -> None:
        """Return when nobody talks or waits: what a test has left goes in its own time."""
        async with self.link() as link, asyncio.timeout(START_TIMEOUT_S):
            while (now := await status_of(link)).tickets or any(w.tasks for w in now.workers):
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Stop it as a service manager does; fails when a process is left behind."""
        if self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGTERM)
            self.launcher.wait(STOP_TIMEOUT_S)
        assert left_over(self.fabric.run_dir) == {}


async def status_of(link: BrokerLink) -> Status:
    """Return the broker's status; on a busy machine the first answer may come too late."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            with suppress(NoWorker):
                return await link.status()


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """Have what is started inside hear a signal that these tests perhaps ignore, and it with them.

    A shell has its background jobs ignore SIGINT, nohup SIGHUP.
    """
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


def clean_environment() -> dict[str, str]:
    """Return this environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}


StartOmni = Callable[..., RunningOmni]


@pytest.fixture(scope="session")
def start_omni() -> Iterator[StartOmni]:
    """Give a function that starts a whole omni; all are stopped in the end.

    `start_omni({"fabric.slots": 1}, "--workers", "2")`: settings, then further flags. The engine is
    `null` and there is no TLS, unless the settings say otherwise. `wait=False`: returns before it
    is ready.
    """
    started: list[RunningOmni] = []

    def start(
        settings: Mapping[str, object] = {}, *flags: str, wait: bool = True
    ) -> RunningOmni:
        # not pytest's own: a Unix socket's path may have 107 bytes
        folder = Path(tempfile.mkdtemp(prefix="omni-"))
        running = launch(folder, settings, flags)
        started.append(running)
        if wait:
            until(lambda: _is_ready(running), START_TIMEOUT_S)
        return running

    yield start
    failures = []
    for running in started:
        try:
            running.stop()
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            failures.append(exc)
            _kill_all(running)
        shutil.rmtree(running.folder, ignore_errors=True)
    assert not failures


@pytest.fixture(scope="module")
def omni(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A whole omni with the null engine, shared by the tests of one module; leave it as it was."""
    running = start_omni()
    yield running
    running.stop()


def launch(
    folder: Path, settings: Mapping[str, object] = {}, flags: tuple[str, ...] = ()
) -> RunningOmni:
    """Start `omni up` in *folder*, and do not wait for it; it ends with this process."""
    (folder / "settings.toml").touch()  # every default, whatever the project's own file says
    chosen = {
        "model.engine": "null",
        "web.https": "false",
        "service.gateway_port": 0,
        "service.data_dir": folder / "data",
        "fabric.run_dir": folder / "run",
        "fabric.stop_timeout_s": 2,
        "fabric.heartbeat_misses": 20,  # on a busy machine everybody is silent for a second
        "recording.enabled": "false",  # its own tests switch it on
        **settings,
    }
    sets = [word for path, value in chosen.items() for word in ("--set", f"{path}={value}")]
    command = [sys.executable, "-m", "omni.cli", "up", "--settings", str(folder / "settings.toml")]
    command += ["--parent", str(os.getpid())]
    with open(folder / "up.txt", "wb") as output:
        launcher = subprocess.Popen(
            [*command, *sets, *flags],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    misses = int(str(chosen["fabric.heartbeat_misses"]))
    fabric = FabricSettings(run_dir=str(folder / "run"), heartbeat_misses=misses)
    return RunningOmni(launcher, folder, fabric)


def _is_ready(running: RunningOmni) -> bool:
    assert running.launcher.poll() is None, f"omni up ended:\n{running.output()}"
    if "omni is ready" not in running.output():
        return False
    there = find_running(running.fabric.run_dir)
    running.address = there.address if there else ""
    return bool(running.address)


def _kill_all(running: RunningOmni) -> None:
    pids = [running.launcher.pid, *left_over(running.fabric.run_dir).values()]
    for pid in pids:
        if is_ours(pid):
            os.kill(pid, signal.SIGKILL)

"""A whole omni for a bench, started as a user does it, in directories of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import define

from bench.usage import Usage
from omni.process import ROOT
from omni.running import find_running

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@define
class Server:
    """A running omni. address: `http://127.0.0.1:PORT`."""

    run_dir: Path
    address: str = ""

    def pids(self) -> dict[str, int]:
        """Return the pid of each process by its name."""
        return {path.stem: int(path.read_text("utf-8")) for path in self.run_dir.glob("*.pid")}

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time that each process has used so far."""
        return {name: Usage.of(pid).cpu_s for name, pid in self.pids().items()}

    def rss_mib(self) -> dict[str, float]:
        """Return the memory that each process holds now."""
        return {name: Usage.of(pid).rss_mib for name, pid in self.pids().items()}


@contextlib.contextmanager
def running(settings: Mapping[str, object], *flags: str) -> Iterator[Server]:
    """Run a server for the time of the block. Raises: RuntimeError with what it printed."""
    folder = Path(tempfile.mkdtemp(prefix="omni-"))
    chosen = {
        "web.https": "false",
        "service.gateway_port": 0,
        "service.data_dir": ROOT / "data",
        "fabric.run_dir": folder / "run",
        "recording.enabled": "false",
        **settings,
    }
    sets = [word for path, value in chosen.items() for word in ("--set", f"{path}={value}")]
    command = [sys.executable, "-m", "omni.cli", "up", "--parent", str(os.getpid())]
    with open(folder / "up.txt", "wb") as output:
        launcher = subprocess.Popen(
            [*command, *sets, *flags],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield _wait_ready(launcher, folder)
    finally:
        launcher.terminate()  # SIGINT is ignored by what a shell starts in the background
        launcher.wait(STOP_TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_ready(launcher: "subprocess.Popen[bytes]", folder: Path) -> Server:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and launcher.poll() is None:
        found = find_running(str(folder / "run"))
        printed = (folder / "up.txt").read_text("utf-8", "replace")
        if found is not None and found.address and "omni is ready" in printed:
            return Server(folder / "run", found.address)
        time.sleep(0.05)
    raise RuntimeError((folder / "up.txt").read_text("utf-8", "replace"))

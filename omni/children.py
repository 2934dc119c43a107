"""One child process of the launcher: started, seen to exit at once, stopped; pid and log files."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from attrs import define, field, frozen

from omni.log import log_path
from omni.process import ROOT
from omni.running import pid_path

log = logging.getLogger(__name__)

#: Lines of a child's log that are shown when it cannot start.
LAST_WORDS = 6


@frozen(kw_only=True)
class ChildSpec:
    """What to start. environment: added to the launcher's own."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(factory=dict)


@define
class Child:
    """A process by its specification; one at a time, started again after it has exited."""

    spec: ChildSpec
    run_dir: str
    pid: int = 0
    num_starts: int = 0
    started_s: float = 0.0
    is_ready: bool = False
    was_ready: bool = False
    ready_after_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The name in logs, pid files and the fabric."""
        return self.spec.name

    @property
    def is_alive(self) -> bool:
        """True until its exit was seen."""
        return self._process is not None

    @property
    def age_s(self) -> float:
        """Time since the last start."""
        return time.monotonic() - self.started_s

    def start(self) -> None:
        """Start the process in a group of its own; its words go to its log file."""
        assert self._process is None, f"{self.name} runs already"
        path = log_path(self.name, self.run_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.spec.module, *self.spec.arguments]
        with open(path, "ab") as words:
            self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                cwd=ROOT,
                env={**os.environ, **self.spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                # Not a session: the kernel then ends also a stopped child when the launcher dies
                # (SIGHUP and SIGCONT to an orphaned group), and Ctrl-C reaches the launcher alone.
                process_group=0,
            )
        self.pid = self._process.pid
        self.num_starts += 1
        self.started_s = time.monotonic()
        self.is_ready = False
        pid_path(self.run_dir, self.name).write_text(f"{self.pid}\n", "utf-8")
        log.info("%s started as process %s", self.name, self.pid)

    def note_ready(self) -> None:
        """Note that it does its work now."""
        self.is_ready = self.was_ready = True
        self.ready_after_s = self.age_s

    async def exited(self) -> int:
        """Return the exit code (negative: a signal) as soon as the process is gone."""
        process = self._process
        assert process is not None, f"{self.name} was not started"
        await _wait_gone(process)
        self.signal_group(signal.SIGKILL)  # what it may have started; its own id is still taken
        code = process.wait()
        self._process = None
        self.is_ready = False
        pid_path(self.run_dir, self.name).unlink(missing_ok=True)
        return code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def last_words(self) -> str:
        """Return the end of the log, for people who must see why it failed."""
        try:
            with open(log_path(self.name, self.run_dir), "rb") as words:
                words.seek(0, os.SEEK_END)
                words.seek(max(0, words.tell() - 4000))
                lines = words.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join("  | " + line for line in lines[-LAST_WORDS:])


async def _wait_gone(process: subprocess.Popen[bytes]) -> None:
    """Wait until *process* exits: by its pidfd, which the loop watches, or in a thread."""
    if not hasattr(os, "pidfd_open"):
        await asyncio.to_thread(process.wait)
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, gone.set)
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def exit_reason(code: int) -> str:
    """Return *code* in words."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"exited with code {code}"

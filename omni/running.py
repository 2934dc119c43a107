"""The run directory: who runs, found again by other commands. pid files, and one lock.

The launcher holds the lock while it lives, so a pid that was left by a crash is never believed.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from attrs import asdict, frozen

from omni.errors import OmniError

POLL_S = 0.05
LOOKING_S = 0.3
_LOCK = "omni.lock"


class AlreadyRunning(OmniError):
    """Another launcher uses this run directory."""

    code = "invalid_request"


@frozen(kw_only=True)
class Running:
    """A launcher that lives. address: of its web, for people."""

    pid: int
    address: str = ""

    @classmethod
    def of_this_process(cls, address: str = "") -> "Running":
        """Return what this process announces of itself."""
        return cls(pid=os.getpid(), address=address)


@contextlib.contextmanager
def hold_run_dir(run_dir: str) -> Iterator[IO[str]]:
    """Hold the lock of *run_dir* while inside; yields the file to `announce` in.

    Raises: AlreadyRunning.
    """
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(run_dir) / _LOCK, "a+", encoding="utf-8") as lock:
        # whoever only looks holds it, too, for a moment
        if not _wait(partial(_has_locked, lock), LOOKING_S):
            there = find_running(run_dir)
            where = f" at {there.address}" if there and there.address else ""
            raise AlreadyRunning(
                f"omni already runs here{where} (process {there.pid if there else '?'}). "
                "See it with `omni status`, stop it with `omni down`, or start a second one with "
                "--set fabric.run_dir=DIR and another --port and --data-dir"
            )
        announce(lock, Running.of_this_process())
        try:
            yield lock
        finally:
            lock.truncate(0)


def _has_locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def announce(lock: IO[str], running: Running) -> None:
    """Write *running* where other commands look."""
    lock.seek(0)
    lock.truncate()
    json.dump(asdict(running), lock)
    lock.flush()


def find_running(run_dir: str) -> Running | None:
    """Return the launcher that lives in *run_dir*, or None."""
    path = Path(run_dir) / _LOCK
    try:
        with open(path, "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Running(**json.loads(lock.read()))
    except (OSError, ValueError, TypeError):
        return None
    return None


def pid_path(run_dir: str, name: str) -> Path:
    """Return the pid file of process *name*."""
    return Path(run_dir) / f"{name}.pid"


def left_over(run_dir: str) -> dict[str, int]:
    """Return name -> pid of processes named in pid files that live and are ours."""
    found = {}
    for path in sorted(Path(run_dir).glob("*.pid")):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text("utf-8"))
            if is_ours(pid):
                found[path.stem] = pid
    return found


def is_ours(pid: int) -> bool:
    """True when *pid* lives and runs a module of omni: pids are given out again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False if Path("/proc/self").exists() else _is_alive(pid)
    except OSError:
        return False
    return any(word.startswith(b"omni.") for word in command)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def stop_running(run_dir: str, timeout_s: float) -> list[str]:
    """Stop the launcher of *run_dir* and whatever it left; return the names that were stopped.

    First it is asked (SIGTERM) and given *timeout_s*; what still lives then is killed.
    """
    stopped = []
    if (running := find_running(run_dir)) is not None:
        stopped.append("launcher")
        _signal(running.pid, signal.SIGTERM)
        if not _wait(lambda: find_running(run_dir) is None, timeout_s):
            _signal(running.pid, signal.SIGKILL)
            _wait(lambda: find_running(run_dir) is None, timeout_s)
    return stopped + stop_left_over(run_dir, timeout_s)


def stop_left_over(run_dir: str, timeout_s: float) -> list[str]:
    """Stop what a killed launcher left; return the names. The caller may hold the run directory."""
    left = left_over(run_dir)
    for pid in left.values():
        _signal(pid, signal.SIGTERM)
        if not _wait(partial(_is_gone, pid), timeout_s):
            _signal(pid, signal.SIGKILL)
    for path in Path(run_dir).glob("*.pid"):
        path.unlink(missing_ok=True)
    return list(left)


def _is_gone(pid: int) -> bool:
    return not is_ours(pid)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(is_true: Callable[[], bool], timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True

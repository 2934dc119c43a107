"""Finalises recordings behind the sessions: one after the other, in a process of lower priority.

A process, because Pillow and FFmpeg work on what strangers sent, and because a thread of low
priority that holds the interpreter's lock would make every session wait for it. It is started when
there is work and ends when there is none.
"""

import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import orjson
from attrs import define, field

from omni.process import ROOT
from omni.recording.journal import is_live
from omni.recording.layout import JOURNAL
from omni.recording.recorder import RecordingCounters

log = logging.getLogger(__name__)

#: Recordings that wait; those beyond are found again on the disk when these are done.
MAX_WAITING = 256
#: The process ends after so long without work.
IDLE_S = 20.0
#: A recording that takes longer is given up; a day of pictures takes about ten minutes.
LONGEST_S = 3600.0
#: What could not be finalised, for want of room perhaps, is tried again after so long.
RETRY_S = 600.0
_STOP_S = 5.0


@define(eq=False)
class Finaliser:
    """A thread that hands folders to the process and hears what became of them."""

    counters: RecordingCounters
    idle_s: float = IDLE_S
    retry_s: float = RETRY_S
    _folder: Path = field(factory=Path, init=False)
    _waiting: deque[Path] = field(factory=deque, init=False)
    _has_more: bool = field(default=False, init=False)
    _failed: set[str] = field(factory=set, init=False)  # left alone for a while
    _failed_at: float = field(default=0.0, init=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    _is_closing: bool = field(default=False, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self, folder: Path) -> None:
        """Begin with the recordings in *folder* that an earlier process left."""
        self._folder, self._has_more = folder, True
        self._thread = threading.Thread(target=self._run, name="finaliser", daemon=True)
        self._thread.start()

    def add(self, folder: Path) -> None:
        """Have a recording finalised when its turn comes."""
        with self._changed:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(folder)
            else:
                self._has_more = True
            self._changed.notify()

    def close(self) -> None:
        """Stop now: what is not done is begun anew at the next start."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if (process := self._process) is not None:
            process.kill()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    @property
    def is_running(self) -> bool:
        """True while there is a process."""
        return self._process is not None

    def _run(self) -> None:
        while (folder := self._next()) is not None:
            error = self._finalise(folder)
            if self._is_closing:
                break
            if not error:
                self.counters.finalised += 1
            elif (folder / JOURNAL).exists():  # else it was deleted, or made already
                self.counters.unfinalised += 1
                self._failed.add(folder.name)
                self._failed_at = time.monotonic()
                log.warning("recording %s is not finalised: %s", folder.name, error)
        self._end_process()

    def _next(self) -> Path | None:
        while True:
            with self._changed:
                if not self._waiting and not self._has_more and not self._is_closing:
                    if not self._changed.wait(self.idle_s):
                        self._end_process()
                        self._forgive()
                        continue
                if self._is_closing:
                    return None
                if self._waiting:
                    return self._waiting.popleft()
                if not self._has_more:
                    continue
                self._has_more = False
            for folder in unfinalised(self._folder):
                if folder.name not in self._failed:
                    self.add(folder)

    def _forgive(self) -> None:
        if self._failed and time.monotonic() >= self._failed_at + self.retry_s:
            self._failed.clear()
            self._has_more = True

    def _finalise(self, folder: Path) -> str:
        """Return what went wrong, "" if nothing did."""
        try:
            process = self._process = self._process or _start()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(os.fsencode(folder) + b"\n")
            with selectors.DefaultSelector() as selector:  # `select` takes no file above 1023
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(LONGEST_S):
                    raise TimeoutError(f"took more than {LONGEST_S:.0f} s")
            answer = orjson.loads(process.stdout.readline() or b'"its process ended"')
        except (OSError, TimeoutError, orjson.JSONDecodeError) as exc:
            answer = str(exc)
        if answer:
            self._end_process()
        return str(answer)

    def _end_process(self) -> None:
        if (process := self._process) is not None:
            self._process = None
            process.kill()
            process.wait(_STOP_S)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()  # unbuffered: nothing is left to be written


def unfinalised(folder: Path) -> list[Path]:
    """Return the recordings in *folder* whose journal nobody holds."""
    try:
        found = sorted(path for path in folder.iterdir() if (path / JOURNAL).exists())
    except OSError:
        return []
    return [path for path in found if not is_live(path / JOURNAL)]


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "omni.recording.finalise", str(os.getpid())],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )

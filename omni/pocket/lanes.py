"""Background threads with fair queues: the jobs of one session never crowd out another's."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable

from omni.errors import QueueFull

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Lane:
    """A few threads that take jobs of the sessions in turn.

    Jobs of one session run in order, one at a time. Full (`max_jobs` waiting for one session):
    QueueFull; an answer is bounded, so that only a broken caller ever gets there.
    """

    def __init__(self, name: str, num_threads: int, max_jobs: int = 256) -> None:
        self._max_jobs = max_jobs
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._turns: deque[Hashable] = deque()  # sessions with waiting jobs and none running
        self._running: set[Hashable] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, session: Hashable, job: Job) -> None:
        """Run *job* in the background, after *session*'s earlier ones.

        Raises: QueueFull.
        """
        with self._changed:
            jobs = self._waiting.setdefault(session, deque())
            if len(jobs) >= self._max_jobs:
                raise QueueFull(f"{len(jobs)} jobs of one session wait already")
            jobs.append(job)
            if len(jobs) == 1 and session not in self._running:
                self._turns.append(session)
                self._changed.notify()

    def drop(self, session: Hashable) -> None:
        """Forget *session*'s waiting jobs; a running one goes on to its end."""
        with self._changed:
            self._waiting.pop(session, None)
            if session in self._turns:
                self._turns.remove(session)

    def close(self, timeout_s: float) -> None:
        """Drop all that waits, and give running jobs *timeout_s* each to end."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._turns.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            session, job = taken
            try:
                job()
            except Exception:
                log.exception("a background job failed where it must not")
            self._put_back(session)

    def _take(self) -> tuple[Hashable, Job] | None:
        with self._changed:
            while not self._turns and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            session = self._turns.popleft()
            job = self._waiting[session].popleft()
            self._running.add(session)
            return session, job

    def _put_back(self, session: Hashable) -> None:
        with self._changed:
            self._running.discard(session)
            if self._waiting.get(session):
                self._turns.append(session)
                self._changed.notify()
            else:
                self._waiting.pop(session, None)

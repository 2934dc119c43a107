"""Threads beside the engine: they analyse voices, read pictures and videos, and find speech."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from omni.minicpmo.work import Aside, Lane

K = TypeVar("K")

#: Reading a picture of 1080p takes 20 ms of a core; more threads would starve the engine's own.
_NUM_THREADS = {Lane.VOICE: 1, Lane.MEDIA: 2, Lane.FILM: 1, Lane.FRAME: 2, Lane.SPEECH: 2}


class Background(Generic[K]):
    """Runs `Aside` work. Each piece has a key, and comes back with it.

    A session waits for what it asked for, so there are never more pieces than sessions' strands.
    wake: called from the threads whenever something was finished.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._finished: SimpleQueue[tuple[K, Future[Any]]] = SimpleQueue()
        self._lanes = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"engine-{lane.name.lower()}")
            for lane, count in _NUM_THREADS.items()
        }

    def submit(self, work: Aside[Any], key: K) -> None:
        """Run *work*; `finished` gives it back."""

        def note(future: "Future[Any]") -> None:
            self._finished.put((key, future))
            self._wake()

        self._lanes[work.lane].submit(work.call).add_done_callback(note)

    def finished(self) -> list[tuple[K, object]]:
        """Return (key, result or exception) of all that was finished since the last call."""
        pairs: list[tuple[K, object]] = []
        while True:
            try:
                key, future = self._finished.get_nowait()
            except Empty:
                return pairs
            pairs.append((key, future.exception() or future.result()))

    def close(self) -> None:
        """Wait for what runs; drop what has not begun."""
        for executor in self._lanes.values():
            executor.shutdown(wait=True, cancel_futures=True)

"""Clients' media files, read beside the event loop in threads of their own."""

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from omni.audio import Waveform
from omni.containers import read_sound
from omni.errors import CapacityError

_Read = TypeVar("_Read")

#: Files decoded at once, and those that may wait for it.
NUM_THREADS = 2
MAX_WAITING = 16


class SoundFiles:
    """Reads sound files: `NUM_THREADS` at once, `MAX_WAITING` more wait, others are refused."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="sound-files")
        self._places = threading.Semaphore(NUM_THREADS + MAX_WAITING)

    async def read(self, data: bytes | memoryview, max_s: float) -> Waveform:
        """Return the sound of a file at 16 kHz mono in [-1, 1], shape (N,).

        Raises: ClientError, TooLarge as `read_sound`; CapacityError when too many wait already.
        """
        return await self.run(lambda: read_sound(io.BytesIO(data), max_s))

    async def run(self, read: Callable[[], _Read]) -> _Read:
        """Return what *read* does, which reads something that a client sent.

        Raises: what *read* raises; CapacityError when too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise CapacityError("Too many files are being read: try again soon")
        work = self._threads.submit(read)
        work.add_done_callback(lambda _: self._places.release())  # also when nobody waits any more
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Read no further file; what is being read ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

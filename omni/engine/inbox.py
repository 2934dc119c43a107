"""The bounded queue in front of the engine: what waits, and what goes when it is full."""

import logging
from collections import Counter, deque
from threading import Lock

from attrs import field, frozen

from omni.engine import Arrival, AudioChunk, Slot, StopAnswer

log = logging.getLogger(__name__)


@frozen
class Waiting:
    """An input that waits, with what its sender wants to get back beside the answer."""

    arrival: Arrival
    context: object = None


@frozen
class Taken:
    """What one step gets. skipped: chunks dropped of each slot, older than all of its inputs."""

    inputs: tuple[Waiting, ...] = ()
    skipped: dict[Slot, int] = field(factory=dict)


class Inbox:
    """Joins the I/O thread (`put`, `forget`) to the engine thread (`take`); anyone may `wake`.

    Full (`size` inputs): the oldest waiting chunk of the same slot goes, or, where it has none, the
    oldest of the slot that has most. What is no chunk is never dropped, for it changes what
    follows; a slot has at most three of those (an opening, a stop, a close), so that the bound is
    `size` + 3 inputs for each slot.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[Waiting] = deque()
        self._skipped: Counter[Slot] = Counter()
        self._lock = Lock()
        # Opened once for each sleep of `take`; a Condition would make a lock for each of them.
        self._alarm = Lock()
        self._alarm.acquire()
        self._sleeps = False
        self._woken = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Waiting) -> None:
        """Add *item*; drop by the rule above where there is no place."""
        with self._lock:
            if isinstance(item.arrival.input, StopAnswer) and self._has_stop(item.arrival.slot):
                return  # two stops are one
            if len(self._waiting) >= self._size and isinstance(item.arrival.input, AudioChunk):
                if not self._drop_for(item.arrival.slot):
                    self._drop(item.arrival.slot)
                    return
            self._waiting.append(item)
            self._ring()

    def skip(self, slot: Slot) -> None:
        """Count a chunk of *slot* that could not be read; it is answered like a dropped one."""
        with self._lock:
            self._skipped[slot] += 1
            self._ring()

    def forget(self, slot: Slot) -> None:
        """Drop everything of *slot*, unanswered; its session is over."""
        with self._lock:
            self._waiting = deque(item for item in self._waiting if item.arrival.slot != slot)
            self._skipped.pop(slot, None)

    def wake(self) -> None:
        """End a running or the next `take`'s waiting."""
        with self._lock:
            self._woken = True
            self._ring()

    def take(self, timeout_s: float) -> Taken:
        """Return all that waits; without anything, wait for it at most *timeout_s*."""
        if timeout_s > 0:
            self._sleep(timeout_s)
        with self._lock:
            self._woken = False
            taken = Taken(tuple(self._waiting), dict(self._skipped))
            self._waiting.clear()
            self._skipped.clear()
            return taken

    def _sleep(self, timeout_s: float) -> None:
        with self._lock:
            if self._waiting or self._skipped or self._woken:
                return
            self._sleeps = True
        if not self._alarm.acquire(timeout=timeout_s):
            with self._lock:
                if not self._sleeps:  # it rang after the time was over
                    self._alarm.acquire()
                self._sleeps = False

    def _ring(self) -> None:
        """End the running sleep; the lock must be held."""
        if self._sleeps:
            self._sleeps = False
            self._alarm.release()

    def _has_stop(self, slot: Slot) -> bool:
        return any(
            item.arrival.slot == slot and isinstance(item.arrival.input, StopAnswer)
            for item in self._waiting
        )

    def _drop_for(self, slot: Slot) -> bool:
        chunks = Counter(
            item.arrival.slot
            for item in self._waiting
            if isinstance(item.arrival.input, AudioChunk)
        )
        if not chunks:
            return False
        loser = slot if slot in chunks else chunks.most_common(1)[0][0]
        for index, item in enumerate(self._waiting):
            if item.arrival.slot == loser and isinstance(item.arrival.input, AudioChunk):
                del self._waiting[index]
                break
        self._drop(loser)
        return True

    def _drop(self, slot: Slot) -> None:
        if not self._skipped[slot]:
            log.warning("the engine is behind: dropping the oldest chunks of slot %s", slot.index)
        self._skipped[slot] += 1

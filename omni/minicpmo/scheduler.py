"""Who is in the next batch. No tensors, no clock: queues of waiting jobs, one for each phase.

A step gives each phase one batch. Its bound keeps steps short, so that who arrives in between joins
soon; a job that is larger than the bound advances by shares, step after step.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Generic, TypeVar

from attrs import define, frozen

J = TypeVar("J")


class Phase(Enum):
    """What is computed together, in the order in which a step goes through it."""

    SEE = "see"
    LISTEN = "listen"
    HEAR = "hear"
    PREFILL = "prefill"
    DECODE = "decode"
    DRAW = "draw"
    SPEAK = "speak"
    VOCODE = "vocode"


#: Sizes that one step takes. SEE: pictures and slices. LISTEN: pieces of up to 30 s of sound.
#: PREFILL: tokens. Else: rows. One 1,024-token prefill takes 26 ms on an H100, 16 pictures 40 ms.
STEP_LIMITS: Mapping[Phase, int] = {
    Phase.SEE: 16,
    Phase.LISTEN: 8,
    Phase.HEAR: 64,
    Phase.PREFILL: 1024,
    Phase.DECODE: 64,
    Phase.DRAW: 64,
    Phase.SPEAK: 64,
    Phase.VOCODE: 32,
}
#: Of a limit, this part goes to the oldest job first; the rest to the smallest ones, which are the
#: units of calls, before the long prompts of chats.
_PART_OF_OLDEST = 4


@define(eq=False)
class Waiting(Generic[J]):
    """A job in a queue. num_done: the size that earlier batches took."""

    job: J
    owner: Hashable
    size: int
    num_done: int = 0

    @property
    def num_left(self) -> int:
        """What no batch has taken."""
        return self.size - self.num_done


@frozen(eq=False)
class Share(Generic[J]):
    """A job's part of a batch: *count* of its size, from *start* on."""

    job: J
    start: int
    count: int
    is_last: bool


class Scheduler(Generic[J]):
    """The queues. A job stays in its queue until a batch takes the last of its size."""

    def __init__(self, limits: Mapping[Phase, int] = STEP_LIMITS) -> None:
        self._limits = limits
        self._queues: dict[Phase, list[Waiting[J]]] = defaultdict(list)

    @property
    def has_work(self) -> bool:
        """Whether any job waits."""
        return any(self._queues.values())

    def add(self, phase: Phase, job: J, owner: Hashable, size: int = 1) -> None:
        """Queue *job* of *owner*; *size* counts towards the phase's limit and is at least 1."""
        self._queues[phase].append(Waiting(job, owner, max(1, size)))

    def drop(self, owner: Hashable) -> None:
        """Forget all jobs of *owner*."""
        for phase, queue in self._queues.items():
            self._queues[phase] = [waiting for waiting in queue if waiting.owner != owner]

    def remove(self, phase: Phase, job: J) -> None:
        """Forget the rest of *job*: one of its shares has failed."""
        queue = self._queues[phase]
        self._queues[phase] = [waiting for waiting in queue if waiting.job is not job]

    def next_batch(self, phase: Phase) -> list[Share[J]]:
        """Take the next batch of *phase* out of its queue; an owner is in it once."""
        queue, limit = self._queues[phase], self._limits[phase]
        if not queue:
            return []
        first = _firsts(queue)
        oldest_only = max(1, limit // _PART_OF_OLDEST)
        counts: dict[Waiting[J], int] = {first[0]: min(first[0].num_left, oldest_only)}
        left = limit - counts[first[0]]
        for waiting in sorted(first, key=lambda waiting: waiting.num_left):
            more = min(waiting.num_left - counts.get(waiting, 0), left)
            if more > 0:
                counts[waiting] = counts.get(waiting, 0) + more
                left -= more
        return [self._take(phase, waiting, count) for waiting, count in counts.items()]

    def _take(self, phase: Phase, waiting: Waiting[J], count: int) -> Share[J]:
        share = Share(waiting.job, waiting.num_done, count, count == waiting.num_left)
        waiting.num_done += count
        if share.is_last:
            self._queues[phase].remove(waiting)
        return share


def _firsts(queue: list[Waiting[J]]) -> list[Waiting[J]]:
    """Return the oldest job of each owner, in the order of the queue."""
    firsts: dict[Hashable, Waiting[J]] = {}
    for waiting in queue:
        firsts.setdefault(waiting.owner, waiting)
    return list(firsts.values())

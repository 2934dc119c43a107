"""CUDA graphs of the steps of one token a row: recorded for some batch sizes, replayed for all.

A batch is filled up to the next recorded size with rows that sit out. A step's eager twin is the
function that was recorded; it runs where nothing recorded fits, and on a CPU always.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.kv_cache import PagedKVCache
from omni.minicpmo.model.attention import AttentionPlan
from omni.minicpmo.token2wav_graphs import Call, GraphedCall

log = logging.getLogger(__name__)

#: Batches are filled up to these. Between them a step's time grows by less than a fifth.
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)

#: A plan and tensors, their rows as in the plan -> tensors with one row each, (B, ...).
PlannedCall = Callable[..., tuple[Tensor, ...]]
Shapes = tuple[torch.Size, ...]


class GraphPool:
    """Memory that graphs share which never run at the same time: those of one stream."""

    def __init__(self, device: torch.device) -> None:
        self.can_record = device.type == "cuda"
        # Any: torch keeps the type of the handle private.
        self._handle: Any = torch.cuda.graph_pool_handle() if self.can_record else None

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Call:
        """Return *call* as a graph on inputs of these shapes; on a CPU itself."""
        return GraphedCall(call, inputs, self._handle) if self.can_record else call


@frozen(eq=False)
class _Recorded:
    plan: AttentionPlan
    replay: Call

    def __call__(self, plan: AttentionPlan, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.plan.copy_(plan)
        return self.replay(*inputs)


class DecodeGraphs:
    """One decode step over a paged cache, recorded by batch size and by length of the rows."""

    def __init__(self, call: PlannedCall, cache: PagedKVCache, pool: GraphPool) -> None:
        self._call = call
        self._cache = cache
        self._pool = pool
        self._sizes: tuple[int, ...] = ()
        self._page_counts: tuple[int, ...] = ()
        self._recorded: dict[tuple[int, int, Shapes], _Recorded] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def record(
        self,
        sizes: Sequence[int],
        page_counts: Sequence[int],
        inputs_of: Callable[[int], tuple[Tensor, ...]],
    ) -> None:
        """Record the step for each size and for rows of at most so many pages.

        inputs_of: size -> tensors like those of `run`. Nothing of any slot is changed.
        """
        self._sizes, self._page_counts = tuple(sorted(sizes)), tuple(sorted(page_counts))
        for size in reversed(self._sizes):  # the largest first: the others fit in its memory
            for num_pages in reversed(self._page_counts):
                plan = self._cache.decode_plan([0] * size, [False] * size, num_pages)
                inputs = inputs_of(size)
                replay = self._pool.record(self._on(plan), inputs)
                self._recorded[size, num_pages, _shapes(inputs)] = _Recorded(plan, replay)

    def filled(self, count: int) -> int:
        """Return the number of rows that inputs for *count* slots must have."""
        return next((size for size in self._sizes if size >= count), count)

    def run(
        self, slots: Sequence[int], make_inputs: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Take one token for each of *slots*; return the outputs of these rows, to keep.

        make_inputs: called when there is room for the tokens (so that who draws chances draws them
        once); gives rows filled up to `filled(len(slots))`.
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        count = len(slots)
        num_idle = self.filled(count) - count
        needed = max(self._pages_with_one_more(slot) for slot in slots)
        num_pages = next((pages for pages in self._page_counts if pages >= needed), None)
        plan = self._cache.decode_plan(
            [*slots, *[slots[0]] * num_idle], [True] * count + [False] * num_idle, num_pages
        )
        inputs = make_inputs()
        key = (count + num_idle, num_pages or 0, _shapes(inputs))
        recorded = self._recorded.get(key)
        if recorded is None:
            return tuple(output[:count] for output in self._call(plan, *inputs))
        # A replay writes where the last one did: what is kept must be a copy.
        return tuple(output[:count].clone() for output in recorded(plan, inputs))

    def _on(self, plan: AttentionPlan) -> Call:
        def call(*inputs: Tensor) -> tuple[Tensor, ...]:
            return self._call(plan, *inputs)

        return call

    def _pages_with_one_more(self, slot: int) -> int:
        table = self._cache.table
        return len(table.pages[slot]) + table.pages_needed(slot, table.lengths[slot] + 1)


class RowGraphs:
    """A call on rows without a cache, recorded by the shapes of its inputs."""

    def __init__(self, call: Call, pool: GraphPool) -> None:
        self._call = call
        self._pool = pool
        self._sizes: tuple[int, ...] = ()
        self._recorded: dict[Shapes, Call] = {}

    def record(
        self, sizes: Sequence[int], inputs_of: Callable[[int], tuple[Tensor, ...]]
    ) -> None:
        """Record the call for each number of rows."""
        self._sizes = tuple(sorted(sizes))
        for size in reversed(self._sizes):
            inputs = inputs_of(size)
            self._recorded[_shapes(inputs)] = self._pool.record(self._call, inputs)

    def filled(self, count: int) -> int:
        """Return the number of rows that inputs for *count* rows should have."""
        return next((size for size in self._sizes if size >= count), count)

    def run(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs, valid until the next call."""
        return self._recorded.get(_shapes(inputs), self._call)(*inputs)


@contextmanager
def or_eager(what: str) -> Iterator[None]:
    """Log a recording that fails: its steps then run eagerly, slower and with the same results."""
    try:
        yield
    except RuntimeError:  # all that torch raises for what cannot be captured
        log.warning("the %s step cannot be recorded and runs eagerly", what, exc_info=True)


def _shapes(inputs: Sequence[Tensor]) -> Shapes:
    return tuple(tensor.shape for tensor in inputs)

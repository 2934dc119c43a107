"""CUDA graphs of steps of fixed shape: recorded for some shapes, replayed for all that fit them.

A batch is filled up to the next recorded shape with rows that sit out. A step's eager twin is the
function that was recorded; it runs where nothing recorded fits, and on a CPU always.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.kv_cache import PagedKVCache, StepShape, plan_fields
from omni.minicpmo.kv_pages import Span, bucket_pages
from omni.minicpmo.model.attention import AttentionPlan
from omni.minicpmo.staging import Array, Field, Staging
from omni.minicpmo.token2wav_graphs import Call, GraphedCall, GraphMemory

log = logging.getLogger(__name__)

#: Batches are filled up to these. Between them a step's time grows by less than a fifth.
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)

Shapes = tuple[torch.Size, ...]


class GraphPool:
    """Records calls as graphs that never run at the same time: those of one stream."""

    def __init__(self, device: torch.device) -> None:
        self._memory = GraphMemory() if device.type == "cuda" else None

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Call:
        """Return *call* as a graph on inputs of these shapes; on a CPU itself."""
        return GraphedCall(call, inputs, self._memory) if self._memory is not None else call


@frozen(eq=False)
class Step:
    """A step of one shape. tensors: its inputs on the device, what `staging` sends among them."""

    shape: StepShape
    staging: Staging
    tensors: Mapping[str, Tensor]
    plans: tuple[AttentionPlan, ...]


StepCall = Callable[[Step], tuple[Tensor, ...]]
Fields = Callable[[StepShape], Mapping[str, Field]]
Tensors = Callable[[StepShape], Mapping[str, Tensor]]


def _no_tensors(_: StepShape) -> Mapping[str, Tensor]:
    return {}


class StepGraphs:
    """A step over a paged cache, recorded by its shape.

    call: Step -> tensors with a row for each of the step's. fields: what it needs from the host
    beside its plans. tensors: what it needs from the device, memory that `run` may write to.
    """

    def __init__(
        self,
        call: StepCall,
        cache: PagedKVCache,
        fields: Fields,
        pool: GraphPool,
        tensors: Tensors = _no_tensors,
    ) -> None:
        self._call = call
        self._cache = cache
        self._fields = fields
        self._tensors = tensors
        self._pool = pool
        self._recorded: dict[StepShape, tuple[Step, Call]] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def record(self, shapes: Iterable[StepShape]) -> None:
        """Record the step for each shape. Nothing of any slot is changed."""
        # The largest first: the others fit in its memory.
        for shape in sorted(shapes, key=_size, reverse=True):
            step = self._step(shape)
            self._cache.fill_plans(step.staging.host(), shape, [])
            step.staging.send()
            self._recorded[shape] = step, self._pool.record(self._on(step), ())

    def fitting(self, spans: Sequence[Span]) -> StepShape | None:
        """Return the smallest recorded shape that holds *spans*."""
        num_tokens = max(stop - start for _, start, stop in spans)
        num_pages = self._cache.num_pages(spans)
        fitting = [
            shape
            for shape in self._recorded
            if shape.num_rows >= len(spans)
            and shape.num_tokens * shape.num_steps >= num_tokens
            and shape.num_pages >= num_pages
        ]
        return min(fitting, key=_size, default=None)

    def fitting_or_exact(self, spans: Sequence[Span]) -> StepShape:
        """Return `fitting`, or the shape of *spans*, which must be alike, for the eager twin."""
        (num_tokens,) = {stop - start for _, start, stop in spans}
        num_pages = bucket_pages(self._cache.num_pages(spans))
        return self.fitting(spans) or StepShape(len(spans), num_tokens, num_pages=num_pages)

    def run(
        self, shape: StepShape, spans: Sequence[Span], fill: Callable[[Mapping[str, Array]], None]
    ) -> tuple[Tensor, ...]:
        """Take a step of *spans*, which are reserved; return the outputs of these rows, to keep.

        shape: recorded, or any that holds them. fill: writes the fields, all rows of them.
        """
        step, replay = self._recorded.get(shape) or (self._step(shape), None)
        host = step.staging.host()
        self._cache.fill_plans(host, shape, spans)
        fill(host)
        step.staging.send()
        if replay is None:
            return tuple(output[: len(spans)] for output in self._call(step))
        # A replay writes where the last one did: what is kept must be a copy.
        return tuple(output[: len(spans)].clone() for output in replay())

    def tensor(self, shape: StepShape, name: str) -> Tensor:
        """Return an input of a recorded step that stays on the device, to be written to."""
        return self._recorded[shape][0].tensors[name]

    def _step(self, shape: StepShape) -> Step:
        staging = Staging({**plan_fields(shape), **self._fields(shape)}, self._cache.pool.device)
        tensors = {**staging.tensors, **self._tensors(shape)}
        return Step(shape, staging, tensors, self._cache.plans(tensors, shape))

    def _on(self, step: Step) -> Call:
        def call() -> tuple[Tensor, ...]:
            return self._call(step)

        return call


def _size(shape: StepShape) -> tuple[int, int, int]:
    return shape.num_rows * shape.num_tokens, shape.num_pages, shape.num_steps


def table_pages(cache: PagedKVCache, num_tokens: int) -> int:
    """Return the pages of rows of at most *num_tokens*."""
    return -(-min(num_tokens, cache.table.max_tokens) // cache.table.page_size)


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

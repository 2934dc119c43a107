"""CUDA graphs of token2wav's calls: captured once per shape, replayed with new inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Call = Callable[..., tuple[Tensor, ...]]
WARM_UP_RUNS = 1  # cuDNN, cuBLAS and cuFFT choose and allocate on the first run


class GraphMemory:
    """What graphs share that never run at the same time: their memory and cuBLAS's workspace.

    Torch keeps a workspace for each stream that is recorded on. Graphs recorded on one stream and
    replayed on two at once would add into each other's sums, or wait for each other for ever (seen
    on an H100 in float32), so those of each replaying stream are recorded on a stream of their own.
    """

    def __init__(self) -> None:
        # Any: torch keeps the type of the handle private.
        self.handle: Any = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()


class GraphedCall:
    """One call recorded on fixed inputs. Its eager twin is the function that it was made of."""

    def __init__(self, call: Call, inputs: tuple[Tensor, ...], memory: GraphMemory) -> None:
        """Record *call*. It must not wait for the device, and may only write where inputs point.

        *inputs* are copied and kept as the graph's own.
        """
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        memory.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(memory.stream):
            for _ in range(WARM_UP_RUNS):
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(memory.stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory.handle, stream=memory.stream):
            self._outputs = call(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for *inputs*, valid until the next call.

        Raises: ValueError if a shape differs from the recorded one; call the eager twin instead.
        """
        for own, given in zip(self._inputs, inputs, strict=True):
            if own.shape != given.shape or own.dtype != given.dtype:
                raise ValueError(
                    f"recorded for {tuple(own.shape)} {own.dtype}, called with "
                    f"{tuple(given.shape)} {given.dtype}: record this shape, or call eagerly"
                )
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs


class Graphs:
    """Recorded calls by key; a call whose key was never recorded runs eagerly."""

    def __init__(self) -> None:
        self._calls: dict[tuple[object, ...], GraphedCall] = {}
        self._memory: GraphMemory | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def record(self, key: tuple[object, ...], call: Call, inputs: tuple[Tensor, ...]) -> None:
        """Record *call* under *key*, once."""
        if key not in self._calls:
            self._memory = self._memory or GraphMemory()
            self._calls[key] = GraphedCall(call, inputs, self._memory)

    def run(
        self, key: tuple[object, ...], call: Call, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return call(*inputs), by its recording if there is one; the outputs are the caller's.

        They are copied: the recordings share memory, so the next replay of any of them may write
        where these outputs lie (seen: the second vocoder call of a step read the frame counts of
        the flow after the first had overwritten them).
        """
        recorded = self._calls.get(key)
        if recorded is None:
            return call(*inputs)
        return tuple(output.clone() for output in recorded(*inputs))

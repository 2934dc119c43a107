"""Seeing: pictures and slices of many sessions -> 64 language-model embeddings each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from omni.minicpmo.graphs import GraphPool, RowGraphs
from omni.minicpmo.images import PATCH, Patches, PatchGrid
from omni.minicpmo.model.vision import Vision
from omni.minicpmo.sampling import to_device
from omni.minicpmo.token2wav_graphs import Call

#: What cameras send becomes these: square, 4:3 and 16:9, both ways up.
_GRIDS: Sequence[PatchGrid] = ((32, 32), (28, 37), (37, 28), (24, 43), (43, 24))
#: Pictures of one size; more take longer to compute (3 ms each on an H100) than to launch (10 ms).
_BATCH_SIZES = (1, 2, 4)


class Seeing:
    """The tower and the resampler, recorded for the usual pictures."""

    def __init__(self, vision: Vision, pool: GraphPool) -> None:
        self._vision = vision
        self._pool = pool
        self._device = vision.resampler.proj.device
        self._recorded: dict[PatchGrid, RowGraphs] = {}
        self._kept: list[tuple[Tensor, ...]] = []  # what the graphs read and nobody else may free

    def record(self) -> None:
        """Record the usual sizes of pictures."""
        for grid in _GRIDS:
            self._kept.append(self._vision.tables(grid))
            self._recorded[grid] = RowGraphs(self._call(grid), self._pool)
            self._recorded[grid].record(_BATCH_SIZES, lambda size: (self._black(size, grid),))

    def see(self, patches: Sequence[Patches], grids: Sequence[PatchGrid]) -> Tensor:
        """Return (N, 64, C) of N pictures and slices."""
        on_host = [torch.from_numpy(each) for each in patches]
        embeds: Tensor = self._vision(on_host, grids, self._encode)
        return embeds

    def _encode(self, pixels: Tensor, grid: PatchGrid) -> Tensor:
        """Return embeddings, valid until the next call, of pixels (B, L, values)."""
        graphs, count = self._recorded.get(grid), len(pixels)
        if graphs is None:
            return self._vision.encode(to_device(pixels, self._device), grid)
        missing = graphs.filled(count) - count
        filled = torch.cat((pixels, pixels[:1].expand(missing, -1, -1))) if missing else pixels
        return graphs.run((to_device(filled, self._device),))[0][:count]

    def _call(self, grid: PatchGrid) -> Call:
        def call(*pixels: Tensor) -> tuple[Tensor, ...]:
            return (self._vision.encode(pixels[0], grid),)

        return call

    def _black(self, count: int, grid: PatchGrid) -> Tensor:
        shape = (count, grid[0] * grid[1], 3 * PATCH**2)
        return torch.zeros(shape, dtype=torch.uint8, device=self._device)

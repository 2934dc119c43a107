"""The eyes: SigLIP2 NaViT tower and the resampler that turns one image into 64 embeddings.

Images of one size form a batch without padding: the frames of a camera and the slices of a picture
are all of one size, and a batch of 8 costs what 8 images cost (baseline: 19.8 ms against 8 x 3.4
ms).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from omni.minicpmo.model.config import ResamplerConfig, VisionConfig
from omni.minicpmo.model.layers import Embedding, LayerNorm, Linear

PatchGrid = tuple[int, int]  # (rows, columns) of patches of one image
Encode = Callable[[Tensor, PatchGrid], Tensor]

_MAX_BATCH = 16  # images of one size in one pass; config.json: vision_batch_size
_MAX_CACHED_TABLES = 256  # position tables kept, one per image size


def position_buckets(num_patches: int, grid_size: int) -> Tensor:
    """Return (num_patches,) int64 rows of the learned grid along one axis.

    The published table comes from float32 steps 1 / n counted in vectors of eight, and differs from
    floor(grid_size * i / n) for 47 values of n below 300. `torch.arange` gives other values on
    other processors (measured: n = 49 and 58 with vectors of sixteen), so the rounding is spelled
    out.
    """
    fractions = _vector_arange(0.0, float(np.float32(1) / np.float32(num_patches)), num_patches)
    boundaries = _vector_arange(1 / grid_size, 1 / grid_size, grid_size - 1)
    return torch.from_numpy(np.searchsorted(boundaries, fractions, side="right"))


def _vector_arange(start: float, step: float, count: int) -> NDArray[np.float32]:
    """Return start + i * step as eight-lane float32 arithmetic rounds it."""
    index = np.arange(count)
    values = (start + index * step).astype(np.float32)
    bases = (start + index // 8 * 8 * step).astype(np.float32).astype(np.float64)
    whole = count // 8 * 8
    values[:whole] = (bases + index % 8 * step).astype(np.float32)[:whole]
    return values


class VisionLayer(nn.Module):
    """One bidirectional pre-norm block; q, k and v are fused."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self._num_heads = config.num_heads
        self.layer_norm1 = LayerNorm(size, eps=config.layer_norm_eps)
        self.qkv_proj = Linear(size, 3 * size)
        self.out_proj = Linear(size, size)
        self.layer_norm2 = LayerNorm(size, eps=config.layer_norm_eps)
        self.fc1 = Linear(size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, size)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `vpm.encoder.layers.N.` and the memory that each fills."""
        weights, biases = self.qkv_proj.weight.chunk(3), self.qkv_proj.bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            yield f"self_attn.{name}_proj.weight", weight
            yield f"self_attn.{name}_proj.bias", bias
        yield from _named(self.out_proj, "self_attn.out_proj")
        yield from _named(self.layer_norm1, "layer_norm1")
        yield from _named(self.layer_norm2, "layer_norm2")
        yield from _named(self.fc1, "mlp.fc1")
        yield from _named(self.fc2, "mlp.fc2")

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, C). Returns the same shape."""
        qkv = self.qkv_proj(self.layer_norm1(x)).unflatten(-1, (3, self._num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out_proj(mixed)
        wide = F.gelu(self.fc1(self.layer_norm2(x)), approximate="tanh")
        out: Tensor = x + self.fc2(wide)
        return out


class VisionTower(nn.Module):
    """Patches of images of one size -> features after the final norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch_values = config.num_channels * config.patch_size**2
        self.patch_embedding = Linear(patch_values, config.hidden_size)
        self.position_embedding = Embedding(config.grid_size**2, config.hidden_size)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._position_ids: dict[PatchGrid, Tensor] = {}

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `vpm.` and the memory that each fills."""
        size = self.config.patch_size
        kernel = self.patch_embedding.weight.unflatten(1, (self.config.num_channels, size, size))
        yield "embeddings.patch_embedding.weight", kernel
        yield "embeddings.patch_embedding.bias", self.patch_embedding.bias
        yield "embeddings.position_embedding.weight", self.position_embedding.weight
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, VisionLayer)
            for name, tensor in layer.checkpoint_tensors():
                yield f"encoder.layers.{index}.{name}", tensor
        yield from _named(self.post_layernorm, "post_layernorm")

    def embed(self, patches: Tensor, grid: PatchGrid) -> Tensor:
        """Return (B, L, C) for patches (B, L, channels * size * size), values in [-1, 1]."""
        positions = self.position_embedding(self.position_ids(grid, patches.device))
        out: Tensor = self.patch_embedding(patches) + positions
        return out

    def forward(self, patches: Tensor, grid: PatchGrid) -> Tensor:
        """patches: (B, rows * columns, channels * size * size) of images of one size, row-major."""
        x = self.embed(patches, grid)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.post_layernorm(x)
        return out

    def position_ids(self, grid: PatchGrid, device: torch.device) -> Tensor:
        """Return the rows of the position table of each patch, (rows * columns,)."""
        ids = self._position_ids.get(grid)
        if ids is None or ids.device != device:
            rows, columns = (position_buckets(n, self.config.grid_size) for n in grid)
            ids = (rows[:, None] * self.config.grid_size + columns).flatten().to(device)
            _remember(self._position_ids, grid, ids)
        return ids


class Resampler(nn.Module):
    """Cross attention from the learned queries to one image's patches -> (B, queries, C)."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.query = nn.Parameter(torch.empty(config.num_queries, size))
        self.kv_proj = Linear(config.vision_hidden_size, size, bias=False)
        self.in_proj = Linear(size, 3 * size)
        self.out_proj = Linear(size, size)
        self.ln_q, self.ln_kv, self.ln_post = (LayerNorm(size, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.empty(size, size))
        self._position_tables: dict[PatchGrid, Tensor] = {}

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `resampler.` and the memory that each fills."""
        yield "query", self.query
        yield "proj", self.proj
        yield "kv_proj.weight", self.kv_proj.weight
        yield "attn.in_proj_weight", self.in_proj.weight
        yield "attn.in_proj_bias", self.in_proj.bias
        yield from _named(self.out_proj, "attn.out_proj")
        for name in ("ln_q", "ln_kv", "ln_post"):
            yield from _named(getattr(self, name), name)

    def forward(self, features: Tensor, grid: PatchGrid) -> Tensor:
        """features: (B, rows * columns, vision hidden) of images of one size, row-major."""
        kv = self.ln_kv(self.kv_proj(features))
        weights = self.in_proj.weight.chunk(3)
        biases = self.in_proj.bias.chunk(3)
        query = F.linear(self.ln_q(self.query), weights[0], biases[0]).expand(len(kv), -1, -1)
        key = F.linear(kv + self.positions(grid, kv), weights[1], biases[1])
        value = F.linear(kv, weights[2], biases[2])
        heads = (self.config.num_heads, -1)
        query, key, value = (t.unflatten(-1, heads).transpose(1, 2) for t in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.ln_post(self.out_proj(mixed)) @ self.proj
        return out

    def positions(self, grid: PatchGrid, like: Tensor) -> Tensor:
        """Return `position_table` on the device and in the dtype of *like*."""
        table = self._position_tables.get(grid)
        if table is None or table.device != like.device or table.dtype != like.dtype:
            table = position_table(grid, self.config.hidden_size, like.device).to(like)
            _remember(self._position_tables, grid, table)
        return table


def position_table(grid: PatchGrid, size: int, device: torch.device | None = None) -> Tensor:
    """Return (rows * columns, size) float32: sin, cos of the column, then sin, cos of the row."""
    rows, columns = grid
    exponents = torch.arange(size // 4, dtype=torch.float32, device=device) / (size / 4)
    omega = 1.0 / 10000**exponents
    by_column = torch.arange(columns, dtype=torch.float32, device=device)[:, None] * omega
    by_row = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * omega
    column_part = torch.cat((by_column.sin(), by_column.cos()), dim=-1).expand(rows, -1, -1)
    row_part = torch.cat((by_row.sin(), by_row.cos()), dim=-1)[:, None].expand(-1, columns, -1)
    return torch.cat((column_part, row_part), dim=-1).flatten(0, 1)


class Vision(nn.Module):
    """Tower and resampler together: images of any sizes -> 64 language-model embeddings each."""

    def __init__(self, tower: VisionConfig, resampler: ResamplerConfig) -> None:
        super().__init__()
        self.tower = VisionTower(tower)
        self.resampler = Resampler(resampler)

    def forward(
        self,
        patches: Sequence[Tensor],
        grids: Sequence[PatchGrid],
        encode: Encode | None = None,
    ) -> Tensor:
        """Encode images, those of one size together.

        patches: one (rows * columns, channels * size * size) uint8 tensor an image, on any device.
        encode: computes a batch of one size in place of `encode`. Returns (images, queries, C) in
        the order given.
        """
        by_grid: dict[PatchGrid, list[int]] = {}
        for index, grid in enumerate(grids):
            by_grid.setdefault(grid, []).append(index)
        weight = self.resampler.proj
        shape = (len(patches), self.resampler.config.num_queries, weight.shape[0])
        out = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        for grid, indices in by_grid.items():
            for first in range(0, len(indices), _MAX_BATCH):
                batch = indices[first : first + _MAX_BATCH]
                stacked = torch.stack([patches[index] for index in batch])
                encoded = (encode or self.encode)(stacked, grid)
                for index, embeds in zip(batch, encoded, strict=True):
                    out[index] = embeds
        return out

    def tables(self, grid: PatchGrid) -> tuple[Tensor, ...]:
        """Return what is kept for pictures of one size; who records a graph on it must keep it."""
        weight = self.resampler.proj
        return self.tower.position_ids(grid, weight.device), self.resampler.positions(grid, weight)

    def encode(self, pixels: Tensor, grid: PatchGrid) -> Tensor:
        """Return (B, queries, C) of pixels (B, rows * columns, values), uint8, of one size."""
        weight = self.resampler.proj
        values = normalize(pixels.to(weight.device, non_blocking=True), weight.dtype)
        out: Tensor = self.resampler(self.tower(values, grid), grid)
        return out


def normalize(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 *pixels* as (value / 255 - 0.5) / 0.5. Source: preprocessor_config.json."""
    return ((pixels.float() / 255 - 0.5) / 0.5).to(dtype)


def _named(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}.{name}", parameter


def _remember(tables: dict[PatchGrid, Tensor], grid: PatchGrid, table: Tensor) -> None:
    if len(tables) >= _MAX_CACHED_TABLES:
        del tables[next(iter(tables))]
    tables[grid] = table

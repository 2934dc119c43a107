"""Random weights whose activations stay of order one, by the name and shape of each tensor.

The tiny checkpoint draws them on the CPU, bench/engine_weights.py at the published size on a GPU.
"""

import math
from collections.abc import Callable
from typing import Protocol
from zlib import crc32

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.tensor_table import Shape, ShapeTable

_SQRT_3 = math.sqrt(3.0)


@frozen
class Spread:
    """A uniform distribution around *center* with the standard deviation *std*."""

    center: float
    std: float


class Draw(Protocol):
    """Makes one tensor."""

    def __call__(self, name: str, shape: Shape, spread: Spread) -> Tensor: ...


SpreadOf = Callable[[str, Shape], Spread]


def draw_all(table: ShapeTable, spread_of: SpreadOf, draw: Draw) -> dict[str, Tensor]:
    """Return a random tensor for each row of *table*."""
    return {name: draw(name, shape, spread_of(name, shape)) for name, shape in table.items()}


class CpuDraw:
    """Float32 on the CPU, the same bits everywhere: integers scaled, one stream for each name."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, name: str, shape: Shape, spread: Spread) -> Tensor:
        stream = np.random.Generator(np.random.PCG64([self._seed, crc32(name.encode())]))
        unit = stream.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1)
        bound = np.float32(spread.std * _SQRT_3)
        return torch.from_numpy(unit * bound + np.float32(spread.center))


class DeviceDraw:
    """Straight on a device in *dtype*; one seed gives the same weights on one kind of device."""

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self._seed = seed
        self._device = device
        self._dtype = dtype

    def __call__(self, name: str, shape: Shape, spread: Spread) -> Tensor:
        generator = torch.Generator(self._device)
        # 32 bits: the generator of a CPU ignores those above.
        generator.manual_seed(crc32(f"{self._seed} {name}".encode()))
        bound = spread.std * _SQRT_3
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return tensor.uniform_(spread.center - bound, spread.center + bound, generator=generator)


#: Writes into a residual stream; damped by its depth.
_WRITERS = (
    "o_proj.weight",
    "out_proj.weight",
    "down_proj.weight",
    "fc2.weight",
    "w_2.weight",
    "linear_out.weight",
    "attn.proj.weight",
    "conv.block.6.weight",
)
#: Queries and keys that no norm follows: sharper, so that attention has something to say.
_SHARP = ("linear_q.weight", "linear_k.weight", "to_q.weight", "to_k.weight", "linear_pos.weight")
#: Looked up or added, not multiplied: their deviation does not depend on their size.
_TABLE_STDS = {
    "embed_tokens": 0.7,
    "emb_text": 0.7,
    "emb_code": 0.7,
    "embed_positions": 0.4,
    "position_embedding": 0.4,
    "query": 1.0,
    "input_embedding": 0.5,
    "pos_bias_u": 0.3,
    "pos_bias_v": 0.3,
}


def model_spread(num_layers: int) -> SpreadOf:
    """Return the rule for all but the vocoder; *num_layers*: of the deepest residual stack."""

    def spread_of(name: str, shape: Shape) -> Spread:
        if name.endswith(".original0"):
            return Spread(2.0, 0.2)  # rows of the speech head: logits with a deviation of 2
        if (std := _TABLE_STDS.get(name.removesuffix(".weight").rpartition(".")[2])) is not None:
            return Spread(0.0, std)
        if len(shape) == 1:
            # Of the vectors only the scales of norms are called weight.
            return Spread(1.0, 0.2) if name.endswith("weight") else Spread(0.0, 0.1)
        return Spread(0.0, _gain(name, num_layers) / math.sqrt(math.prod(shape[1:])))

    return spread_of


def _gain(name: str, num_layers: int) -> float:
    if name.endswith(_WRITERS):
        return 1.5 / math.sqrt(num_layers)
    if name.endswith(_SHARP):
        return 1.5
    if name.endswith("lm_head.weight"):
        return 2.0
    return 1.0


def vocoder_spread(name: str, shape: Shape) -> Spread:
    """HiFT. A weight-normed filter has the norm `original0`, whatever the size of `original1`."""
    if name.endswith(".original0"):
        center = _filter_norm(name)
        return Spread(center, 0.1 * center)
    if name.endswith(".alpha"):
        return Spread(1.0, 0.3)
    if name.endswith("classifier.weight"):
        # Pitch of 90 Hz give or take 70, unvoiced at times; features have an rms near 0.7.
        return Spread(0.0, 100.0 / math.sqrt(shape[1]))
    if name.endswith("classifier.bias"):
        return Spread(90.0, 0.0)
    if name.endswith("l_linear.weight"):
        return Spread(0.0, 1.2)
    if name.endswith("bias"):
        return Spread(0.0, 0.05)
    return Spread(0.0, 1.0 / math.sqrt(math.prod(shape[1:])))


#: By the part of the name. Together they keep the sound within about -20 dB of full scale.
_FILTER_NORMS = {"conv_pre": 1.0, "ups": 1.3, "resblocks": 0.6, "conv_post": 0.35, "condnet": 1.4}


def _filter_norm(name: str) -> float:
    return next(norm for part, norm in _FILTER_NORMS.items() if part in name)

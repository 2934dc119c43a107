"""The velocity estimator of the flow: adaLN-zero blocks of attention, convolution and MLP."""

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from omni.minicpmo.model.flow_cache import FrameView
from omni.minicpmo.model.flow_encoder import (
    JoinedLinear,
    join_after_loading,
)

GUIDED = 2  # rows per session: conditional, unconditional
CONV_CACHE = 2  # frames: kernel 3 less one
TIME_FREQUENCIES = 128  # Source: the estimator's time embedding, 256 inputs
TIME_SCALE, TIME_PERIOD = 1000.0, 10000.0
ATTENTION, MLP, CONV = 0, 3, 6  # first of (shift, scale, gate) in adaLN_modulation's nine chunks


@frozen
class DiTConfig:
    """Sizes of the estimator. Source: flow.yaml, section `decoder.estimator`."""

    hidden: int
    depth: int
    heads: int
    head_dim: int
    mlp_hidden: int
    mel_bins: int

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


@frozen
class Modulation:
    """adaLN values of one time: blocks (depth, 9, C) in the order of the checkpoint, final (2, C).

    Scales are stored as 1 + scale, the weight that F.layer_norm takes.
    """

    blocks: Tensor
    final: Tensor


class DiT(nn.Module):
    """Velocity of the noisy mel. The guided pair of a session are two rows, R = 2B."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = TimeEmbedding(config.hidden)
        self.in_proj = nn.Linear(4 * config.mel_bins, config.hidden)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def modulation(self, time: float) -> Modulation:
        """Return the adaLN values of *time* in [0, 1]: the same for all rows, so keep them."""
        weight = self.in_proj.weight
        embedding = self.t_embedder(torch.tensor([time], device=weight.device))[0]
        condition = F.silu(embedding)
        blocks = torch.stack([_chunks(block, condition, 9) for block in self.blocks])
        final = _chunks(self.final_layer, condition, 2)
        blocks[:, [ATTENTION + 1, MLP + 1, CONV + 1]] += 1
        final[1] += 1
        return Modulation(blocks=blocks, final=final)

    def condition(self, mu: Tensor, speaker: Tensor, cond: Tensor | None) -> Tensor:
        """Return the part of in_proj that no Euler step changes, (B, 2, T, C).

        mu: (B, T, M). speaker: (B, M). cond: (B, T, M) or None for zeros. The unconditional row
        sees none of them.
        """
        weight = self.in_proj.weight
        _, of_mu, of_speaker, of_cond = weight.chunk(4, 1)
        given = F.linear(mu, of_mu, self.in_proj.bias) + F.linear(speaker, of_speaker)[:, None]
        if cond is not None:
            given = given + F.linear(cond, of_cond)
        return torch.stack((given, self.in_proj.bias.expand_as(given)), 1)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        modulation: Modulation,
        conv_caches: Tensor,
        pools: Tensor,
        view: FrameView,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocities (B, 2, T, M) and the new convolution caches.

        x: (B, T, M). condition: (B, 2, T, C) from `condition`. conv_caches: (depth, B, 2, 2C, 2).
        pools (depth, F, 2 * heads * D) and view: of the R rows. Mutates the pools.
        """
        of_x = self.in_proj.weight.chunk(4, 1)[0]
        x = condition + F.linear(x, of_x)[:, None]
        hidden, caches, bias = x.flatten(0, 1), [], view.bias(x.dtype)
        for index, block in enumerate(self.blocks):
            hidden, cache = block(
                hidden,
                modulation.blocks[index],
                conv_caches[index].flatten(0, 1),
                pools[index],
                view,
                bias,
            )
            caches.append(cache.unflatten(0, (-1, GUIDED)))
        out = self.final_layer(hidden, modulation.final)
        return out.unflatten(0, (-1, GUIDED)), torch.stack(caches)


class TimeEmbedding(nn.Module):
    """cos|sin of 1000 t at 128 frequencies, then Linear, SiLU, Linear."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, time: Tensor) -> Tensor:
        """time: (N,) float32 in [0, 1]. Returns (N, C)."""
        index = torch.arange(TIME_FREQUENCIES, device=time.device)
        frequency = torch.exp(-math.log(TIME_PERIOD) * index / TIME_FREQUENCIES)
        angle = time[:, None] * TIME_SCALE * frequency
        features = torch.cat((angle.cos(), angle.sin()), 1)
        dtype = next(self.parameters()).dtype
        out: Tensor = self.mlp(features.to(dtype))
        return out


class DiTBlock(nn.Module):
    """Attention, convolution and MLP, each normalised, modulated and gated."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.attn = Attention(config)
        self.conv = ConvBlock(config.hidden)
        self.mlp = Mlp(config.hidden, config.mlp_hidden)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden, 9 * config.hidden)
        )

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        conv_cache: Tensor,
        pool: Tensor,
        view: FrameView,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x: (R, T, C). modulation: (9, C). conv_cache: (R, 2C, 2). pool: (F, 2 * heads * D)."""
        attended = self.attn(
            modulated(x, modulation[ATTENTION], modulation[ATTENTION + 1]), pool, view, bias
        )
        x = torch.addcmul(x, modulation[ATTENTION + 2], attended)
        convolved, conv_cache = self.conv(
            modulated(x, modulation[CONV], modulation[CONV + 1]), conv_cache, view.counts
        )
        x = torch.addcmul(x, modulation[CONV + 2], convolved)
        mixed = self.mlp(modulated(x, modulation[MLP], modulation[MLP + 1]))
        return torch.addcmul(x, modulation[MLP + 2], mixed), conv_cache


class Attention(nn.Module):
    """Full attention over cache and chunk with normalised queries and keys and no positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.split = (3, config.heads, config.head_dim)
        self.to_q = nn.Linear(config.hidden, config.inner)
        self.to_k = nn.Linear(config.hidden, config.inner)
        self.to_v = nn.Linear(config.hidden, config.inner)
        self.q_norm = nn.LayerNorm(config.head_dim, eps=1e-5)
        self.k_norm = nn.LayerNorm(config.head_dim, eps=1e-5)
        self.proj = nn.Linear(config.inner, config.hidden)
        self.joined = JoinedLinear(self.to_q, self.to_k, self.to_v)
        join_after_loading(self, self.joined)

    def forward(self, x: Tensor, pool: Tensor, view: FrameView, bias: Tensor) -> Tensor:
        """x: (R, T, C). pool: (F, 2 * heads * D) of keys, values. bias: (R, 1, 1, K + T)."""
        query, key, value = self.joined(x).unflatten(2, self.split).unbind(2)
        new = torch.stack((self.k_norm(key), value), 2).flatten(2)
        keys, values = view.exchange(pool, new).unflatten(2, (2, *self.split[1:])).unbind(2)
        out = F.scaled_dot_product_attention(
            self.q_norm(query).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=bias,
        )
        merged: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return merged


class ConvBlock(nn.Module):
    """Causal convolution, LayerNorm, Mish, causal convolution, at the checkpoint's indices."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {
                "1": nn.Conv1d(hidden, hidden, CONV_CACHE + 1),
                "3": nn.LayerNorm(hidden, eps=1e-5),
                "6": nn.Conv1d(hidden, hidden, CONV_CACHE + 1),
            }
        )
        self.first, self.second = (FrameProduct(self.block[index]) for index in ("1", "6"))
        for product in (self.first, self.second):
            join_after_loading(self, product)

    def forward(self, x: Tensor, cache: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """x: (R, T, C). cache: (R, 2C, 2). counts: (R,). Returns (R, T, C) and the new cache."""
        first, second = cache.transpose(1, 2).chunk(2, 2)
        x = torch.cat((first, x), 1)
        first = _last_rows(x, counts)
        x = torch.cat((second, F.mish(self.block["3"](self.first(x)))), 1)
        second = _last_rows(x, counts)
        return self.second(x), torch.cat((first, second), 2).transpose(1, 2)


class FrameProduct(nn.Module):
    """A convolution over time as one product of neighbouring frames. Holds a copy of its weight.

    cuDNN turns frames and weights over, and the result back, for every convolution: 17 us of 23 on
    an H100, 160 times for a second of sound.
    """

    weight: Tensor

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv1d)
        self._convs = (conv,)  # a tuple, so that it stays the parent's in its state dict
        self._width = conv.kernel_size[0]
        self.register_buffer("weight", torch.empty(0), persistent=False)
        self.join()

    def join(self) -> None:
        """Take over the weight as it is now."""
        self.weight = self._convs[0].weight.detach().transpose(1, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (R, T + width - 1, C). Returns (R, T, C)."""
        count = x.shape[1] - self._width + 1
        frames = torch.cat([x[:, at : at + count] for at in range(self._width)], dim=2)
        return F.linear(frames, self.weight, self._convs[0].bias)


def _last_rows(seen: Tensor, counts: Tensor) -> Tensor:
    """Return (R, CONV_CACHE, C), the last of `seen` (R, CONV_CACHE + T, C), counts (R,) real."""
    index = counts[:, None] + torch.arange(CONV_CACHE, device=seen.device)
    return seen.gather(1, index[..., None].expand(-1, -1, seen.shape[2]))


class Mlp(nn.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class FinalLayer(nn.Module):
    """Modulated LayerNorm and the projection to mel bins."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden, config.mel_bins)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden, 2 * config.hidden)
        )

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.linear(modulated(x, modulation[0], modulation[1]))
        return out


def modulated(x: Tensor, shift: Tensor, one_plus_scale: Tensor) -> Tensor:
    """LayerNorm without learned weights, eps 1e-6, then x (1 + scale) + shift, in one kernel."""
    return F.layer_norm(x, x.shape[-1:], one_plus_scale, shift, eps=1e-6)


def _chunks(layer: nn.Module, condition: Tensor, count: int) -> Tensor:
    assert isinstance(layer, DiTBlock | FinalLayer)
    out: Tensor = layer.adaLN_modulation[1](condition).unflatten(0, (count, -1))
    return out

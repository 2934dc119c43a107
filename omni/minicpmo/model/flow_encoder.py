"""The flow encoder: speech tokens -> mu, 2 mel frames a token, by a streaming conformer."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from omni.minicpmo.model.flow_cache import FrameView

LOOKAHEAD = (
    3  # tokens that a chunk sees beyond those it consumes. Source: flow.yaml pre_lookahead_len
)
UPSAMPLE = 2  # mel frames per token. Source: flow.yaml up_stride
LOOKAHEAD_CACHE = 2  # frames: kernel 3 of the second look-ahead convolution, less one
UPSAMPLE_CACHE = 2 * UPSAMPLE  # frames: kernel 5 of the up-sampling convolution, less one


@frozen
class EncoderConfig:
    """Sizes of the encoder. Source: flow.yaml, section `encoder`."""

    hidden: int
    heads: int
    ffn: int
    token_layers: int
    mel_layers: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


@frozen
class RateCaches:
    """What one step needs of the conformer layers at one rate.

    pools: one (F, 2C) of keys|values per layer. positions: (layers, R, heads, head_dim), the
    projected encodings of the distances from `lowest` up.
    """

    pools: Tensor
    view: FrameView
    positions: Tensor
    lowest: int


class FlowEncoder(nn.Module):
    """Look-ahead convolution, conformer at token rate, up-sampling, conformer at mel rate."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputLayer(config.hidden)
        self.pre_lookahead_layer = Lookahead(config.hidden)
        self.encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.token_layers))
        self.up_layer = Upsample(config.hidden)
        self.up_embed = InputLayer(config.hidden)
        self.up_encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.mel_layers))
        self.after_norm = nn.LayerNorm(config.hidden, eps=1e-5)

    def forward(
        self,
        embedded: Tensor,
        num_real: Tensor,
        conv_cache: Tensor,
        of_token: RateCaches,
        of_mel: RateCaches,
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, 2T, C) and the new convolution cache.

        embedded: (B, T + 3, C) token embeddings, of which num_real (B,) count; what follows them is
        replaced by zeros, which is also the look-ahead of a last chunk. conv_cache: (B, C, 2 + 4).
        The counts of the views say how many outputs are real. Mutates the pools.
        """
        x = self.embed(embedded)
        position = torch.arange(x.shape[1], device=x.device)
        x = torch.where((position < num_real[:, None])[..., None], x, 0.0)
        lookahead_cache, upsample_cache = conv_cache.split((LOOKAHEAD_CACHE, UPSAMPLE_CACHE), 2)
        x, lookahead_cache = self.pre_lookahead_layer(x, lookahead_cache, of_token.view.counts)
        x = _run_layers(self.encoders, x, of_token)
        x, upsample_cache = self.up_layer(x, upsample_cache, of_mel.view.counts)
        x = _run_layers(self.up_encoders, self.up_embed(x), of_mel)
        return self.after_norm(x), torch.cat((lookahead_cache, upsample_cache), 2)

    def position_tables(self, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
        """Return the projected encodings of the distances lowest..highest at token and mel rate.

        Each (layers, highest - lowest + 1, heads, head_dim).
        """
        weight = self.after_norm.weight
        table = sinusoids(torch.arange(lowest, highest + 1), self.config.hidden).to(weight)
        return _project(self.encoders, table), _project(self.up_encoders, table)


class InputLayer(nn.Module):
    """Linear and LayerNorm, times sqrt(C)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=1e-5))
        self.scale = math.sqrt(hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x) * self.scale
        return out


class Lookahead(nn.Module):
    """Convolution over [t, t + 3], then a causal one, and the residual."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(hidden, hidden, LOOKAHEAD + 1)
        self.conv2 = nn.Conv1d(hidden, hidden, LOOKAHEAD_CACHE + 1)

    def forward(self, x: Tensor, cache: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T, C) and the cache (B, C, 2) after counts (B,) frames of x (B, T + 3, C)."""
        seen = torch.cat((cache, F.leaky_relu(self.conv1(x.transpose(1, 2)))), 2)
        out = self.conv2(seen).transpose(1, 2) + x[:, :-LOOKAHEAD]
        return out, last_frames(seen, counts, LOOKAHEAD_CACHE)


class Upsample(nn.Module):
    """Each frame twice, then a causal convolution."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(hidden, hidden, UPSAMPLE_CACHE + 1)

    def forward(self, x: Tensor, cache: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 2T, C) and the cache (B, C, 4) after counts (B,) mel frames of x (B, T, C)."""
        seen = torch.cat((cache, x.transpose(1, 2).repeat_interleave(UPSAMPLE, 2)), 2)
        return self.conv(seen).transpose(1, 2), last_frames(seen, counts, UPSAMPLE_CACHE)


class ConformerLayer(nn.Module):
    """Pre-norm relative-position attention and a SiLU feed-forward.

    Source: ESPnet conformer, without macaron and convolution.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(config.hidden, eps=1e-12)
        self.self_attn = RelativeAttention(config)
        self.norm_ff = nn.LayerNorm(config.hidden, eps=1e-12)
        self.feed_forward = FeedForward(config.hidden, config.ffn)

    def forward(self, x: Tensor, pool: Tensor, table: Tensor, sight: "Sight") -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), pool, table, sight)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class FeedForward(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(hidden, ffn)
        self.w_2 = nn.Linear(ffn, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class RelativeAttention(nn.Module):
    """Transformer-XL attention over cache and chunk, in both directions.

    Scores are ((q + u) k + (q + v) W r_(i-j)) / sqrt(D).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.linear_q = nn.Linear(config.hidden, config.hidden)
        self.linear_k = nn.Linear(config.hidden, config.hidden)
        self.linear_v = nn.Linear(config.hidden, config.hidden)
        self.linear_out = nn.Linear(config.hidden, config.hidden)
        self.linear_pos = nn.Linear(config.hidden, config.hidden, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(config.heads, config.head_dim))
        self.pos_bias_v = nn.Parameter(torch.zeros(config.heads, config.head_dim))
        self.joined = JoinedLinear(self.linear_q, self.linear_k, self.linear_v)
        join_after_loading(self, self.joined)

    def forward(self, x: Tensor, pool: Tensor, table: Tensor, sight: "Sight") -> Tensor:
        """x: (B, T, C). pool: (F, 2C) of keys|values. table: (R, H, D). Returns (B, T, C)."""
        hidden, split = x.shape[2], (self.heads, self.head_dim)
        query, new = self.joined(x).split((hidden, 2 * hidden), 2)
        query = query.unflatten(2, split)
        keys, values = sight.view.exchange(pool, new).unflatten(2, (2, *split)).unbind(2)
        out = F.scaled_dot_product_attention(
            (query + self.pos_bias_u).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=self._position_scores(query + self.pos_bias_v, table, sight),
        )
        merged: Tensor = self.linear_out(out.transpose(1, 2).flatten(2))
        return merged

    def _position_scores(self, query: Tensor, table: Tensor, sight: "Sight") -> Tensor:
        """Return the position term of the scaled scores, (B, H, T, K + T), -inf where unseen."""
        by_distance = query.transpose(1, 2) @ table.permute(1, 2, 0)  # (B, H, T, R)
        scores = by_distance.gather(3, sight.index.expand(-1, self.heads, -1, -1))
        return torch.add(sight.bias, scores, alpha=1 / math.sqrt(self.head_dim))


@frozen
class Sight:
    """What the layers of one rate share: the view, rows of the position table, score biases.

    index (B, 1, T, K + T) int64; bias (B, 1, 1, K + T).
    """

    view: FrameView
    index: Tensor
    bias: Tensor

    @classmethod
    def of(cls, caches: RateCaches, dtype: torch.dtype) -> "Sight":
        index = (caches.view.distance() - caches.lowest).clamp(0, caches.positions.shape[1] - 1)
        return cls(caches.view, index[:, None], caches.view.bias(dtype))


class JoinedLinear(nn.Module):
    """Several linear layers of one input as one. Holds a copy of their weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self._layers = layers  # a tuple, so that they stay the parent's in its state dict
        self.register_buffer("weight", torch.empty(0), persistent=False)
        self.register_buffer("bias", torch.empty(0), persistent=False)
        self.join()

    def join(self) -> None:
        """Take over the weights as they are now."""
        self.weight = torch.cat([layer.weight.detach() for layer in self._layers])
        self.bias = torch.cat([layer.bias.detach() for layer in self._layers])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Joined(Protocol):
    """Holds a copy of weights."""

    def join(self) -> None:
        """Take over the weights as they are now."""


def join_after_loading(parent: nn.Module, joined: Joined) -> None:
    """Let *joined* take over its weights whenever *parent* is loaded."""
    parent.register_load_state_dict_post_hook(lambda _module, _keys: joined.join())


def last_frames(seen: Tensor, counts: Tensor, width: int) -> Tensor:
    """Return the last *width* frames of each row: (B, C, width).

    seen: (B, C, width + T), a cache of *width* and then counts (B,) real frames.
    """
    index = counts[:, None] + torch.arange(width, device=seen.device)
    return seen.gather(2, index[:, None].expand(-1, seen.shape[1], -1))


def sinusoids(distance: Tensor, hidden: int) -> Tensor:
    """Return (R, hidden): sine on even, cosine on odd channels of each signed *distance* (R,)."""
    rate = torch.exp(torch.arange(0, hidden, 2) * -(math.log(10000.0) / hidden))
    angle = distance[:, None].float() * rate
    return torch.stack((angle.sin(), angle.cos()), 2).flatten(1)


def _run_layers(layers: nn.ModuleList, x: Tensor, caches: RateCaches) -> Tensor:
    sight = Sight.of(caches, x.dtype)
    for layer, pool, table in zip(layers, caches.pools, caches.positions, strict=True):
        x = layer(x, pool, table, sight)
    return x


def _project(layers: nn.ModuleList, table: Tensor) -> Tensor:
    projected = []
    for layer in layers:
        assert isinstance(layer, ConformerLayer)
        attention = layer.self_attn
        heads = attention.linear_pos(table).unflatten(1, (attention.heads, attention.head_dim))
        projected.append(heads)
    return torch.stack(projected)

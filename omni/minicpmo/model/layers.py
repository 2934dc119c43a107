"""Layers shared by the language model and the speech-token model, and how modules are made."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.minicpmo.model.attention import (
    HAS_KERNEL,
    AttentionPlan,
    additive_masks,
    attend,
    write_kv,
)
from omni.minicpmo.model.config import DecoderConfig

if HAS_KERNEL:
    from omni.minicpmo.model import few_rows, fused_kernels


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | str) -> Tensor:
    """Return (head_dim / 2,) float32 angular steps per position.

    Never a module's parameter or buffer: casting a model to bf16 would round them, an angle error
    of 0.58 rad at position 500 already.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / theta**exponents


def rotary_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (N, 1, D) float32, of positions (N,) with D / 2 frequencies."""
    angles = positions.to(torch.float32)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (N, heads, D) in float32 and return it in its own dtype (halves layout)."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def rotate_keys(keys: Tensor, shift: int, frequencies: Tensor) -> Tensor:
    """Move keys (N, heads, D) that stand in the cache by *shift* positions, with one rotation."""
    angles = shift * frequencies
    angles = torch.cat((angles, angles))
    return rotate(keys, angles.cos(), angles.sin())


class Linear(nn.Linear):
    """A linear layer that is filled from a checkpoint: drawing first weights would take seconds."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    """An embedding that is filled from a checkpoint."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class LayerNorm(nn.LayerNorm):
    """A layer norm that is filled from a checkpoint."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Conv1d(nn.Conv1d):
    """A convolution that is filled from a checkpoint."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension; the variance is taken in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Projector(nn.Module):
    """linear2(ReLU(linear1(x))): the audio projector and the speech model's semantic projector."""

    def __init__(self, in_size: int, hidden_size: int, out_size: int) -> None:
        super().__init__()
        self.linear1 = Linear(in_size, hidden_size)
        self.linear2 = Linear(hidden_size, out_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(F.relu(self.linear1(x)))
        return out


class DecoderLayer(nn.Module):
    """One pre-norm block: grouped-query attention, SwiGLU; q, k, v and gate, up are fused."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self._config = config
        self._query_size = config.num_heads * config.head_dim
        self._kv_size = config.num_kv_heads * config.head_dim
        size, wide = config.hidden_size, config.intermediate_size
        self.qkv_proj = Linear(size, self._query_size + 2 * self._kv_size, bias=False)
        self.o_proj = Linear(self._query_size, size, bias=False)
        self.gate_up_proj = Linear(size, 2 * wide, bias=False)
        self.down_proj = Linear(wide, size, bias=False)
        self.input_layernorm = RMSNorm(size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(size, config.rms_norm_eps)
        if config.has_qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the published name of each weight and the slice of our memory that it fills."""
        sizes = [self._query_size, self._kv_size, self._kv_size]
        for name, part in zip("qkv", self.qkv_proj.weight.split(sizes), strict=True):
            yield f"self_attn.{name}_proj.weight", part
        yield "self_attn.o_proj.weight", self.o_proj.weight
        if self._config.has_qk_norm:
            yield "self_attn.q_norm.weight", self.q_norm.weight
            yield "self_attn.k_norm.weight", self.k_norm.weight
        gate, up = self.gate_up_proj.weight.chunk(2)
        yield "mlp.gate_proj.weight", gate
        yield "mlp.up_proj.weight", up
        yield "mlp.down_proj.weight", self.down_proj.weight
        yield "input_layernorm.weight", self.input_layernorm.weight
        yield "post_attention_layernorm.weight", self.post_attention_layernorm.weight

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        pool: Tensor,
        plan: AttentionPlan,
        masks: tuple[Tensor | None, ...],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream (N, C) and what is still to be added to it (`add_norm`)."""
        if plan.uses_kernel and len(x) == 1 and few_rows.fits(x, self.qkv_proj.weight):
            return self._one_row(x, rotary, pool, plan, masks), None
        x, normed = add_norm(x, delta, self.input_layernorm, plan.uses_kernel)
        qkv = product(normed, self.qkv_proj, plan.uses_kernel)
        query, key, value = self._store_qkv(qkv, rotary, pool, plan)
        attended = attend(query, key, value, pool, plan, masks)
        mixed = product(attended, self.o_proj, plan.uses_kernel)
        x, normed = add_norm(x, mixed, self.post_attention_layernorm, plan.uses_kernel)
        gated = gated_product(normed, self.gate_up_proj, plan.uses_kernel)
        return x, product(gated, self.down_proj, plan.uses_kernel)

    def _one_row(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        pool: Tensor,
        plan: AttentionPlan,
        masks: tuple[Tensor | None, ...],
    ) -> Tensor:
        """Return the residual stream behind this block; norms and sums are part of the products."""
        before, behind = self.input_layernorm, self.post_attention_layernorm
        norm = (before.weight, before.eps)
        qkv = few_rows.product_of_one(x, self.qkv_proj.weight, norm=norm)
        query, key, value = self._store_qkv(qkv, rotary, pool, plan)
        mixed = attend(query, key, value, pool, plan, masks)
        x = few_rows.product_of_one(mixed, self.o_proj.weight, add=x)
        norm = (behind.weight, behind.eps)
        gated = few_rows.product_of_one(x, self.gate_up_proj.weight, norm=norm, gates=True)
        out: Tensor = few_rows.product_of_one(gated, self.down_proj.weight, add=x)
        return out

    def _store_qkv(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor], pool: Tensor, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and rotate query and key, write key and value to the cache; returns all three."""
        config = self._config
        if plan.uses_kernel:
            norms = (self.q_norm.weight, self.k_norm.weight) if config.has_qk_norm else None
            fused_kernels.store_qkv(
                qkv, norms, config.rms_norm_eps, rotary, pool, plan.write_index, config.num_heads
            )
            return self._split(qkv)
        query, key, value = self._split(qkv)
        if config.has_qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        write_kv(pool, key, value, plan)
        return query, key, value

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = qkv.split([self._query_size, self._kv_size, self._kv_size], dim=-1)
        query, key, value = (t.unflatten(-1, (-1, self._config.head_dim)) for t in parts)
        return query, key, value


def add_norm(
    x: Tensor, delta: Tensor | None, norm: RMSNorm, uses_kernel: bool
) -> tuple[Tensor, Tensor]:
    """Return x + delta and its norm: the two steps between blocks are one kernel."""
    if delta is None:
        return x, norm(x)
    if uses_kernel:
        total, normed = fused_kernels.add_norm(x, delta, norm.weight, norm.eps)
        return total, normed
    x = x + delta
    return x, norm(x)


def gated_product(x: Tensor, layer: nn.Linear, uses_kernel: bool) -> Tensor:
    """Return SiLU(gate) * up, (N, W), of *layer* of x, which gives both side by side, (N, 2 W)."""
    if uses_kernel and few_rows.fits(x, layer.weight):
        out: Tensor = few_rows.product(x, layer.weight, gates=True)
        return out
    gate_up: Tensor = layer(x)
    if uses_kernel:
        out = fused_kernels.gate(gate_up)
        return out
    left, right = gate_up.chunk(2, dim=-1)
    return F.silu(left) * right


def product(
    x: Tensor, layer: nn.Linear, uses_kernel: bool, dtype: torch.dtype | None = None
) -> Tensor:
    """Return *layer* (without a bias) of x (R, C), in *dtype* or that of x."""
    if uses_kernel and few_rows.fits(x, layer.weight):
        out: Tensor = few_rows.product(x, layer.weight, dtype=dtype)
    else:
        out = layer(x)
    return out if dtype is None else out.to(dtype)


class Decoder(nn.Module):
    """The causal stack with its final norm; embeddings in, post-norm hidden states out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._frequencies: Tensor | None = None

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `model.` and the memory that each fills."""
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            for name, tensor in layer.checkpoint_tensors():
                yield f"layers.{index}.{name}", tensor
        yield "norm.weight", self.norm.weight

    def frequencies(self, device: torch.device) -> Tensor:
        """Return the rotary frequencies on *device*, float32, made once."""
        if self._frequencies is None or self._frequencies.device != device:
            head_dim, theta = self.config.head_dim, self.config.rope_theta
            self._frequencies = rotary_frequencies(head_dim, theta, device)
        return self._frequencies

    def forward(self, embeds: Tensor, plan: AttentionPlan, pool: Tensor) -> Tensor:
        """Run the N packed tokens of one step and append them to the cache.

        embeds: (N, C). pool: (layers, 2, pages, page_size, KV heads, D), mutated at
        plan.write_index. Returns (N, C) hidden states after the final norm. Nothing here reads a
        value on the host.
        """
        rotary = rotary_tables(plan.positions, self.frequencies(embeds.device))
        ratio = self.config.num_heads // self.config.num_kv_heads
        masks = additive_masks(plan, pool.shape[3], ratio, embeds.dtype)
        x, delta = embeds.contiguous(), None
        for layer, layer_pool in zip(self.layers, pool, strict=True):
            x, delta = layer(x, delta, rotary, layer_pool, plan, masks)
        return add_norm(x, delta, self.norm, plan.uses_kernel)[1]


def materialize(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module built on the meta device memory on *device*, still to be filled.

    As `to_empty` does, which for tensors without data imports sympy: half a second of each start.
    """

    def memory(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=kind, device=device)

    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            setattr(owner, name, nn.Parameter(memory(parameter), requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, memory(buffer))
    module.eval()

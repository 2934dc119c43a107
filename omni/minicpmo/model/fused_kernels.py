"""The small steps between matrix products, one Triton kernel each, for decoding at small batches.

A decode step of the published model is some 35 tiny operations a layer in plain torch, 1.5-2 us
each even in a CUDA graph; these leave ten.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator,no-any-return"
# Triton's language looks like Python and is not typed.

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

_GATE_BLOCK = 1024


@triton.jit
def _add_norm(
    x_ptr, delta_ptr, weight_ptr, sum_ptr, normed_ptr, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < SIZE
    x = tl.load(x_ptr + row * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    delta = tl.load(delta_ptr + row * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    total = (x + delta).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + row * SIZE + column, total, mask=inside)
    wide = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / SIZE + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    normed = (wide * scale * weight).to(normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row * SIZE + column, normed, mask=inside)


@triton.jit
def _gate(gate_up_ptr, out_ptr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    gate = tl.load(gate_up_ptr + row * 2 * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * SIZE + SIZE + column, mask=inside, other=0.0)
    gated = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
    tl.store(out_ptr + row * SIZE + column, gated.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _store_qkv(
    qkv_ptr,
    query_weight_ptr,
    key_weight_ptr,
    cos_ptr,
    sin_ptr,
    pool_ptr,
    write_ptr,
    value_offset,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, HALF)
    at = qkv_ptr + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * 2 * HALF + dims
    first, second = tl.load(at), tl.load(at + HALF)
    place = tl.load(write_ptr + token) * NUM_KV_HEADS
    if head < NUM_HEADS + NUM_KV_HEADS:
        a, b = first.to(tl.float32), second.to(tl.float32)
        if HAS_NORM:
            squares = tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)
            scale = 1.0 / tl.sqrt(squares / (2 * HALF) + eps)
            weight_ptr = query_weight_ptr if head < NUM_HEADS else key_weight_ptr
            a = a * scale * tl.load(weight_ptr + dims).to(tl.float32)
            b = b * scale * tl.load(weight_ptr + HALF + dims).to(tl.float32)
        cos = tl.load(cos_ptr + token * 2 * HALF + dims)
        sin = tl.load(sin_ptr + token * 2 * HALF + dims)
        turned = (a * cos - b * sin).to(first.dtype)
        turned_too = (b * cos + a * sin).to(first.dtype)
        tl.store(at, turned)
        tl.store(at + HALF, turned_too)
        if head >= NUM_HEADS:
            slot = pool_ptr + (place + head - NUM_HEADS) * 2 * HALF + dims
            tl.store(slot, turned)
            tl.store(slot + HALF, turned_too)
    else:
        value_head = head - NUM_HEADS - NUM_KV_HEADS
        slot = pool_ptr + value_offset + (place + value_head) * 2 * HALF + dims
        tl.store(slot, first)
        tl.store(slot + HALF, second)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + delta and its RMS norm; x, delta: (N, C) contiguous."""
    total, normed = torch.empty_like(x), torch.empty_like(x)
    size = x.shape[1]
    block = triton.next_power_of_2(size)
    _add_norm[(x.shape[0],)](
        x, delta, weight, total, normed, eps, SIZE=size, BLOCK=block, num_warps=8
    )
    return total, normed


def gate(gate_up: Tensor) -> Tensor:
    """Return SiLU(gate) * up, (N, W), of gate and up side by side (N, 2 W), contiguous."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, size), dtype=gate_up.dtype, device=gate_up.device)
    grid = (rows, triton.cdiv(size, _GATE_BLOCK))
    _gate[grid](gate_up, out, SIZE=size, BLOCK=_GATE_BLOCK)
    return out


def store_qkv(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotary: tuple[Tensor, Tensor],
    pool: Tensor,
    write_index: Tensor,
    num_heads: int,
) -> None:
    """Norm and rotate queries and keys of *qkv* in place; write keys and values to the cache.

    qkv: (N, (heads + 2 KV heads) * D) contiguous. norms: weights (D,) of query and key, or None.
    rotary: cos, sin (N, 1, D) float32. pool: (2, pages, page_size, KV heads, D) of the same dtype.
    """
    num_kv_heads, head_dim = pool.shape[3:]
    query_weight, key_weight = norms if norms is not None else (qkv, qkv)
    _store_qkv[(qkv.shape[0], num_heads + 2 * num_kv_heads)](
        qkv,
        query_weight,
        key_weight,
        rotary[0],
        rotary[1],
        pool,
        write_index,
        pool[0].numel(),
        eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        HAS_NORM=norms is not None,
        num_warps=1,
    )

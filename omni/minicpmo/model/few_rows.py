"""Matrix products of few rows: one pass over the weights, at the speed of the memory.

A decode step of few rows reads every weight once and computes next to nothing beside it. What
stands around a product (the gate; for one row also the norm before and the sum behind) is done in
the same pass, so that a layer is seven launches at one row where it was ten. Measured on an H100,
us, one row, cuBLAS without that / here with it / reading alone at 3.0 TB/s: q, k, v 21.2 / 19.5 /
16.8; out 16.8 / 14.2 / 11.2; gate and up 74.5 / 69.5 / 67.1; down 40.9 / 37.5 / 33.6; head 468 /
400 / 414. At 8 rows: 21.3 / 20.1, 16.7 / 14.6, 74.8 / 71.7, 41.5 / 39.7, 509 / 415.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator,no-any-return"
# Triton's language looks like Python and is not typed.

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

MAX_ROWS = 16  # what one tile of the matrix units holds; cuBLAS catches up behind it

# Outputs and inputs of a tile, stages of its pipeline, warps. Tuned on an H100.
_Tile = tuple[int, int, int, int]
_ONE_ROW: _Tile = (8, 1024, 3, 4)
_ONE_ROW_GATED: _Tile = (4, 1024, 4, 4)
_ONE_SHORT_ROW: _Tile = (16, 256, 4, 4)  # of fewer than _SHORT inputs: the speech-token model
_SHORT = 2048
_FEW_ROWS: _Tile = (64, 128, 6, 4)
_FEW_ROWS_GATED: _Tile = (64, 128, 4, 4)
_FEW_LONG_ROWS: _Tile = (32, 128, 8, 4)  # of more inputs than outputs


@triton.jit
def _one_row(
    x_ptr,
    norm_ptr,
    weight_ptr,
    add_ptr,
    out_ptr,
    num_outputs,
    size,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_ADD: tl.constexpr,
    GATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < num_outputs
    k = tl.arange(0, BLOCK_K)
    at = weight_ptr + n[:, None].to(tl.int64) * size + k[None, :]
    up_at = at + num_outputs.to(tl.int64) * size
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up_total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    squares = tl.zeros((BLOCK_K,), tl.float32)
    for start in tl.range(0, size, BLOCK_K, num_stages=STAGES):
        here = start + k < size
        weight = tl.load(at + start, mask=inside[:, None] & here[None, :], other=0.0)
        x = tl.load(x_ptr + start + k, mask=here, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += x * x
            x *= tl.load(norm_ptr + start + k, mask=here, other=0.0).to(tl.float32)
        total += weight.to(tl.float32) * x[None, :]
        if GATES:
            up = tl.load(up_at + start, mask=inside[:, None] & here[None, :], other=0.0)
            up_total += up.to(tl.float32) * x[None, :]
    out = tl.sum(total, axis=1)
    scale = 1.0
    if HAS_NORM:
        scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / size + eps)
        out *= scale
    if GATES:
        out = out / (1.0 + tl.exp(-out)) * (tl.sum(up_total, axis=1) * scale)
    if HAS_ADD:
        out += tl.load(add_ptr + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _few_rows(
    x_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    size,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (n < num_outputs)[:, None]
    k = tl.arange(0, BLOCK_K)
    row = tl.arange(0, ROWS)
    has_row = (row < num_rows)[None, :]
    at = weight_ptr + n[:, None].to(tl.int64) * size + k[None, :]
    up_at = at + num_outputs.to(tl.int64) * size
    x_at = x_ptr + row[None, :] * size + k[:, None]
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up_total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for start in tl.range(0, size, BLOCK_K, num_stages=STAGES):
        here = start + k < size
        weight = tl.load(at + start, mask=inside & here[None, :], other=0.0)
        x = tl.load(x_at + start, mask=has_row & here[:, None], other=0.0)
        total = tl.dot(weight, x, total)
        if GATES:
            up = tl.load(up_at + start, mask=inside & here[None, :], other=0.0)
            up_total = tl.dot(up, x, up_total)
    if GATES:
        total = total / (1.0 + tl.exp(-total)) * up_total
    place = row[None, :] * num_outputs + n[:, None]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=inside & has_row)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Say whether `product` is for these."""
    return len(x) <= MAX_ROWS and weight.dtype in (torch.bfloat16, torch.float16)


def product(
    x: Tensor, weight: Tensor, *, gates: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Return x @ weight.T, (R, N), in *dtype* or that of x (R, K); weight (N, K) contiguous.

    gates: weight is (2 N, K), gate over up; the result is SiLU(gate) * up.
    """
    if len(x) == 1:
        return product_of_one(x, weight, gates=gates, dtype=dtype)
    num_rows, size = x.shape
    num_outputs = weight.shape[0] // (2 if gates else 1)
    out = torch.empty((num_rows, num_outputs), dtype=dtype or x.dtype, device=x.device)
    tile = _FEW_LONG_ROWS if size > num_outputs else _FEW_ROWS_GATED if gates else _FEW_ROWS
    block_n, block_k, stages, warps = tile
    _few_rows[(triton.cdiv(num_outputs, block_n),)](
        x.contiguous(),
        weight,
        out,
        num_rows,
        num_outputs,
        size,
        GATES=gates,
        ROWS=MAX_ROWS,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        STAGES=stages,
        num_warps=warps,
    )
    return out


def product_of_one(
    x: Tensor,
    weight: Tensor,
    *,
    norm: tuple[Tensor, float] | None = None,
    add: Tensor | None = None,
    gates: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return `product` of one row. norm: weight (K,) and eps of an RMS norm of x before it.

    add: (1, N), to be added.
    """
    size = x.shape[1]
    num_outputs = weight.shape[0] // (2 if gates else 1)
    out = torch.empty((1, num_outputs), dtype=dtype or x.dtype, device=x.device)
    tile = _ONE_SHORT_ROW if size < _SHORT else _ONE_ROW_GATED if gates else _ONE_ROW
    block_n, block_k, stages, warps = tile
    _one_row[(triton.cdiv(num_outputs, block_n),)](
        x.contiguous(),
        norm[0] if norm else x,
        weight,
        x if add is None else add,
        out,
        num_outputs,
        size,
        norm[1] if norm else 0.0,
        HAS_NORM=norm is not None,
        HAS_ADD=add is not None,
        GATES=gates,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        STAGES=stages,
        num_warps=warps,
    )
    return out

"""Attention over pages as one Triton kernel pair: keys and values are read once, where they lie.

The plain path gathers each row's pages into a contiguous copy first, which moves three times the
bytes of the cache. Here each program walks the pages of one row and KV head for a block of
queries, in splits of the row's length where there are too few rows to fill the device, and a
second kernel joins the splits. Softmax is kept running in float32.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator,no-any-return"
# Triton's language looks like Python and is not typed.

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

# Programs that keep a Hopper card busy: two for each of its 132 multiprocessors.
_WANTED_PROGRAMS = 264
_MAX_SPLITS = 32
_MIN_QUERY_BLOCK, _MAX_QUERY_BLOCK = 16, 64


# Numbers of tokens and pages are no constants: each would be compiled for anew, for a second.
@triton.jit(do_not_specialize=["num_pages", "num_queries", "num_tokens"])
def _attend_pages(
    query_ptr,
    pool_ptr,
    pages_ptr,
    first_ptr,
    last_ptr,
    out_ptr,
    sums_ptr,
    query_stride,
    value_offset,
    num_pages,
    scale,
    num_queries,
    num_tokens,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) // NUM_KV_HEADS
    head = tl.program_id(0) % NUM_KV_HEADS
    block, split = tl.program_id(1), tl.program_id(2)
    num_splits = tl.num_programs(2)
    index = block * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_queries
    token = row * num_tokens + index % num_tokens
    first = tl.load(first_ptr + token, mask=inside, other=0)
    last = tl.load(last_ptr + token, mask=inside, other=0)
    dims = tl.arange(0, HEAD_DIM)
    place = ((row * NUM_KV_HEADS + head).to(tl.int64) * num_queries + index)[:, None]
    in_row = (head * num_queries + index)[:, None] * HEAD_DIM + dims
    query_at = row.to(tl.int64) * query_stride + in_row
    query = tl.load(query_ptr + query_at, mask=inside[:, None], other=0.0)
    highest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, HEAD_DIM), tl.float32)
    offsets = tl.arange(0, PAGE_SIZE)
    # The pages that these queries see, in equal parts: the grid is made for the longest rows.
    begin = tl.min(tl.where(inside, first, 1 << 40), axis=0) // PAGE_SIZE
    newest = tl.max(last, axis=0)
    end = tl.minimum(newest // PAGE_SIZE + 1, num_pages)
    share = tl.cdiv(end - begin, num_splits)
    start = begin + split * share
    for page in range(start, tl.minimum(start + share, end)):
        number = tl.load(pages_ptr + row * num_pages + page)
        lies = ((number * PAGE_SIZE + offsets) * NUM_KV_HEADS + head)[:, None] * HEAD_DIM + dims
        keys = tl.load(pool_ptr + lies)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        at = page * PAGE_SIZE + offsets
        visible = (at >= first[:, None]) & (at <= last[:, None])
        scores = tl.where(visible, scores, -1e30)
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.where(visible, tl.exp(scores - new_highest[:, None]), 0.0)
        shrink = tl.exp(highest - new_highest)
        total = total * shrink + tl.sum(weights, axis=1)
        # Behind the row's last token lies what others left in its page, and 0 * NaN is NaN.
        is_own = (at <= newest)[:, None]
        values = tl.load(pool_ptr + value_offset + lies, mask=is_own, other=0.0)
        part = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        mixed = mixed * shrink[:, None] + part
        highest = new_highest
    part_at = (place * num_splits + split) * HEAD_DIM + dims
    tl.store(out_ptr + part_at, mixed, mask=inside[:, None])
    flat = ((row * NUM_KV_HEADS + head).to(tl.int64) * num_queries + index) * num_splits + split
    tl.store(sums_ptr + flat * 2, highest, mask=inside)
    tl.store(sums_ptr + flat * 2 + 1, total, mask=inside)


@triton.jit(do_not_specialize=["num_splits"])
def _join_splits(
    parts_ptr, sums_ptr, out_ptr, num_splits, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr
):
    query = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    dims = tl.arange(0, HEAD_DIM)
    inside = split < num_splits
    flat = query * num_splits + split
    highest = tl.load(sums_ptr + flat * 2, mask=inside, other=-1e30)
    total = tl.load(sums_ptr + flat * 2 + 1, mask=inside, other=0.0)
    weight = tl.exp(highest - tl.max(highest, axis=0))
    parts = tl.load(parts_ptr + flat[:, None] * HEAD_DIM + dims, mask=inside[:, None], other=0.0)
    mixed = tl.sum(parts * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
    tl.store(out_ptr + query * HEAD_DIM + dims, mixed.to(out_ptr.dtype.element_ty))


def fits(pool: Tensor) -> bool:
    """Say whether the kernel can walk this pool (pages and heads of sizes that tiles can have)."""
    page_size, head_dim = pool.shape[-3], pool.shape[-1]
    return pool.is_cuda and all(n >= 16 and n & (n - 1) == 0 for n in (page_size, head_dim))


def attend_pages(
    query: Tensor, pool: Tensor, pages: Tensor, first_visible: Tensor, last_visible: Tensor
) -> Tensor:
    """Return (R, KV heads, G * T, D) for queries of that shape: G heads of a KV head folded.

    query: copied unless it is contiguous but for its rows. pool: (2, pages, page_size, KV heads, D)
    of the same dtype, contiguous. pages: (R, P) int64.
    first_visible, last_visible: (R, T) int64, for each token the cache indices that it sees.
    The grid depends on shapes alone, so the call can be captured.
    """
    rows, num_kv_heads, num_queries, head_dim = query.shape
    num_pages = pages.shape[1]
    block = _MIN_QUERY_BLOCK if num_queries <= _MIN_QUERY_BLOCK else _MAX_QUERY_BLOCK
    blocks = triton.cdiv(num_queries, block)
    splits = _num_splits(rows * num_kv_heads * blocks, num_pages)
    parts = torch.empty(
        (rows, num_kv_heads, num_queries, splits, head_dim), dtype=torch.float32, device=pool.device
    )
    sums = torch.empty(
        (rows, num_kv_heads, num_queries, splits, 2), dtype=torch.float32, device=pool.device
    )
    out = torch.empty(query.shape, dtype=query.dtype, device=pool.device)
    if num_queries > 1 and query.stride(2) != head_dim:
        query = query.contiguous()  # one head a KV head: nothing was folded, so nothing was copied
    assert query.stride(1) == num_queries * head_dim and query.stride(3) == 1, query.stride()
    _attend_pages[(rows * num_kv_heads, blocks, splits)](
        query,
        pool,
        pages,
        first_visible,
        last_visible,
        parts,
        sums,
        query.stride(0),
        pool[0].numel(),
        num_pages,
        head_dim**-0.5,
        num_queries,
        first_visible.shape[1],
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        PAGE_SIZE=pool.shape[2],
        BLOCK=block,
        num_warps=4,
    )
    _join_splits[(rows * num_kv_heads * num_queries,)](
        parts,
        sums,
        out,
        splits,
        HEAD_DIM=head_dim,
        SPLITS=_MAX_SPLITS,  # not the number itself: each would be compiled for anew
    )
    return out


def _num_splits(num_programs: int, num_pages: int) -> int:
    wanted = triton.cdiv(_WANTED_PROGRAMS, num_programs)
    return max(1, min(wanted, num_pages, _MAX_SPLITS))

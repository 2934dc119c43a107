"""Attention of packed tokens over a paged KV cache.

Tokens of all rows lie packed in one dimension N, so every matrix product is free of padding. Only
the
attention itself sees rows: those of like length form one padded group, and the query heads that
share a KV head are folded into the query length, so that keys are read once (measured on an H100
at 32 rows: 15.1 ms against 25.9 ms for a prefill step). Every shape depends on the plan alone,
never on values, so that a step with a plan of fixed shape can be captured in a CUDA graph.
"""

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

try:
    # Triton comes with torch for CUDA and is not there otherwise.
    from omni.minicpmo.model import paged_kernel
except ModuleNotFoundError as exc:
    if exc.name != "triton":
        raise
    HAS_KERNEL = False
else:
    HAS_KERNEL = True


@frozen(eq=False)
class AttentionGroup:
    """Rows of one step that attend together. R rows, T queries each, P pages, all int64.

    token_index: (R, T) place of each query among the packed tokens; padding may be any token.
    pages: (R, P) pages of the row in order (0: the waste page), or None: the rows began empty,
    their keys are the packed tokens themselves and each query sees itself and what came before it.
    first_visible, last_visible: (R, T) the cache indices that a query sees, both included.
    """

    token_index: Tensor
    pages: Tensor | None
    first_visible: Tensor
    last_visible: Tensor


@frozen(kw_only=True, eq=False)
class AttentionPlan:
    """Where the N packed tokens of one step stand, are written, and what each may see.

    positions: (N,) rotary or learned position. write_index: (N,) page * page_size + offset.
    output_index: (N,) place of each token in the groups' outputs laid end to end, or None when they
    are in order already. last_token: (rows,) the packed place of each row's last token.
    uses_kernel: walk the pages with the
    Triton kernel; else gather them with plain torch operations, which any device can.
    """

    positions: Tensor
    write_index: Tensor
    output_index: Tensor | None
    last_token: Tensor
    groups: tuple[AttentionGroup, ...]
    uses_kernel: bool


def additive_masks(
    plan: AttentionPlan, page_size: int, queries_per_kv: int, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """Return each group's mask, the same for all layers: (R, 1, T * queries_per_kv, S) or None.

    None where the attention needs none. Every query sees at least cache index first_visible, so no
    row is wholly masked.
    """
    return tuple(
        None if plan.uses_kernel else _group_mask(group, page_size, queries_per_kv, dtype)
        for group in plan.groups
    )


def _group_mask(
    group: AttentionGroup, page_size: int, queries_per_kv: int, dtype: torch.dtype
) -> Tensor | None:
    if group.pages is None:
        return None
    keys = torch.arange(group.pages.shape[1] * page_size, device=group.pages.device)
    first, last = group.first_visible[..., None], group.last_visible[..., None]
    hidden = (keys < first) | (keys > last)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    mask = mask.masked_fill_(hidden, float("-inf"))[:, None]
    if mask.shape[2] == 1:
        return mask
    return mask.repeat(1, 1, queries_per_kv, 1)


def write_kv(pool: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> None:
    """Write key, value (N, KV heads, D) into a layer's pool (2, pages, page_size, KV heads, D)."""
    flat = pool.flatten(1, 2)
    flat.index_copy_(1, plan.write_index, torch.stack((key, value)).to(pool.dtype))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pool: Tensor,
    plan: AttentionPlan,
    masks: tuple[Tensor | None, ...],
) -> Tensor:
    """Attend; the new keys and values must be in *pool* already (`write_kv`, or the fused kernel).

    query: (N, heads, D). key, value: (N, KV heads, D). pool: (2, pages, page_size, KV heads, D).
    Returns (N, heads * D).
    """
    outputs = []
    for group, mask in zip(plan.groups, masks, strict=True):
        if group.pages is None:
            outputs.append(_attend_fresh(query, key, value, group))
        else:
            tokens = None if plan.output_index is None else group.token_index
            outputs.append(_attend_paged(query, tokens, pool, group, mask))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined if plan.output_index is None else joined.index_select(0, plan.output_index)


def _attend_fresh(query: Tensor, key: Tensor, value: Tensor, group: AttentionGroup) -> Tensor:
    """Causal attention among the packed tokens themselves; padding follows each row's tokens."""
    rows, length = group.token_index.shape
    index = group.token_index.flatten()
    q, k, v = (t.index_select(0, index).unflatten(0, (rows, length)) for t in (query, key, value))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_paged(
    query: Tensor,
    token_index: Tensor | None,
    pool: Tensor,
    group: AttentionGroup,
    mask: Tensor | None,
) -> Tensor:
    """token_index: None when the tokens are in order. mask: None for the kernel."""
    assert group.pages is not None
    rows, length = group.token_index.shape
    num_kv_heads, head_dim = pool.shape[3:]
    q = query if token_index is None else query.index_select(0, token_index.flatten())
    q = q.view(rows, length, num_kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
    folded = q.flatten(2, 3)
    if mask is None:
        visible = (group.first_visible, group.last_visible)
        out = paged_kernel.attend_pages(folded, pool, group.pages, *visible)
    else:
        out = _gather_and_attend(folded, pool, group, mask)
    unfolded = out.view(rows, num_kv_heads, -1, length, head_dim).permute(0, 3, 1, 2, 4)
    return unfolded.reshape(rows * length, -1)


def _gather_and_attend(
    folded: Tensor, pool: Tensor, group: AttentionGroup, mask: Tensor
) -> Tensor:
    assert group.pages is not None
    rows, num_pages = group.pages.shape
    _, _, page_size, num_kv_heads, head_dim = pool.shape
    shape = (2, rows, num_pages * page_size, num_kv_heads, head_dim)
    gathered = pool.index_select(1, group.pages.flatten()).view(shape)
    # Behind a row's last token lies what others left in its pages, and 0 * NaN is NaN.
    keys = torch.arange(shape[2], device=pool.device)
    foreign = keys > group.last_visible.amax(dim=1, keepdim=True)
    k, v = gathered.masked_fill_(foreign[..., None, None], 0).transpose(2, 3).to(folded.dtype)
    return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask)


def kernel_fits(pool: Tensor) -> bool:
    """Say whether the Triton kernel is there and can walk this pool."""
    return HAS_KERNEL and paged_kernel.fits(pool)


def forbid_cudnn_attention() -> None:
    """Keep torch from choosing cuDNN attention, process-wide.

    On Hopper torch 2.11 prefers it and builds a plan for every new KV length: 74 ms a decode step
    instead of 30 (H100). Harmless where there is no GPU.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)

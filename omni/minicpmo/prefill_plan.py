"""The plan of a forward pass over new tokens of any number of slots: rows of like length together.

Fixed shapes are not for it: each prefill is another one. Those of steps are in `kv_cache`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from omni.minicpmo.kv_pages import WASTE_PAGE, PageTable, Span, bucket_pages
from omni.minicpmo.model.attention import AttentionGroup, AttentionPlan


def prefill_plan(
    table: PageTable,
    spans: Sequence[Span],
    is_causal: bool,
    windows: Sequence[int | None],
    device: torch.device,
) -> AttentionPlan:
    """Return the plan for the tokens of *spans*, in their order; their pages are held.

    is_causal: as of the cache. windows: of each slot, how much of what is cached it sees.
    """
    counts = np.array([stop - start for _, start, stop in spans])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    packing = _Packing()
    packing.add(np.concatenate([np.arange(start, stop) for _, start, stop in spans]))
    packing.add(np.concatenate([table.index(*span) for span in spans]))
    packing.add(offsets[1:] - 1)
    output_index = np.empty(offsets[-1], dtype=np.int64)
    members = _group_rows(spans, is_causal, windows)
    flat_base = 0
    for rows, is_fresh in members:
        length = int(counts[rows].max())
        for row_in_group, row in enumerate(rows):
            base = flat_base + row_in_group * length
            output_index[offsets[row] : offsets[row + 1]] = base + np.arange(counts[row])
        flat_base += len(rows) * length
        for array in _group_arrays(table, spans, rows, offsets, length, is_causal, windows):
            packing.add(array)
    packing.add(output_index)
    sent = packing.send(device)
    groups = []
    for number, (_, is_fresh) in enumerate(members):
        tokens, pages, first, last = sent[3 + 4 * number : 7 + 4 * number]
        groups.append(
            AttentionGroup(
                token_index=tokens,
                pages=None if is_fresh else pages,
                first_visible=first,
                last_visible=last,
            )
        )
    return AttentionPlan(
        positions=sent[0],
        write_index=sent[1],
        output_index=sent[-1],
        last_token=sent[2],
        groups=tuple(groups),
        uses_kernel=False,
    )


class _Packing:
    """Collects integer arrays and sends them to the device as one tensor: one copy a step."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> int:
        self._arrays.append(np.ascontiguousarray(array, dtype=np.int64))
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> list[Tensor]:
        flat = torch.from_numpy(np.concatenate([array.ravel() for array in self._arrays]))
        if device.type == "cuda":
            flat = flat.pin_memory()
        buffer = flat.to(device, non_blocking=True)
        parts = buffer.split([array.size for array in self._arrays])
        return [part.view(a.shape) for part, a in zip(parts, self._arrays, strict=True)]


def _group_rows(
    spans: Sequence[Span], is_causal: bool, windows: Sequence[int | None]
) -> list[tuple[list[int], bool]]:
    """Group rows whose numbers of queries differ less than twofold, fresh ones apart."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for row, (slot, start, stop) in enumerate(spans):
        is_fresh = is_causal and start == 0 and windows[slot] is None
        groups.setdefault((is_fresh, (stop - start).bit_length()), []).append(row)
    return [(rows, is_fresh) for (is_fresh, _), rows in groups.items()]


def _group_arrays(
    table: PageTable,
    spans: Sequence[Span],
    rows: Sequence[int],
    offsets: np.ndarray,
    length: int,
    is_causal: bool,
    windows: Sequence[int | None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return token_index, pages, first_visible, last_visible of one group (see AttentionGroup)."""
    bucket = bucket_pages(max(len(table.pages[spans[row][0]]) for row in rows))
    tokens = np.empty((len(rows), length), dtype=np.int64)
    pages = np.full((len(rows), bucket), WASTE_PAGE, dtype=np.int64)
    first = np.zeros((len(rows), length), dtype=np.int64)
    last = np.empty((len(rows), length), dtype=np.int64)
    for number, row in enumerate(rows):
        slot, start, stop = spans[row]
        steps = np.minimum(np.arange(length), stop - start - 1)
        tokens[number] = offsets[row] + steps
        pages[number, : len(table.pages[slot])] = table.pages[slot]
        last[number] = start + steps if is_causal else stop - 1
        first[number] = _first_visible(windows[slot], start)
    return tokens, pages, first, last


def _first_visible(window_tokens: int | None, num_cached: int) -> int:
    return 0 if window_tokens is None else max(0, num_cached - window_tokens)

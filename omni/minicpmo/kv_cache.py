"""The paged KV cache: pages per slot, the plan of a step, roll-back, and moving a window.

`PageTable` is bookkeeping in plain Python; `PagedKVCache` adds the tensors. A cache index is a
position: token i of a slot stands in page i // page_size of its table.
"""

from collections.abc import Sequence

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from omni.errors import CapacityError, ContextExhausted
from omni.minicpmo.model.attention import AttentionGroup, AttentionPlan, kernel_fits
from omni.minicpmo.model.layers import rotate_keys

WASTE_PAGE = 0  # idle rows and padding write here; it belongs to no slot


class PageTable:
    """Which pages each slot holds, and how many tokens are cached in it."""

    def __init__(self, num_slots: int, num_pages: int, page_size: int, max_tokens: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.max_tokens = max_tokens
        self.lengths = [0] * num_slots
        self.pages: list[list[int]] = [[] for _ in range(num_slots)]
        self._free = list(range(num_pages - 1, WASTE_PAGE, -1))

    @property
    def num_free_pages(self) -> int:
        """Pages that no slot holds."""
        return len(self._free)

    def pages_needed(self, slot: int, length: int) -> int:
        """Return how many more pages *slot* needs to hold *length* tokens."""
        return max(0, -(-length // self.page_size) - len(self.pages[slot]))

    def grow(self, lengths: Sequence[tuple[int, int]]) -> None:
        """Give each (slot, length) the pages that it needs, and set its length if that is longer.

        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        longest: dict[int, int] = {}
        for slot, length in lengths:
            longest[slot] = max(length, longest.get(slot, 0))
        for slot, length in longest.items():
            if length > self.max_tokens:
                raise ContextExhausted(
                    f"slot {slot} would hold {length} tokens; the limit is {self.max_tokens}"
                )
        needed = sum(self.pages_needed(slot, length) for slot, length in longest.items())
        if needed > len(self._free):
            raise CapacityError(
                f"{needed} KV pages are needed and {len(self._free)} are free; "
                "end a session or lower the number of slots"
            )
        for slot, length in longest.items():
            for _ in range(self.pages_needed(slot, length)):
                self.pages[slot].append(self._free.pop())
            self.lengths[slot] = max(self.lengths[slot], length)

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first *length* tokens of *slot* and free the pages behind them."""
        assert 0 <= length <= self.lengths[slot], (length, self.lengths[slot])
        self.lengths[slot] = length
        keep = -(-length // self.page_size)
        self._free.extend(reversed(self.pages[slot][keep:]))
        del self.pages[slot][keep:]

    def index(self, slot: int, start: int, stop: int) -> np.ndarray:
        """Return the place of tokens start..stop-1 of *slot* in the pool laid flat, int64."""
        tokens = np.arange(start, stop, dtype=np.int64)
        pages = np.asarray(self.pages[slot], dtype=np.int64)
        return pages[tokens // self.page_size] * self.page_size + tokens % self.page_size

    def check_integrity(self) -> None:
        """Assert that every page is free or held once, and slots hold what their lengths need."""
        held = [page for pages in self.pages for page in pages]
        assert sorted(held + self._free) == list(range(1, self.num_pages))
        for length, pages in zip(self.lengths, self.pages, strict=True):
            assert len(pages) == -(-length // self.page_size), (length, pages)


@frozen(kw_only=True)
class PrefillRow:
    """New tokens of one slot: behind its cached ones, or from *start* (a hole left by `splice`)."""

    slot: int
    num_tokens: int
    start: int | None = None


class PagedKVCache:
    """Keys and values of all slots of one model.

    pool: (layers, 2, pages, page_size, KV heads, D). `is_causal` False lets the tokens of one row
    and step see one another (the audio encoder). `uses_kernel` False keeps to plain torch
    operations.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_slots: int,
        num_pages: int,
        page_size: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        is_causal: bool = True,
        uses_kernel: bool = True,
    ) -> None:
        self.table = PageTable(num_slots, num_pages, page_size, max_tokens)
        shape = (num_layers, 2, num_pages, page_size, num_kv_heads, head_dim)
        # Zeros, not empty: a masked key still takes part as 0 * value, and 0 * NaN is NaN.
        self.pool = torch.zeros(shape, dtype=dtype, device=device)
        self._is_causal = is_causal
        self._windows: list[int | None] = [None] * num_slots
        self._uses_kernel = uses_kernel and kernel_fits(self.pool)

    @property
    def bytes_per_token(self) -> int:
        """Memory of one cached token over all layers."""
        layers, two, _, _, heads, dim = self.pool.shape
        return layers * two * heads * dim * self.pool.element_size()

    def set_window(self, slot: int, window_tokens: int | None) -> None:
        """Let each step of *slot* see at most so many of the tokens cached before it; None: all."""
        self._windows[slot] = window_tokens

    def length(self, slot: int) -> int:
        """Return the number of tokens cached in *slot*."""
        return self.table.lengths[slot]

    def reset(self, slot: int) -> None:
        """Forget everything of *slot*; its pages go back to the pool."""
        self.table.truncate(slot, 0)

    def truncate(self, slot: int, length: int) -> None:
        """Roll *slot* back to its first *length* tokens."""
        self.table.truncate(slot, length)

    def prefill_plan(self, rows: Sequence[PrefillRow]) -> AttentionPlan:
        """Reserve pages for *rows* and return the plan of the forward pass, tokens in row order.

        The tokens count as cached from now on: the forward pass must follow. A slot may appear
        once.
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        spans = []
        for row in rows:
            assert row.num_tokens > 0, row
            start = self.length(row.slot) if row.start is None else row.start
            spans.append((row.slot, start, start + row.num_tokens))
        self.table.grow([(slot, stop) for slot, _, stop in spans])
        plan = _prefill_plan(self.table, spans, self._is_causal, self._windows, self.pool.device)
        return evolve(plan, uses_kernel=self._uses_kernel)

    def decode_plan(
        self, slots: Sequence[int], exec_mask: Sequence[bool], num_pages: int | None = None
    ) -> AttentionPlan:
        """Reserve one token for each executing row and return a plan of one query a row.

        Rows with exec_mask False keep their state: they compute into the waste page. *num_pages*:
        the KV bucket in pages that every row is padded to (a graph's static shape).
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        active = [slot for slot, runs in zip(slots, exec_mask, strict=True) if runs]
        self.table.grow([(slot, self.length(slot) + 1) for slot in active])
        longest = max((len(self.table.pages[slot]) for slot in active), default=1)
        bucket = bucket_pages(longest) if num_pages is None else num_pages
        assert longest <= bucket, (longest, bucket)
        plan = _decode_plan(self.table, slots, exec_mask, bucket, self._windows, self.pool.device)
        return evolve(plan, uses_kernel=self._uses_kernel)

    def splice(
        self, slot: int, start: int, removed: int, inserted: int, frequencies: Tensor
    ) -> None:
        """Replace *removed* tokens at *start* by a hole of *inserted*; what follows moves with it.

        Keys behind the hole are rotated to their new positions (float32, one rotation). The hole
        must be filled by a prefill with `PrefillRow(start=start)` before anything behind it is
        read.
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        length = self.length(slot)
        assert 0 <= start <= start + removed <= length, (start, removed, length)
        shift = inserted - removed
        self.table.grow([(slot, length + shift)])
        self._move(slot, start + removed, length, shift, frequencies)
        self.table.truncate(slot, length + shift)

    def _move(self, slot: int, start: int, stop: int, shift: int, frequencies: Tensor) -> None:
        if shift == 0 or start == stop:
            return
        device = self.pool.device
        source = torch.from_numpy(self.table.index(slot, start, stop)).to(device)
        target = torch.from_numpy(self.table.index(slot, start + shift, stop + shift)).to(device)
        for layer in self.pool.flatten(2, 3):
            keys, values = layer.index_select(1, source)
            moved = torch.stack((rotate_keys(keys, shift, frequencies), values))
            layer.index_copy_(1, target, moved)


def bucket_pages(num_pages: int) -> int:
    """Round up to a multiple of 4 that wastes at most a quarter, so that few shapes occur."""
    step = max(4, 1 << max(0, num_pages.bit_length() - 3))
    return -(-num_pages // step) * step


class _Packing:
    """Collects integer arrays and sends them to the device as one tensor: one copy a step."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> int:
        self._arrays.append(np.ascontiguousarray(array, dtype=np.int64))
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        flat = torch.from_numpy(np.concatenate([array.ravel() for array in self._arrays]))
        if device.type == "cuda":
            flat = flat.pin_memory()
        buffer = flat.to(device, non_blocking=True)
        parts = buffer.split([array.size for array in self._arrays])
        return buffer, [part.view(a.shape) for part, a in zip(parts, self._arrays, strict=True)]


def _decode_plan(
    table: PageTable,
    slots: Sequence[int],
    exec_mask: Sequence[bool],
    bucket: int,
    windows: Sequence[int | None],
    device: torch.device,
) -> AttentionPlan:
    num_rows = len(slots)
    position = np.zeros(num_rows, dtype=np.int64)
    write = np.zeros(num_rows, dtype=np.int64)
    pages = np.full((num_rows, bucket), WASTE_PAGE, dtype=np.int64)
    for row, (slot, runs) in enumerate(zip(slots, exec_mask, strict=True)):
        if runs:
            position[row] = table.lengths[slot] - 1
            pages[row, : len(table.pages[slot])] = table.pages[slot]
            page = table.pages[slot][position[row] // table.page_size]
            write[row] = page * table.page_size + position[row] % table.page_size
    first = np.zeros_like(position)
    for row, slot in enumerate(slots):
        first[row] = _first_visible(windows[slot], int(position[row]))
    packing = _Packing()
    order = np.arange(num_rows)
    for array in (position, write, order, order[:, None], pages, first[:, None], position[:, None]):
        packing.add(array)
    buffer, sent = packing.send(device)
    group = AttentionGroup(
        token_index=sent[3], pages=sent[4], first_visible=sent[5], last_visible=sent[6]
    )
    return AttentionPlan(
        buffer=buffer,
        positions=sent[0],
        write_index=sent[1],
        output_index=None,
        last_token=sent[2],
        groups=(group,),
        uses_kernel=False,
    )


Span = tuple[int, int, int]  # slot, first cache index, index behind the last


def _prefill_plan(
    table: PageTable,
    spans: Sequence[Span],
    is_causal: bool,
    windows: Sequence[int | None],
    device: torch.device,
) -> AttentionPlan:
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
    buffer, sent = packing.send(device)
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
        buffer=buffer,
        positions=sent[0],
        write_index=sent[1],
        output_index=sent[-1],
        last_token=sent[2],
        groups=tuple(groups),
        uses_kernel=False,
    )


def _first_visible(window_tokens: int | None, num_cached: int) -> int:
    return 0 if window_tokens is None else max(0, num_cached - window_tokens)


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

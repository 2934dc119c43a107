"""The paged KV cache: keys and values, the plan of a step, roll-back, and moving a window.

Which pages a slot holds is bookkeeping without tensors: `kv_pages`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from omni.minicpmo.kv_pages import WASTE_PAGE, PageTable, Span, bucket_pages
from omni.minicpmo.model.attention import AttentionGroup, AttentionPlan, kernel_fits
from omni.minicpmo.model.layers import rotate_keys
from omni.minicpmo.prefill_plan import prefill_plan
from omni.minicpmo.staging import Field, Staging


@frozen
class PrefillRow:
    """New tokens of one slot: behind its cached ones, or from *start* (a hole left by `splice`)."""

    slot: int
    num_tokens: int
    start: int | None = None


@frozen
class StepShape:
    """The size of a step that is always the same: rows of so many tokens, padded to so many pages.

    num_steps: sub-steps, each of which sees what those before it wrote.
    """

    num_rows: int
    num_tokens: int = 1
    num_steps: int = 1
    num_pages: int = 1


_BY_TOKEN = ("positions", "writes", "first", "last")


def plan_fields(shape: StepShape) -> dict[str, Field]:
    """Return the arrays that hold the plans of a step."""
    by_token = Field((shape.num_steps, shape.num_rows, shape.num_tokens))
    return {name: by_token for name in _BY_TOKEN} | {
        "last_token": Field((shape.num_rows,)),
        "pages": Field((shape.num_rows, shape.num_pages)),
    }


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

    @contextmanager
    def kept(self, slots: Sequence[int]) -> Iterator[None]:
        """Put the lengths of *slots* back when what is done inside fails."""
        before = [self.length(slot) for slot in slots]
        try:
            yield
        except Exception:
            for slot, length in zip(slots, before, strict=True):
                self.truncate(slot, min(length, self.length(slot)))
            raise

    def prefill_plan(self, rows: Sequence[PrefillRow]) -> AttentionPlan:
        """Reserve pages for *rows* and return the plan of the forward pass, tokens in row order.

        The tokens count as cached from now on: the forward pass must follow. A slot may appear
        once.
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        assert all(row.num_tokens > 0 for row in rows), rows
        spans = self.spans(rows)
        self.reserve(spans)
        plan = prefill_plan(self.table, spans, self._is_causal, self._windows, self.pool.device)
        return evolve(plan, uses_kernel=self._uses_kernel)

    def decode_plan(
        self, slots: Sequence[int], exec_mask: Sequence[bool], num_pages: int | None = None
    ) -> AttentionPlan:
        """Reserve one token for each executing row and return a plan of one query a row.

        Rows with exec_mask False keep their state: they compute into the waste page. *num_pages*:
        to which every row is padded.
        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        spans = self.spans(
            [PrefillRow(slot, int(runs)) for slot, runs in zip(slots, exec_mask, strict=True)]
        )
        self.reserve(spans)
        shape = StepShape(len(slots), num_pages=num_pages or bucket_pages(self.num_pages(spans)))
        staging = Staging(plan_fields(shape), self.pool.device)
        self.fill_plans(staging.host(), shape, spans)
        staging.send()
        return self.plans(staging.tensors, shape)[0]

    # --- steps of fixed shape

    def spans(self, rows: Sequence[PrefillRow]) -> list[Span]:
        """Return where the tokens of *rows* go."""
        spans = []
        for row in rows:
            start = self.length(row.slot) if row.start is None else row.start
            spans.append((row.slot, start, start + row.num_tokens))
        return spans

    def reserve(self, spans: Sequence[Span]) -> None:
        """Count the tokens of *spans* as cached from now on: a step that writes them must follow.

        Raises: ContextExhausted or CapacityError, before anything is changed.
        """
        self.table.grow([(slot, stop) for slot, start, stop in spans if stop > start])

    def num_pages(self, spans: Sequence[Span]) -> int:
        """Return the pages that the longest row has behind *spans*."""
        return max((-(-stop // self.table.page_size) for _, _, stop in spans), default=1)

    def fill_plans(
        self, host: Mapping[str, np.ndarray], shape: StepShape, spans: Sequence[Span]
    ) -> None:
        """Write the plans of a step of *spans*, which are reserved, into *host*: `plan_fields`.

        Rows without a span or with an empty one sit out, as do tokens and sub-steps behind the end
        of a row's span: they read and write the waste page.
        """
        if shape.num_tokens == shape.num_steps == 1:
            self._fill_tokens(host, shape, spans)
        else:
            self._fill_rows(host, shape, spans)

    def _fill_tokens(
        self, host: Mapping[str, np.ndarray], shape: StepShape, spans: Sequence[Span]
    ) -> None:
        """Fill in one token a row: the GPU waits for it, and plain numbers are quicker here."""
        positions, writes, first, last = (host[name][0, :, 0] for name in _BY_TOKEN)
        pages, size = host["pages"], self.table.page_size
        host["last_token"][:] = range(shape.num_rows)
        for array in (positions, writes, first, last, pages):
            array[len(spans) :] = 0
        for row, (slot, position, stop) in enumerate(spans):
            if stop == position:
                for array in (positions, writes, first, last, pages):
                    array[row] = 0
                continue
            held = self.table.rows[slot, : shape.num_pages]
            pages[row, : len(held)] = held
            pages[row, len(held) :] = WASTE_PAGE
            positions[row] = last[row] = position
            writes[row] = held[position // size] * size + position % size
            window = self._windows[slot]
            first[row] = 0 if window is None else max(0, position - window)

    def _fill_rows(
        self, host: Mapping[str, np.ndarray], shape: StepShape, spans: Sequence[Span]
    ) -> None:
        slot, start, stop = np.zeros((3, shape.num_rows, 1), dtype=np.int64)
        window = np.full((shape.num_rows, 1), self.table.max_tokens)
        for row, span in enumerate(spans):
            slot[row], start[row], stop[row] = span
            window[row] = self._windows[span[0]] or self.table.max_tokens
        is_run = stop > start
        token = np.arange(shape.num_steps * shape.num_tokens)[None]
        is_real = token < stop - start
        position = np.where(is_run, np.minimum(start + token, stop - 1), 0)
        places = np.where(is_real, self.table.places(slot, position), token % self.table.page_size)
        last = position if self._is_causal else np.broadcast_to(stop - is_run, position.shape)
        cached = start + token // shape.num_tokens * shape.num_tokens  # before this sub-step
        first = np.minimum(np.maximum(cached - window, 0), position)
        for name, values in zip(_BY_TOKEN, (position, places, first, last), strict=True):
            by_step = values.reshape(shape.num_rows, shape.num_steps, shape.num_tokens)
            host[name][:] = by_step.swapaxes(0, 1)
        ends = np.minimum(np.maximum(stop - start, 1), shape.num_tokens)[:, 0]
        host["last_token"][:] = np.arange(shape.num_rows) * shape.num_tokens + ends - 1
        pages = self.table.rows[slot[:, 0], : shape.num_pages] * is_run
        host["pages"][:, : pages.shape[1]] = pages
        host["pages"][:, pages.shape[1] :] = WASTE_PAGE

    def plans(self, tensors: Mapping[str, Tensor], shape: StepShape) -> tuple[AttentionPlan, ...]:
        """Return a plan for each sub-step, its values where *tensors* are: `plan_fields`."""
        order = torch.arange(shape.num_rows * shape.num_tokens, device=self.pool.device)
        of_row = order.view(shape.num_rows, shape.num_tokens)
        positions, writes, first, last = (tensors[name] for name in _BY_TOKEN)
        return tuple(
            AttentionPlan(
                positions=positions[step].flatten(),
                write_index=writes[step].flatten(),
                output_index=None,
                last_token=tensors["last_token"],
                groups=(AttentionGroup(of_row, tensors["pages"], first[step], last[step]),),
                uses_kernel=self._uses_kernel,
            )
            for step in range(shape.num_steps)
        )

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

"""Bookkeeping of the paged KV cache in plain Python: which pages each slot holds.

A cache index is a position: token i of a slot stands in page i // page_size of its table.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from omni.errors import CapacityError, ContextExhausted

WASTE_PAGE = 0  # idle rows and padding write here; it belongs to no slot

Span = tuple[int, int, int]  # slot, first cache index, index behind the last


class PageTable:
    """Which pages each slot holds, and how many tokens are cached in it."""

    def __init__(self, num_slots: int, num_pages: int, page_size: int, max_tokens: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.max_tokens = max_tokens
        self.lengths = [0] * num_slots
        self.pages: list[list[int]] = [[] for _ in range(num_slots)]
        # The same as one array to pick rows from, (slots, pages), zero beyond what is held.
        self.rows = np.zeros((num_slots, -(-max_tokens // page_size)), dtype=np.int64)
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
        self.check_room(longest)
        for slot, length in longest.items():
            for _ in range(self.pages_needed(slot, length)):
                page = self._free.pop()
                self.rows[slot, len(self.pages[slot])] = page
                self.pages[slot].append(page)
            self.lengths[slot] = max(self.lengths[slot], length)

    def check_room(self, lengths: Mapping[int, int]) -> None:
        """Raise ContextExhausted or CapacityError, if these slots cannot grow to these lengths."""
        for slot, length in lengths.items():
            if length > self.max_tokens:
                raise ContextExhausted(
                    f"the conversation would take {length} tokens; {self.max_tokens} are its "
                    "limit: shorten what it begins with, or start a new one"
                )
        needed = sum(self.pages_needed(slot, length) for slot, length in lengths.items())
        if needed > len(self._free):
            raise CapacityError(
                f"the memory for conversations is full ({needed} KV pages are needed, "
                f"{len(self._free)} are free): try again when others have ended, or have fewer at "
                "once (fabric.slots)"
            )

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first *length* tokens of *slot* and free the pages behind them."""
        assert 0 <= length <= self.lengths[slot], (length, self.lengths[slot])
        self.lengths[slot] = length
        keep = -(-length // self.page_size)
        self._free.extend(reversed(self.pages[slot][keep:]))
        self.rows[slot, keep : len(self.pages[slot])] = WASTE_PAGE
        del self.pages[slot][keep:]

    def index(self, slot: int, start: int, stop: int) -> np.ndarray:
        """Return the place of tokens start..stop-1 of *slot* in the pool laid flat, int64."""
        tokens = np.arange(start, stop, dtype=np.int64)
        return self.places(np.full_like(tokens, slot), tokens)

    def places(self, slots: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return the places of tokens of slots, both int64 of one shape, in the pool laid flat."""
        pages = self.rows[slots, tokens // self.page_size]
        places: np.ndarray = pages * self.page_size + tokens % self.page_size
        return places

    def check_integrity(self) -> None:
        """Assert that every page is free or held once, and slots hold what their lengths need."""
        held = [page for pages in self.pages for page in pages]
        assert sorted(held + self._free) == list(range(1, self.num_pages))
        for length, pages in zip(self.lengths, self.pages, strict=True):
            assert len(pages) == -(-length // self.page_size), (length, pages)
        for row, pages in zip(self.rows, self.pages, strict=True):
            assert row[: len(pages)].tolist() == pages and not row[len(pages) :].any()


def bucket_pages(num_pages: int) -> int:
    """Round up to a multiple of 4 that wastes at most a quarter, so that few shapes occur."""
    step = max(4, 1 << max(0, num_pages.bit_length() - 3))
    return -(-num_pages // step) * step

"""Which cached frames each slot of the flow model attends to, and where new ones are stored.

Keys and values of all slots and voices lie in one pool per layer, (F, W): first the prompt frames
of the voices, then a private region for every slot. A slot attends to an ordered list of frame ids.
The prompt part of the list points into the voice's frames, so sessions of one voice share them;
what a slot writes is always its own.
"""

from collections.abc import Callable
from enum import Enum

import torch
from attrs import define, frozen
from torch import Tensor


class CacheTrim(Enum):
    """What a chunk leaves in the caches once they are longer than prompt + 100 mel frames."""

    FIXED = "fixed"  # prompt + newest 100 everywhere: the smallest private state
    V107 = "v107"  # DiT keeps the newest P and the last 100 of the prompt (minicpmo-utils 1.0.7)
    V105 = "v105"  # in addition the token-rate layers keep the oldest 50 codes (1.0.5, 1.0.6)


ALIGNMENT = 8  # frames; CUDA attention copies score biases whose rows are not aligned to it

Rule = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def keep_newest(column: Tensor, total: Tensor, prompt: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """Return where each kept *column* comes from, and how many are kept.

    Kept are the first *prompt* and the last *tail*. column: (1, K). total, prompt: (B, 1), lengths
    of the untrimmed list and of its prompt part. Returns (B, K), defined where column < length,
    and (B, 1).
    """
    limit = prompt + tail
    beyond = (total > limit) & (column >= prompt)
    source = torch.where(beyond, total - limit + column, column)
    return source, torch.minimum(total, limit)


def keep_oldest(column: Tensor, total: Tensor, prompt: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """Return what `keep_newest` returns, for the token-rate layers of minicpmo-utils 1.0.5.

    It trims a list that holds every frame twice to its first 2P and last 2*tail entries and reads
    back the first half: with prompts of 2P >= 100 that is the prompt and the oldest *tail* frames.
    """
    limit = prompt + tail
    doubled = torch.where(column < 2 * prompt, column, 2 * (total - limit) + column)
    source = torch.where(total > limit, doubled % total.clamp(min=1), column)
    return source, torch.minimum(total, limit)


@frozen
class FrameView:
    """The frames of one step: where its T new frames go and which K + T frames it attends to.

    write_ids (B, T) and read_ids (B, K + T) index the pool; the new frames come last. visible and
    positions (B, K + T): what counts, and where each frame stands in its list. counts (B,): how
    many of the T new frames are real.
    """

    write_ids: Tensor
    read_ids: Tensor
    visible: Tensor
    positions: Tensor
    counts: Tensor

    @classmethod
    def of_prompt(cls, first: int, length: int, device: torch.device) -> "FrameView":
        """Return the view of one row that writes *length* frames from *first* on, and sees them."""
        ids = torch.arange(first, first + length, device=device)[None]
        return cls(
            write_ids=ids,
            read_ids=ids,
            visible=torch.ones_like(ids, dtype=torch.bool),
            positions=ids - first,
            counts=torch.full((1,), length, device=device),
        )

    def doubled(self) -> "FrameView":
        """Return the view of two rows per row, which share its frames, on a pool of half frames.

        Half frame 2f + r of the pool (2F, W / 2) is what the r-th of the two stores in frame f.
        """
        which = torch.arange(2, device=self.write_ids.device)[:, None]
        return FrameView(
            write_ids=(2 * self.write_ids[:, None] + which).flatten(0, 1),
            read_ids=(2 * self.read_ids[:, None] + which).flatten(0, 1),
            visible=self.visible[:, None].expand(-1, 2, -1).flatten(0, 1),
            positions=self.positions[:, None].expand(-1, 2, -1).flatten(0, 1),
            counts=self.counts[:, None].expand(-1, 2).flatten(),
        )

    def distance(self) -> Tensor:
        """Return (B, T, K + T): how far behind a new frame a frame of the list is, >= 1 - T."""
        query = self.positions[:, -self.write_ids.shape[1] :]
        return query[:, :, None] - self.positions[:, None]

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Return (B, 1, 1, K + T) to add to attention scores: 0, or -inf where not visible."""
        zeros = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
        return zeros.masked_fill(~self.visible, -torch.inf)[:, None, None]

    def exchange(self, pool: Tensor, new: Tensor) -> Tensor:
        """Store *new* (B, T, W) in *pool* (F, W); return all frames to attend to, (B, K + T, W)."""
        pool.index_copy_(0, self.write_ids.flatten(), new.flatten(0, 1).to(pool.dtype))
        frames = pool.index_select(0, self.read_ids.flatten()).to(new.dtype)
        return frames.view(*self.read_ids.shape, -1)


@define
class FrameLists:
    """The frame lists of all slots at one frame rate. The row after the last slot is scratch.

    entries (S + 1, K) frame ids; lengths, prompts (S + 1,): entries in use, and how many of them
    are the prompt.
    """

    entries: Tensor
    lengths: Tensor
    prompts: Tensor
    num_prompt_frames: int
    num_private: int
    tail: int
    rule: Rule
    newest_first: bool

    @classmethod
    def create(
        cls,
        num_slots: int,
        *,
        max_prompt: int,
        num_prompt_frames: int,
        tail: int,
        max_new: int,
        device: torch.device,
        rule: Rule = keep_newest,
        newest_first: bool = False,
    ) -> "FrameLists":
        """Return empty lists. max_prompt: of one voice; num_prompt_frames: of all together."""
        rows = num_slots + 1
        kept = tail + max_prompt if newest_first else tail
        return cls(
            entries=torch.zeros(
                rows, max_prompt + tail + ALIGNMENT - 1, dtype=torch.int64, device=device
            ),
            lengths=torch.zeros(rows, dtype=torch.int64, device=device),
            prompts=torch.zeros(rows, dtype=torch.int64, device=device),
            num_prompt_frames=num_prompt_frames,
            num_private=kept + max_new,
            tail=tail,
            rule=rule,
            newest_first=newest_first,
        )

    @property
    def num_frames(self) -> int:
        """Frames that a pool must hold."""
        return self.num_prompt_frames + self.entries.shape[0] * self.num_private

    def private_range(self, slot: int) -> slice:
        """The pool frames that belong to *slot* alone."""
        first = self.num_prompt_frames + slot * self.num_private
        return slice(first, first + self.num_private)

    def start(self, slot: int, first: int, length: int) -> None:
        """Let *slot* attend to the prompt frames first..first+length-1 and nothing else."""
        self.entries[slot, :length] = torch.arange(
            first, first + length, device=self.entries.device
        )
        self.lengths[slot] = length
        self.prompts[slot] = length

    def clear(self, slot: int) -> None:
        """Let *slot* attend to nothing."""
        self.lengths[slot] = 0
        self.prompts[slot] = 0

    def view(self, rows: "Rows", counts: Tensor, num_new: int, num_keys: int) -> FrameView:
        """Return the view of a step that adds *counts* (B,) of *num_new* frames to *rows*.

        num_keys: columns of the lists to read; at least the longest list among the rows.
        """
        num_keys += -(num_keys + num_new) % ALIGNMENT
        entries = self.entries[:, :num_keys].index_select(0, rows.read)
        length = self.lengths.index_select(0, rows.read)[:, None]
        column = torch.arange(num_keys + num_new, device=entries.device)[None]
        new = column - num_keys
        write_ids = self._free_frames(entries, length, rows, num_new)
        # The first new frame always counts: rows that sit out would be a softmax over nothing.
        visible = torch.where(new < 0, column < length, (new < counts[:, None]) | (new == 0))
        read_ids = torch.cat((entries, write_ids), 1)
        return FrameView(
            write_ids=write_ids,
            # Invisible frames are read from the row's own: 0 * NaN of another slot is NaN.
            read_ids=torch.where(visible, read_ids, write_ids[:, :1]),
            visible=visible,
            positions=torch.where(new < 0, column, length + new),
            counts=counts,
        )

    def advance(self, rows: "Rows", view: FrameView) -> None:
        """Append the real new frames of *view* to the lists of the executed rows and trim them."""
        num_keys = view.read_ids.shape[1] - view.write_ids.shape[1]
        entries = self.entries[:, :num_keys]
        old = entries.index_select(0, rows.read)
        length = self.lengths.index_select(0, rows.read)[:, None]
        prompt = self.prompts.index_select(0, rows.read)[:, None]
        count = view.counts[:, None]
        column = torch.arange(num_keys, device=old.device)[None]
        source, kept = self.rule(column, length + count, prompt, self.tail)
        if self.newest_first:
            source = torch.where(source < count, num_keys + source, source - count)
        else:
            source = torch.where(source < length, source, num_keys + source - length)
        combined = torch.cat((old, view.write_ids), 1)
        picked = combined.gather(1, source.clamp(0, combined.shape[1] - 1))
        entries.index_copy_(0, rows.write, picked)
        self.lengths.index_copy_(0, rows.write, kept[:, 0])

    def _free_frames(self, entries: Tensor, length: Tensor, rows: "Rows", num_new: int) -> Tensor:
        """Return (B, num_new) ids of private frames that the rows' lists do not use."""
        private = entries - (self.num_prompt_frames + rows.read * self.num_private)[:, None]
        column = torch.arange(entries.shape[1], device=entries.device)[None]
        in_use = (private >= 0) & (column < length)
        flags = torch.zeros(
            entries.shape[0], self.num_private + 1, dtype=torch.int32, device=entries.device
        )
        flags.scatter_(1, torch.where(in_use, private, self.num_private), 1)
        free = flags[:, :-1].argsort(dim=1, stable=True)[:, :num_new]
        return self.num_prompt_frames + (rows.write * self.num_private)[:, None] + free


@frozen
class Rows:
    """The slots of a step's rows, (B,) int64: rows that sit out write to the scratch slot."""

    read: Tensor
    write: Tensor

    @classmethod
    def of(cls, slots: Tensor, exec_mask: Tensor, scratch: int) -> "Rows":
        """slots: (B,) int64, distinct where exec_mask (B,) bool is True."""
        return cls(read=slots, write=torch.where(exec_mask, slots, scratch))

"""Logits of the speech-token model -> the next code of every row in one pass."""

import math
from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from omni.minicpmo.sampling import COLDEST, draw, occurrences, padded_history, to_device


@frozen(kw_only=True)
class CodeSampling:
    """How one session chooses its speech codes. Source: the published TTS parameters."""

    temperature: float = field(default=0.8, validator=ge(0))
    repetition_penalty: float = field(default=1.05, validator=gt(0))
    repetition_window: int = field(default=16, validator=gt(0))
    top_p: float = field(default=0.85, validator=[gt(0), le(1)])
    top_k: int = field(default=25, validator=gt(0))
    is_greedy: bool = False


@frozen(kw_only=True, eq=False)
class CodeRows:
    """The parameters of B rows on the device.

    numbers: (3, B) float32. counts: (4, B) int64. history: (B, W) codes, padded with their number.
    """

    numbers: Tensor
    counts: Tensor
    history: Tensor

    def copy_(self, other: "CodeRows") -> None:
        """Take the values of *other*, of the same shapes (to refill a captured graph)."""
        self.numbers.copy_(other.numbers)
        self.counts.copy_(other.counts)
        self.history.copy_(other.history)

    @property
    def inverse_temperature(self) -> Tensor:
        return self.numbers[0]

    @property
    def repetition_penalty(self) -> Tensor:
        return self.numbers[1]

    @property
    def top_p(self) -> Tensor:
        return self.numbers[2]

    @property
    def top_k(self) -> Tensor:
        return self.counts[0]

    @property
    def is_greedy(self) -> Tensor:
        return self.counts[1] != 0

    @property
    def is_filtered(self) -> Tensor:
        """Rows to which top-p and top-k apply."""
        return self.counts[2] != 0

    @property
    def forbids_end(self) -> Tensor:
        """Rows whose speech may not end yet."""
        return self.counts[3] != 0


_MIN_CODES_KEPT = 3  # each filter leaves at least so many; published min_tokens_to_keep


class CodeSampler:
    """Draws speech codes; the last code of the vocabulary ends the speech."""

    def __init__(self, num_codes: int, device: torch.device) -> None:
        self._num_codes = num_codes
        self._device = device

    def rows(
        self,
        sampling: Sequence[CodeSampling],
        histories: Sequence[Sequence[int]],
        is_filtered: Sequence[bool],
        forbids_end: Sequence[bool],
    ) -> CodeRows:
        """Bring the rows' parameters to the device; an empty history: no penalty on this code."""
        windows = [list(history[-s.repetition_window :]) for s, history in zip(sampling, histories)]
        numbers = [
            [1 / max(s.temperature, COLDEST) for s in sampling],
            [s.repetition_penalty for s in sampling],
            [s.top_p for s in sampling],
        ]
        counts = [
            [max(s.top_k, _MIN_CODES_KEPT) for s in sampling],
            [int(s.is_greedy or s.temperature == 0) for s in sampling],
            [int(filtered) for filtered in is_filtered],
            [int(forbids) for forbids in forbids_end],
        ]
        width = max(s.repetition_window for s in sampling)
        return CodeRows(
            numbers=to_device(torch.tensor(numbers), self._device),
            counts=to_device(torch.tensor(counts), self._device),
            history=padded_history(windows, self._num_codes, self._device, step=width),
        )

    def sample(self, logits: Tensor, rows: CodeRows, chances: Tensor) -> Tensor:
        """Draw one code a row, (B,) int64. logits: (B, codes) float32. chances: (B,) in [0, 1)."""
        ids, probabilities = self._candidates(logits, rows)
        drawn = draw(probabilities, chances, rows.is_greedy)
        return ids.gather(1, drawn[:, None])[:, 0]

    def distribution(self, logits: Tensor, rows: CodeRows) -> Tensor:
        """Return (B, codes), what `sample` draws from; greedy rows as if they were not."""
        ids, probabilities = self._candidates(logits, rows)
        return torch.zeros_like(logits).scatter_(1, ids, probabilities)

    def _candidates(self, logits: Tensor, rows: CodeRows) -> tuple[Tensor, Tensor]:
        scores = logits * rows.inverse_temperature[:, None]
        counts = occurrences(rows.history, self._num_codes)
        penalty = rows.repetition_penalty[:, None] ** counts
        scores = torch.where(scores >= 0, scores / penalty, scores * penalty)
        values, ids = scores.sort(dim=1, descending=True)
        probabilities = values.softmax(dim=1)
        before = probabilities.cumsum(dim=1) - probabilities
        rank = torch.arange(self._num_codes, device=logits.device)
        is_cut = (before >= rows.top_p[:, None]) & (rank >= _MIN_CODES_KEPT)
        is_cut = (is_cut | (rank >= rows.top_k[:, None])) & rows.is_filtered[:, None]
        is_cut |= (ids == self._num_codes - 1) & rows.forbids_end[:, None]
        return ids, values.masked_fill(is_cut, -math.inf).softmax(dim=1)

"""Logits of the speech-token model -> the next code of every row in one pass."""

import math
from collections.abc import Mapping, Sequence

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from omni.minicpmo.sampling import COLDEST, draw, occurrences
from omni.minicpmo.staging import Array, Field, Staging

MAX_WINDOW = 64  # codes that a penalty can look at
MAX_TOP_K = 64


@frozen(kw_only=True)
class CodeSampling:
    """How one session chooses its speech codes. Source: the published TTS parameters."""

    temperature: float = field(default=0.8, validator=ge(0))
    repetition_penalty: float = field(default=1.05, validator=gt(0))
    repetition_window: int = field(default=16, validator=[gt(0), le(MAX_WINDOW)])
    top_p: float = field(default=0.85, validator=[gt(0), le(1)])
    top_k: int = field(default=25, validator=[gt(0), le(MAX_TOP_K)])
    is_greedy: bool = False


@frozen(kw_only=True, eq=False)
class CodeRows:
    """The parameters of B rows on the device, the values of `CodeSampler.fields`.

    numbers: (3, B) float32. counts: (5, B) int64. history: (B, W) codes, the newest last, padded
    in front with the number of codes.
    """

    numbers: Tensor
    counts: Tensor
    history: Tensor

    def after(self, drawn: Tensor) -> "CodeRows":
        """Return the rows of the next draw, when codes *drawn* (B,) were taken."""
        needed = self.counts[3:4] - 1
        return CodeRows(
            numbers=self.numbers,
            counts=torch.cat((self.counts[:3], needed, self.counts[4:])),
            history=torch.cat((self.history[:, 1:], drawn[:, None]), dim=1),
        )

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
        """Rows whose speech may not end yet: they need further codes."""
        return self.counts[3] > 0

    @property
    def window(self) -> Tensor:
        """The newest codes of the history that the penalty looks at."""
        return self.counts[4]


_MIN_CODES_KEPT = 3  # each filter leaves at least so many; published min_tokens_to_keep


class CodeSampler:
    """Draws speech codes; the last code of the vocabulary ends the speech."""

    def __init__(self, num_codes: int, device: torch.device) -> None:
        self._num_codes = num_codes
        self._device = device

    def fields(self, num_rows: int) -> dict[str, Field]:
        """Return the arrays that hold the parameters of rows."""
        return {
            "numbers": Field((3, num_rows), torch.float32),
            "counts": Field((5, num_rows)),
            "history": Field((num_rows, MAX_WINDOW)),
        }

    def fill(
        self,
        host: Mapping[str, Array],
        sampling: Sequence[CodeSampling],
        histories: Sequence[Sequence[int]],
        is_filtered: Sequence[bool],
        num_needed: Sequence[int],
    ) -> None:
        """Write the rows' parameters; rows behind them are greedy.

        An empty history: no penalty. num_needed: codes that a row must draw before it may end.
        """
        host["numbers"][:] = 1.0
        host["counts"][:] = 1
        host["history"][:] = self._num_codes
        for row, s in enumerate(sampling):
            host["numbers"][:, row] = 1 / max(s.temperature, COLDEST), s.repetition_penalty, s.top_p
            is_greedy = s.is_greedy or s.temperature == 0
            host["counts"][:, row] = (
                max(s.top_k, _MIN_CODES_KEPT),
                is_greedy,
                is_filtered[row],
                num_needed[row],
                s.repetition_window,
            )
            if recent := histories[row][-MAX_WINDOW:]:
                host["history"][row, -len(recent) :] = recent

    def rows(
        self,
        sampling: Sequence[CodeSampling],
        histories: Sequence[Sequence[int]],
        is_filtered: Sequence[bool],
        num_needed: Sequence[int],
    ) -> CodeRows:
        """Bring the rows' parameters to the device; arguments as in `fill`."""
        staging = Staging(self.fields(len(sampling)), self._device)
        self.fill(staging.host(), sampling, histories, is_filtered, num_needed)
        staging.send()
        return self.sent(staging.tensors)

    def sent(self, tensors: Mapping[str, Tensor]) -> CodeRows:
        """Return the rows whose parameters lie in *tensors*."""
        names = ("numbers", "counts", "history")
        return CodeRows(**{name: tensors[name] for name in names})

    def sample(self, logits: Tensor, rows: CodeRows, chances: Tensor) -> Tensor:
        """Draw one code a row, (B,) int64. logits: (B, codes) float32. chances: (B,) in [0, 1).

        Rows without filters draw from all codes in their order, the others from the best.
        """
        scores = self._scores(logits, rows)
        ids, probabilities = self._filtered(scores, rows)
        of_best = ids.gather(1, draw(probabilities, chances, rows.is_greedy)[:, None])[:, 0]
        of_all = draw(self._unfiltered(scores, rows), chances, rows.is_greedy)
        return torch.where(rows.is_filtered, of_best, of_all)

    def distribution(self, logits: Tensor, rows: CodeRows) -> Tensor:
        """Return (B, codes), what `sample` draws from; greedy rows as if they were not."""
        scores = self._scores(logits, rows)
        ids, probabilities = self._filtered(scores, rows)
        filtered = torch.zeros_like(logits).scatter_(1, ids, probabilities)
        return torch.where(rows.is_filtered[:, None], filtered, self._unfiltered(scores, rows))

    def _scores(self, logits: Tensor, rows: CodeRows) -> Tensor:
        """Return (B, codes) after temperature and penalty."""
        scores = logits * rows.inverse_temperature[:, None]
        age = torch.arange(MAX_WINDOW, 0, -1, device=logits.device)
        history = rows.history.masked_fill(age > rows.window[:, None], self._num_codes)
        penalty = rows.repetition_penalty[:, None] ** occurrences(history, self._num_codes)
        return torch.where(scores >= 0, scores / penalty, scores * penalty)

    def _unfiltered(self, scores: Tensor, rows: CodeRows) -> Tensor:
        """Return (B, codes), the probabilities of all codes."""
        end = torch.where(rows.forbids_end, -math.inf, scores[:, -1])
        return torch.cat((scores[:, :-1], end[:, None]), dim=1).softmax(dim=1)

    def _filtered(self, scores: Tensor, rows: CodeRows) -> tuple[Tensor, Tensor]:
        """Return ids and probabilities (B, K) of the best codes, after top-p and top-k."""
        values, ids = scores.topk(min(MAX_TOP_K, self._num_codes), dim=1)
        probabilities = (values - scores.logsumexp(dim=1, keepdim=True)).exp()
        before = probabilities.cumsum(dim=1) - probabilities
        rank = torch.arange(values.shape[1], device=scores.device)
        is_cut = (before >= rows.top_p[:, None]) & (rank >= _MIN_CODES_KEPT)
        is_cut |= rank >= rows.top_k[:, None]
        is_cut |= (ids == self._num_codes - 1) & rows.forbids_end[:, None]
        return ids, values.masked_fill(is_cut, -math.inf).softmax(dim=1)

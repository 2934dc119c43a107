"""Logits -> the next token of every row in one pass: chat, half duplex and duplex rows together.

Every parameter is a tensor over rows, so one pass serves a mixed batch and can be captured in a
graph. Chance comes in as numbers in [0, 1) that each session's own generator drew: what a row takes
never depends on its neighbours.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from omni.minicpmo.tokenizer import ControlTokens, Tokenizer

# Candidates that are sorted where every row's top_k is at most this (defaults: 20, 100).
MAX_NARROW = 128
_HISTORY_STEP = 64  # history widths are multiples of this, so that few shapes occur
_NO_TOP_P = 2.0  # above every sum of rounded probabilities
_NO_TOP_K = 1 << 30
COLDEST = 1e-4  # temperature 0 means greedy; this only keeps the division finite


class TextRule(IntEnum):
    """Which tokens a row must not take and which end its text: a row of the sampler's tables."""

    CHAT = 0
    HALF_DUPLEX_TEXT = 1
    HALF_DUPLEX_SPOKEN = 2
    DUPLEX = 3


@frozen(kw_only=True)
class TextSampling:
    """How one session chooses its text tokens. Defaults: the published chat parameters.

    temperature 0: greedy. top_k 0, top_p 0: off. repetition_window 0: the whole history.
    length_penalty: above 1 makes the tokens that end a text less likely.
    listen_prob_scale: the probability of listening is multiplied by it before the draw.
    listen_top_k: listen at once when <|listen|> is among so many most likely tokens; 0: off.
    """

    rule: TextRule = TextRule.CHAT
    temperature: float = field(default=0.7, validator=ge(0))
    top_k: int = field(default=100, validator=ge(0))
    top_p: float = field(default=0.8, validator=[ge(0), le(1)])
    repetition_penalty: float = field(default=1.02, validator=gt(0))
    repetition_window: int = field(default=0, validator=ge(0))
    length_penalty: float = field(default=1.0, validator=gt(0))
    listen_prob_scale: float = field(default=1.0, validator=ge(0))
    listen_top_k: int = field(default=0, validator=ge(0))
    is_greedy: bool = False

    @property
    def takes_best(self) -> bool:
        """Whether this row takes the most likely token."""
        return self.is_greedy or self.temperature == 0

    @property
    def is_narrow(self) -> bool:
        """Whether the first MAX_NARROW candidates hold all that this row can take."""
        return self.takes_best or 0 < self.top_k <= MAX_NARROW


CHAT_SAMPLING = TextSampling()
HALF_DUPLEX_SAMPLING = TextSampling(
    rule=TextRule.HALF_DUPLEX_SPOKEN, repetition_window=128, length_penalty=1.1
)
DUPLEX_SAMPLING = TextSampling(
    rule=TextRule.DUPLEX,
    top_k=20,
    repetition_penalty=1.05,
    repetition_window=512,
    length_penalty=1.1,
)


@frozen(kw_only=True, eq=False)
class TextRows:
    """The parameters of B rows on the device.

    numbers: (5, B) float32. counts: (5, B) int64. history: (B, W) ids, padded with the size of the
    vocabulary. is_narrow holds for all rows. The properties below are views or one comparison.
    """

    numbers: Tensor
    counts: Tensor
    history: Tensor
    is_narrow: bool

    @property
    def inverse_temperature(self) -> Tensor:
        return self.numbers[0]

    @property
    def top_p(self) -> Tensor:
        return self.numbers[1]

    @property
    def repetition_penalty(self) -> Tensor:
        return self.numbers[2]

    @property
    def length_penalty(self) -> Tensor:
        return self.numbers[3]

    @property
    def listen_bias(self) -> Tensor:
        """Logarithm of listen_prob_scale."""
        return self.numbers[4]

    @property
    def rule(self) -> Tensor:
        return self.counts[0]

    @property
    def top_k(self) -> Tensor:
        return self.counts[1]

    @property
    def listen_top_k(self) -> Tensor:
        return self.counts[2]

    @property
    def is_greedy(self) -> Tensor:
        return self.counts[3] != 0

    @property
    def forbids_end(self) -> Tensor:
        """Rows that may not end yet (min_new_tokens)."""
        return self.counts[4] != 0


@frozen(kw_only=True, eq=False)
class TextDraw:
    """token: (B,) int64. is_recorded: (B,) bool, False where the token stays out of the history."""

    token: Tensor
    is_recorded: Tensor


class TextSampler:
    """Draws text tokens; holds the tables of forbidden and ending tokens on a device."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, device: torch.device) -> None:
        control = tokenizer.control
        self._vocab_size = vocab_size
        self._control = control
        self._device = device
        forbidden = forbidden_tokens(tokenizer)
        self._forbidden = self._table([forbidden[rule] for rule in TextRule])
        self._ends = self._table([end_tokens(control)[rule] for rule in TextRule])

    def rows(
        self,
        sampling: Sequence[TextSampling],
        histories: Sequence[Sequence[int]],
        forbids_end: Sequence[bool],
    ) -> TextRows:
        """Bring the rows' parameters to the device; histories: what each row's penalty looks at.

        The rows with repetition_window look at the last so many tokens of their history.
        """
        windows = [list(history[-s.repetition_window :]) for s, history in zip(sampling, histories)]
        numbers = [
            [1 / max(s.temperature, COLDEST) for s in sampling],
            [s.top_p if 0 < s.top_p < 1 else _NO_TOP_P for s in sampling],
            [s.repetition_penalty for s in sampling],
            [s.length_penalty for s in sampling],
            [_log(s.listen_prob_scale) for s in sampling],
        ]
        counts = [
            [int(s.rule) for s in sampling],
            [s.top_k or _NO_TOP_K for s in sampling],
            [s.listen_top_k for s in sampling],
            [int(s.takes_best) for s in sampling],
            [int(forbids) for forbids in forbids_end],
        ]
        return TextRows(
            numbers=to_device(torch.tensor(numbers), self._device),
            counts=to_device(torch.tensor(counts), self._device),
            history=padded_history(windows, self._vocab_size, self._device),
            is_narrow=all(s.is_narrow for s in sampling),
        )

    def sample(self, logits: Tensor, rows: TextRows, chances: Tensor) -> TextDraw:
        """Draw one token a row. logits: (B, V) float32. chances: (B, 2) in [0, 1).

        A duplex row draws twice: from the raw distribution whether the unit ends here, then (its
        end forbidden) the token; in the published order.
        """
        scores = self._scores(logits, rows)
        listen = scores[:, self._control.listen, None]
        listens = (scores > listen).sum(dim=1) < rows.listen_top_k
        ids, probabilities = self._candidates(scores, rows)
        drawn = draw(probabilities, chances[:, 1], rows.is_greedy)
        token = ids.gather(1, drawn[:, None])[:, 0]
        token = torch.where(listens, self._control.listen, token)
        ends = self._ends_at_once(logits, rows, chances[:, 0])
        token = torch.where(ends, self._control.chunk_eos, token)
        return TextDraw(token=token, is_recorded=~(listens | ends))

    def distribution(self, logits: Tensor, rows: TextRows) -> Tensor:
        """Return (B, V), the distribution of the (second) draw; greedy rows as if they were not."""
        scores = self._scores(logits, rows)
        ids, probabilities = self._candidates(scores, rows)
        return torch.zeros_like(scores).scatter_(1, ids, probabilities)

    def _ends_at_once(self, logits: Tensor, rows: TextRows, chance: Tensor) -> Tensor:
        end = logits[:, self._control.chunk_eos]
        probability = (end - logits.logsumexp(dim=1)).exp()
        is_best = end >= logits.amax(dim=1)
        ends = torch.where(rows.is_greedy, is_best, chance < probability)
        return ends & (rows.rule == TextRule.DUPLEX)

    def _scores(self, logits: Tensor, rows: TextRows) -> Tensor:
        """Return (B, V) after masks and penalties, before temperature."""
        is_duplex = (rows.rule == TextRule.DUPLEX)[:, None]
        scores = logits.masked_fill(self._forbidden[rows.rule], -math.inf)
        seen = occurrences(rows.history, self._vocab_size) > 0
        penalty = rows.repetition_penalty[:, None]
        # Duplex divides negative scores too: it shapes turn taking, the weights know it (Q15).
        penalized = torch.where(is_duplex | (scores > 0), scores / penalty, scores * penalty)
        scores = torch.where(seen, penalized, scores)
        ends = self._ends[rows.rule]
        length = rows.length_penalty[:, None]
        penalized = torch.where(scores > 0, scores / length, scores * length)
        scores = torch.where(ends, penalized, scores)
        scores = scores.masked_fill(ends & rows.forbids_end[:, None], -math.inf)
        # In front of a softmax a factor on a probability is an addend to the score (Q1, Q2).
        listen = self._control.listen
        biased = scores[:, listen] + rows.listen_bias
        scores[:, listen] = torch.where(is_duplex[:, 0], biased, scores[:, listen])
        return scores

    def _candidates(self, scores: Tensor, rows: TextRows) -> tuple[Tensor, Tensor]:
        """Return ids and probabilities (B, K), best first, after temperature, top-k, top-p."""
        count = min(MAX_NARROW, self._vocab_size) if rows.is_narrow else self._vocab_size
        values, ids = scores.topk(count, dim=1)
        values = values * rows.inverse_temperature[:, None]
        rank = torch.arange(count, device=scores.device)
        values = values.masked_fill(rank >= rows.top_k[:, None], -math.inf)
        probabilities = values.softmax(dim=1)
        before = probabilities.cumsum(dim=1) - probabilities
        is_cut = (before >= rows.top_p[:, None]) & (rank > 0)
        probabilities = probabilities.masked_fill(is_cut, 0.0)
        return ids, probabilities / probabilities.sum(dim=1, keepdim=True)

    def _table(self, ids_of_rules: Sequence[Sequence[int]]) -> Tensor:
        table = torch.zeros(len(ids_of_rules), self._vocab_size, dtype=torch.bool)
        for row, ids in zip(table, ids_of_rules, strict=True):
            row[list(ids)] = True
        return table.to(self._device)


def _log(factor: float) -> float:
    return math.log(factor) if factor > 0 else -math.inf


# Half duplex with sound forbids these. The published list also names multi-byte punctuation, which
# its tokenizer resolves to <unk>, so only these and <unk> are really forbidden (Q26).
_SILENT_SIGNS = ":#@*()[]&/$"


def forbidden_tokens(tokenizer: Tokenizer) -> dict[TextRule, tuple[int, ...]]:
    """Return the ids that a row of each rule never takes."""
    control, bad = tokenizer.control, tokenizer.bad_token_ids
    signs = tuple(tokenizer.id(sign) for sign in _SILENT_SIGNS)
    return {
        TextRule.CHAT: (),
        TextRule.HALF_DUPLEX_TEXT: (),
        TextRule.HALF_DUPLEX_SPOKEN: (*signs, control.placeholder, *bad),
        TextRule.DUPLEX: (control.chunk_eos, control.tts_pad, *bad),
    }


def end_tokens(control: ControlTokens) -> dict[TextRule, tuple[int, ...]]:
    """Return the ids that end a text of each rule; a length penalty weighs on them.

    The published half-duplex list also has </s>, an ordinary token of the vocabulary (Q26).
    """
    return {
        TextRule.CHAT: (control.im_end, control.end_of_text),
        TextRule.HALF_DUPLEX_TEXT: (control.tts_eos, control.im_end),
        TextRule.HALF_DUPLEX_SPOKEN: (control.tts_eos, control.im_end),
        TextRule.DUPLEX: (control.turn_eos,),
    }


def occurrences(history: Tensor, num_ids: int) -> Tensor:
    """Return (B, num_ids) float32, how often each id stands in history (B, W).

    Padding in the history is num_ids itself.
    """
    counts = torch.zeros(history.shape[0], num_ids + 1, device=history.device)
    ones = torch.ones_like(history, dtype=torch.float32)
    return counts.scatter_add_(1, history, ones)[:, :num_ids]


def padded_history(
    windows: Sequence[Sequence[int]], padding: int, device: torch.device
) -> Tensor:
    """Return (B, W) int64 of *windows*, W the longest one rounded up."""
    longest = max((len(window) for window in windows), default=0)
    width = max(1, -(-longest // _HISTORY_STEP)) * _HISTORY_STEP
    rows = [[*window, *[padding] * (width - len(window))] for window in windows]
    return to_device(torch.tensor(rows, dtype=torch.int64), device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return *tensor* on *device*, copied without waiting where that is a GPU."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def draw(probabilities: Tensor, chances: Tensor, is_greedy: Tensor) -> Tensor:
    """Return (B,) the column where the running sum of (B, K) passes chance * sum, or the best."""
    running = probabilities.cumsum(dim=1)
    passed = (running <= chances[:, None] * running[:, -1:]).sum(dim=1)
    drawn = passed.clamp_max(probabilities.shape[1] - 1)
    return torch.where(is_greedy, probabilities.argmax(dim=1), drawn)

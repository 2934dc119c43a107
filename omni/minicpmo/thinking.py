"""Thinking: the language model with its cache; prompts and tokens in, next tokens out, batched."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional as F

from omni.minicpmo.graphs import GraphPool, RowGraphs, Step, StepGraphs, or_eager, table_pages
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow, StepShape
from omni.minicpmo.kv_pages import Span
from omni.minicpmo.model.llm import Llm
from omni.minicpmo.sampling import TextRows, TextSampler, TextSampling, to_device
from omni.minicpmo.session import Session
from omni.minicpmo.staging import Array, Field
from omni.minicpmo.work import Draw, Drawn, Fed, Feed, Ids, Part

#: Rows of at most so many cached tokens have recorded steps; a client stops itself at 8,192.
_RECORDED_TOKENS = 16_384
#: Prompts are filled up to these. A unit of sound has 13 to 16 tokens, one with a picture 79 to 82,
#: a question in a chat with a reference voice some 200.
_PROMPT_TOKENS = (16, 96, 256)
#: Tokens of a batch up to which prompts have recorded steps; launching a larger one takes no longer
#: than computing it (26 ms on an H100).
_PROMPT_BATCH_TOKENS = 1024
#: History widths are filled up to it: the published window of duplex, so that one graph serves.
_HISTORY_TOKENS = 512
_ANY = TextSampling()

#: Slot, what was asked and what was drawn -> what is taken; benches and tests set scripts by it.
Choose = Callable[[int, Draw, Drawn], Drawn]


@frozen(eq=False)
class FeedShare:
    """Tokens start..start+count-1 of a `Feed`, and the slot that they are for."""

    slot: int
    work: Feed
    start: int
    count: int

    @property
    def wants_logits(self) -> bool:
        """Whether the logits behind this share are wanted: it is the last one."""
        return self.work.wants_logits and self.start + self.count == len(self.work)


class Thinking:
    """The language model of all slots. kv: its cache; one thread changes it."""

    def __init__(
        self,
        llm: Llm,
        kv: PagedKVCache,
        sampler: TextSampler,
        pool: GraphPool,
        choose: Choose | None,
    ) -> None:
        self.kv = kv
        self._llm = llm
        self._sampler = sampler
        self._choose = choose
        self._device = llm.lm_head.weight.device
        self._decodes = StepGraphs(self._decode_call, kv, _decode_fields, pool)
        self._prefills = StepGraphs(
            self._prefill_call, kv, _prefill_fields, pool, self._prefill_tensors
        )
        self._draws = RowGraphs(self._draw_narrow, pool)

    def record(self, batch_sizes: Sequence[int]) -> None:
        """Record the steps of one token a row, those of short prompts, and the draws."""
        weight = self._llm.lm_head.weight
        num_pages = table_pages(self.kv, _RECORDED_TOKENS)
        draw = Draw(logits=weight.new_zeros((1, len(weight)), dtype=torch.float32), sampling=_ANY)
        with or_eager("decode"):
            self._decodes.record(StepShape(size, num_pages=num_pages) for size in batch_sizes)
        with or_eager("prefill"):
            self._prefills.record(
                StepShape(size, num_tokens, num_pages=num_pages)
                for num_tokens in _PROMPT_TOKENS
                for size in batch_sizes
                if size * num_tokens <= _PROMPT_BATCH_TOKENS
            )
        with or_eager("draw"):
            self._draws.record(batch_sizes, lambda size: self._draw_inputs([draw] * size, []))

    def splice(self, slot: int, start: int, removed: int, inserted: int) -> None:
        """Replace *removed* tokens at *start* by a hole, which a `Feed` with that start fills."""
        frequencies = self._llm.decoder.frequencies(self._device)
        self.kv.splice(slot, start, removed, inserted, frequencies)

    def no_hidden(self) -> Tensor:
        """Return (0, C): the states of no tokens."""
        weight = self._llm.lm_head.weight
        return weight.new_zeros((0, weight.shape[1]))

    def prefill(self, shares: Sequence[FeedShare]) -> list[Fed]:
        """Feed a part of each prompt; the last part's result has logits if they are wanted.

        Raises: ContextExhausted or CapacityError; every slot is then as it was.
        """
        spans = self.kv.spans([_prefill_row(share) for share in shares])
        shape = self._prefills.fitting(spans)
        with self.kv.kept([share.slot for share in shares]):
            if shape is None:
                hidden, logits = self._ragged_prefill(shares)
            else:
                hidden, logits = self._recorded_prefill(shares, spans, shape)
        return [
            Fed(hidden=hidden[row : row + 1], logits=logits.get(row)) for row in range(len(shares))
        ]

    def _ragged_prefill(self, shares: Sequence[FeedShare]) -> tuple[Tensor, dict[int, Tensor]]:
        """Return each row's last state, and the logits of those that want them."""
        embeds = self._embed(shares)
        plan = self.kv.prefill_plan([_prefill_row(share) for share in shares])
        hidden = self._llm(embeds, plan, self.kv.pool).index_select(0, plan.last_token)
        wanted = _wanted(shares)
        if not wanted:
            return hidden, {}
        index = to_device(torch.tensor(wanted, dtype=torch.int64), self._device)
        logits = self._llm.logits(hidden.index_select(0, index), plan.uses_kernel)
        return hidden, {row: logits[number : number + 1] for number, row in enumerate(wanted)}

    def _recorded_prefill(
        self, shares: Sequence[FeedShare], spans: Sequence[Span], shape: StepShape
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the same by a recorded step: every row is filled up to a number of tokens."""
        self.kv.reserve(spans)
        embeds = self._prefills.tensor(shape, "embeds")
        for row, share in enumerate(shares):
            for place, given in _given(share):
                embeds[row, place : place + len(given)].copy_(given)

        def fill(host: Mapping[str, Array]) -> None:
            host["ids"][:] = 0
            host["is_given"][:] = 0
            for row, share in enumerate(shares):
                ids, places = _tokens(share)
                host["ids"][row, : len(ids)] = ids
                host["is_given"][row, places] = 1

        hidden, logits = self._prefills.run(shape, spans, fill)
        return hidden, {row: logits[row : row + 1] for row in _wanted(shares)}

    def _prefill_call(self, step: Step) -> tuple[Tensor, ...]:
        (plan,) = step.plans
        looked_up = self._llm.embed(step.tensors["ids"])
        is_given = step.tensors["is_given"].bool()[..., None]
        embeds = torch.where(is_given, step.tensors["embeds"], looked_up).flatten(0, 1)
        hidden = self._llm(embeds, plan, self.kv.pool).index_select(0, plan.last_token)
        return hidden, self._llm.logits(hidden, plan.uses_kernel)

    def _prefill_tensors(self, shape: StepShape) -> dict[str, Tensor]:
        weight = self._llm.lm_head.weight
        return {"embeds": weight.new_zeros(shape.num_rows, shape.num_tokens, weight.shape[1])}

    def decode(self, slots: Sequence[int], tokens: Sequence[int]) -> list[Fed]:
        """Feed one token a slot.

        Raises: ContextExhausted or CapacityError; every slot is then as it was.
        """

        def fill(host: Mapping[str, Array]) -> None:
            host["ids"][: len(tokens)] = tokens
            host["ids"][len(tokens) :] = 0

        with self.kv.kept(slots):
            spans = self.kv.spans([PrefillRow(slot, 1) for slot in slots])
            self.kv.reserve(spans)
            shape = self._decodes.fitting_or_exact(spans)
            hidden, logits = self._decodes.run(shape, spans, fill)
        return [
            Fed(hidden=hidden[row : row + 1], logits=logits[row : row + 1])
            for row in range(len(slots))
        ]

    def _decode_call(self, step: Step) -> tuple[Tensor, ...]:
        (plan,) = step.plans
        hidden = self._llm(self._llm.embed(step.tensors["ids"]), plan, self.kv.pool)
        return hidden, self._llm.logits(hidden, plan.uses_kernel)

    def draw(self, works: Sequence[Draw], sessions: Sequence[Session]) -> list[Drawn]:
        """Choose a token for each row."""
        chances = [[session.random.random(), session.random.random()] for session in sessions]
        num_idle = self._draws.filled(len(works)) - len(works)
        inputs = self._draw_inputs([*works, *[works[0]] * num_idle], chances)
        is_narrow = all(work.sampling.is_narrow for work in works)
        token, is_recorded = self._draws.run(inputs) if is_narrow else self._draw_wide(*inputs)
        drawn = torch.stack((token, is_recorded.long()), dim=1)[: len(works)]
        # The programs act on each token: the one wait of a decode step.
        pairs = drawn.tolist()
        tokens = [Drawn(token=token, is_recorded=bool(noted)) for token, noted in pairs]
        if self._choose is None:
            return tokens
        rows_of = zip(sessions, works, tokens, strict=True)
        return [self._choose(session.slot.index, work, token) for session, work, token in rows_of]

    def _draw_inputs(
        self, works: Sequence[Draw], chances: Sequence[Sequence[float]]
    ) -> tuple[Tensor, ...]:
        """Return the tensors of a draw; rows without *chances* sit out."""
        rows = self._sampler.rows(
            [work.sampling for work in works],
            [work.history for work in works],
            [work.forbids_end for work in works],
        )
        logits = works[0].logits if len(works) == 1 else torch.cat([work.logits for work in works])
        given = torch.zeros(len(works), 2)
        if chances:
            given[: len(chances)] = torch.tensor(chances)
        width = max(_HISTORY_TOKENS, rows.history.shape[1])
        missing = width - rows.history.shape[1]
        history = F.pad(rows.history, (0, missing), value=self._llm.config.vocab_size)
        return logits, to_device(given, self._device), rows.numbers, rows.counts, history

    def _draw_narrow(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._sample(*inputs, is_narrow=True)

    def _draw_wide(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._sample(*inputs, is_narrow=False)

    def _sample(
        self,
        logits: Tensor,
        chances: Tensor,
        numbers: Tensor,
        counts: Tensor,
        history: Tensor,
        *,
        is_narrow: bool,
    ) -> tuple[Tensor, ...]:
        rows = TextRows(numbers=numbers, counts=counts, history=history, is_narrow=is_narrow)
        drawn = self._sampler.sample(logits, rows, chances)
        return drawn.token, drawn.is_recorded

    def _embed(self, shares: Sequence[FeedShare]) -> Tensor:
        """Return (N, C): the tokens of all shares, packed."""
        ids: list[int] = []
        places: list[int] = []
        for share in shares:
            of_share, given_at = _tokens(share)
            places += [len(ids) + place for place in given_at]
            ids += of_share
        embeds = self._llm.embed(to_device(torch.tensor(ids, dtype=torch.int64), self._device))
        if given := [part for share in shares for _, part in _given(share)]:
            index = to_device(torch.tensor(places, dtype=torch.int64), self._device)
            embeds.index_copy_(0, index, torch.cat(given).to(embeds.dtype))
        return embeds


def _prefill_row(share: FeedShare) -> PrefillRow:
    start = share.work.start
    return PrefillRow(
        slot=share.slot,
        num_tokens=share.count,
        start=None if start is None else start + share.start,
    )


def _decode_fields(shape: StepShape) -> dict[str, Field]:
    return {"ids": Field((shape.num_rows,))}


def _prefill_fields(shape: StepShape) -> dict[str, Field]:
    by_token = Field((shape.num_rows, shape.num_tokens))
    return {"ids": by_token, "is_given": by_token}


def _wanted(shares: Sequence[FeedShare]) -> list[int]:
    return [row for row, share in enumerate(shares) if share.wants_logits]


def _tokens(share: FeedShare) -> tuple[list[int], list[int]]:
    """Return the ids of a share, 0 where embeddings are given, and the places of these."""
    ids: list[int] = []
    places: list[int] = []
    for part, start, stop in _slices(share):
        if isinstance(part, Ids):
            ids += part.ids[start:stop]
        else:
            places += range(len(ids), len(ids) + stop - start)
            ids += [0] * (stop - start)
    return ids, places


def _given(share: FeedShare) -> Iterator[tuple[int, Tensor]]:
    """Yield the embeddings in a share, each with its place."""
    place = 0
    for part, start, stop in _slices(share):
        if not isinstance(part, Ids):
            yield place, part.embeds[start:stop]
        place += stop - start


def _slices(share: FeedShare) -> Iterator[tuple[Part, int, int]]:
    """Yield the parts that a share touches, and from where to where in each."""
    position, stop = 0, share.start + share.count
    for part in share.work.parts:
        first, last = max(share.start - position, 0), min(stop - position, len(part))
        if first < last:
            yield part, first, last
        position += len(part)

"""Spoken text -> speech codes, for many slots in one batch: the three published procedures.

chat: one call a turn, from 50 to 2,048 codes. half duplex: one call for every ten text tokens, to
the end code or 500 codes. duplex: one call a unit, at most 25 codes; a unit inside a turn has
exactly 25. A call's last code, when it is stopped by number, is fed with the next call's
condition, which saves a forward pass and is the same arithmetic. Longer than most files: the three
share one state and one step.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor

from omni.errors import CapacityError
from omni.minicpmo.code_sampling import CodeSampler, CodeSampling
from omni.minicpmo.graphs import GraphPool, Step, StepGraphs, table_pages
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow, StepShape
from omni.minicpmo.kv_pages import Span, bucket_pages
from omni.minicpmo.model.tts import Tts
from omni.minicpmo.sampling import to_device
from omni.minicpmo.staging import Array, Field, Staging


class SpeechMode(Enum):
    """Which of the published procedures a slot speaks by."""

    CHAT = "chat"
    HALF_DUPLEX = "half duplex"
    DUPLEX = "duplex"


MIN_CHAT_CODES, MAX_CHAT_CODES = 50, 2048
MAX_HALF_DUPLEX_CODES = 500  # of one call
DUPLEX_CODES = 25  # of one unit: one second of sound
#: Codes that a recorded step draws before the host sees them: 24 follow the first code of a unit.
RECORDED_CODES = 8
#: Conditions are filled up to these: ten words, markers and a code that waited; at most 19 words.
_CONDITION_TOKENS = (16, 32)
_NO_CODE = -1


@frozen(kw_only=True, eq=False)
class SpeechCall:
    """What a slot says next: text_ids (n,) int64 and the LLM's state at each, (n, LLM hidden).

    is_turn_end: the text of the turn ends here. min_codes, max_codes: None for the published
    bounds.
    """

    slot: int
    text_ids: Tensor
    hidden: Tensor
    is_turn_end: bool
    min_codes: int | None = None
    max_codes: int | None = None


@define
class SpeechState:
    """Where one slot stands. codes: of this call. history: what the penalty looks at.

    pending: codes given out and not fed yet. recent: the condition and the codes of the call before
    (only the sliding_recompute attention reads it). chances: drawn ahead, for the next codes.
    """

    mode: SpeechMode
    sampling: CodeSampling
    draw_chance: Callable[[], float]
    codes: list[int] = field(factory=list)
    history: list[int] = field(factory=list)
    pending: list[int] = field(factory=list)
    chances: list[float] = field(factory=list)
    recent: tuple[Tensor, list[int]] | None = None
    min_codes: int = 0
    max_codes: int = 0
    is_speaking: bool = False

    def coming_chances(self, count: int) -> list[float]:
        """Return the chances of the next *count* codes; those that are taken must be removed."""
        while len(self.chances) < count:
            self.chances.append(self.draw_chance())
        return self.chances[:count]


class SpeechCodes:
    """The speech-token model with its cache and one state per slot.

    `start` begins calls and gives each its first code, `step` gives every speaking slot more; a
    slot that is not speaking keeps its state. Slots join between steps.
    """

    def __init__(
        self,
        tts: Tts,
        num_slots: int,
        num_pages: int,
        page_size: int = 32,
        pool: GraphPool | None = None,
        uses_kernel: bool = True,
    ) -> None:
        decoder, weight = tts.config.decoder, tts.head.weight
        self._tts = tts
        self._sampler = CodeSampler(tts.config.num_audio_tokens, weight.device)
        self._states: dict[int, SpeechState] = {}
        self.cache = PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=num_slots,
            num_pages=num_pages,
            page_size=page_size,
            max_tokens=num_pages * page_size,
            dtype=weight.dtype,
            device=weight.device,
            uses_kernel=uses_kernel,
        )
        pool = pool or GraphPool(weight.device)
        self._graphs = StepGraphs(self._step_call, self.cache, self._fields, pool)
        self._starts = StepGraphs(
            self._start_call,
            self.cache,
            lambda shape: self._first_fields(shape.num_rows),
            pool,
            self._start_tensors,
        )

    def open_turn(
        self,
        slot: int,
        mode: SpeechMode,
        sampling: CodeSampling,
        draw_chance: Callable[[], float],
    ) -> None:
        """Begin a turn in *slot*, forgetting what it held; draw_chance: numbers in [0, 1)."""
        config = self._tts.config
        slides = mode is SpeechMode.HALF_DUPLEX and config.attention == "sliding_window"
        self.cache.reset(slot)
        self.cache.set_window(slot, config.window_tokens if slides else None)
        self._states[slot] = SpeechState(mode, sampling, draw_chance)

    def close_turn(self, slot: int) -> None:
        """Forget the turn of *slot*; its pages become free."""
        self.cache.reset(slot)
        self._states.pop(slot, None)

    def state(self, slot: int) -> SpeechState:
        """Return the state of an open turn (read it; `start` and `step` alone change it)."""
        return self._states[slot]

    def position(self, slot: int) -> int:
        """Return the tokens of the turn so far, given-out codes included."""
        return self.cache.length(slot) + len(self._states[slot].pending)

    @property
    def speaking(self) -> list[int]:
        """The slots whose call goes on."""
        return [slot for slot, state in self._states.items() if state.is_speaking]

    @property
    def codes_a_step(self) -> int:
        """The most codes that `step` gives a slot."""
        return RECORDED_CODES if self._graphs else 1

    def start(self, calls: Sequence[SpeechCall]) -> None:
        """Feed the conditions of *calls* (each slot once, its turn open); draw a first code each.

        Raises: CapacityError or ContextExhausted; all is then as it was.
        """
        before = {call.slot: evolve(self._states[call.slot]) for call in calls}
        try:
            with self.cache.kept([*before]):
                self._start(calls)
        except Exception:
            self._states |= before
            raise

    def _start(self, calls: Sequence[SpeechCall]) -> None:
        conditions = self._conditions(calls)
        openings = [self._opening(c, part) for c, part in zip(calls, conditions, strict=True)]
        rows = [
            PrefillRow(call.slot, len(fed), start=0 if restarts else None)
            for call, (fed, restarts) in zip(calls, openings, strict=True)
        ]
        spans = self.cache.spans(rows)
        shape = self._starts.fitting(spans)
        plan = None if shape else self.cache.prefill_plan(rows)
        if shape is not None:
            self.cache.reserve(spans)
        for call, row, condition in zip(calls, rows, conditions, strict=True):
            if row.start == 0:
                self.cache.truncate(call.slot, row.num_tokens)
            self._begin(call, condition)
        states = [self._states[call.slot] for call in calls]
        fed = [embeds for embeds, _ in openings]
        if shape is not None:
            drawn = self._recorded_start(shape, spans, fed, states)
        else:
            assert plan is not None
            hidden = self._tts(torch.cat(fed), plan, self.cache.pool)
            logits = self._tts.logits(hidden.index_select(0, plan.last_token), plan.uses_kernel)
            drawn = self._first_codes(logits, states)
        for state, code in zip(states, drawn.tolist(), strict=True):
            self._note(state, [code])

    def _recorded_start(
        self,
        shape: StepShape,
        spans: Sequence[Span],
        fed: Sequence[Tensor],
        states: Sequence[SpeechState],
    ) -> Tensor:
        """Return the first code of each row, (B,)."""
        embeds = self._starts.tensor(shape, "embeds")
        for row, given in enumerate(fed):
            embeds[row, : len(given)].copy_(given)
        (drawn,) = self._starts.run(shape, spans, lambda host: self._fill_first(host, states))
        return drawn

    def _start_call(self, step: Step) -> tuple[Tensor, ...]:
        (plan,) = step.plans
        hidden = self._tts(step.tensors["embeds"].flatten(0, 1), plan, self.cache.pool)
        logits = self._tts.logits(hidden.index_select(0, plan.last_token), plan.uses_kernel)
        rows = self._sampler.sent(step.tensors)
        return (self._sampler.sample(logits, rows, step.tensors["chances"]),)

    def _start_tensors(self, shape: StepShape) -> dict[str, Tensor]:
        weight = self._tts.head.weight
        return {"embeds": weight.new_zeros(shape.num_rows, shape.num_tokens, weight.shape[1])}

    def _first_fields(self, num_rows: int) -> dict[str, Field]:
        return {"chances": Field((num_rows,), torch.float32), **self._sampler.fields(num_rows)}

    def _fill_first(self, host: Mapping[str, Array], states: Sequence[SpeechState]) -> None:
        self._fill_sampling(host, states)
        host["chances"][: len(states)] = [state.coming_chances(1)[0] for state in states]

    def _first_codes(self, logits: Tensor, states: Sequence[SpeechState]) -> Tensor:
        staging = Staging(self._first_fields(len(states)), logits.device)
        self._fill_first(staging.host(), states)
        staging.send()
        rows = self._sampler.sent(staging.tensors)
        return self._sampler.sample(logits, rows, staging.tensors["chances"])

    def step(self, slots: Sequence[int] | None = None) -> None:
        """Feed the last code of every speaking slot, or of *slots* among them; draw its next.

        A recorded step draws up to RECORDED_CODES each.
        Raises: CapacityError or ContextExhausted; all is then as it was.
        """
        slots = self.speaking if slots is None else slots
        if not slots:
            return
        states = [self._states[slot] for slot in slots]
        with self.cache.kept(slots):
            spans, shape = self._reserved(slots)
            (drawn,) = self._graphs.run(shape, spans, lambda host: self._fill(host, states, spans))
        # The host must know each code: it decides who goes on. The one wait of a step.
        for (slot, start, _), codes in zip(spans, drawn.tolist(), strict=True):
            taken = [code for code in codes if code != _NO_CODE]
            self.cache.truncate(slot, start + len(taken))
            self._note(self._states[slot], taken)

    def record(self, batch_sizes: Sequence[int], max_tokens: int) -> None:
        """Record `step` and `start` for these batch sizes and turns of at most *max_tokens*."""
        num_pages = table_pages(self.cache, max_tokens)
        self._starts.record(
            StepShape(size, num_tokens, num_pages=num_pages)
            for num_tokens in _CONDITION_TOKENS
            for size in batch_sizes
        )
        self._graphs.record(
            StepShape(size, num_steps=RECORDED_CODES, num_pages=num_pages) for size in batch_sizes
        )

    def _reserved(self, slots: Sequence[int]) -> tuple[list[Span], StepShape]:
        """Make room for the codes of a recorded step, or for one code each."""
        rows = [PrefillRow(slot, self._num_allowed(slot)) for slot in slots]
        spans = self.cache.spans(rows)
        shape = self._graphs.fitting(spans)
        if shape is not None:
            try:
                self.cache.reserve(spans)
                return spans, shape
            except CapacityError:
                pass  # there may be room for one
        spans = self.cache.spans([PrefillRow(slot, 1) for slot in slots])
        self.cache.reserve(spans)
        shape = self._graphs.fitting(spans)
        return spans, shape or StepShape(
            len(slots), num_pages=bucket_pages(self.cache.num_pages(spans))
        )

    def _num_allowed(self, slot: int) -> int:
        state = self._states[slot]
        return min(RECORDED_CODES, state.max_codes - len(state.codes))

    def _fields(self, shape: StepShape) -> dict[str, Field]:
        return {
            "codes": Field((shape.num_rows,)),
            "allowed": Field((shape.num_rows,)),
            "chances": Field((shape.num_steps, shape.num_rows), torch.float32),
            **self._sampler.fields(shape.num_rows),
        }

    def _fill(
        self, host: Mapping[str, Array], states: Sequence[SpeechState], spans: Sequence[Span]
    ) -> None:
        self._fill_sampling(host, states)
        host["codes"][:] = host["allowed"][:] = 0
        for row, (state, (_, start, stop)) in enumerate(zip(states, spans, strict=True)):
            host["codes"][row] = state.codes[-1]
            host["allowed"][row] = stop - start
            host["chances"][: stop - start, row] = state.coming_chances(stop - start)

    def _step_call(self, step: Step) -> tuple[Tensor, ...]:
        """Return (B, steps) codes; _NO_CODE behind a row's last one."""
        codes, rows = step.tensors["codes"], self._sampler.sent(step.tensors)
        drawn = []
        goes_on = torch.ones_like(codes, dtype=torch.bool)
        for number, plan in enumerate(step.plans):
            goes_on = goes_on & (step.tensors["allowed"] > number)
            # The waste page is the first one: rows whose call has ended write there.
            write_index = torch.where(goes_on, plan.write_index, 0)
            plan = evolve(plan, write_index=write_index)
            logits = self._tts.decode(codes, plan, self.cache.pool)
            codes = self._sampler.sample(logits, rows, step.tensors["chances"][number])
            drawn.append(torch.where(goes_on, codes, _NO_CODE))
            goes_on = goes_on & (codes != self._tts.end_code)
            rows = rows.after(codes)
        return (torch.stack(drawn, dim=1),)

    def _conditions(self, calls: Sequence[SpeechCall]) -> list[Tensor]:
        """Return (n + markers, C) for each call; the tokens of all calls are projected at once."""
        text_ids = torch.cat([call.text_ids for call in calls])
        hidden = torch.cat([call.hidden for call in calls])
        merged = self._tts.condition(text_ids, hidden).split([len(c.text_ids) for c in calls])
        return [
            torch.cat((part, *self._markers(call)))
            for part, call in zip(merged, calls, strict=True)
        ]

    def _markers(self, call: SpeechCall) -> list[Tensor]:
        # Duplex marks the end of a turn by <|turn_eos|> among the tokens themselves (Q36).
        mode = self._states[call.slot].mode
        ends = call.is_turn_end and mode is not SpeechMode.DUPLEX or mode is SpeechMode.CHAT
        return [self._tts.text_eos(), self._tts.audio_bos()] if ends else [self._tts.audio_bos()]

    def _opening(self, call: SpeechCall, condition: Tensor) -> tuple[Tensor, bool]:
        """Return what is fed for a call, and whether the cache is written anew from its start."""
        state = self._states[call.slot]
        recomputes = self._tts.config.attention == "sliding_recompute"
        if recomputes and state.mode is SpeechMode.HALF_DUPLEX and state.recent is not None:
            before, codes = state.recent
            return torch.cat((before, self._embed(codes), condition)), True
        return torch.cat((self._embed(state.pending), condition)), False

    def _embed(self, codes: Sequence[int]) -> Tensor:
        ids = torch.tensor(codes, dtype=torch.int64)
        return self._tts.embed_codes(to_device(ids, self.cache.pool.device))

    def _begin(self, call: SpeechCall, condition: Tensor) -> None:
        state = self._states[call.slot]
        state.recent = (condition, [])
        lowest, highest = _bounds(state.mode, call, self.cache.length(call.slot))
        state.min_codes = lowest if call.min_codes is None else call.min_codes
        state.max_codes = highest if call.max_codes is None else call.max_codes
        state.codes, state.pending, state.is_speaking = [], [], True
        if state.mode is not SpeechMode.HALF_DUPLEX:
            state.history = []

    def _fill_sampling(self, host: Mapping[str, Array], states: Sequence[SpeechState]) -> None:
        self._sampler.fill(
            host,
            [state.sampling for state in states],
            [state.history for state in states],
            [state.mode is not SpeechMode.DUPLEX and bool(state.history) for state in states],
            [state.min_codes - len(state.codes) for state in states],
        )

    def _note(self, state: SpeechState, codes: Sequence[int]) -> None:
        """Note *codes* that were drawn."""
        del state.chances[: len(codes)]
        for code in codes:
            if code == self._tts.end_code:
                state.is_speaking = False
                return
            state.codes.append(code)
            state.history.append(code)
            if state.recent is not None:
                state.recent[1].append(code)
        if len(state.codes) == state.max_codes:
            state.is_speaking, state.pending = False, [state.codes[-1]]


def _bounds(mode: SpeechMode, call: SpeechCall, num_cached: int) -> tuple[int, int]:
    """Return the least and the most codes of a call; num_cached includes the call's condition."""
    if mode is SpeechMode.CHAT:
        return MIN_CHAT_CODES, MAX_CHAT_CODES
    if mode is SpeechMode.HALF_DUPLEX:
        return 0, MAX_HALF_DUPLEX_CODES
    is_first = num_cached == len(call.text_ids) + 1
    return (0 if is_first or call.is_turn_end else DUPLEX_CODES), DUPLEX_CODES

"""The modules and all state of all slots: computes one batch of one phase for many sessions.

One thread owns it. The vocoder has a stream of its own on a GPU, so that it overlaps the language
model; everything else runs in order on the main one.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from attrs import define, frozen
from torch import Tensor
from torch.nn import functional as F

from omni.errors import OmniError
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.graphs import DecodeGraphs, GraphPool, RowGraphs
from omni.minicpmo.hearing import Hearing, listen_offline
from omni.minicpmo.images import Patches, PatchGrid
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import MAX_PIECE_SAMPLES, MelExtractor
from omni.minicpmo.model.attention import AttentionPlan
from omni.minicpmo.sampling import TextRows, TextSampler, TextSampling, to_device
from omni.minicpmo.scheduler import STEP_LIMITS, Phase
from omni.minicpmo.session import Session
from omni.minicpmo.speech_codes import SpeechCall, SpeechCodes, SpeechMode
from omni.minicpmo.token2wav import SlotChunk, Token2Wav
from omni.minicpmo.work import (
    Draw,
    Drawn,
    EncodeAudio,
    EncodeImages,
    Fed,
    Feed,
    Ids,
    Part,
    Speak,
    SpeakOn,
    Spoken,
    Vocode,
    Waveform,
)

log = logging.getLogger(__name__)

#: Codes that a step adds to each speaking row while others wait to decode; 1.1 ms each on an H100.
CODES_A_STEP = 5


#: Rows of at most so many tokens have recorded steps; a client stops itself at 8,192.
_RECORDED_TOKENS = (2048, 8192)
_RECORDED_SPEECH_TOKENS = 4096
#: History widths are filled up to it: the published window of duplex, so that one graph serves.
_HISTORY_TOKENS = 512
_ANY = TextSampling()

#: Slot, what was asked and what was drawn -> what is taken; benches and tests set scripts by it.
Choose = Callable[[int, Draw, Drawn], Drawn]


@frozen(kw_only=True)
class CacheSizes:
    """Room for the caches that grow with a conversation."""

    num_slots: int
    kv_tokens: int  # of all conversations together
    max_tokens: int  # of one
    speech_tokens: int  # of all spoken turns together
    page_size: int = 32


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


@define(eq=False)
class Sounding:
    """Sound on its way from the device."""

    parts: list[Tensor]
    event: torch.cuda.Event | None

    def is_there(self) -> bool:
        """Say whether `take` returns at once."""
        return self.event is None or self.event.query()

    def take(self) -> Waveform:
        """Return the sound, after waiting for it."""
        if self.event is not None:
            self.event.synchronize()
        if not self.parts:
            return np.zeros(0, dtype=np.float32)
        return torch.cat(self.parts).float().numpy()


class Runner:
    """Computes batches. Meets `SlotStates`."""

    def __init__(
        self,
        model: MiniCpmO,
        token2wav: Token2Wav,
        sampler: TextSampler,
        sizes: CacheSizes,
        choose: Choose | None = None,
        uses_kernel: bool = True,
    ) -> None:
        """uses_kernel: attention walks the pages where a kernel for it is there."""
        self.model = model
        self._choose = choose
        self.sizes = sizes
        self.token2wav = token2wav
        decoder, weight = model.config.llm.decoder, model.llm.lm_head.weight
        self.device = weight.device
        self.kv = PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=sizes.num_slots,
            num_pages=sizes.kv_tokens // sizes.page_size + 1,
            page_size=sizes.page_size,
            max_tokens=sizes.max_tokens,
            dtype=weight.dtype,
            device=self.device,
            uses_kernel=uses_kernel,
        )
        pool = GraphPool(self.device)
        num_pages = sizes.speech_tokens // sizes.page_size + 1
        self.speech = SpeechCodes(model.tts, sizes.num_slots, num_pages, sizes.page_size, pool)
        self.hearing = Hearing(model.audio, sizes.num_slots)
        self._decodes = DecodeGraphs(self._decode_call, self.kv, pool)
        self._draws = RowGraphs(self._draw_narrow, pool)
        self._mel = MelExtractor(self.device)
        self._sampler = sampler
        self._sound_stream = torch.cuda.Stream() if self.device.type == "cuda" else None

    def record(self, batch_sizes: Sequence[int], voice_codes: int) -> None:
        """Record the graphs of decode, draw, speech and vocoder steps for these batch sizes.

        voice_codes: of the voice that most sessions speak with.
        """
        weight = self.model.llm.lm_head.weight
        page_counts = [-(-tokens // self.sizes.page_size) for tokens in _RECORDED_TOKENS]
        ids = torch.zeros(max(batch_sizes), dtype=torch.int64, device=self.device)
        draw = Draw(logits=weight.new_zeros((1, len(weight)), dtype=torch.float32), sampling=_ANY)
        with _or_eager("decode"):
            self._decodes.record(batch_sizes, page_counts, lambda size: (ids[:size],))
        with _or_eager("draw"):
            self._draws.record(batch_sizes, lambda size: self._draw_inputs([draw] * size, []))
        with _or_eager("speech"):
            self.speech.record(batch_sizes, _RECORDED_SPEECH_TOKENS)
        if self._sound_stream is not None:
            most = STEP_LIMITS[Phase.VOCODE]
            sizes = [size for size in batch_sizes if size <= most]
            with _or_eager("vocoder"), self._on_sound_stream():
                for codes in {voice_codes, self.token2wav.options.max_voice_codes}:
                    self.token2wav.capture(sizes, codes)

    # --- slots

    def release(self, slot: int) -> None:
        """Forget everything of *slot*."""
        self.kv.reset(slot)
        self.speech.close_turn(slot)
        self.hearing.reset(slot)
        with self._on_sound_stream():
            self.token2wav.release(slot)

    def kv_length(self, slot: int) -> int:
        return self.kv.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        self.kv.truncate(slot, length)

    def splice(self, slot: int, start: int, removed: int, inserted: int) -> None:
        frequencies = self.model.llm.decoder.frequencies(self.device)
        self.kv.splice(slot, start, removed, inserted, frequencies)

    def push_sound(self, slot: int, samples: Waveform) -> None:
        self.hearing.push(slot, samples)

    def has_unit(self, slot: int) -> bool:
        return self.hearing.has_unit(slot)

    def forget_sound(self, slot: int) -> None:
        self.hearing.reset(slot)

    def open_speech(
        self, slot: int, mode: SpeechMode, sampling: CodeSampling, chance: Callable[[], float]
    ) -> None:
        self.speech.open_turn(slot, mode, sampling, chance)

    def close_speech(self, slot: int) -> None:
        self.speech.close_turn(slot)

    def no_hidden(self) -> Tensor:
        weight = self.model.llm.lm_head.weight
        return weight.new_zeros((0, weight.shape[1]))

    # --- seeing and hearing

    def see(self, patches: Sequence[Patches], grids: Sequence[PatchGrid]) -> Tensor:
        """Return (N, 64, C) of N pictures and slices."""
        embeds: Tensor = self.model.vision([torch.from_numpy(each) for each in patches], grids)
        return embeds

    def listen(self, pieces: Sequence[Waveform], sees_all: bool) -> list[Tensor]:
        """Return (tokens, C) for each piece of at most 30 s."""
        mels = [self._mel.offline(piece) for piece in pieces]
        return listen_offline(self.model.audio, mels, sees_all)

    def hear(self, slots: Sequence[int]) -> Tensor:
        """Return (B, 10, C): the next second of each slot's stream."""
        return self.hearing.step(slots)

    # --- thinking

    def prefill(self, shares: Sequence[FeedShare]) -> list[Fed]:
        """Feed a part of each prompt; the last part's result has logits if they are wanted.

        Raises: ContextExhausted or CapacityError; every slot is then as it was.
        """
        rows = [_prefill_row(share) for share in shares]
        with self._kept([share.slot for share in shares]):
            embeds = self._embed(shares)
            plan = self.kv.prefill_plan(rows)
            hidden = self.model.llm(embeds, plan, self.kv.pool)
            last = hidden.index_select(0, plan.last_token)
            logits = self._logits(
                last, [row for row, share in enumerate(shares) if share.wants_logits]
            )
        return [
            Fed(hidden=last[row : row + 1], logits=logits.get(row)) for row in range(len(shares))
        ]

    def decode(self, slots: Sequence[int], tokens: Sequence[int]) -> list[Fed]:
        """Feed one token a slot.

        Raises: ContextExhausted or CapacityError; every slot is then as it was.
        """
        num_idle = self._decodes.filled(len(slots)) - len(slots)
        ids = torch.tensor([*tokens, *[0] * num_idle], dtype=torch.int64)
        with self._kept(slots):
            hidden, logits = self._decodes.run(slots, (to_device(ids, self.device),))
        return [
            Fed(hidden=hidden[row : row + 1], logits=logits[row : row + 1])
            for row in range(len(slots))
        ]

    def _decode_call(self, plan: AttentionPlan, ids: Tensor) -> tuple[Tensor, ...]:
        hidden = self.model.llm(self.model.llm.embed(ids), plan, self.kv.pool)
        return hidden, self.model.llm.logits(hidden)

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
        history = F.pad(rows.history, (0, missing), value=self.model.config.llm.vocab_size)
        return logits, to_device(given, self.device), rows.numbers, rows.counts, history

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
        given: list[Tensor] = []
        for share in shares:
            for part, start, stop in _slices(share):
                if isinstance(part, Ids):
                    ids += part.ids[start:stop]
                else:
                    places += range(len(ids), len(ids) + stop - start)
                    given.append(part.embeds[start:stop])
                    ids += [0] * (stop - start)
        embeds = self.model.llm.embed(to_device(torch.tensor(ids, dtype=torch.int64), self.device))
        if given:
            index = to_device(torch.tensor(places, dtype=torch.int64), self.device)
            embeds.index_copy_(0, index, torch.cat(given).to(embeds.dtype))
        return embeds

    def _logits(self, last: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        if not wanted:
            return {}
        index = to_device(torch.tensor(wanted, dtype=torch.int64), self.device)
        rows = self.model.llm.logits(last.index_select(0, index))
        return {row: rows[number : number + 1] for number, row in enumerate(wanted)}

    @contextmanager
    def _kept(self, slots: Sequence[int]) -> Iterator[None]:
        """Put the lengths back when a forward pass fails."""
        before = [self.kv.length(slot) for slot in slots]
        try:
            yield
        except Exception:
            for slot, length in zip(slots, before, strict=True):
                self.kv.truncate(slot, length)
            raise

    # --- speaking

    def begin_speech(self, slots: Sequence[int], works: Sequence[Speak]) -> None:
        """Begin calls; each slot has its first code, or has ended, afterwards."""
        self.speech.start(
            [
                SpeechCall(
                    slot=slot,
                    text_ids=to_device(torch.tensor(work.text_ids, dtype=torch.int64), self.device),
                    hidden=work.hidden,
                    is_turn_end=work.is_turn_end,
                    min_codes=work.min_codes,
                    max_codes=work.max_codes,
                )
                for slot, work in zip(slots, works, strict=True)
            ]
        )

    def speak(self, slots: Sequence[int]) -> None:
        """Add one code to each of *slots* (those whose call goes on)."""
        self.speech.step(slots)

    def spoken(self, slot: int, num_given: int, work: Speak | SpeakOn) -> Spoken | None:
        """Return the codes after the first *num_given*, once there are as many as wanted."""
        state = self.speech.state(slot)
        codes = tuple(state.codes[num_given:])
        if state.is_speaking and (work.num_codes is None or len(codes) < work.num_codes):
            return None
        return Spoken(codes=codes, is_done=not state.is_speaking)

    def vocode(self, slots: Sequence[int], works: Sequence[Vocode]) -> list[Sounding | OmniError]:
        """Start to make the sound of each row; a row whose voice has no room gets the error."""
        results: dict[int, Sounding | OmniError] = {}
        with self._on_sound_stream():
            for row, (slot, work) in enumerate(zip(slots, works, strict=True)):
                results[row] = Sounding([], None)
                if work.voice is not None:
                    try:
                        self.token2wav.start_turn(slot, work.voice)
                    except OmniError as exc:
                        results[row] = exc
            for turn in range(max(len(work.chunks) for work in works)):
                rows = [
                    row
                    for row, work in enumerate(works)
                    if turn < len(work.chunks) and isinstance(results[row], Sounding)
                ]
                self._vocode_turn(slots, works, rows, turn, results)
            event = self._record()
        for result in results.values():
            if isinstance(result, Sounding):
                result.event = event
        return [results[row] for row in range(len(works))]

    def _vocode_turn(
        self,
        slots: Sequence[int],
        works: Sequence[Vocode],
        rows: Sequence[int],
        turn: int,
        results: dict[int, Sounding | OmniError],
    ) -> None:
        chunks = [SlotChunk(slots[row], works[row].chunks[turn]) for row in rows]
        for row, sound in zip(rows, self.token2wav.step(chunks), strict=True):
            result = results[row]
            assert isinstance(result, Sounding)
            # The samples may be a graph's own output, which the next call overwrites.
            result.parts.append(_to_host(sound.samples))

    def _on_sound_stream(self) -> torch.cuda.StreamContext | nullcontext[None]:
        if self._sound_stream is None:
            return nullcontext()
        return torch.cuda.stream(self._sound_stream)

    def _record(self) -> torch.cuda.Event | None:
        if self._sound_stream is None:
            return None
        event = torch.cuda.Event()
        event.record(self._sound_stream)
        return event


@contextmanager
def _or_eager(what: str) -> Iterator[None]:
    """Log a recording that fails: its steps then run eagerly, slower and with the same results."""
    try:
        yield
    except RuntimeError:  # all that torch raises for what cannot be captured
        log.warning("the %s step cannot be recorded and runs eagerly", what, exc_info=True)


def pieces_of(work: EncodeAudio) -> list[list[Waveform]]:
    """Return the pieces of at most 30 s of each recording."""
    return [
        [
            recording[first : first + MAX_PIECE_SAMPLES]
            for first in range(0, len(recording), MAX_PIECE_SAMPLES)
        ]
        for recording in work.recordings
    ]


def patches_of(work: EncodeImages) -> tuple[list[Patches], list[PatchGrid]]:
    """Return the patches and patch grids of all pictures and slices in order."""
    patches = [each for image in work.images for each in image.patches]
    return patches, [grid for image in work.images for grid in image.patch_grids]


def _prefill_row(share: FeedShare) -> PrefillRow:
    start = share.work.start
    return PrefillRow(
        slot=share.slot,
        num_tokens=share.count,
        start=None if start is None else start + share.start,
    )


def _slices(share: FeedShare) -> Iterator[tuple[Part, int, int]]:
    """Yield the parts that a share touches, and from where to where in each."""
    position, stop = 0, share.start + share.count
    for part in share.work.parts:
        first, last = max(share.start - position, 0), min(stop - position, len(part))
        if first < last:
            yield part, first, last
        position += len(part)


def _to_host(samples: Tensor) -> Tensor:
    if samples.device.type == "cpu":
        return samples.clone()
    host = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
    return host.copy_(samples, non_blocking=True)

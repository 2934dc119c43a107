"""Speech tokens -> sound for many slots at once: turns, voices, and the chunks of one step.

One thread owns it. Results stay on the device; how long they are is known without waiting for it.
"""

from collections.abc import Sequence

import torch
from attrs import define, frozen
from torch import Tensor

from omni.errors import ClientError
from omni.minicpmo.code_buffer import (
    CHUNK_CODES,
    LOOKAHEAD_CODES,
    MIN_CHUNK_CODES,
    SILENCE_CODE,
    CodeChunk,
)
from omni.minicpmo.model.flow import KEPT_CODES, MAX_CHUNK_CODES, FlowPrompt
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.model.flow_encoder import UPSAMPLE
from omni.minicpmo.model.hift import OVERLAP_SAMPLES
from omni.minicpmo.model.hift_decoder import FRAME_SAMPLES
from omni.minicpmo.token2wav_assets import Token2WavAssets
from omni.minicpmo.token2wav_calls import CodeRow, MelRow, Token2WavCalls, Token2WavOptions
from omni.minicpmo.voice import Voice
from omni.minicpmo.voice_table import Region, VoiceTable

CONSUMED = CHUNK_CODES - LOOKAHEAD_CODES  # codes of the usual chunk
KEY_STEP = 50  # codes; voice lengths are rounded up to it, so that few graphs serve all voices


@frozen
class SlotChunk:
    """One chunk for one slot."""

    slot: int
    chunk: CodeChunk

    @property
    def num_consumed(self) -> int:
        return len(self.chunk.codes) - (0 if self.chunk.is_last else LOOKAHEAD_CODES)


@frozen
class SlotSound:
    """The sound of a chunk: samples (N,) float32 at 24 kHz in [-0.99, 0.99], on the device.

    They may be a graph's output: copy them before the next step.
    """

    slot: int
    samples: Tensor


@define
class _Turn:
    """Where a slot is in its turn."""

    voice_codes: int
    has_spoken: bool = False
    is_finished: bool = False


class Token2Wav:
    """Flow, vocoder, voices and slots."""

    @torch.inference_mode()
    def __init__(self, assets: Token2WavAssets, options: Token2WavOptions) -> None:
        self.options = options
        self.calls = Token2WavCalls(assets, options)
        self._voices = VoiceTable(options.voice_room_codes)
        self._turns: dict[int, _Turn] = {}
        self._recorded_keys: list[int] = []

    @torch.inference_mode()
    def start_turn(self, slot: int, voice: Voice) -> None:
        """Put *slot* at the start of a turn spoken by *voice*; what it did before is forgotten.

        Raises: CapacityError if there is no room for the voice, ClientError if it is too long; the
        slot is then in no turn.
        """
        self._turns.pop(slot, None)
        length, limit = len(voice.codes), self.options.max_voice_codes
        if length > limit:
            raise ClientError(f"a voice of {length} codes, at most {limit}: shorten the recording")
        prompt = self._voices.acquire(
            voice.key, length, slot, lambda region: self._add_voice(region, voice)
        )
        self.calls.flow_state.start(slot, prompt)
        self.calls.reset_vocoder(slot)
        self._turns[slot] = _Turn(length)

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Erase *slot*: its session is over."""
        self._turns.pop(slot, None)
        self._voices.release(slot)
        self.calls.flow_state.reset([slot])
        self.calls.reset_vocoder(slot)

    @torch.inference_mode()
    def step(self, chunks: Sequence[SlotChunk]) -> list[SlotSound]:
        """Return the sound of *chunks* in their order: one chunk a slot, slots in a turn.

        A chunk has 8 to 28 codes, the last of a turn 0 to 28. Each consumed code gives 960 samples;
        the last call of several gives 3840 more, and the first of several starts with 3840 zeros.
        """
        if not chunks:
            return []
        if len({each.slot for each in chunks}) < len(chunks):
            raise ValueError("two chunks of one slot in a step: the second needs the first's state")
        for each in chunks:
            self._check(each)
        is_wide = any(each.num_consumed > CONSUMED for each in chunks)
        mel, frames = self.calls.flow(
            [CodeRow(each.slot, each.chunk.codes, each.chunk.is_last) for each in chunks],
            MAX_CHUNK_CODES if is_wide else CONSUMED,
            self.num_keys(max(self._turns[each.slot].voice_codes for each in chunks)),
        )
        sounds: dict[int, Tensor] = {}
        for rows, is_steady in self._vocoder_groups(chunks, is_wide):
            mel_rows = [MelRow(chunks[row].slot, row, chunks[row].chunk.is_last) for row in rows]
            waves = self.calls.vocode(mel_rows, mel, frames, is_steady=is_steady)
            for index, row in enumerate(rows):
                sounds[row] = waves[index, : self._num_samples(chunks[row])]
        for each in chunks:
            self._turns[each.slot].has_spoken = True
            self._turns[each.slot].is_finished = each.chunk.is_last
        return [SlotSound(each.slot, sounds[row]) for row, each in enumerate(chunks)]

    @torch.inference_mode()
    def capture(self, batch_sizes: Sequence[int], voice_codes: int) -> int:
        """Record CUDA graphs for these batch sizes and voices up to *voice_codes*; return how many.

        Smaller batches are filled up to the next recorded size; what no graph fits runs eagerly.
        """
        num_keys = self._rounded_keys(voice_codes)
        self._recorded_keys = sorted({*self._recorded_keys, num_keys})
        return self.calls.capture(batch_sizes, CONSUMED, num_keys)

    def num_keys(self, voice_codes: int) -> int:
        """Return the cached codes to attend to: the voice, rounded up, and the kept of a turn.

        Rounded up to a recorded number, where there is one.
        """
        wanted = self._rounded_keys(voice_codes)
        return next((recorded for recorded in self._recorded_keys if recorded >= wanted), wanted)

    def _rounded_keys(self, voice_codes: int) -> int:
        rounded = -(-voice_codes // KEY_STEP) * KEY_STEP
        return min(rounded, self.options.max_voice_codes) + KEPT_CODES

    def _add_voice(self, region: Region, voice: Voice) -> FlowPrompt:
        device = self.calls.device
        codes = voice.codes.to(device)
        is_oldest = self.options.trim is CacheTrim.V105
        silence = torch.full((LOOKAHEAD_CODES,), SILENCE_CODE, device=device)
        return self.calls.solver.add_prompt(
            self.calls.flow_state,
            region.first,
            codes,
            silence if is_oldest else codes[:LOOKAHEAD_CODES],
            voice.mel.to(device),
            voice.speaker.to(device),
        )

    def _check(self, each: SlotChunk) -> None:
        turn, codes = self._turns.get(each.slot), each.chunk.codes
        if turn is None or turn.is_finished:
            raise ValueError(f"slot {each.slot} is in no turn: call start_turn first")
        least = 0 if each.chunk.is_last else MIN_CHUNK_CODES
        if not least <= len(codes) <= MAX_CHUNK_CODES:
            raise ValueError(f"{len(codes)} codes in a chunk, wanted {least}..{MAX_CHUNK_CODES}")
        limit = self.calls.solver.flow.config.num_codes
        if any(not 0 <= code < limit for code in codes):
            raise ValueError(f"a code beyond 0..{limit - 1} in {codes}")

    def _vocoder_groups(
        self, chunks: Sequence[SlotChunk], is_wide: bool
    ) -> list[tuple[list[int], bool]]:
        """Split the rows into those that the vocoder computes without masks, and the others."""
        steady = [
            row
            for row, each in enumerate(chunks)
            if self.calls.has_steady_rows and not is_wide and self._is_steady(each)
        ]
        others = [row for row in range(len(chunks)) if row not in steady]
        return [(rows, flag) for rows, flag in ((steady, True), (others, False)) if rows]

    def _is_steady(self, each: SlotChunk) -> bool:
        is_inside = self._turns[each.slot].has_spoken and not each.chunk.is_last
        return is_inside and each.num_consumed == CONSUMED

    def _num_samples(self, each: SlotChunk) -> int:
        held_back = each.chunk.is_last and self._turns[each.slot].has_spoken
        tail = OVERLAP_SAMPLES if held_back else 0
        return UPSAMPLE * FRAME_SAMPLES * each.num_consumed + tail

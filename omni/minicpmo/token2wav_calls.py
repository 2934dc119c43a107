"""The device side of token2wav: the state of all slots, two calls, eager or as CUDA graphs."""

from collections.abc import Sequence

import attrs
import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.code_buffer import LOOKAHEAD_CODES
from omni.minicpmo.model import hift, hift_causal
from omni.minicpmo.model.cfm import FlowSolver
from omni.minicpmo.model.flow import ChunkBatch
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.model.flow_encoder import UPSAMPLE
from omni.minicpmo.model.hift import Hift, HiftState, MelBatch
from omni.minicpmo.model.hift_causal import CausalHiftState
from omni.minicpmo.token2wav_assets import Token2WavAssets
from omni.minicpmo.token2wav_graphs import Call, Graphs


@frozen(kw_only=True)
class Token2WavOptions:
    """Sizes and choices.

    At the published size a mel frame takes 16 * 2048 values per Euler step, with 156 frames a slot
    (FIXED) and 2 frames a code of voice_room_codes.
    """

    num_slots: int
    num_steps: int = 5
    trim: CacheTrim = CacheTrim.FIXED
    cache_dtype: torch.dtype = torch.float32
    max_voice_codes: int = 250  # 10 s: the longest prompt
    voice_room_codes: int = 1000  # 40 s of prompts for all voices in use together


@frozen
class CodeRow:
    """A slot's part of a flow call; a last row consumes its look-ahead too."""

    slot: int
    codes: tuple[int, ...]
    is_last: bool


@frozen
class MelRow:
    """A slot's part of a vocoder call. row: of the mel batch that holds its frames."""

    slot: int
    row: int
    is_last: bool


class Token2WavCalls:
    """Flow and vocoder with their state.

    Batches are filled up to a recorded size with rows that sit out.
    """

    def __init__(self, assets: Token2WavAssets, options: Token2WavOptions) -> None:
        self.device = assets.flow.encoder_proj.weight.device
        self.num_slots = options.num_slots
        self.solver = FlowSolver(assets.flow, options.num_steps, options.max_voice_codes)
        self.flow_state = self.solver.create_state(
            options.num_slots,
            num_prompt_codes=options.voice_room_codes,
            trim=options.trim,
            cache_dtype=options.cache_dtype,
        )
        self.vocoder = assets.vocoder
        self.vocoder_state: HiftState | CausalHiftState = (
            HiftState.create(assets.vocoder, options.num_slots)
            if isinstance(assets.vocoder, Hift)
            else CausalHiftState.create(assets.vocoder, options.num_slots)
        )
        self._graphs = Graphs()
        self._batch_sizes: tuple[int, ...] = ()

    @property
    def has_steady_rows(self) -> bool:
        """Whether rows in mid-turn have a cheaper call of their own."""
        return isinstance(self.vocoder, Hift)

    def flow(self, rows: Sequence[CodeRow], num_codes: int, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return mel (B, 2 num_codes, M) and frames (B,), the first rows those of *rows*."""
        inputs = self.flow_inputs(rows, self._filled(len(rows)), num_codes)
        key = ("flow", len(inputs[0]), num_codes, num_keys)
        mel, frames = self._graphs.run(key, self.flow_call(num_keys), inputs)
        return mel, frames

    def vocode(
        self, rows: Sequence[MelRow], mel: Tensor, frames: Tensor, *, is_steady: bool
    ) -> Tensor:
        """Return samples (B, N), the first rows those of *rows*. mel, frames: from `flow`."""
        table = torch.zeros(self._filled(len(rows)), 4, dtype=torch.int64)
        table[:, 0] = self.num_slots
        for index, row in enumerate(rows):
            table[index] = torch.tensor((row.slot, row.row, row.is_last, True))
        slot, picked, is_last, is_run = self._to_device(table).unbind(1)
        inputs = (slot, mel[picked], frames[picked] * is_run, is_last.bool(), is_run.bool())
        key = ("vocoder", len(table), mel.shape[1], is_steady)
        return self._graphs.run(key, self.vocoder_call(is_steady), inputs)[0]

    def reset_vocoder(self, slot: int) -> None:
        """Put *slot* at the start of a turn."""
        mask = torch.zeros(self.num_slots + 1, dtype=torch.bool)
        mask[slot] = True
        self.vocoder_state.reset(mask.to(self.device))

    def capture(self, batch_sizes: Sequence[int], num_codes: int, num_keys: int) -> int:
        """Record both calls for these batch sizes; return how many graphs there are now.

        Calls of a shape that was not recorded run eagerly.
        """
        self._batch_sizes = tuple(sorted({*batch_sizes, *self._batch_sizes}))
        num_frames = UPSAMPLE * num_codes
        for count in reversed(self._batch_sizes):  # the largest first: the others fit in its memory
            inputs = self.flow_inputs([], count, num_codes)
            key: tuple[object, ...] = ("flow", count, num_codes, num_keys)
            self._graphs.record(key, self.flow_call(num_keys), inputs)
            slots, _, frames, is_last, is_run = inputs
            mel = torch.zeros(count, num_frames, self.solver.noise.shape[1], device=self.device)
            for is_steady in {False, self.has_steady_rows}:
                key = ("vocoder", count, num_frames, is_steady)
                call = self.vocoder_call(is_steady)
                self._graphs.record(key, call, (slots, mel, frames, is_last, is_run))
        return len(self._graphs)

    def num_state_bytes(self) -> int:
        """Return the device memory of all slots and voices together."""
        states = (self.flow_state, self.vocoder_state)
        values = [
            value for state in states for value in attrs.asdict(state, recurse=False).values()
        ]
        return sum(value.nbytes for value in values if isinstance(value, Tensor))

    def flow_inputs(
        self, rows: Sequence[CodeRow], count: int, num_codes: int
    ) -> tuple[Tensor, ...]:
        """Return the tensors of a ChunkBatch of *rows* and rows that sit out, *count* in all."""
        width = num_codes + LOOKAHEAD_CODES
        table = torch.zeros(count, width + 4, dtype=torch.int64)
        table[:, width] = self.num_slots
        for index, row in enumerate(rows):
            table[index, : len(row.codes)] = torch.tensor(row.codes)
            table[index, width:] = torch.tensor((row.slot, len(row.codes), row.is_last, True))
        on_device = self._to_device(table)  # one copy for all
        slots, num_given, is_last, is_run = on_device[:, width:].unbind(1)
        return slots, on_device[:, :width], num_given, is_last.bool(), is_run.bool()

    def flow_call(self, num_keys: int) -> Call:
        """Return flow_inputs -> (mel, frames), to run or to record."""

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self.solver.step(self.flow_state, ChunkBatch(*tensors), num_keys)

        return call

    def vocoder_call(self, is_steady: bool) -> Call:
        """Return the tensors of a MelBatch -> (samples, counts), to run or to record."""
        vocoder, state = self.vocoder, self.vocoder_state

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            batch = MelBatch(*tensors)
            if isinstance(vocoder, Hift):
                assert isinstance(state, HiftState)
                wave = hift.step(vocoder, state, batch, steady=is_steady)
                return wave.samples, wave.counts
            assert isinstance(state, CausalHiftState)
            wave = hift_causal.step(vocoder, state, batch)
            return wave.samples, wave.counts

        return call

    def _to_device(self, table: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return table
        return table.pin_memory().to(self.device, non_blocking=True)

    def _filled(self, count: int) -> int:
        return next((size for size in self._batch_sizes if size >= count), count)

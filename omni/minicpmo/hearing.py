"""Hearing in real time: seconds of sound of many slots -> 10 language-model embeddings each."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from omni.minicpmo.graphs import GraphPool, Step, StepGraphs, table_pages
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow, StepShape
from omni.minicpmo.mel import WINDOW_SAMPLES, StreamingMel
from omni.minicpmo.model.audio_encoder import STREAM_FRAMES, AudioEncoder, must_restart
from omni.minicpmo.staging import Array, Field

_PAGE_FRAMES = 64  # a tile of the attention kernel


class Hearing:
    """The streaming mel front end and the encoder's cache, one row of state per slot.

    A slot holds up to 1,450 encoder frames (the published history of 29 s), 96 KiB each in bf16 at
    the published size.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        num_slots: int,
        pool: GraphPool | None = None,
        uses_kernel: bool = True,
    ) -> None:
        config, weight = encoder.config, encoder.conv1.weight
        self._encoder = encoder
        self._mel = StreamingMel(num_slots, weight.device)
        max_frames = config.max_positions // STREAM_FRAMES * STREAM_FRAMES
        self.cache = PagedKVCache(
            num_layers=config.num_layers,
            num_kv_heads=config.num_heads,
            head_dim=config.hidden_size // config.num_heads,
            num_slots=num_slots,
            num_pages=num_slots * -(-max_frames // _PAGE_FRAMES) + 1,
            page_size=_PAGE_FRAMES,
            max_tokens=max_frames,
            dtype=weight.dtype,
            device=weight.device,
            is_causal=False,
            uses_kernel=uses_kernel,
        )
        graphs = pool or GraphPool(weight.device)
        self._graphs = StepGraphs(self._step_call, self.cache, _fields, graphs)

    def record(self, batch_sizes: Sequence[int]) -> None:
        """Record `step` for these batch sizes."""
        num_pages = table_pages(self.cache, self.cache.table.max_tokens)
        self._graphs.record(
            StepShape(size, STREAM_FRAMES, num_pages=num_pages) for size in batch_sizes
        )

    def reset(self, slot: int) -> None:
        """Forget everything of *slot*: waiting sound, mel history and encoder cache."""
        self._mel.reset(slot)
        self.cache.reset(slot)

    def push(self, slot: int, samples: np.ndarray) -> None:
        """Add *samples* (float32, 16 kHz, mono) to the slot's stream."""
        self._mel.push(slot, samples)

    def has_unit(self, slot: int) -> bool:
        """Say whether a whole unit of *slot* waits to be heard."""
        return self._mel.has_unit(slot)

    def num_units(self, slot: int) -> int:
        """Return how many units of *slot* were heard since its reset."""
        return self._mel.state(slot).next_unit

    def step(self, slots: Sequence[int]) -> Tensor:
        """Hear one unit of each of *slots* (each must have one); returns (B, 10, LLM hidden).

        Other slots keep their state, and when the step fails these have their units again. Every
        29 units a slot's history is dropped and its positions restart, as the weights were trained.
        """
        for slot in slots:
            if must_restart(self.cache.length(slot), self._encoder.config.max_positions):
                self.cache.reset(slot)

        def fill(host: Mapping[str, Array]) -> None:
            self._mel.take(slots, host["rows"], host["sound"])

        with self.cache.kept(slots), self._mel.kept(slots):
            spans = self.cache.spans([PrefillRow(slot, STREAM_FRAMES) for slot in slots])
            self.cache.reserve(spans)
            (embeds,) = self._graphs.run(self._graphs.fitting_or_exact(spans), spans, fill)
        return embeds

    def _step_call(self, step: Step) -> tuple[Tensor, ...]:
        (plan,) = step.plans
        mel, is_first = self._mel.frames(step.tensors["rows"], step.tensors["sound"])
        return (self._encoder.stream(mel, is_first, plan, self.cache.pool),)


def _fields(shape: StepShape) -> dict[str, Field]:
    return {
        "rows": Field((3, shape.num_rows)),
        "sound": Field((shape.num_rows, WINDOW_SAMPLES), torch.float32),
    }


def listen_offline(
    encoder: AudioEncoder, mels: Sequence[Sequence[Tensor]], sees_all: bool = False
) -> list[Tensor]:
    """Encode whole recordings, given as their 30 s pieces of mel frames; one tensor a recording.

    All pieces of all recordings form one batch, each computed as if alone.
    """
    pieces = [piece for recording in mels for piece in recording]
    embeddings = iter(encoder(pieces, sees_all))
    return [torch.cat([next(embeddings) for _ in recording]) for recording in mels]

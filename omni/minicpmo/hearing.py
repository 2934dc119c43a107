"""Hearing in real time: seconds of sound of many slots -> 10 language-model embeddings each."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import StreamingMel
from omni.minicpmo.model.audio_encoder import STREAM_FRAMES, AudioEncoder, must_restart


class Hearing:
    """The streaming mel front end and the encoder's cache, one row of state per slot.

    A slot holds up to 1,450 encoder frames (the published history of 29 s), 96 KiB each in bf16 at
    the published size; `num_pages` counts pages of one second.
    """

    def __init__(self, encoder: AudioEncoder, num_slots: int, num_pages: int | None = None) -> None:
        config, weight = encoder.config, encoder.conv1.weight
        self._encoder = encoder
        self._mel = StreamingMel(num_slots, weight.device)
        self._max_frames = config.max_positions // STREAM_FRAMES * STREAM_FRAMES
        all_pages = num_slots * (self._max_frames // STREAM_FRAMES) + 1
        self.cache = PagedKVCache(
            num_layers=config.num_layers,
            num_kv_heads=config.num_heads,
            head_dim=config.hidden_size // config.num_heads,
            num_slots=num_slots,
            num_pages=all_pages if num_pages is None else num_pages,
            page_size=STREAM_FRAMES,
            max_tokens=self._max_frames,
            dtype=weight.dtype,
            device=weight.device,
            is_causal=False,
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

        Other slots keep their state. Every 29 units a slot's history is dropped and its positions
        restart, as the weights were trained.
        Raises: CapacityError, before anything is changed, when no page is free.
        """
        for slot in slots:
            if must_restart(self.cache.length(slot), self._encoder.config.max_positions):
                self.cache.reset(slot)
        rows = [PrefillRow(slot=slot, num_tokens=STREAM_FRAMES) for slot in slots]
        plan = self.cache.prefill_plan(rows)
        mel, is_first = self._mel.step(slots)
        return self._encoder.stream(mel, is_first, plan, self.cache.pool)


def listen_offline(
    encoder: AudioEncoder, mels: Sequence[Sequence[Tensor]], sees_all: bool = False
) -> list[Tensor]:
    """Encode whole recordings, given as their 30 s pieces of mel frames; one tensor a recording.

    All pieces of all recordings form one batch, each computed as if alone.
    """
    pieces = [piece for recording in mels for piece in recording]
    embeddings = iter(encoder(pieces, sees_all))
    return [torch.cat([next(embeddings) for _ in recording]) for recording in mels]

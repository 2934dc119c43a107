"""Sound beside the rest: token2wav on a stream of its own, and sound on its way from the device."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from attrs import define
from torch import Tensor

from omni.errors import OmniError
from omni.minicpmo.graphs import or_eager
from omni.minicpmo.token2wav import SlotChunk, SlotSound
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Vocode, Waveform

_MAX_RECORDED = 32  # rows; more are vocoded in two steps, as the scheduler's limit says


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


class Vocoder(Protocol):
    """Codes -> sound: `Token2Wav`, or the package that checks it."""

    options: Token2WavOptions

    def start_turn(self, slot: int, voice: Voice) -> None:
        """Put *slot* at the start of a turn spoken by *voice*."""

    def release(self, slot: int) -> None:
        """Erase *slot*."""

    def step(self, chunks: Sequence[SlotChunk]) -> list[SlotSound]:
        """Return the sound of *chunks* in their order."""

    def capture(self, batch_sizes: Sequence[int], voice_codes: int) -> int:
        """Record what can be; return how many graphs there are."""


class Vocoding:
    """Makes the sound of many slots; on a GPU it overlaps whatever runs on the main stream."""

    def __init__(self, token2wav: Vocoder, device: torch.device) -> None:
        self.token2wav = token2wav
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            # The weights were written on the main stream.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def record(self, batch_sizes: Sequence[int], voice_codes: int) -> None:
        """Record the steps for voices of at most *voice_codes*, and for the longest."""
        if self._stream is None:
            return
        sizes = [size for size in batch_sizes if size <= _MAX_RECORDED]
        with or_eager("vocoder"), self._on_stream():
            for codes in {voice_codes, self.token2wav.options.max_voice_codes}:
                self.token2wav.capture(sizes, codes)

    def release(self, slot: int) -> None:
        """Erase *slot*."""
        with self._on_stream():
            self.token2wav.release(slot)

    def vocode(self, slots: Sequence[int], works: Sequence[Vocode]) -> list[Sounding | OmniError]:
        """Start to make the sound of each row; a row whose voice has no room gets the error."""
        results: dict[int, Sounding | OmniError] = {}
        with self._on_stream():
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

    def _on_stream(self) -> torch.cuda.StreamContext | nullcontext[None]:
        if self._stream is None:
            return nullcontext()
        return torch.cuda.stream(self._stream)

    def _record(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(self._stream)
        return event


def _to_host(samples: Tensor) -> Tensor:
    if samples.device.type == "cpu":
        return samples.clone()
    host = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
    return host.copy_(samples, non_blocking=True)

"""Drives an engine as the worker's engine thread does, for tests: no wire, no process."""

import threading
from collections.abc import Callable, Iterator

import numpy as np

from omni import audio
from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    Capabilities,
    Emission,
    Engine,
    SessionEvent,
    SessionInput,
    Slot,
    UnitResult,
)

#: A turn takes seconds even on a busy machine; this says that something hangs.
TIMEOUT_S = 60.0
_ROUND_S = 0.02


class Driver:
    """Steps *engine* and keeps every event by slot."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._woken = threading.Event()
        self.capabilities: Capabilities = engine.load(self._woken.set)
        self.emissions: list[Emission] = []
        self._generation = 0

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    @property
    def is_busy(self) -> bool:
        """True while the engine wants to step on."""
        return self._engine.busy

    def new_slot(self, index: int) -> Slot:
        """Return slot *index* for a new tenant."""
        self._generation += 1
        return Slot(index=index, generation=self._generation)

    def send(self, slot: Slot, *inputs: SessionInput) -> list[SessionEvent]:
        """Give *inputs* to *slot*, and return the events that it has at once."""
        return self._step([Arrival(slot, one) for one in inputs], slot)

    def until(
        self, slot: Slot, is_last: Callable[[SessionEvent], bool]
    ) -> list[SessionEvent]:
        """Step until *slot* has an event that is the last; return its events on the way."""
        events: list[SessionEvent] = []
        for _ in self._rounds():
            events += self._step([], slot)
            if any(is_last(event) for event in events):
                return events
        raise AssertionError(f"nothing more comes after {events[-3:]}")

    def unit(self, slot: Slot, chunk: AudioChunk) -> tuple[UnitResult, list[SessionEvent]]:
        """Give one duplex *chunk*; return its result, and what else came with it."""
        events = self.send(slot, chunk)
        for _ in self._rounds():
            results = [event for event in events if isinstance(event, UnitResult)]
            if results:
                assert len(results) == 1, results
                return results[0], [event for event in events if event is not results[0]]
            events += self._step([], slot)
        raise AssertionError("a chunk has no result")

    def pass_time(self) -> None:
        """Give background work a moment, as the time between two chunks would."""
        self._woken.wait(_ROUND_S)
        self._woken.clear()

    def _rounds(self) -> Iterator[int]:
        for number in range(int(TIMEOUT_S / _ROUND_S)):
            yield number
            if not self._engine.busy:
                self.pass_time()

    def _step(self, arrivals: list[Arrival], slot: Slot) -> list[SessionEvent]:
        made = list(self._engine.step(arrivals))
        self.emissions += made
        return [emission.event for emission in made if emission.slot == slot]


def chunks(waveform: audio.Waveform, chunk_ms: int) -> list[AudioChunk]:
    """Return *waveform* (16 kHz) as chunks of *chunk_ms*; the last is filled with silence."""
    size = audio.INPUT_HZ * chunk_ms // 1000
    padded = np.pad(waveform, (0, -waveform.size % size))
    return [
        AudioChunk(pcm=Buffer(audio.float32_from_waveform(part)))
        for part in padded.reshape(-1, size)
    ]


def joined(pcms: list[bytes]) -> audio.Waveform:
    """Return the sound of several answers' parts (24 kHz) at the rate Whisper wants."""
    whole = audio.waveform_from_float32(b"".join(pcms))
    return audio.resample(whole, audio.OUTPUT_HZ, audio.INPUT_HZ)

"""Drives an engine in tests as the worker's engine thread does, and makes it the golden one."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni.engine import (
    Arrival,
    Buffer,
    Capabilities,
    ChatDone,
    Failed,
    SessionEvent,
    SessionInput,
    Slot,
)
from omni.minicpmo.content import NO_SOUND
from omni.minicpmo.engine import MiniCPMOEngine
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.runner import Runner
from omni.minicpmo.setup import EngineOptions, Loaded, load_model
from omni.settings import Settings, load_settings

E = TypeVar("E", bound=SessionEvent)

#: Without any event. Far more than a unit takes on cores that twenty others use; only a broken
#: engine reaches it.
TIMEOUT_S = 300.0


class Driver:
    """An engine that is loaded, with the events of each slot that nobody has taken yet."""

    def __init__(
        self,
        model_dir: Path,
        options: EngineOptions = EngineOptions(),
        *overrides: str,
        load: Callable[[Settings, EngineOptions], Loaded] = load_model,
    ) -> None:
        # The golden numbers are float32 of a CPU, also where there is a GPU.
        options = attrs.evolve(options, device=options.device or torch.device("cpu"))
        settings = load_settings(overrides=[f"model.model_path={model_dir}", *overrides])
        self.engine = MiniCPMOEngine(settings, options, load)
        self._woken = threading.Event()
        self._heard_s = time.monotonic()
        self.capabilities: Capabilities = self.engine.load(self._woken.set)
        self.events: dict[Slot, list[SessionEvent]] = defaultdict(list)

    @property
    def runner(self) -> Runner:
        """The engine's own runner."""
        return self.engine.loaded.runner

    def step(self, slot: Slot | None = None, *inputs: SessionInput) -> None:
        """Give *inputs* to *slot* and make one step."""
        arrivals = [Arrival(slot, each) for each in inputs] if slot is not None else []
        for emission in self.engine.step(arrivals):
            self.events[emission.slot].append(emission.event)
            self._heard_s = time.monotonic()
        if not self.engine.busy and not arrivals:
            self._woken.wait(0.01)
            self._woken.clear()

    def until(self, holds: Callable[[], bool]) -> None:
        """Step until *holds*."""
        self._heard_s = time.monotonic()
        while not holds():
            is_late = time.monotonic() > self._heard_s + TIMEOUT_S
            assert not is_late, f"nothing came; events so far: {self.events}"
            self.step()

    def wait(self, slot: Slot, kind: type[E]) -> E:
        """Return the next event of *slot*, which must be a *kind*."""
        self.until(lambda: bool(self.events[slot]))
        event = self.events[slot].pop(0)
        assert isinstance(event, kind), event
        return event

    def until_done(self, slot: Slot) -> list[SessionEvent]:
        """Return the events of *slot* up to the end of its request."""
        self.until(lambda: any(isinstance(e, ChatDone | Failed) for e in self.events[slot]))
        return self.events.pop(slot)

    def ask(self, slot: Slot, message: SessionInput, kind: type[E]) -> E:
        """Give *message* to *slot* and return the next event, which must be a *kind*."""
        self.step(slot, message)
        return self.wait(slot, kind)

    def refusal(self, slot: Slot, message: SessionInput) -> Failed:
        """Give *message* to *slot* and return the failure that it ends in."""
        return self.ask(slot, message, Failed)

    def is_clean(self, slot: int) -> bool:
        """Say whether nothing of any session is left in *slot*."""
        runner = self.runner
        lengths = (runner.kv.length(slot), runner.speech.cache.length(slot))
        return (
            lengths == (0, 0)
            and runner.hearing.cache.length(slot) == 0
            and runner.hearing.num_units(slot) == 0
            and not runner.hearing.has_unit(slot)
        )


def golden_driver(
    model_dir: Path,
    noise: Tensor,
    options: EngineOptions | None = None,
    load: Callable[[Settings, EngineOptions], Loaded] = load_model,
) -> Driver:
    """Return an engine that computes what the golden runs did: their noise, their cache trim."""
    driver = Driver(model_dir, options or EngineOptions(trim=CacheTrim.V105), load=load)
    calls = driver.runner.vocoding.token2wav.calls
    rows = noise.T
    with torch.inference_mode():  # in place: recorded steps read these tensors where they are
        calls.solver.noise.zero_()[: len(rows)] = rows
    silence_source(driver)
    return driver


def load_voiceless(settings: Settings, options: EngineOptions) -> Loaded:
    """Load a model without a default voice: the golden calls were prepared below the server."""
    loaded = load_model(settings, options)
    around = attrs.evolve(loaded.around, default_voice=NO_SOUND)
    return attrs.evolve(loaded, around=around)


def silence_source(driver: Driver) -> None:
    """Take the additive noise, which differs from row to row, out of the vocoder's source."""
    noise = driver.runner.vocoding.token2wav.calls.vocoder.noise
    assert isinstance(noise, Tensor)
    with torch.inference_mode():
        noise.zero_()


def pcm(samples: NDArray[np.float32]) -> Buffer:
    """Return *samples* as an engine takes them."""
    return Buffer(samples.astype("<f4").tobytes())


def seconds(stream: NDArray[np.float32], first: int, count: int = 1) -> Buffer:
    """Return *count* seconds of *stream* from second *first* on."""
    return pcm(stream[16_000 * first : 16_000 * (first + count)])


def heard(buffer: Buffer) -> NDArray[np.float32]:
    """Return the samples in an engine's sound."""
    return np.frombuffer(buffer, dtype="<f4")


def slots(count: int, generation: int = 1) -> Sequence[Slot]:
    """Return the first *count* slots."""
    return [Slot(index=index, generation=generation) for index in range(count)]

"""One short call before the first real one: kernels are compiled, libraries choose, voices load."""

import io
import logging
import time

import numpy as np
from PIL import Image

from omni.audio import INPUT_HZ, float32_from_waveform
from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    Close,
    Engine,
    Failed,
    PrepareDuplex,
    SessionEvent,
    Slot,
    UnitResult,
)

log = logging.getLogger(__name__)

_NUM_UNITS = 3
_TIMEOUT_S = 300.0  # compiling kernels for the first time takes a minute
_PAUSE_S = 0.005  # while a background thread analyses the default voice
#: Real generations count from 1.
_SLOT = Slot(index=0, generation=0)


def warm_up(engine: Engine) -> bool:
    """Have slot 0 of a loaded *engine* hear, see and answer; say whether it did.

    A failure is logged and no more: what real sessions meet is told to them.
    """
    started_s = time.monotonic()
    prepare = PrepareDuplex(mode="omni_duplex", force_listen_count=0, seed=0)
    arrivals = [Arrival(_SLOT, prepare), *(Arrival(_SLOT, _chunk(n)) for n in range(_NUM_UNITS))]
    events: list[SessionEvent] = []
    while sum(isinstance(event, UnitResult) for event in events) < _NUM_UNITS:
        events += [emission.event for emission in engine.step(arrivals)]
        arrivals = []
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if failed is not None or time.monotonic() - started_s > _TIMEOUT_S:
            log.warning("the warm-up call did not end well: %s", failed or "it took too long")
            break
        if not engine.busy:
            time.sleep(_PAUSE_S)
    engine.step([Arrival(_SLOT, Close())])
    log.info("warmed up in %.1f s", time.monotonic() - started_s)
    return not any(isinstance(event, Failed) for event in events)


def _chunk(number: int) -> AudioChunk:
    random = np.random.default_rng(number)
    sound = random.normal(0, 0.05, INPUT_HZ).astype(np.float32)
    pixels = random.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return AudioChunk(pcm=Buffer(float32_from_waveform(sound)), frames=(Buffer(file.getvalue()),))

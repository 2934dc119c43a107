"""A short call and an answer before the first real ones: kernels are compiled, voices load."""

import io
import logging
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from omni.audio import INPUT_HZ, float32_from_waveform
from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Engine,
    Failed,
    Part,
    PrepareDuplex,
    SessionEvent,
    Slot,
    UnitResult,
)

log = logging.getLogger(__name__)

_NUM_UNITS = 3
_REQUEST = "Please count from one to ten."
_NUM_TOKENS = 12  # of the answer: two groups that are spoken
_TIMEOUT_S = 300.0  # compiling kernels for the first time takes a minute
_PAUSE_S = 0.005  # while a background thread analyses the default voice
#: Real generations count from 1.
_SLOT = Slot(index=0, generation=0)


def warm_up(engine: Engine) -> bool:
    """Have slot 0 of a loaded *engine* hear, see, write and speak; say whether it did.

    A failure is logged and no more: what real sessions meet is told to them.
    """
    prepare = PrepareDuplex(mode="omni_duplex", force_listen_count=0, seed=0)
    units = [Arrival(_SLOT, prepare), *(Arrival(_SLOT, _chunk(n)) for n in range(_NUM_UNITS))]
    part = Part(kind="text", text=_REQUEST)
    message = ChatMessage(role="user", parts=(part,))
    answer = ChatRequest(messages=(message,), speak=True, max_new_tokens=_NUM_TOKENS, seed=0)
    is_well = _run(engine, units, UnitResult, _NUM_UNITS)
    engine.step([Arrival(_SLOT, Close())])
    is_well &= _run(engine, [Arrival(_SLOT, answer)], ChatDone, 1)
    engine.step([Arrival(_SLOT, Close())])
    return is_well


def _run(
    engine: Engine, arrivals: Sequence[Arrival], last: type[SessionEvent], count: int
) -> bool:
    """Step until *count* events of the kind *last* came; say whether nothing went wrong."""
    started_s = time.monotonic()
    num_left = count
    while num_left > 0:
        for emission in engine.step(arrivals):
            num_left -= isinstance(emission.event, last)
            if isinstance(emission.event, Failed):
                log.warning("the warm-up did not end well: %s", emission.event)
                return False
        if time.monotonic() - started_s > _TIMEOUT_S:
            log.warning("the warm-up took too long")
            return False
        arrivals = ()
        if not engine.busy:
            time.sleep(_PAUSE_S)
    return True


def _chunk(number: int) -> AudioChunk:
    random = np.random.default_rng(number)
    sound = random.normal(0, 0.05, INPUT_HZ).astype(np.float32)
    pixels = random.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return AudioChunk(pcm=Buffer(float32_from_waveform(sound)), frames=(Buffer(file.getvalue()),))

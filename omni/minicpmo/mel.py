"""Sound -> Whisper mel frames: whole recordings, and one second at a time for many slots at once.

Frame i covers the 400 samples around sample 160 * i; beyond the ends of a buffer the sound is
mirrored. Values are log10 power, floored, then (x + 4) / 4. The floor is either fixed (-10) or
dynamic: 8 below the loudest value of the whole buffer. The streaming side keeps, instead of 30 s
of sound, the loudest value of each second, which is all that the dynamic floor needs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from attrs import define, evolve, field
from torch import Tensor

from omni.minicpmo.staging import Array

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 160
FFT_SAMPLES = 400
NUM_MEL_BINS = 80
MAX_PIECE_SAMPLES = 30 * SAMPLE_RATE_HZ  # the encoder's 1,500 positions
_MARGIN = FFT_SAMPLES // 2
_MIN_LOG = -10.0
_DYNAMIC_RANGE = 8.0

# One streamed second. Source: chunk 1000 ms, first chunk 1035 ms, redundancy 20 ms (2 mel frames).
UNIT_SAMPLES = SAMPLE_RATE_HZ
UNIT_FRAMES = 104
FIRST_MIN_SAMPLES = 16560  # 1035 ms: a shorter first chunk gets zeros in front
FIRST_UNIT_SAMPLES = 16480  # 1035 ms floored to whole hops
WINDOW_SAMPLES = 17000  # the 104 frames with their margins
_TAIL_SAMPLES = WINDOW_SAMPLES - UNIT_SAMPLES  # of it from units before
_EDGE_SAMPLES = 40  # the last frame of a buffer reaches so far beyond its end
_START_SAMPLES = 480  # a buffer that begins 10 units on begins so long before the end of this unit
_DYNAMIC_FROM_UNIT = 4  # from 5 s of buffered sound on the floor is dynamic
_FIRST_SLIDE_UNIT, _SLIDE_UNITS = 29, 10  # at 30 s the oldest 10 s leave the buffer, and so on
_RING_UNITS = 30
_RING_STARTS = 4


def mel_filters() -> Tensor:
    """Return (201, 80) float32: triangular Slaney filters from 0 to 8 kHz, each of unit area.

    Source: Slaney's Auditory Toolbox scale (linear below 1 kHz, logarithmic above), as Whisper
    uses.
    """
    edges = _slaney_to_hz(np.linspace(0, _hz_to_slaney(SAMPLE_RATE_HZ / 2), NUM_MEL_BINS + 2))
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1)
    widths = np.diff(edges)
    distances = edges[None, :] - bins[:, None]
    rising = -distances[:, :-2] / widths[:-1]
    falling = distances[:, 2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))
    return torch.from_numpy(filters.astype(np.float32))


def _hz_to_slaney(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) * 27 / np.log(6.4)


def _slaney_to_hz(mels: np.ndarray) -> np.ndarray:
    logarithmic = 1000 * np.exp(np.log(6.4) / 27 * (mels - 15))
    return np.where(mels < 15, mels * 200 / 3, logarithmic)


class MelExtractor:
    """Log power spectra of given windows; holds the filter bank and the Hann window on a device."""

    def __init__(self, device: torch.device) -> None:
        self._filters = mel_filters().to(device)
        self._hann = torch.hann_window(FFT_SAMPLES, device=device)

    def log_power(self, windows: Tensor) -> Tensor:
        """Return (..., 80, F) float32, unfloored, for windows (..., F, 400) float32."""
        spectrum = torch.fft.rfft(windows * self._hann)
        power = spectrum.real.square() + spectrum.imag.square()
        mel: Tensor = (power @ self._filters).clamp_min(1e-10).log10()
        return mel.transpose(-1, -2)

    def offline(self, samples: np.ndarray) -> list[Tensor]:
        """Return one (80, ceil(n / 160)) tensor for each 30 s of *samples* (float32, 16 kHz, mono).

        Each piece counts as padded with silence to 30 s; its floor is dynamic.
        """
        pieces = range(0, len(samples), MAX_PIECE_SAMPLES)
        return [self._piece(samples[first : first + MAX_PIECE_SAMPLES]) for first in pieces]

    def _piece(self, samples: np.ndarray) -> Tensor:
        num_frames = -(-len(samples) // HOP_SAMPLES)
        # Two frames behind the last one still touch its samples and count for the loudest value.
        num_windows = min(num_frames + 2, MAX_PIECE_SAMPLES // HOP_SAMPLES)
        stop = (num_windows - 1) * HOP_SAMPLES + _MARGIN
        silent = np.zeros(min(stop, MAX_PIECE_SAMPLES), dtype=np.float32)
        silent[: len(samples)] = samples[: len(silent)]
        padded = np.pad(silent, (_MARGIN, stop - len(silent)), mode="reflect")
        sound = torch.from_numpy(padded).to(self._hann.device)
        log_power = self.log_power(sound.unfold(0, FFT_SAMPLES, HOP_SAMPLES))
        floor = log_power.max() - _DYNAMIC_RANGE
        return _scaled(torch.maximum(log_power, floor))[:, :num_frames]


def _scaled(log_power: Tensor) -> Tensor:
    return (log_power + 4) / 4


@define
class MelState:
    """Where one slot's stream stands. *waiting*: samples not yet used; *tail*: the last used."""

    waiting: np.ndarray = field(factory=lambda: np.zeros(0, dtype=np.float32))
    tail: np.ndarray = field(factory=lambda: np.zeros(0, dtype=np.float32))
    next_unit: int = 0


class StreamingMel:
    """Seconds of sound -> mel frames with 2 frames of context on each side, for rows of many slots.

    `take` is the host's part of a step, `frames` the device's. Equal to extracting the whole last
    20-30 s anew at every unit. What the floor needs lies on the
    device (the loudest value of each unit, of each future buffer start, of the right edge), so
    that a step never waits for the device.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._device = device
        self._extractor = MelExtractor(device)
        self._states = [MelState() for _ in range(num_slots)]
        # One more: rows of a batch that sit out write there.
        self._loudest = torch.full((num_slots + 1, _RING_UNITS), _MIN_LOG, device=device)
        self._starts = torch.full((num_slots + 1, _RING_STARTS), _MIN_LOG, device=device)

    def reset(self, slot: int) -> None:
        """Forget the stream of *slot*; the rings need no clearing, they are read by unit number."""
        self._states[slot] = MelState()

    def state(self, slot: int) -> MelState:
        """Return the state of *slot* (read it; `push` and `take` alone change it)."""
        return self._states[slot]

    def push(self, slot: int, samples: np.ndarray) -> None:
        """Add *samples* (float32, 16 kHz, mono) to the slot's stream, any number of them.

        Zeros are put in front of a first chunk shorter than 1,035 ms, as the weights were trained.
        """
        state = self._states[slot]
        first = state.next_unit == 0 and len(state.waiting) == 0
        missing = max(0, FIRST_MIN_SAMPLES - len(samples)) if first else 0
        parts = (state.waiting, np.zeros(missing, dtype=np.float32), samples.astype(np.float32))
        state.waiting = np.concatenate(parts)

    def has_unit(self, slot: int) -> bool:
        """Say whether `take` can be called for *slot*."""
        state = self._states[slot]
        return len(state.waiting) >= _needed(state)

    @contextmanager
    def kept(self, slots: Sequence[int]) -> Iterator[None]:
        """Give *slots* back what was taken inside when that fails; the rings are written anew."""
        before = [evolve(self._states[slot]) for slot in slots]
        try:
            yield
        except Exception:
            for slot, state in zip(slots, before, strict=True):
                self._states[slot] = state
            raise

    def take(self, slots: Sequence[int], rows: Array, sound: Array) -> None:
        """Take one unit from each of *slots* (each must have one); write what `frames` needs.

        rows: (3, B) int64. sound: (B, 17,000) float32. Rows behind those of *slots* sit out.
        """
        rows[:] = [[len(self._states)], [0], [0]]
        for row, slot in enumerate(slots):
            state = self._states[slot]
            rows[:, row] = slot, state.next_unit, _first_buffered(state.next_unit)
            sound[row] = _take_window(state)

    def frames(self, rows: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a unit of each row sounds like; *rows*, *sound*: from `take`.

        Returns mel (B, 80, 104) float32 and is_first (B,) bool: in a first unit frames 0 and 1 are
        zero, the sound begins at frame 2. Moves the rings on; nothing here waits for the device.
        """
        row, unit, first = rows
        log_power = self._extractor.log_power(_frame_windows(sound))
        self._note_loudest(row, unit, log_power.amax(dim=1))
        loudest = self._loudest_in_buffer(row, unit, first, log_power[..., UNIT_FRAMES].amax(dim=1))
        floor = torch.where(unit >= _DYNAMIC_FROM_UNIT, loudest - _DYNAMIC_RANGE, _MIN_LOG)
        mel = _scaled(torch.maximum(log_power[..., :UNIT_FRAMES], floor[:, None, None]))
        is_first = unit == 0
        before = torch.arange(UNIT_FRAMES, device=sound.device) < 2
        return mel.masked_fill((is_first[:, None] & before)[:, None], 0.0), is_first

    def _note_loudest(self, row: Tensor, unit: Tensor, peaks: Tensor) -> None:
        """Write to the rings what this unit adds; peaks: (B, 107), the loudest of each frame."""
        # Frames 0-3 were counted with the unit before; in a first unit 0-1 are no sound.
        counted = torch.where(unit[:, None] == 0, peaks[:, 2:4], _MIN_LOG)
        own = torch.cat((counted, peaks[:, 4:UNIT_FRAMES]), dim=1).amax(dim=1)
        self._loudest[row, unit % _RING_UNITS] = own
        # A later buffer begins inside this unit and mirrors the sound there: frames of their own.
        start = (unit + 1) // _SLIDE_UNITS % _RING_STARTS
        begins = (unit + 1) % _SLIDE_UNITS == 0
        edge = peaks[:, UNIT_FRAMES + 1 :].amax(dim=1)
        self._starts[row, start] = torch.where(begins, edge, self._starts[row, start])

    def _loudest_in_buffer(
        self, row: Tensor, unit: Tensor, first: Tensor, right_edge: Tensor
    ) -> Tensor:
        """Return (B,) the loudest value of the buffers that hold units first..unit."""
        ring = torch.arange(_RING_UNITS, device=self._device)
        is_held = (unit[:, None] - ring) % _RING_UNITS <= (unit - first)[:, None]
        held = torch.where(is_held, self._loudest[row], _MIN_LOG).amax(dim=1)
        start = self._starts[row, first // _SLIDE_UNITS % _RING_STARTS]
        left_edge = torch.where(first > 0, start, _MIN_LOG)
        return torch.maximum(torch.maximum(held, right_edge), left_edge)


def _first_buffered(unit: int) -> int:
    """Return the oldest unit in the 30 s buffer when *unit* is extracted."""
    return max(0, (unit - _FIRST_SLIDE_UNIT + _SLIDE_UNITS) // _SLIDE_UNITS * _SLIDE_UNITS)


def _needed(state: MelState) -> int:
    return FIRST_UNIT_SAMPLES if state.next_unit == 0 else UNIT_SAMPLES


def _take_window(state: MelState) -> np.ndarray:
    """Move one unit from waiting to tail and return its (17,000,) window: 520 samples before it on.

    Before the first sample of a stream stands its mirror image (and, unused, zeros).
    """
    count = _needed(state)
    assert len(state.waiting) >= count, (len(state.waiting), count)
    new, state.waiting = state.waiting[:count], state.waiting[count:]
    if state.next_unit == 0:
        mirror = new[_MARGIN:0:-1]
        silence = np.zeros(WINDOW_SAMPLES - count - _MARGIN, dtype=np.float32)
        window = np.concatenate((silence, mirror, new))
    else:
        window = np.concatenate((state.tail, new))
    state.tail = window[-_TAIL_SAMPLES:]
    state.next_unit += 1
    return window


def _frame_windows(sound: Tensor) -> Tensor:
    """Return (B, 107, 400) of sound (B, 17,000).

    104 frames of the unit; the buffer's last frame, mirrored on the right; and the two first
    frames of a buffer that would begin 480 samples before the end, mirrored on the left.
    """
    right = sound[:, -_EDGE_SAMPLES - 1 : -1].flip(1)
    frames = torch.cat((sound, right), dim=1).unfold(1, FFT_SAMPLES, HOP_SAMPLES)
    start = sound[:, -_START_SAMPLES:]
    left = torch.cat((start[:, 1 : _MARGIN + 1].flip(1), start[:, : _MARGIN + HOP_SAMPLES]), dim=1)
    return torch.cat((frames, left.unfold(1, FFT_SAMPLES, HOP_SAMPLES)), dim=1)

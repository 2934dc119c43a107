"""Faster or slower speech at the same pitch, piece by piece (FFmpeg's atempo)."""

from fractions import Fraction

import av
import av.filter
import numpy as np

from omni.audio import OUTPUT_HZ, Waveform

#: What one atempo blends well; more is done by several, one behind the other.
_LEAST, _MOST = 0.5, 2.0


class Tempo:
    """Stretches one sound at 24 kHz. speed: 2.0 takes half the time. Blocks, a little."""

    def __init__(self, speed: float) -> None:
        self._num_samples = 0
        self._graph = av.filter.Graph()
        last = self._graph.add_abuffer(
            sample_rate=OUTPUT_HZ, format="flt", layout="mono", time_base=Fraction(1, OUTPUT_HZ)
        )
        for factor in factors(speed):
            stretch = self._graph.add("atempo", str(factor))
            last.link_to(stretch)
            last = stretch
        last.link_to(self._graph.add("abuffersink"))
        self._graph.configure()

    def push(self, samples: Waveform) -> Waveform:
        """Return what *samples*, shape (N,), complete."""
        if not samples.size:
            return samples
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
        frame.sample_rate, frame.pts = OUTPUT_HZ, self._num_samples
        self._num_samples += samples.size
        self._graph.push(frame)
        return self._pulled()

    def finish(self) -> Waveform:
        """Return what is still held back."""
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> Waveform:
        pieces: list[Waveform] = [np.zeros(0, np.float32)]
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):  # wants more, or has no more
                return np.concatenate(pieces)
            assert isinstance(frame, av.AudioFrame)
            pieces.append(frame.to_ndarray().reshape(-1).astype(np.float32, copy=False))


def factors(speed: float) -> list[float]:
    """Return what *speed* is the product of, each within what one filter blends well."""
    steps: list[float] = []
    while speed > _MOST:
        steps.append(_MOST)
        speed /= _MOST
    while speed < _LEAST:
        steps.append(_LEAST)
        speed /= _LEAST
    return [*steps, speed]

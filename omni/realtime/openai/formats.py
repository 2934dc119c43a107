"""Sound as OpenAI clients send and take it: PCM16 at 24 kHz, or G.711 at 8 kHz; without seams."""

import functools

import numpy as np
from numpy.typing import NDArray

from omni.audio import (
    INPUT_HZ,
    OUTPUT_HZ,
    StreamResampler,
    Waveform,
    pcm16_from_waveform,
    waveform_from_pcm16,
)
from omni.realtime.openai.config import PCM_HZ, FormatName

#: Source: ITU-T G.711.
G711_HZ = 8_000
_MU_LAW_BIAS = 0x84
_A_LAW_MASK = 0x55
_PCM16_SCALE = 32_768.0


def rate_hz(name: FormatName) -> int:
    """Return the sample rate of a format."""
    return PCM_HZ if name == "audio/pcm" else G711_HZ


def decode(name: FormatName, data: bytes) -> Waveform:
    """Return the samples in *data*, at the format's own rate. Raises: ProtocolError."""
    if name == "audio/pcm":
        return waveform_from_pcm16(data)
    table = _mu_law() if name == "audio/pcmu" else _a_law()
    samples: Waveform = table[np.frombuffer(data, np.uint8)]
    return samples


def encode(name: FormatName, samples: Waveform) -> bytes:
    """Return *samples*, which have the format's own rate, as the format writes them."""
    if name == "audio/pcm":
        return pcm16_from_waveform(samples)
    pcm = np.frombuffer(pcm16_from_waveform(samples), "<i2")
    table = _nearest("mu" if name == "audio/pcmu" else "a")
    written: bytes = table[pcm.astype(np.int32) + 32_768].tobytes()
    return written


class Decoder:
    """Turns what a client appends, piece by piece, into sound at 16 kHz."""

    def __init__(self, name: FormatName) -> None:
        self.name = name
        self._resampler = StreamResampler(rate_hz(name), INPUT_HZ)

    def push(self, data: bytes) -> Waveform:
        """Return what *data* completes. Raises: ProtocolError, and takes nothing then."""
        return self._resampler.push(decode(self.name, data))

    def drain(self) -> Waveform:
        """Return what is still held back, and begin anew."""
        rest = self._resampler.push(np.zeros(0, np.float32), last=True)
        self._resampler = StreamResampler(rate_hz(self.name), INPUT_HZ)
        return rest


class Encoder:
    """Turns the sound of one answer, 24 kHz, into a client's format."""

    def __init__(self, name: FormatName) -> None:
        self.name = name
        to_hz = rate_hz(name)
        self._resampler = None if to_hz == OUTPUT_HZ else StreamResampler(OUTPUT_HZ, to_hz)

    def push(self, samples: Waveform, last: bool = False) -> bytes:
        """Return what *samples* complete; with *last*, all that is still held back too."""
        if self._resampler is not None:
            samples = self._resampler.push(samples, last)
        return encode(self.name, samples)


@functools.cache
def _mu_law() -> Waveform:
    """Return the sample of each of the 256 bytes of mu-law."""
    code = ~np.arange(256, dtype=np.uint8)
    size = (((code & 0x0F).astype(np.int32) << 3) + _MU_LAW_BIAS) << (code >> 4 & 7)
    value = size - _MU_LAW_BIAS
    return (np.where(code & 0x80, -value, value) / _PCM16_SCALE).astype(np.float32)


@functools.cache
def _a_law() -> Waveform:
    """Return the sample of each of the 256 bytes of A-law."""
    code = np.arange(256, dtype=np.uint8) ^ _A_LAW_MASK
    step, segment = (code & 0x0F).astype(np.int32), (code >> 4 & 7).astype(np.int32)
    low, high = (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0)
    value = np.where(segment == 0, low, high)
    return (np.where(code & 0x80, value, -value) / _PCM16_SCALE).astype(np.float32)


@functools.cache
def _nearest(law: str) -> NDArray[np.uint8]:
    """Return the nearest byte for each of the 65,536 samples of PCM16, from the lowest up."""
    values = np.round((_mu_law() if law == "mu" else _a_law()) * _PCM16_SCALE).astype(np.int32)
    order = np.argsort(values, kind="stable")
    edges = (values[order][1:] + values[order][:-1]) / 2
    places = np.searchsorted(edges, np.arange(-32_768, 32_768), side="right")
    return order[places].astype(np.uint8)

"""WAV files <-> float32 sound, in memory; the few forms that browsers and tools write."""

import struct

import numpy as np

from omni.audio import Waveform, pcm16_from_waveform
from omni.errors import ProtocolError

_PCM = 1
_FLOAT = 3
_EXTENSIBLE = 0xFFFE
#: Rates outside of this are a broken header, not a sound.
_RATES_HZ = range(1_000, 400_001)
_MAX_CHANNELS = 32
_WIDTHS_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def is_wav(data: bytes | memoryview) -> bool:
    """Say whether *data* begins as a WAV file. `RIFF` as float32 is about 12,690: no sound."""
    head = bytes(data[:12])
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def waveform_from_wav(data: bytes | memoryview) -> tuple[Waveform, int]:
    """Return the sound of a WAV file, shape (N,), channels averaged, and its rate in Hz.

    Reads PCM of 8, 16, 24 and 32 bits and float of 32 and 64. Raises: ProtocolError.
    """
    view = memoryview(data)
    if not is_wav(view):
        raise ProtocolError("not a WAV file: RIFF...WAVE is missing")
    form, channels, rate_hz, width, body = _chunks(view)
    if rate_hz not in _RATES_HZ or not 1 <= channels <= _MAX_CHANNELS:
        raise ProtocolError(f"WAV file with {channels} channels at {rate_hz} Hz")
    frames = len(body) // (width * channels)
    samples = _samples(form, width, body[: frames * width * channels])
    return samples.reshape(frames, channels).mean(axis=1, dtype=np.float32), rate_hz


def wav_from_waveform(samples: Waveform, rate_hz: int) -> bytes:
    """Return *samples*, shape (N,), as a mono 16-bit WAV file."""
    body = pcm16_from_waveform(samples)
    riff = (b"RIFF", 36 + len(body), b"WAVE")
    form = (b"fmt ", 16, _PCM, 1, rate_hz, rate_hz * 2, 2, 16)
    return _HEADER.pack(*riff, *form, b"data", len(body)) + body


def _chunks(view: memoryview) -> tuple[int, int, int, int, memoryview]:
    """Return form, channels, rate in Hz, bytes a sample and the sample data."""
    form: tuple[int, int, int, int] | None = None
    at = 12
    while at + 8 <= len(view):
        name, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        body = view[at + 8 : at + 8 + size]
        if name == b"fmt ":
            form = _form(body)
        elif name == b"data" and form is not None:
            return (*form, body)
        at += 8 + size + size % 2
    raise ProtocolError("WAV file without sound: no fmt or no data chunk")


def _form(body: memoryview) -> tuple[int, int, int, int]:
    if len(body) < 16:
        raise ProtocolError("WAV file with a short fmt chunk")
    form, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if form == _EXTENSIBLE and len(body) >= 26:
        form = int.from_bytes(body[24:26], "little")
    if bits not in _WIDTHS_BITS.get(form, ()):
        raise ProtocolError(f"WAV file of form {form} with {bits} bits; PCM or float is expected")
    return form, channels, rate_hz, bits // 8


def _samples(form: int, width: int, body: memoryview) -> Waveform:
    if form == _FLOAT:
        return np.frombuffer(body, f"<f{width}").astype(np.float32)
    if width == 1:  # the only unsigned form
        return (np.frombuffer(body, np.uint8).astype(np.float32) - 128.0) / np.float32(128.0)
    if width == 3:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return (np.frombuffer(body, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)

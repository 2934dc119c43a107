import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.errors import ProtocolError
from omni.wav import is_wav, wav_from_waveform, waveform_from_wav


def _wav(form: int, bits: int, channels: int, rate_hz: int, body: bytes) -> bytes:
    width = bits // 8 * channels
    head = struct.pack("<HHIIHH", form, channels, rate_hz, rate_hz * width, width, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + head + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_what_is_written_is_read_again() -> None:
    samples = np.linspace(-1, 0.99, 777, dtype=np.float32)

    again, rate_hz = waveform_from_wav(wav_from_waveform(samples, 24_000))

    assert rate_hz == 24_000
    np.testing.assert_allclose(again, samples, atol=1 / 32768)


@pytest.mark.parametrize(
    ("form", "bits", "body"),
    [
        (1, 8, bytes([128, 192, 64])),
        (1, 16, struct.pack("<3h", 0, 16384, -16384)),
        (1, 24, b"".join(v.to_bytes(3, "little", signed=True) for v in (0, 2**22, -(2**22)))),
        (1, 32, struct.pack("<3i", 0, 2**30, -(2**30))),
        (3, 32, struct.pack("<3f", 0, 0.5, -0.5)),
        (3, 64, struct.pack("<3d", 0, 0.5, -0.5)),
    ],
)
def test_every_usual_form_gives_the_same_sound(form: int, bits: int, body: bytes) -> None:
    samples, rate_hz = waveform_from_wav(_wav(form, bits, 1, 16_000, body))

    assert rate_hz == 16_000
    np.testing.assert_allclose(samples, [0, 0.5, -0.5], atol=1e-6)


def test_channels_are_averaged() -> None:
    body = struct.pack("<4h", 16384, 0, -16384, 0)

    samples, _ = waveform_from_wav(_wav(1, 16, 2, 48_000, body))

    np.testing.assert_allclose(samples, [0.25, -0.25])


def test_raw_sound_in_its_range_is_never_taken_for_a_wav() -> None:
    loudest = np.array([1.0, -1.0, 1.0], "<f4").tobytes()

    assert not is_wav(loudest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        _wav(1, 16, 1, 16_000, b"")[:30],
        _wav(2, 16, 1, 16_000, b"\0\0"),
        _wav(1, 12, 1, 16_000, b"\0\0"),
        _wav(1, 16, 0, 16_000, b"\0\0"),
        _wav(1, 16, 1, 0, b"\0\0"),
    ],
)
def test_a_broken_file_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        waveform_from_wav(data)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    try:
        waveform_from_wav(b"RIFF\0\0\0\0WAVE" + data)
    except ProtocolError:
        pass

import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.errors import ProtocolError
from omni.realtime.fields import FieldError
from omni.realtime.media import (
    decode_binary_sound,
    decode_file,
    decode_sound,
    encode_base64,
    encode_wav,
)
from omni.wav import wav_from_waveform, waveform_from_wav

TONE = (0.5 * np.sin(np.arange(1600) / 8)).astype("<f4")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sound(text: str, max_s: float = 1.0) -> np.ndarray:
    return np.frombuffer(decode_sound(text, ("audio",), max_s), "<f4")


def test_raw_float32_passes_unchanged() -> None:
    assert _sound(_b64(TONE.tobytes())).tobytes() == TONE.tobytes()


def test_a_wav_is_known_by_its_head_and_resampled() -> None:
    loud = np.repeat(TONE, 3)[:4800]

    samples = _sound(_b64(wav_from_waveform(loud, 48_000)))

    assert samples.size == 1600


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 5, 6401])
def test_a_byte_count_that_is_no_whole_sample_is_refused(num_bytes: int) -> None:
    with pytest.raises(FieldError, match="float32"):
        _sound(_b64(bytes(num_bytes)))


@pytest.mark.parametrize("text", ["%%%%", "AAA", "AA AA", "AAAA\n", "Ä===", "AAAA====", "-_-_"])
def test_only_strict_base64_is_taken(text: str) -> None:
    with pytest.raises(FieldError, match="audio: not base64"):
        _sound(text)


def test_nan_and_infinity_become_silence_and_peaks_are_clipped() -> None:
    wrong = struct.pack("<6f", float("nan"), float("inf"), -float("inf"), 3, -3, 0.5)

    samples = _sound(_b64(wrong))

    assert samples.tolist() == [0, 0, 0, 1, -1, 0.5]


def test_sound_is_bounded_in_time() -> None:
    with pytest.raises(FieldError, match="above"):
        _sound(_b64(bytes(4 * 16_001)), max_s=1.0)


def test_both_binary_forms_carry_sound() -> None:
    pcm16 = b"S16L" + struct.pack("<2h", 16384, -16384)
    float32 = b"F32L" + struct.pack("<2f", 0.5, -0.5)

    assert decode_binary_sound(pcm16, 1) == decode_binary_sound(float32, 1)


@pytest.mark.parametrize("frame", [b"", b"S16", b"S16L\0", b"F32L\0\0", b"RIFF....", bytes(64)])
def test_other_binary_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_binary_sound(frame, 1)


def test_an_empty_or_too_large_picture_is_refused() -> None:
    for text in ("", _b64(bytes(100))):
        with pytest.raises(FieldError):
            decode_file(text, ("frame", 0), 50)


def test_no_sound_is_null() -> None:
    assert encode_base64(b"") is None
    assert encode_wav(b"", 24_000) is None


def test_an_answer_is_a_whole_wav() -> None:
    text = encode_wav(TONE.tobytes(), 24_000)

    samples, rate_hz = waveform_from_wav(base64.b64decode(text or ""))
    assert rate_hz == 24_000
    np.testing.assert_allclose(samples, TONE, atol=1 / 32768)


@given(st.binary(max_size=64))
def test_any_bytes_become_finite_sound_or_an_error(data: bytes) -> None:
    try:
        samples = _sound(_b64(data))
    except ProtocolError:
        return
    assert np.isfinite(samples).all()
    assert not samples.size or np.abs(samples).max() <= 1

"""Sound conversions keep samples, lengths and pitch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni import audio
from omni.errors import ProtocolError


def tone(frequency_hz: float, duration_s: float, rate_hz: int) -> audio.Waveform:
    times_s = np.arange(audio.samples(duration_s, rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def loudest_hz(waveform: audio.Waveform, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size)))
    return float(np.argmax(spectrum) * rate_hz / waveform.size)


@given(st.lists(st.floats(min_value=-1, max_value=1, width=32), max_size=64))
def test_float32_survives_the_round_trip(values: list[float]) -> None:
    waveform = np.asarray(values, dtype=np.float32)

    again = audio.waveform_from_float32(audio.float32_from_waveform(waveform))

    assert np.array_equal(again, waveform)


@given(st.binary(max_size=64).filter(lambda pcm: len(pcm) % 2 == 0))
def test_pcm16_survives_the_round_trip(pcm: bytes) -> None:
    assert audio.pcm16_from_waveform(audio.waveform_from_pcm16(pcm)) == pcm


def test_pcm16_clips_what_is_too_loud() -> None:
    pcm = audio.pcm16_from_waveform(np.array([-3.0, 3.0], dtype=np.float32))

    assert np.frombuffer(pcm, dtype="<i2").tolist() == [-32768, 32767]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_broken_float32_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        audio.waveform_from_float32(b"x" * size)


def test_an_odd_pcm16_length_is_refused() -> None:
    with pytest.raises(ProtocolError, match="3 bytes"):
        audio.waveform_from_pcm16(b"xyz")


def test_samples_that_are_no_numbers_become_silence() -> None:
    broken = np.array([np.nan, np.inf, -np.inf, 0.25], dtype="<f4")

    assert audio.waveform_from_float32(broken.tobytes()).tolist() == [0.0, 0.0, 0.0, 0.25]


def test_a_level_that_no_sound_has_is_clipped() -> None:
    """The power of 1e19 overflows float32, and a model's memory keeps what comes of it."""
    loud = np.array([3e38, -1e19, 1.5, -1.0, 0.5], dtype="<f4")

    clipped = audio.waveform_from_float32(loud.tobytes())

    assert clipped.tolist() == [1.0, -1.0, 1.0, -1.0, 0.5]


@pytest.mark.parametrize(("from_hz", "to_hz"), [(22_050, 24_000), (48_000, 16_000)])
def test_resampling_keeps_duration_and_pitch(from_hz: int, to_hz: int) -> None:
    resampled = audio.resample(tone(440, 1.0, from_hz), from_hz, to_hz)

    assert resampled.dtype == np.float32
    assert abs(resampled.size - to_hz) <= 1
    assert abs(loudest_hz(resampled, to_hz) - 440) <= 1


def test_pieces_resample_to_the_same_sound_as_the_whole() -> None:
    whole = tone(440, 1.0, 22_050)
    stream = audio.StreamResampler(22_050, 24_000)

    pieces = [stream.push(piece) for piece in np.array_split(whole, 7)]
    pieces.append(stream.push(whole[:0], last=True))

    joined = np.concatenate(pieces)
    expected = audio.resample(whole, 22_050, 24_000)
    assert abs(joined.size - expected.size) <= 1
    shared = min(joined.size, expected.size)
    assert np.abs(joined[:shared] - expected[:shared]).max() < 1e-4


def test_the_level_of_a_tone_is_its_peak_over_root_two() -> None:
    assert audio.rms(tone(440, 1.0, 16_000)) == pytest.approx(0.5 / 2**0.5, rel=1e-3)
    assert audio.rms(np.zeros(0, dtype=np.float32)) == 0.0


def test_seconds_and_samples_are_inverse() -> None:
    assert audio.samples(audio.seconds(1234, audio.INPUT_HZ), audio.INPUT_HZ) == 1234

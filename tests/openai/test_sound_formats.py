"""Every format can be decoded to the sound that went in, whole or in pieces, at any tempo."""

import io

import numpy as np
import pytest

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, rms, waveform_from_pcm16
from omni.containers import read_sound
from omni.openai.sound_formats import FORMATS, open_encoder, whole_file
from omni.openai.tempo import Tempo, factors
from omni.wav import waveform_from_wav

COMPRESSED = sorted(name for name, each in FORMATS.items() if each.codec)
LEVEL = 0.2 / 2**0.5


def tone(duration_s: float = 2.0, hz: float = 440.0) -> Waveform:
    at_s = np.arange(int(OUTPUT_HZ * duration_s), dtype=np.float32) / OUTPUT_HZ
    return np.asarray(0.2 * np.sin(2 * np.pi * hz * at_s), np.float32)


def pitch_hz(samples: Waveform, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate_hz / len(samples))


def piecewise(name: str, samples: Waveform, speed: float = 1.0) -> list[bytes]:
    encoder = open_encoder(name, speed)
    pieces = [encoder.push(samples[at : at + 4800]) for at in range(0, len(samples), 4800)]
    return [*pieces, encoder.finish()]


def decoded(name: str, data: bytes) -> Waveform:
    """Return the sound of a file at 16 kHz."""
    if name.startswith("pcm"):
        return waveform_from_pcm16(data)[::3].repeat(2)  # crude, and enough for length and level
    return read_sound(io.BytesIO(data), max_s=60)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_whole_file_holds_the_sound(name: str) -> None:
    sound = decoded(name, whole_file(name, tone()))

    assert len(sound) / INPUT_HZ == pytest.approx(2.0, abs=0.12)
    assert rms(sound) == pytest.approx(LEVEL, rel=0.08)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_pieces_make_the_same_sound(name: str) -> None:
    sound = decoded(name, b"".join(piecewise(name, tone())))

    assert len(sound) / INPUT_HZ == pytest.approx(2.0, abs=0.12)
    assert rms(sound) == pytest.approx(LEVEL, rel=0.08)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_option_is_left_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """FFmpeg's muxers do not know each other's options; each spoken text was a line in the log."""
    piecewise(name, tone(0.5))
    whole_file(name, tone(0.5))

    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_bytes_leave_with_the_first_second_of_sound(name: str) -> None:
    encoder = open_encoder(name)

    first = encoder.push(tone(1.0))

    assert len(first) > 1000
    encoder.finish()


def test_a_whole_wav_file_knows_its_length() -> None:
    samples, rate_hz = waveform_from_wav(whole_file("wav", tone()))

    assert (len(samples), rate_hz) == (2 * OUTPUT_HZ, OUTPUT_HZ)


def test_a_wav_file_that_is_being_made_says_that_its_length_is_unknown() -> None:
    head = b"".join(piecewise("wav", tone()))[:44]

    assert head[4:8] == head[40:44] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_sound_is_a_file_too(name: str) -> None:
    assert isinstance(b"".join(piecewise(name, np.zeros(0, np.float32))), bytes)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.9, 1.5, 2.0, 4.0])
def test_another_tempo_keeps_the_pitch(speed: float) -> None:
    sound = decoded("wav", b"".join(piecewise("wav", tone(), speed)))

    assert len(sound) / INPUT_HZ == pytest.approx(2.0 / speed, rel=0.06)
    assert pitch_hz(sound, INPUT_HZ) == pytest.approx(440, rel=0.02)


@pytest.mark.parametrize("speed", [0.25, 0.3, 1.0, 1.99, 3.0, 4.0])
def test_a_tempo_is_made_of_steps_that_sound_well(speed: float) -> None:
    steps = factors(speed)

    assert np.prod(steps) == pytest.approx(speed)
    assert all(0.5 <= step <= 2.0 for step in steps)


def test_no_sound_at_another_tempo_is_no_sound() -> None:
    assert not Tempo(2.0).finish().size

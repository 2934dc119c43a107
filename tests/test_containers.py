"""Media files: every format that people send is read; nothing that would fetch or fill memory."""

import io
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from omni.audio import INPUT_HZ, Waveform, rms
from omni.containers import open_container, read_sound
from omni.errors import ClientError, TooLarge
from omni.wav import wav_from_waveform

RATE_HZ = 24_000


def tone(duration_s: float) -> Waveform:
    at_s = np.arange(int(RATE_HZ * duration_s), dtype=np.float32) / RATE_HZ
    return np.asarray(0.3 * np.sin(2 * np.pi * 440 * at_s), np.float32)


def sound_file(kind: str, samples: Waveform, rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind)
    return file.getvalue()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"])
def test_sound_files_of_many_formats_are_read_at_16_khz(kind: str) -> None:
    sound = read_sound(io.BytesIO(sound_file(kind, tone(2.0))), max_s=10)

    assert len(sound) == pytest.approx(2 * INPUT_HZ, rel=0.02)
    assert rms(sound) == pytest.approx(0.3 / 2**0.5, rel=0.1)


def test_several_channels_become_one() -> None:
    stereo = np.stack([tone(1.0), np.zeros(RATE_HZ, np.float32)], axis=1)

    sound = read_sound(io.BytesIO(sound_file("WAV", stereo)), max_s=10)

    assert sound.shape == (INPUT_HZ,)


def test_samples_that_are_no_sound_are_made_harmless() -> None:
    samples = tone(1.0)
    samples[5000:5003] = np.nan, np.inf, 3e38
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    file.seek(0)

    sound = read_sound(file, max_s=10)

    assert np.abs(sound).max() <= 1.0


def test_a_sound_that_is_too_long_is_read_no_further() -> None:
    """Ten minutes of silence are 90 kB as FLAC, and 38 MB as samples; hours follow suit."""
    bomb = sound_file("FLAC", np.zeros(600 * 48_000, np.float32), 48_000)
    assert len(bomb) < 100_000

    with pytest.raises(TooLarge, match="longer than 5 s"):
        read_sound(io.BytesIO(bomb), max_s=5)


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 2**31])
def test_a_rate_that_no_sound_has_is_refused(rate_hz: int) -> None:
    """A second at 1 Hz would become 16,000 seconds' worth of samples for every sample."""
    data = bytearray(wav_from_waveform(tone(1.0), RATE_HZ))
    data[24:28] = rate_hz.to_bytes(4, "little")

    with pytest.raises(ClientError):
        read_sound(io.BytesIO(bytes(data)), max_s=10)


def test_a_sound_file_may_not_take_all_day() -> None:
    with pytest.raises(TooLarge, match="to read"):
        read_sound(io.BytesIO(sound_file("WAV", tone(5.0))), max_s=60, max_work_s=0)


def test_a_playlist_is_no_sound_file_and_nothing_is_fetched(listener: socket.socket) -> None:
    """FFmpeg opens what an HLS playlist names, whatever the file is called."""
    port = listener.getsockname()[1]
    lists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n"
        "#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.wav\n",
        "ffconcat version 1.0\nfile /etc/hostname\n",
        f"[playlist]\nFile1=http://127.0.0.1:{port}/a.wav\nNumberOfEntries=1\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        f'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>',
    ]

    for text in lists:
        with pytest.raises(ClientError):
            read_sound(io.BytesIO(text.encode()), max_s=10)

    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_file_without_sound_is_told_so() -> None:
    with pytest.raises(ClientError, match="no sound"):
        read_sound(io.BytesIO(sound_file("WAV", np.zeros(0, np.float32))), max_s=10)


def test_a_file_that_ends_early_is_read_as_far_as_it_goes() -> None:
    whole = sound_file("FLAC", tone(2.0))

    sound = read_sound(io.BytesIO(whole[: len(whole) // 2]), max_s=10)

    assert 0 < len(sound) < 2 * INPUT_HZ


@given(st.binary(max_size=400))
def test_any_bytes_are_sound_or_a_client_error(data: bytes) -> None:
    with pytest.raises(ClientError):
        read_sound(io.BytesIO(data), max_s=10)


def test_what_goes_wrong_inside_is_a_client_error() -> None:
    with pytest.raises(ClientError, match="odd"):
        with open_container(io.BytesIO(sound_file("WAV", tone(0.1)))):
            raise ValueError("odd")

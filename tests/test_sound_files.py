"""Reading clients' sound files: every usual kind, none that names others, none without end."""

import asyncio
import io

import av
import numpy as np
import pytest

from omni.audio import rms
from omni.errors import CapacityError, ProtocolError, TooLarge
from omni.process import ROOT
from omni.sound_files import MAX_WAITING, NUM_THREADS, SoundFiles, read_sound
from omni.wav import wav_from_waveform
from tests.sounds import sound_file, tone

VOICE = ROOT / "omni" / "assets" / "default_voice.wav"

FILES = [
    ("wav", "pcm_s16le", 24_000),
    ("wav", "pcm_f32le", 48_000),
    ("mp3", "libmp3lame", 24_000),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 44_100),
    ("adts", "aac", 24_000),
    ("flac", "flac", 8_000),
    ("aiff", "pcm_s16be", 22_050),
]


@pytest.mark.parametrize(("container", "codec", "rate_hz"), FILES)
def test_usual_files_are_read(container: str, codec: str, rate_hz: int) -> None:
    data = sound_file(container, codec, tone(1.0, rate_hz), rate_hz)

    samples = read_sound(data, max_s=10)

    assert samples.dtype == np.float32 and samples.ndim == 1
    assert 15_400 <= samples.size <= 17_200  # coders add and cut some milliseconds
    assert 0.19 < rms(samples) < 0.23


@pytest.mark.parametrize(
    "data", [b"", b"no sound", bytes(1000), b"RIFF\x24\0\0\0WAVEfmt ", b"ID3\x04\0\0\0\0\0\0"]
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_sound(data, max_s=10)


def test_a_file_cut_off_in_the_middle_is_read_or_refused_but_nothing_else() -> None:
    data = sound_file("mp4", "aac", tone(1.0))
    outcomes = set()
    for size in range(0, len(data), 701):
        try:
            outcomes.add(read_sound(data[:size], max_s=10).size > 0)
        except ProtocolError:
            outcomes.add(False)

    assert outcomes <= {True, False}


def test_a_file_that_names_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg follows such files even from memory: to this machine's files, and to its network."""
    monkeypatch.chdir(VOICE.parent)
    concat = f"ffconcat version 1.0\nfile {VOICE.name}\n".encode()
    sdp = b"v=0\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"
    with av.open(io.BytesIO(concat)) as opened:
        assert next(opened.decode(audio=0)).samples  # what it would do without our list

    for data in (concat, sdp):
        with pytest.raises(ProtocolError):
            read_sound(data, max_s=100)


def test_a_sound_of_hours_in_few_bytes_is_refused() -> None:
    bomb = sound_file("flac", "flac", np.zeros(8_000 * 600, np.float32), 8_000)

    assert len(bomb) < 200_000
    with pytest.raises(TooLarge, match="longer than 60 s"):
        read_sound(bomb, max_s=60)


def test_a_file_may_not_take_all_day() -> None:
    with pytest.raises(TooLarge, match="too long to read"):
        read_sound(wav_from_waveform(tone(5.0), 24_000), max_s=60, max_work_s=0)


async def test_only_so_many_files_wait() -> None:
    files = SoundFiles()
    data = sound_file("flac", "flac", tone(20.0))
    reads = [asyncio.ensure_future(files.read(data, 60)) for _ in range(NUM_THREADS + MAX_WAITING)]
    await asyncio.sleep(0)  # each has begun

    with pytest.raises(CapacityError):
        await files.read(data, 60)
    sizes = {samples.size for samples in await asyncio.gather(*reads)}
    await files.read(data, 60)
    files.close()

    assert sizes == {20 * 16_000}

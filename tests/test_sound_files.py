"""Sound files are read beside the event loop, a bounded number of them at once."""

import asyncio
import io
from collections.abc import Iterator

import av
import numpy as np
import pytest

from omni.audio import rms
from omni.errors import CapacityError, ClientError
from omni.process import ROOT
from omni.sound_files import MAX_WAITING, NUM_THREADS, SoundFiles
from tests.sounds import sound_file, tone

VOICE = ROOT / "omni" / "assets" / "default_voice.wav"


@pytest.fixture
def files() -> Iterator[SoundFiles]:
    opened = SoundFiles()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"),
    [("webm", "libopus", 48_000), ("mp4", "aac", 44_100), ("ogg", "libopus", 48_000)],
)
async def test_what_browsers_and_phones_record_is_read(
    files: SoundFiles, container: str, codec: str, rate_hz: int
) -> None:
    data = sound_file(container, codec, tone(1.0, rate_hz), rate_hz)

    samples = await files.read(data, max_s=10)

    assert samples.dtype == np.float32 and samples.ndim == 1
    assert 15_400 <= samples.size <= 17_200  # coders add and cut some milliseconds
    assert 0.19 < rms(samples) < 0.23


async def test_samples_that_are_no_numbers_become_silence_and_peaks_are_cut(
    files: SoundFiles,
) -> None:
    wild = np.array([np.nan, np.inf, -np.inf, 5.0, -5.0, 0.25] * 1000, np.float32)

    samples = await files.read(sound_file("wav", "pcm_f32le", wild, 16_000), max_s=10)

    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1.0


async def test_a_file_that_names_others_is_refused(
    files: SoundFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg follows such files even from memory."""
    monkeypatch.chdir(VOICE.parent)
    concat = f"ffconcat version 1.0\nfile {VOICE.name}\n".encode()
    with av.open(io.BytesIO(concat)) as opened:
        assert next(opened.decode(audio=0)).samples  # what it would do without our list

    with pytest.raises(ClientError):
        await files.read(concat, max_s=100)


async def test_only_so_many_files_wait(files: SoundFiles) -> None:
    data = sound_file("flac", "flac", tone(20.0))
    reads = [asyncio.ensure_future(files.read(data, 60)) for _ in range(NUM_THREADS + MAX_WAITING)]
    await asyncio.sleep(0)  # each has begun

    with pytest.raises(CapacityError):
        await files.read(data, 60)
    sizes = {samples.size for samples in await asyncio.gather(*reads)}
    again = await files.read(data, 60)

    assert sizes == {20 * 16_000} == {again.size}

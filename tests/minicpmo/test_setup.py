"""How many sessions fit a device, and which voice they get."""

from pathlib import Path

import numpy as np
import pytest

from omni.errors import SettingsError
from omni.minicpmo.loading import default_voice
from omni.minicpmo.session import WindowOptions
from omni.minicpmo.setup import MAX_SLOTS, Memory, fit, window_of
from omni.settings import DuplexSettings
from omni.wav import wav_from_waveform

GB = 1_000_000_000


def memory(free: int) -> Memory:
    """Return round numbers near the published size: 0.25 GB a session, 0.15 MB a token."""
    return Memory(free=free, slot=GB // 4, token=150_000)


def test_sessions_fit_by_memory_and_the_rest_is_for_long_prompts() -> None:
    num_slots, tokens = fit(memory(10 * GB), kept_tokens=5000, wanted=0)

    assert num_slots == 10
    assert tokens == 50_000


def test_fewer_sessions_leave_more_tokens() -> None:
    num_slots, tokens = fit(memory(10 * GB), kept_tokens=5000, wanted=2)

    assert num_slots == 2
    assert tokens == 63_333


def test_there_is_a_most() -> None:
    assert fit(memory(1000 * GB), kept_tokens=5000, wanted=0)[0] == MAX_SLOTS


def test_too_small_a_device_is_told_with_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="lacks 0.5 GB"):
        fit(memory(GB // 2), kept_tokens=5000, wanted=0)


def test_a_device_that_a_shorter_memory_fits_is_told_the_settings() -> None:
    with pytest.raises(SettingsError, match="basic_window_high_tokens.* at most 1666"):
        fit(memory(GB // 2), kept_tokens=5000, wanted=0)


def test_settings_that_would_not_be_enough_are_not_named() -> None:
    with pytest.raises(SettingsError, match="lacks 0.7 GB") as told:
        fit(memory(GB * 3 // 10), kept_tokens=5000, wanted=0)

    assert "basic_window" not in str(told.value)


def test_the_settings_voice_comes_first_then_the_models(tmp_path: Path) -> None:
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/HT_ref_audio.wav").write_bytes(wav_from_waveform(tone[:8000], 16_000))
    (tmp_path / "mine.wav").write_bytes(wav_from_waveform(tone, 16_000))

    assert len(default_voice(str(tmp_path / "mine.wav"), tmp_path)) == 16_000
    assert len(default_voice("", tmp_path)) == 8000


def test_a_model_without_a_voice_gets_ours(tmp_path: Path) -> None:
    assert len(default_voice("", tmp_path)) > 16_000


def test_a_voice_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.wav").write_bytes(b"no sound")

    with pytest.raises(SettingsError, match="mine.wav"):
        default_voice(str(tmp_path / "mine.wav"), tmp_path)


def test_the_settings_window_is_the_published_one_by_default() -> None:
    assert window_of(DuplexSettings()) == WindowOptions()


def test_a_window_that_would_never_be_low_enough_is_told() -> None:
    settings = DuplexSettings(basic_window_high_tokens=1000, basic_window_low_tokens=2000)

    with pytest.raises(SettingsError, match="basic_window_low_tokens = 2000"):
        window_of(settings)

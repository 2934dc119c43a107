"""The analysis of a reference recording against the reference's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omni.errors import CheckpointError, ClientError
from omni.minicpmo.voice import VoiceAnalyser, fit_frames
from omni.minicpmo.voice_features import (
    kaldi_fbank,
    kaldi_filters,
    prompt_mel,
    resample,
    slaney_filters,
    tokenizer_mel,
)
from tests.minicpmo.conftest import Golden

MEL, FBANK, SPEAKER, AUDIO = 1e-4, 1e-3, 1e-3, 1e-5  # float32 FFTs differ in quiet bins


@pytest.fixture(scope="module")
def golden(expected: Callable[[str], Golden]) -> Golden:
    return expected("i_prompt")


@pytest.fixture(scope="module")
def recording(expected: Callable[[str], Golden]) -> Tensor:
    """3 s at 16 kHz, (48000,) float32."""
    stream = expected("c_mel").tensors["stream_i16"]
    return stream[80000:128000].float() / 32768


@pytest.fixture(scope="module")
def assets(golden_dir: Path) -> tuple[Path, Path]:
    folder = golden_dir / "checkpoint/assets/token2wav"
    return folder / "speech_tokenizer_v2_25hz.onnx", folder / "campplus.onnx"


@pytest.fixture(scope="module")
def analyser(assets: tuple[Path, Path]) -> VoiceAnalyser:
    return VoiceAnalyser(*assets, max_codes=250)


def test_the_tokenizer_mel_is_the_reference_mel(golden: Golden, recording: Tensor) -> None:
    mel = tokenizer_mel(recording)

    torch.testing.assert_close(mel, golden.tensors["mel128"], atol=MEL, rtol=0)


def test_resampling_gives_the_reference_audio(golden: Golden, recording: Tensor) -> None:
    audio = resample(recording, 16_000, 24_000)

    assert audio.shape == (72_000,)
    torch.testing.assert_close(audio[:12_000], golden.tensors["wave24k"], atol=AUDIO, rtol=0)


def test_the_prompt_mel_is_the_reference_mel(golden: Golden, recording: Tensor) -> None:
    mel = prompt_mel(resample(recording, 16_000, 24_000))

    torch.testing.assert_close(mel, golden.tensors["prompt_mel"], atol=MEL, rtol=0)


def test_the_filter_banks_are_the_reference_ones(golden: Golden, recording: Tensor) -> None:
    features = kaldi_fbank(recording)

    reference = golden.tensors["fbank_mean_removed"]
    torch.testing.assert_close(features[::5], reference, atol=FBANK, rtol=0)


def test_a_recording_becomes_the_reference_voice(
    analyser: VoiceAnalyser, golden: Golden, recording: Tensor
) -> None:
    voice = analyser.analyse(recording.numpy(), 16_000)

    assert torch.equal(voice.codes, golden.tensors["prompt_codes"])
    torch.testing.assert_close(voice.mel, golden.tensors["prompt_mel"], atol=MEL, rtol=0)
    torch.testing.assert_close(voice.speaker, golden.tensors["speaker"], atol=SPEAKER, rtol=0)


def test_a_recording_is_analysed_once(analyser: VoiceAnalyser, recording: Tensor) -> None:
    samples = recording.numpy()

    first = analyser.analyse(samples, 16_000)

    assert analyser.analyse(samples.copy(), 16_000) is first
    assert analyser.analyse(samples[:-1], 16_000).key != first.key
    assert analyser.analyse(samples, 24_000).key != first.key


def test_the_first_channel_is_tokenized_and_the_mean_gives_the_mel(
    analyser: VoiceAnalyser, recording: Tensor
) -> None:
    samples = recording.numpy()
    stereo = np.stack((samples, -0.5 * samples))

    voice = analyser.analyse(stereo, 16_000)

    assert torch.equal(voice.codes, analyser.analyse(samples, 16_000).codes)
    quarter = prompt_mel(resample(recording / 4, 16_000, 24_000))
    torch.testing.assert_close(voice.mel, quarter, atol=MEL, rtol=0)


def test_a_long_recording_is_used_up_to_the_longest_prompt(
    assets: tuple[Path, Path], recording: Tensor
) -> None:
    analyser = VoiceAnalyser(*assets, max_codes=50)

    voice = analyser.analyse(recording.numpy(), 16_000)

    assert len(voice.codes) == 50
    assert voice.mel.shape == (100, 80)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(100, np.float32), np.zeros(0, np.float32), np.full(16_000, np.nan, np.float32)],
    ids=["short", "empty", "not numbers"],
)
def test_what_is_no_recording_is_refused(analyser: VoiceAnalyser, samples: np.ndarray) -> None:
    with pytest.raises(ClientError, match="reference recording"):
        analyser.analyse(samples, 16_000)


def test_a_broken_model_file_is_refused(assets: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "campplus.onnx"
    broken.write_bytes(assets[1].read_bytes()[:100])

    with pytest.raises(CheckpointError, match=r"campplus\.onnx"):
        VoiceAnalyser(assets[0], broken, max_codes=250)


def test_mel_frames_are_cut_or_repeated_to_fit() -> None:
    mel = torch.arange(6.0).reshape(3, 2)

    assert fit_frames(mel, 2).tolist() == [[0, 1], [2, 3]]
    assert fit_frames(mel, 5)[3:].tolist() == [[4, 5], [4, 5]]


def test_silence_has_finite_features(analyser: VoiceAnalyser) -> None:
    voice = analyser.analyse(np.zeros(16_000, np.float32), 16_000)

    assert voice.mel.isfinite().all()
    assert voice.speaker.isfinite().all()


def test_every_filter_lets_something_through() -> None:
    assert (slaney_filters(24_000, 1920, 80).sum(1) > 0).all()
    assert (kaldi_filters().sum(0) > 0).all()

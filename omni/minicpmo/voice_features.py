"""The features of a reference recording: two mel spectrograms, Kaldi filter banks, resampling.

All float32 on the CPU. Each must give what the models were trained on, so each follows its own
library's conventions.
"""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOKENIZER_RATE_HZ = 16_000  # Source: speech_tokenizer_v2 and CAM++
MEL_RATE_HZ = 24_000  # Source: flow.yaml, the vocoders
MEL_HOP = 480


def tokenizer_mel(samples: Tensor) -> Tensor:
    """Return the 128-bin Whisper log-mel (128, N // 160) of *samples* (N,) at 16 kHz.

    Source: openai/whisper log_mel_spectrogram: n_fft 400, hop 160, floor 8 below the maximum.
    """
    spectrum = torch.stft(samples, 400, 160, window=torch.hann_window(400), return_complex=True)
    power = spectrum[:, :-1].abs().square()
    mel = (slaney_filters(TOKENIZER_RATE_HZ, 400, 128) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


def prompt_mel(samples: Tensor) -> Tensor:
    """Return the 80-bin log-mel (T, 80) of *samples* (N,) at 24 kHz, one frame per 480 samples.

    Source: config.yaml feat_extractor: n_fft 1920, hop 480, 0-8000 Hz, not centred; Matcha-TTS.
    """
    side = (1920 - MEL_HOP) // 2
    padded = F.pad(samples[None, None], (side, side), mode="reflect")[0, 0]
    frames = padded.unfold(0, 1920, MEL_HOP) * torch.hann_window(1920)
    spectrum = torch.fft.rfft(frames)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    mel: Tensor = magnitude @ slaney_filters(MEL_RATE_HZ, 1920, 80).T
    return mel.clamp(min=1e-5).log()


def kaldi_fbank(samples: Tensor) -> Tensor:
    """Return the log filter banks (T, 80) of *samples* (N,) at 16 kHz, no dither, less their mean.

    Source: Kaldi compute-fbank-feats with its defaults: 25 ms Povey windows every 10 ms, whole ones
    only, each without its mean, pre-emphasis 0.97, 512 points.
    """
    frames = samples.unfold(0, 400, 160)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat((frames[:, :1], frames[:, :-1]), 1)
    window = torch.hann_window(400, periodic=False).pow(0.85)
    power = torch.fft.rfft(frames * window, n=512).abs().square()
    energy = (power @ kaldi_filters()).clamp(min=torch.finfo(torch.float32).eps)
    features: Tensor = energy.log()
    return features - features.mean(0)


@cache
def slaney_filters(rate_hz: int, fft: int, num_mels: int) -> Tensor:
    """Return (num_mels, fft // 2 + 1) triangles from 0 to 8 kHz, each of unit area.

    Source: Slaney's Auditory Toolbox: linear to 1 kHz at 200/3 Hz a mel, then 27 mels per 6.4-fold.
    """
    edges = _slaney_hz(np.linspace(0.0, _slaney_mel(8000.0), num_mels + 2))
    bins = np.linspace(0.0, rate_hz / 2, fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = (2.0 / (edges[2:] - edges[:-2]))[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * area
    return torch.from_numpy(filters.astype(np.float32))


@cache
def kaldi_filters() -> Tensor:
    """Return (257, 80): triangles on Kaldi's mel scale from 20 Hz to 8 kHz, the last bin unused."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(mel(20.0), mel(8000.0), 82)
    bins = mel(np.arange(256) * (TOKENIZER_RATE_HZ / 512))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return F.pad(torch.from_numpy(filters.astype(np.float32)), (0, 0, 0, 1))


def resample(samples: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Return *samples* (..., N) at *to_hz*, by the filter that the prompt mel was trained with.

    Source: torchaudio's default: sinc with a Hann window, 6 zero crossings, roll-off 0.99.
    """
    if from_hz == to_hz:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    old, new = from_hz // divisor, to_hz // divisor
    kernel, width = _sinc_kernel(old, new)
    padded = F.pad(samples.reshape(-1, 1, samples.shape[-1]), (width, width + old))
    out = F.conv1d(padded, kernel, stride=old).transpose(1, 2).flatten(1)
    length = math.ceil(new * samples.shape[-1] / old)
    return out[:, :length].reshape(*samples.shape[:-1], length)


@cache
def _sinc_kernel(old: int, new: int) -> tuple[Tensor, int]:
    """Return (new, 1, 2 width + old) taps, one row per output phase, and the width."""
    crossings, cutoff = 6, min(old, new) * 0.99
    width = math.ceil(crossings * old / cutoff)
    position = torch.arange(-width, width + old, dtype=torch.float64) / old
    phase = torch.arange(0, -new, -1, dtype=torch.float64) / new
    time = ((phase[:, None] + position) * cutoff).clamp(-crossings, crossings)
    window = (time * (math.pi / crossings / 2)).cos().square()
    kernel = torch.special.sinc(time) * window * (cutoff / old)
    return kernel[:, None].float(), width


def _slaney_mel(hz: float) -> float:
    return hz / (200 / 3) if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) * 27 / math.log(6.4)


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    beyond = 1000.0 * np.exp((mel - 15.0) * math.log(6.4) / 27)
    hz: np.ndarray = np.where(mel < 15.0, mel * (200 / 3), beyond)
    return hz

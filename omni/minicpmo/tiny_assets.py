"""The files below `assets/` of a checkpoint: token2wav in either layout, and the default voices."""

import io
import math
import wave
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from omni.audio import INPUT_HZ, Waveform, pcm16_from_waveform
from omni.minicpmo.random_weights import CpuDraw, Draw, draw_all, model_spread, vocoder_spread
from omni.minicpmo.tiny_onnx import speaker_embedder, speech_tokenizer
from omni.minicpmo.token2wav_table import (
    HIFT_PREFIX,
    FlowSizes,
    HiftSizes,
    flow_table,
    hift_table,
)

#: five-file: as published. causal: config.yaml, a causal hift.pt and hift_original.pt besides.
Layout = Literal["five-file", "causal"]

TINY_FLOW = FlowSizes(
    hidden_size=64,
    heads=2,
    num_blocks=2,
    num_up_blocks=2,
    linear_units=128,
    dit_depth=2,
    dit_hidden_size=64,
    dit_heads=2,
    dit_head_dim=32,
)
TINY_HIFT = HiftSizes(base_channels=32, f0_channels=32)

_VOICE_SECONDS = 3.0


def write_assets(directory: Path, seed: int, layout: Layout) -> None:
    """Write the tiny assets to the new *directory*."""
    write_token2wav(directory / "token2wav", CpuDraw(seed), TINY_FLOW, TINY_HIFT, layout)
    write_voices(directory)


def write_voices(directory: Path) -> None:
    """Write the default reference recordings to *directory*."""
    # The names that the published directory has; two voices, so that they can be told apart.
    for name, pitch_hz in (("HT_ref_audio.wav", 120.0), ("system_ref_audio.wav", 210.0)):
        (directory / name).write_bytes(_wav(voice_like(pitch_hz)))


def write_token2wav(
    directory: Path, draw: Draw, flow: FlowSizes, hift: HiftSizes, layout: Layout
) -> None:
    """Write flow, vocoder and the two prompt models with random float32 weights of *draw*.

    The prompt models are small at any size: a bench needs their interface, not their cost.
    """
    directory.mkdir(parents=True)
    _write_text(directory / "flow.yaml", flow_yaml(flow))
    torch.save(
        draw_all(flow_table(flow), model_spread(flow.dit_depth), draw), directory / "flow.pt"
    )
    plain = "hift.pt" if layout == "five-file" else "hift_original.pt"
    named = {HIFT_PREFIX + name: tensor for name, tensor in _vocoder(hift, draw).items()}
    torch.save(named, directory / plain)
    if layout == "causal":
        _write_text(directory / "config.yaml", hift_yaml(hift))
        torch.save(_vocoder(evolve(hift, is_causal=True), draw), directory / "hift.pt")
    (directory / "campplus.onnx").write_bytes(speaker_embedder())
    (directory / "speech_tokenizer_v2_25hz.onnx").write_bytes(speech_tokenizer())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _vocoder(sizes: HiftSizes, draw: Draw) -> dict[str, Tensor]:
    weights = draw_all(hift_table(sizes), vocoder_spread, draw)
    weights["conv_post.bias"][: len(weights["conv_post.bias"]) // 2] -= 1.0  # log magnitudes
    return weights


def voice_like(pitch_hz: float, seconds: float = _VOICE_SECONDS) -> Waveform:
    """Return something voiced at 16 kHz, (N,): falling tones, four syllables a second."""
    time = np.arange(int(seconds * INPUT_HZ)) / INPUT_HZ
    syllable = time / 0.25
    pitch = pitch_hz * (1.1 - 0.2 * (syllable % 1.0))
    phase = 2 * np.pi * np.cumsum(pitch) / INPUT_HZ
    sound = np.zeros_like(time)
    for harmonic in range(1, 30):
        frequency = harmonic * pitch
        vowel = 400.0 + 150.0 * (np.floor(syllable) % 3)
        loud = np.exp(-np.abs(frequency - vowel) / 300.0)
        loud += 0.3 * np.exp(-np.abs(frequency - 4 * vowel) / 500.0)
        sound += loud * np.sin(harmonic * phase)
    sound *= np.sin(math.pi * (syllable % 1.0)) ** 2
    samples: Waveform = (0.3 * sound / np.abs(sound).max()).astype(np.float32)
    return samples


def _wav(samples: Waveform) -> bytes:
    body = io.BytesIO()
    with wave.open(body, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(INPUT_HZ)
        file.writeframes(pcm16_from_waveform(samples))
    return body.getvalue()


def flow_yaml(sizes: FlowSizes) -> str:
    """Return flow.yaml, with the tags of classes that a reader must not build."""
    return f"""\
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
  input_size: {sizes.hidden_size}
  output_size: 80
  spk_embed_dim: 192
  output_type: 'mel'
  vocab_size: 6561
  encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
    input_size: {sizes.hidden_size}
    output_size: {sizes.hidden_size}
    input_layer: 'linear'
    pre_lookahead_len: 3
    num_blocks: {sizes.num_blocks}
    num_up_blocks: {sizes.num_up_blocks}
    up_stride: 2
    up_scale_factor: 2
    attention_heads: {sizes.heads}
    pos_enc_layer_type: 'rel_pos_espnet'
    selfattention_layer_type: 'rel_selfattn'
    key_bias: true
    linear_units: {sizes.linear_units}
    dropout_rate: 0.1
    positional_dropout_rate: 0.1
    attention_dropout_rate: 0.1
    normalize_before: True
  decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
    inference_cfg_rate: 0.7
    estimator: !new:cosyvoice2.flow.decoder_dit.DiT
      in_channels: 320
      out_channels: 80
      mlp_ratio: {sizes.dit_mlp_ratio}
      depth: {sizes.dit_depth}
      num_heads: {sizes.dit_heads}
      head_dim: {sizes.dit_head_dim}
      hidden_size: {sizes.dit_hidden_size}
"""


def hift_yaml(sizes: HiftSizes) -> str:
    """Return config.yaml of the causal vocoder."""
    return f"""\
sample_rate: 24000
hift: !new:cosyvoice.hifigan.generator.CausalHiFTGenerator
  in_channels: 80
  base_channels: {sizes.base_channels}
  nb_harmonics: 8
  sampling_rate: 24000
  nsf_alpha: 0.1
  nsf_sigma: 0.003
  nsf_voiced_threshold: 10
  upsample_rates: [8, 5, 3]
  upsample_kernel_sizes: [16, 11, 7]
  istft_params:
    n_fft: 16
    hop_len: 4
  resblock_kernel_sizes: [3, 7, 11]
  resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
  source_resblock_kernel_sizes: [7, 7, 11]
  source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
  lrelu_slope: 0.1
  audio_limit: 0.99
  conv_pre_look_right: 4
  f0_predictor: !new:cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor
    num_class: 1
    in_channels: 80
    cond_channels: {sizes.f0_channels}
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
  n_fft: 1920
  num_mels: 80
  sampling_rate: 24000
  hop_size: 480
  win_size: 1920
  fmin: 0
  fmax: 8000
  center: False
"""

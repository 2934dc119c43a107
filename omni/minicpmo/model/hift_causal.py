"""Vocoder B, causal HiFT of the 1.0.7 layout: its chunks are exactly the whole utterance.

A call computes its new frames with as much history as any of them can feel, so no convolution keeps
a cache.
"""

import torch
import torch.nn.functional as F
from attrs import define, frozen
from torch import Tensor, nn

from omni.minicpmo.model.hift import MelBatch, WaveBatch
from omni.minicpmo.model.hift_decoder import (
    FRAME_SAMPLES,
    NUM_HARMONICS,
    TWO_PI,
    HiftConfig,
    HiftDecoder,
    SameConv,
    excitation,
    frame_mask,
    harmonic_cycles,
)

# Mel frames. Source: kernel sizes of the causal layers; 31 is the reach of the decoder to the left.
F0_LEFT, F0_RIGHT = 8, 3
DECODER_LEFT, DECODER_RIGHT = 31, 5  # right: 4 of conv_pre, 1 that the inverse STFT needs
DELAY = F0_RIGHT + DECODER_RIGHT
MEL_HISTORY = DECODER_LEFT + DELAY
SOURCE_HISTORY = DECODER_LEFT + DECODER_RIGHT
DELAY_SAMPLES = DELAY * FRAME_SAMPLES
NOISE_FRAMES = 500  # 10 s of noise, then repeated
NOISE_SEED = 4220


class CausalHift(nn.Module):
    """f0 predictor and phases in float64, source and causal decoder in float32."""

    noise: Tensor

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.f0_predictor = CausalF0Predictor(config).double()
        self.m_source = nn.ModuleDict({"l_linear": nn.Linear(NUM_HARMONICS, 1)})
        self.decoder = HiftDecoder(config, causal=True)
        self.register_buffer("noise", fixed_noise(), persistent=False)

    def source(
        self, f0: Tensor, phase: Tensor, first: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the source (B, T, 480) of counts (B,) frames and the phases after them.

        f0: (B, T) float32 in Hz. phase: (B, 9) float64 in cycles. first: (B,) index in the turn of
        the first frame.
        """
        cycles = harmonic_cycles(f0) * frame_mask(counts, f0.shape[1]).transpose(1, 2)
        total = cycles.double().cumsum(1) * FRAME_SAMPLES + phase[:, None]
        sine = (total.remainder(1) * TWO_PI).sin().float()[:, :, None]
        index = first[:, None] + torch.arange(f0.shape[1], device=f0.device)
        noise = self.noise[index % self.noise.shape[0]]
        merged = self.m_source["l_linear"](excitation(sine, f0, noise))
        return torch.tanh(merged)[..., 0], total[:, -1].remainder(1)


class CausalF0Predictor(nn.Module):
    """Five convolutions with ELU and a linear layer; the first looks 3 frames ahead.

    Runs in float64: an error of 1e-4 Hz would grow with the accumulated phase.
    """

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        first = nn.Conv1d(config.mel_bins, config.f0_channels, F0_RIGHT + 1)
        others = {
            str(2 * i): SameConv(config.f0_channels, config.f0_channels, 3, causal=True)
            for i in range(1, 5)
        }
        self.condnet = nn.ModuleDict({"0": first, **others})
        self.classifier = nn.Linear(config.f0_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, M, T + 3), zero beyond the end. Returns (B, T) float64 in Hz."""
        first, *others = self.condnet.values()
        x = F.elu(first(mel.double()))
        for conv in others:
            x = F.elu(conv(x))
        out: Tensor = self.classifier(x.transpose(1, 2))[..., 0].abs()
        return out


def fixed_noise() -> Tensor:
    """Return the source's additive noise, (500, 480, 9), uniform in [0, 1) as in the reference."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    shape = (NOISE_FRAMES, FRAME_SAMPLES, NUM_HARMONICS)
    return torch.rand(shape, generator=generator, device="cpu")


@define
class CausalHiftState:
    """What S slots keep between chunks; row S is scratch. Histories end at the right edge."""

    num_slots: int
    mel: Tensor  # (S + 1, M, 39)
    source: Tensor  # (S + 1, 36, 480)
    phase: Tensor  # (S + 1, 9) float64, cycles
    frames: Tensor  # (S + 1,) mel frames of the turn so far

    @classmethod
    def create(cls, hift: CausalHift, num_slots: int) -> "CausalHiftState":
        device, rows = hift.noise.device, num_slots + 1
        return cls(
            num_slots=num_slots,
            mel=torch.zeros(rows, hift.config.mel_bins, MEL_HISTORY, device=device),
            source=torch.zeros(rows, SOURCE_HISTORY, FRAME_SAMPLES, device=device),
            phase=torch.zeros(rows, NUM_HARMONICS, dtype=torch.float64, device=device),
            frames=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def reset(self, reset_mask: Tensor) -> None:
        """Put the slots of reset_mask (S + 1,) bool at the start of a turn; nothing is left."""
        self.mel.masked_fill_(reset_mask[:, None, None], 0)
        self.source.masked_fill_(reset_mask[:, None, None], 0)
        self.phase.masked_fill_(reset_mask[:, None], 0)
        self.frames.masked_fill_(reset_mask, 0)


@frozen
class _Span:
    """The frames of one call, counted from the start of the turn, all (B,).

    received: mel; sourced: source; spoken: sound; before and after the call. window: where the
    history starts.
    """

    received: Tensor
    sourced: Tensor
    spoken: Tensor
    received_after: Tensor
    sourced_after: Tensor
    spoken_after: Tensor
    window: Tensor

    @classmethod
    def of(cls, received: Tensor, batch: MelBatch) -> "_Span":
        after = received + batch.frames
        return cls(
            received=received,
            sourced=(received - F0_RIGHT).clamp(min=0),
            spoken=(received - DELAY).clamp(min=0),
            received_after=after,
            sourced_after=torch.where(batch.is_last, after, (after - F0_RIGHT).clamp(min=0)),
            spoken_after=torch.where(batch.is_last, after, (after - DELAY).clamp(min=0)),
            window=(received - MEL_HISTORY).clamp(min=0),
        )


def step(hift: CausalHift, state: CausalHiftState, batch: MelBatch) -> WaveBatch:
    """Turn each row's mel into sound and move its slot on. Mutates *state*.

    The sound lags the mel by 8 frames until the last call, and the first sound of a turn that goes
    on comes after 3840 zeros: the sample counts are those of vocoder A.
    """
    span = _Span.of(state.frames.index_select(0, batch.slots), batch)
    mel = torch.cat((state.mel.index_select(0, batch.slots), batch.mel.transpose(1, 2)), 2)
    new_source, phase = _new_source(hift, state, batch, span, mel)
    source = torch.cat((state.source.index_select(0, batch.slots), new_source), 1)
    size = mel.shape[2]
    # Both windows start at the same frame; the histories end where the new frames begin.
    mel_window = _take(mel, span.window - span.received + MEL_HISTORY, size, mel.shape[2])
    source_window = _take(
        source.transpose(1, 2), span.window - span.sourced + SOURCE_HISTORY, size, source.shape[1]
    )
    wave = hift.decoder(
        mel_window, source_window.transpose(1, 2).flatten(1), span.sourced_after - span.window
    )
    _keep(state, batch, span, mel, source, phase)
    return _cut(wave, batch, span)


def _new_source(
    hift: CausalHift, state: CausalHiftState, batch: MelBatch, span: _Span, mel: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the source of frames sourced..sourced_after, (B, T + 3, 480), and the phases then."""
    num_new = batch.mel.shape[1] + F0_RIGHT
    start = (span.sourced - F0_LEFT).clamp(min=0)
    offset = start - span.received + MEL_HISTORY
    features = _take(mel, offset, F0_LEFT + num_new + F0_RIGHT, mel.shape[2])
    f0 = hift.f0_predictor(features).float()
    index = (span.sourced - start)[:, None] + torch.arange(num_new, device=f0.device)
    counts = span.sourced_after - span.sourced
    phase = state.phase.index_select(0, batch.slots)
    return hift.source(f0.gather(1, index), phase, span.sourced, counts)


def _take(x: Tensor, offset: Tensor, size: int, end: int) -> Tensor:
    """Return *size* columns of x (B, C, L) from each row's *offset* on, zeros from *end* on."""
    index = offset[:, None] + torch.arange(size, device=x.device)
    picked = x.gather(2, index.clamp(0, x.shape[2] - 1)[:, None].expand(-1, x.shape[1], -1))
    return picked * (index < end)[:, None]


def _keep(
    state: CausalHiftState,
    batch: MelBatch,
    span: _Span,
    mel: Tensor,
    source: Tensor,
    phase: Tensor,
) -> None:
    write = torch.where(batch.exec_mask, batch.slots, state.num_slots)
    state.mel.index_copy_(0, write, _take(mel, batch.frames, MEL_HISTORY, mel.shape[2]))
    new_frames = span.sourced_after - span.sourced
    history = _take(source.transpose(1, 2), new_frames, SOURCE_HISTORY, source.shape[1])
    state.source.index_copy_(0, write, history.transpose(1, 2))
    state.phase.index_copy_(0, write, phase)
    state.frames.index_copy_(0, write, span.received_after)


def _cut(wave: Tensor, batch: MelBatch, span: _Span) -> WaveBatch:
    """Return the sound of frames spoken..spoken_after.

    The first of a turn, unless it is also the last, comes after 3840 zeros.
    """
    starts = (span.spoken == 0) & (span.spoken_after > 0) & ~batch.is_last
    silence = torch.where(starts, DELAY_SAMPLES, 0)
    counts = (span.spoken_after - span.spoken) * FRAME_SAMPLES + silence
    counts = torch.where(batch.exec_mask, counts, 0)
    size = (batch.mel.shape[1] + DELAY) * FRAME_SAMPLES
    sample = torch.arange(size, device=wave.device)
    index = ((span.spoken - span.window) * FRAME_SAMPLES - silence)[:, None] + sample
    real = (sample >= silence[:, None]) & (sample < counts[:, None])
    picked = wave.gather(1, index.clamp(0, wave.shape[1] - 1))
    return WaveBatch(torch.where(real, picked, 0.0), counts)

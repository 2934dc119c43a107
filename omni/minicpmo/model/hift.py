"""Vocoder A, HiFT of the 5-file layout: mel -> waveform, chunk by chunk with a cross-fade."""

import torch
import torch.nn.functional as F
from attrs import define, frozen
from torch import Tensor, nn

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
    masked,
)

OVERLAP_FRAMES = (
    8  # mel frames vocoded twice and cross-faded. Source: the reference's mel_cache_len
)
OVERLAP_SAMPLES = OVERLAP_FRAMES * FRAME_SAMPLES
NOISE_FRAMES = 500  # 10 s of noise, then repeated
NOISE_SEED = 4219


@frozen
class MelBatch:
    """One step's mel, (B, T, M), zero after frames (B,); slots, is_last and exec_mask are (B,)."""

    slots: Tensor
    mel: Tensor
    frames: Tensor
    is_last: Tensor
    exec_mask: Tensor


@frozen
class WaveBatch:
    """One step's sound: samples (B, N) float32 in [-0.99, 0.99], of which counts (B,) are real."""

    samples: Tensor
    counts: Tensor


class Hift(nn.Module):
    """f0 predictor, harmonic source and decoder."""

    fade: Tensor
    noise: Tensor

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.f0_predictor = F0Predictor(config).double()
        self.m_source = nn.ModuleDict({"l_linear": nn.Linear(NUM_HARMONICS, 1)})
        self.decoder = HiftDecoder(config, causal=False)
        fade = torch.hamming_window(2 * OVERLAP_SAMPLES, periodic=False, dtype=torch.float64)
        self.register_buffer("fade", fade.float(), persistent=False)
        self.register_buffer("noise", fixed_noise(), persistent=False)

    def synthesise(self, mel: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples and source, each (B, 480 T), of whole utterances.

        mel: (B, M, T). noise: (B, T, 480, 9).
        """
        source = self.source(self.f0_predictor(mel, None), None, noise)
        return self.decoder(mel, source, None), source

    def source(self, f0: Tensor, lengths: Tensor | None, noise: Tensor) -> Tensor:
        """Return the source (B, 480 T), its phase linear between the middles of the frames.

        f0: (B, T) float64 in Hz: the phase is a sum over frames, and so is its error.
        """
        step = FRAME_SAMPLES * harmonic_cycles(f0)
        if lengths is not None:
            step = step * frame_mask(lengths, f0.shape[1]).transpose(1, 2)
        phase = step.cumsum(1).remainder(1).float()[:, :, None]
        step = step.float()
        # Before the first middle and after the last one the phase stands still.
        left = F.pad(step[:, 1:], (0, 0, 1, 0))[:, :, None]
        right = F.pad(step[:, 1:], (0, 0, 0, 1))[:, :, None]
        offset = (torch.arange(FRAME_SAMPLES, device=f0.device) + 0.5) / FRAME_SAMPLES - 0.5
        offset = offset[:, None]
        cycles = phase + offset * torch.where(offset < 0, left, right)
        sine = (cycles.remainder(1) * TWO_PI).sin()
        merged = self.m_source["l_linear"](excitation(sine, f0, noise))
        return torch.tanh(merged).flatten(1)


class F0Predictor(nn.Module):
    """Five convolutions with ELU and a linear layer; |.| is the pitch in Hz.

    Runs in float64, so that the batch, or TF32, does not move the pitch.
    """

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        widths = [config.mel_bins] + 4 * [config.f0_channels]
        self.condnet = nn.ModuleDict(
            {
                str(2 * i): SameConv(width, config.f0_channels, 3, causal=False)
                for i, width in enumerate(widths)
            }
        )
        self.classifier = nn.Linear(config.f0_channels, 1)

    def forward(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """mel: (B, M, T), zero beyond the end. Returns (B, T) float64 in Hz."""
        mask = None if lengths is None else frame_mask(lengths, mel.shape[2])
        x = mel.double()
        for conv in self.condnet.values():
            x = F.elu(conv(masked(x, mask)))
        out: Tensor = self.classifier(x.transpose(1, 2))[..., 0].abs()
        return out


def fixed_noise() -> Tensor:
    """Return the source's additive noise, (500, 480, 9) ~ N(0, 1).

    It is a fixed table, so that neither the batch nor the process changes what a session hears.
    """
    generator = torch.Generator().manual_seed(NOISE_SEED)
    shape = (NOISE_FRAMES, FRAME_SAMPLES, NUM_HARMONICS)
    return torch.randn(shape, generator=generator, device="cpu")


@define
class HiftState:
    """What S slots keep between chunks; row S is scratch."""

    num_slots: int
    mel: Tensor  # (S + 1, M, 8)
    source: Tensor  # (S + 1, 3840)
    speech: Tensor  # (S + 1, 3840)
    frames: Tensor  # (S + 1,) mel frames of the turn so far

    @classmethod
    def create(cls, hift: Hift, num_slots: int) -> "HiftState":
        device, rows = hift.noise.device, num_slots + 1
        return cls(
            num_slots=num_slots,
            mel=torch.zeros(rows, hift.config.mel_bins, OVERLAP_FRAMES, device=device),
            source=torch.zeros(rows, OVERLAP_SAMPLES, device=device),
            speech=torch.zeros(rows, OVERLAP_SAMPLES, device=device),
            frames=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def reset(self, reset_mask: Tensor) -> None:
        """Put the slots of reset_mask (S + 1,) bool at the start of a turn; nothing is left."""
        self.mel.masked_fill_(reset_mask[:, None, None], 0)
        self.source.masked_fill_(reset_mask[:, None], 0)
        self.speech.masked_fill_(reset_mask[:, None], 0)
        self.frames.masked_fill_(reset_mask, 0)


def step(hift: Hift, state: HiftState, batch: MelBatch, *, steady: bool) -> WaveBatch:
    """Turn each row's mel into sound and move its slot on. Mutates *state*.

    steady: no row is the first or last of its turn, or shorter than T: the convolutions then need
    no masks. A row gives 480 samples per frame, and 3840 more in the last call of a turn of
    several. A first call that is not the last starts with 3840 zeros, in place of those that the
    cross-fade holds back.
    """
    before = state.frames.index_select(0, batch.slots)
    cached = torch.where(before > 0, OVERLAP_FRAMES, 0)
    mel, lengths = _joined_mel(state, batch, cached)
    positions = (before - cached)[:, None] + torch.arange(mel.shape[2], device=mel.device)
    noise = hift.noise[positions % NOISE_FRAMES]
    starts = (before == 0)[:, None]
    source = _source_of(hift, state, batch, mel, None if steady else lengths, noise, starts)
    wave = hift.decoder(mel, source, None if steady else lengths)
    wave = _cross_fade(wave, state.speech.index_select(0, batch.slots), hift.fade, starts)
    _keep(state, batch, mel, source, wave, lengths)
    if steady:
        return WaveBatch(wave[:, :-OVERLAP_SAMPLES], batch.frames * FRAME_SAMPLES)
    return _cut(wave, batch, lengths, starts)


def _joined_mel(state: HiftState, batch: MelBatch, cached: Tensor) -> tuple[Tensor, Tensor]:
    """Return [cached frames, new frames] from index 0 on, (B, M, 8 + T), and each row's length."""
    joined = torch.cat((state.mel.index_select(0, batch.slots), batch.mel.transpose(1, 2)), 2)
    size = joined.shape[2]
    index = torch.arange(size, device=joined.device) + (OVERLAP_FRAMES - cached)[:, None]
    inside = index < size
    picked = joined.gather(2, index.clamp(max=size - 1)[:, None].expand_as(joined))
    return picked * inside[:, None], cached + batch.frames


def _source_of(
    hift: Hift,
    state: HiftState,
    batch: MelBatch,
    mel: Tensor,
    lengths: Tensor | None,
    noise: Tensor,
    starts: Tensor,
) -> Tensor:
    """Return the source, its first 3840 samples from the cache except in rows that start."""
    source = hift.source(hift.f0_predictor(mel, lengths), lengths, noise)
    kept = state.source.index_select(0, batch.slots)
    head = torch.where(starts, source[:, :OVERLAP_SAMPLES], kept)
    return torch.cat((head, source[:, OVERLAP_SAMPLES:]), 1)


def _cross_fade(wave: Tensor, kept: Tensor, fade: Tensor, starts: Tensor) -> Tensor:
    fade_in, fade_out = fade.chunk(2)
    head = wave[:, :OVERLAP_SAMPLES]
    mixed = torch.where(starts, head, head * fade_in + kept * fade_out)
    return torch.cat((mixed, wave[:, OVERLAP_SAMPLES:]), 1)


def _keep(
    state: HiftState, batch: MelBatch, mel: Tensor, source: Tensor, wave: Tensor, lengths: Tensor
) -> None:
    write = torch.where(batch.exec_mask, batch.slots, state.num_slots)
    first = (lengths - OVERLAP_FRAMES).clamp(min=0)[:, None]
    frame = first + torch.arange(OVERLAP_FRAMES, device=mel.device)
    sample = first * FRAME_SAMPLES + torch.arange(OVERLAP_SAMPLES, device=mel.device)
    kept = mel.gather(2, frame[:, None].expand(-1, mel.shape[1], -1))
    state.mel.index_copy_(0, write, kept)
    state.source.index_copy_(0, write, source.gather(1, sample))
    state.speech.index_copy_(0, write, wave.gather(1, sample))
    before = state.frames.index_select(0, batch.slots)
    state.frames.index_copy_(0, write, before + batch.frames)


def _cut(wave: Tensor, batch: MelBatch, lengths: Tensor, starts: Tensor) -> WaveBatch:
    """Hold back the last 3840 samples unless the turn ends; start it with as many zeros."""
    ends = batch.is_last[:, None]
    delayed = F.pad(wave, (OVERLAP_SAMPLES, 0))[:, : wave.shape[1]]
    wave = torch.where(starts & ~ends, delayed, wave)
    counts = torch.where(batch.is_last, lengths, batch.frames) * FRAME_SAMPLES
    counts = torch.where(batch.exec_mask, counts, 0)
    real = torch.arange(wave.shape[1], device=wave.device) < counts[:, None]
    return WaveBatch(torch.where(real, wave, 0.0), counts)

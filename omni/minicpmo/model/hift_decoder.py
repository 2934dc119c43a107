"""The decoder that both vocoders share: mel and source signal -> waveform, by residual blocks and
an inverse STFT.

Rows of a batch may have different lengths: what lies beyond a row's end is kept at zero, so each
row is computed as if alone. Source: HiFTNet, https://arxiv.org/abs/2309.09493.
"""

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 480  # 50 mel frames a second
NUM_HARMONICS = 9  # the fundamental and 8 overtones
# Sizes of the published vocoders. Source: CosyVoice2 and CosyVoice3 generator configurations.
UP_RATES = (8, 5, 3)
UP_KERNELS = (16, 11, 7)
DOWN_STRIDES = (15, 3, 1)
SOURCE_KERNELS = (7, 7, 11)
RES_KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)
FFT, HOP = 16, 4
BINS = FFT // 2 + 1
COLUMNS = FRAME_SAMPLES // HOP  # STFT columns per mel frame; a row has one more
SLOPE = 0.1
AUDIO_LIMIT = 0.99
MAX_MAGNITUDE = 1e2
TWO_PI = 2 * math.pi


@frozen
class HiftConfig:
    """Sizes of a vocoder, read off its tensors."""

    mel_bins: int
    base_channels: int
    f0_channels: int


class HiftDecoder(nn.Module):
    """conv_pre, three up-sampling stages with a source branch each, conv_post, inverse STFT.

    causal: every convolution looks left only, but for conv_pre, which looks 4 frames ahead.
    """

    window: Tensor

    def __init__(self, config: HiftConfig, *, causal: bool) -> None:
        super().__init__()
        base, kernel = config.base_channels, 5 if causal else 7
        widths = [base // 2**stage for stage in range(len(UP_RATES) + 1)]
        self.causal = causal
        self.conv_pre = nn.Conv1d(config.mel_bins, base, kernel)
        self.ups = nn.ModuleList(
            (
                nn.Conv1d(width, width // 2, size)
                if causal
                else nn.ConvTranspose1d(width, width // 2, size, rate, padding=(size - rate) // 2)
            )
            for width, size, rate in zip(widths, UP_KERNELS, UP_RATES, strict=False)
        )
        self.source_downs = nn.ModuleList(
            nn.Conv1d(2 * BINS, width, 2 * stride if stride > 1 else 1, stride)
            for width, stride in zip(widths[1:], DOWN_STRIDES, strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, size, causal=causal)
            for width, size in zip(widths[1:], SOURCE_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, size, causal=causal) for width in widths[1:] for size in RES_KERNELS
        )
        self.conv_post = nn.Conv1d(widths[-1], 2 * BINS, 7)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def forward(self, mel: Tensor, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Return samples (B, 480 T), zero beyond a row's end.

        mel: (B, M, T), zero beyond the end. source: (B, 480 T). lengths: (B,) mel frames, None if
        all rows are full.
        """
        spectrum = self.stft(source, lengths)
        ends = None if self.causal else lengths  # causal layers never see what lies to the right
        x = self.conv_pre(self._pad_first(mel))
        mask = None if ends is None else frame_mask(ends, mel.shape[2])
        rate = 1
        for stage, (up_rate, up) in enumerate(zip(UP_RATES, self.ups, strict=True)):
            rate *= up_rate
            x = self._upsample(up, masked(F.leaky_relu(x, SLOPE), mask), up_rate)
            extra = 1 if rate == COLUMNS else 0
            x = F.pad(x, (extra, 0), mode="reflect")
            mask = None if ends is None else frame_mask(ends * rate + extra, x.shape[2])
            x = x + self._source_branch(stage, spectrum, mask)
            blocks = self.resblocks[len(RES_KERNELS) * stage : len(RES_KERNELS) * (stage + 1)]
            x = sum((block(x, mask) for block in blocks[1:]), blocks[0](x, mask)) / len(RES_KERNELS)
        x = masked(F.leaky_relu(x), mask)
        return self.istft(self.conv_post(pad_same(x, 7, causal=self.causal)), lengths)

    def stft(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, 18, 120 T + 1): real and imaginary parts, zero beyond a row's end."""
        padded = _reflect_ends(source, lengths)
        spectrum = torch.fft.rfft(padded.unfold(1, FFT, HOP) * self.window)
        columns = torch.cat((spectrum.real, spectrum.imag), 2).transpose(1, 2)
        if lengths is None or self.causal:
            return columns
        return columns * frame_mask(lengths * COLUMNS + 1, columns.shape[2])

    def istft(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """x: (B, 18, 120 T + 1), log magnitudes and sines to be. Returns (B, 480 T)."""
        magnitude = x[:, :BINS].exp().clamp(max=MAX_MAGNITUDE)
        phase = x[:, BINS:].sin()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=FFT) * self.window
        weights = self.window.square().expand(1, x.shape[2], FFT)
        if lengths is not None:
            mask = frame_mask(lengths * COLUMNS + 1, x.shape[2]).transpose(1, 2)
            frames, weights = frames * mask, weights * mask
        envelope = _overlap_add(weights)
        return (_overlap_add(frames) / envelope.clamp(min=1e-8)).clamp(-AUDIO_LIMIT, AUDIO_LIMIT)

    def _pad_first(self, mel: Tensor) -> Tensor:
        return F.pad(mel, (0, 4) if self.causal else (3, 3))

    def _upsample(self, up: nn.Module, x: Tensor, rate: int) -> Tensor:
        if self.causal:
            assert isinstance(up, nn.Conv1d)
            x = F.pad(x.repeat_interleave(rate, 2), (up.kernel_size[0] - 1, 0))
        out: Tensor = up(x)
        return out

    def _source_branch(self, stage: int, spectrum: Tensor, mask: Tensor | None) -> Tensor:
        stride = DOWN_STRIDES[stage]
        padding = (stride - 1, 0) if self.causal else (stride // 2, stride // 2)
        padding = padding if stride > 1 else (0, 0)
        x = self.source_downs[stage](F.pad(spectrum, padding))
        out: Tensor = self.source_resblocks[stage](x, mask)
        return out


class ResBlock(nn.Module):
    """Three times x += conv(snake(dilated conv(snake(x))))."""

    def __init__(self, channels: int, kernel: int, *, causal: bool) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation) for dilation in DILATIONS
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel) for _ in DILATIONS)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, C, L). mask: (B, 1, L) or None."""
        layers = zip(
            DILATIONS, self.activations1, self.convs1, self.activations2, self.convs2, strict=True
        )
        for dilation, snake1, conv1, snake2, conv2 in layers:
            hidden = masked(snake1(x), mask)
            hidden = conv1(pad_same(hidden, self.kernel, dilation, causal=self.causal))
            hidden = masked(snake2(hidden), mask)
            x = x + conv2(pad_same(hidden, self.kernel, causal=self.causal))
        return x


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return torch.addcmul(x, (x * alpha).sin().square(), (alpha + 1e-9).reciprocal())


def harmonic_cycles(f0: Tensor) -> Tensor:
    """Return the cycles per sample of each harmonic, mod 1: f0 (B, T) in Hz -> (B, T, 9)."""
    harmonic = torch.arange(1, NUM_HARMONICS + 1, device=f0.device, dtype=f0.dtype)
    return (f0[..., None] * harmonic / SAMPLE_RATE_HZ).remainder(1)


def excitation(sine: Tensor, f0: Tensor, noise: Tensor) -> Tensor:
    """Return 0.1 * sine where voiced, plus noise: strong where unvoiced, faint elsewhere.

    sine: (B, T, 480 or 1, 9). f0: (B, T). noise: (B, T, 480, 9). Source: nsf_alpha 0.1, nsf_sigma
    0.003, nsf_voiced_threshold 10 of the published vocoders.
    """
    voiced = (f0 > 10.0)[..., None, None]
    return torch.where(voiced, 0.1 * sine, 0.0) + torch.where(voiced, 0.003, 0.1 / 3) * noise


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero what lies beyond each row's end."""
    return x if mask is None else x * mask


def pad_same(x: Tensor, kernel: int, dilation: int = 1, *, causal: bool) -> Tensor:
    """Pad (B, C, L) so that a convolution keeps the length."""
    total = (kernel - 1) * dilation
    return F.pad(x, (total, 0) if causal else (total // 2, total // 2))


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, 1, size) float32: 1 before each row's length, 0 from there on."""
    inside = torch.arange(size, device=lengths.device) < lengths[:, None]
    return inside[:, None].to(torch.float32)


def _reflect_ends(source: Tensor, lengths: Tensor | None) -> Tensor:
    """Pad (B, N) by FFT / 2 samples mirrored at the start and at each row's own end."""
    half = FFT // 2
    if lengths is None:
        return F.pad(source[:, None], (half, half), mode="reflect")[:, 0]
    last = (lengths * FRAME_SAMPLES - 1)[:, None]
    position = torch.arange(-half, source.shape[1] + half, device=source.device).abs()
    mirrored = torch.where(position > last, 2 * last - position, position)
    return source.gather(1, mirrored.clamp(0, source.shape[1] - 1))


def _overlap_add(frames: Tensor) -> Tensor:
    """(B, F, 16) at hop 4 -> (B, 4 (F - 1)), without the half frame at either end."""
    count, parts = frames.shape[1], FFT // HOP
    pieces = frames.unflatten(2, (parts, HOP))
    total = sum(F.pad(pieces[:, :, part], (0, 0, part, parts - 1 - part)) for part in range(parts))
    assert isinstance(total, Tensor)
    return total.flatten(1)[:, FFT // 2 : FFT // 2 + HOP * (count - 1)]

"""The decoder that both vocoders share: mel and source -> residual blocks -> inverse STFT -> sound.

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
LOOKAHEAD = 4  # frames that the causal conv_pre sees ahead
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
        base = config.base_channels
        widths = [base // 2**stage for stage in range(len(UP_RATES) + 1)]
        self.causal = causal
        self.conv_pre: nn.Module = (
            LookaheadConv(config.mel_bins, base, LOOKAHEAD + 1)
            if causal
            else SameConv(config.mel_bins, base, 7, causal=False)
        )
        self.ups = nn.ModuleList(
            (
                CausalUp(width, size, rate)
                if causal
                else nn.ConvTranspose1d(width, width // 2, size, rate, padding=(size - rate) // 2)
            )
            for width, size, rate in zip(widths, UP_KERNELS, UP_RATES, strict=False)
        )
        self.source_downs = nn.ModuleList(
            SourceDown(width, stride, causal=causal)
            for width, stride in zip(widths[1:], DOWN_STRIDES, strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, size, causal=causal)
            for width, size in zip(widths[1:], SOURCE_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, size, causal=causal) for width in widths[1:] for size in RES_KERNELS
        )
        self.conv_post = SameConv(widths[-1], 2 * BINS, 7, causal=causal)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def forward(self, mel: Tensor, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Return samples (B, 480 T), zero beyond a row's end.

        mel: (B, M, T), zero beyond the end. source: (B, 480 T). lengths: (B,) mel frames, None if
        all rows are full.
        """
        spectrum = self.stft(source, lengths)
        ends = None if self.causal else lengths  # causal layers never see what lies to the right
        x = self.conv_pre(mel)
        mask = None if ends is None else frame_mask(ends, mel.shape[2])
        rate = 1
        for stage, (up_rate, up) in enumerate(zip(UP_RATES, self.ups, strict=True)):
            rate *= up_rate
            x = up(masked(F.leaky_relu(x, SLOPE), mask))
            extra = 1 if rate == COLUMNS else 0
            x = F.pad(x, (extra, 0), mode="reflect")
            mask = None if ends is None else frame_mask(ends * rate + extra, x.shape[2])
            x = x + self.source_resblocks[stage](self.source_downs[stage](spectrum), mask)
            blocks = self.resblocks[len(RES_KERNELS) * stage : len(RES_KERNELS) * (stage + 1)]
            x = sum((block(x, mask) for block in blocks[1:]), blocks[0](x, mask)) / len(RES_KERNELS)
        return self.istft(self.conv_post(masked(F.leaky_relu(x), mask)), lengths)

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


class SameConv(nn.Conv1d):
    """A convolution that keeps the length. causal: it looks to the left only."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, causal: bool, dilation: int = 1
    ) -> None:
        reach = (kernel - 1) * dilation
        padding = 0 if causal else reach // 2
        super().__init__(inputs, outputs, kernel, dilation=dilation, padding=padding)
        self.left = reach if causal else 0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, 0)) if self.left else x)


class LookaheadConv(nn.Conv1d):
    """A convolution over [t, t + kernel - 1], zeros beyond the end."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, self.kernel_size[0] - 1)))


class CausalUp(nn.Conv1d):
    """Each frame *rate* times, then a causal convolution to half the channels."""

    def __init__(self, width: int, kernel: int, rate: int) -> None:
        super().__init__(width, width // 2, kernel)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.rate, 2)
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class SourceDown(nn.Conv1d):
    """STFT columns down to a stage's rate."""

    def __init__(self, width: int, stride: int, *, causal: bool) -> None:
        kernel = 2 * stride if stride > 1 else 1
        super().__init__(2 * BINS, width, kernel, stride, padding=0 if causal else stride // 2)
        self.left = stride - 1 if causal else 0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, 0)) if self.left else x)


class ResBlock(nn.Module):
    """Three times x += conv(snake(dilated conv(snake(x))))."""

    def __init__(self, channels: int, kernel: int, *, causal: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            SameConv(channels, channels, kernel, causal=causal, dilation=dilation)
            for dilation in DILATIONS
        )
        self.convs2 = nn.ModuleList(
            SameConv(channels, channels, kernel, causal=causal) for _ in DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, C, L). mask: (B, 1, L) or None."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(masked(snake2(conv1(masked(snake1(x), mask))), mask))
        return x


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return torch.addcmul(x, (x * alpha).sin_().square_(), (alpha + 1e-9).reciprocal())


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

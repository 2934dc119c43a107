"""The ears: Whisper encoder, projector and pooling; whole recordings or one second at a time.

50 encoder frames and 10 language-model embeddings a second. Attention is never causal: a frame sees
its whole second and everything before it (or, in `full` mode, the whole recording).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.minicpmo.model.attention import AttentionPlan, additive_masks, attend, write_kv
from omni.minicpmo.model.config import AudioConfig
from omni.minicpmo.model.layers import Conv1d, Embedding, LayerNorm, Linear, Projector

# A streamed second comes with 2 mel frames of context on each side: 52 encoder frames, of which the
# outer two are dropped. Source: cnn_redundancy_ms 20 of the published streaming processor.
STREAM_MEL_FRAMES = 104
STREAM_FRAMES = 50
_UNTRIMMED_FRAMES = 52


def must_restart(cached_frames: int, max_positions: int) -> bool:
    """Say whether the cache must be dropped before the next second (at 1450 frames, every 29).

    The published encoder compares with the untrimmed length; its weights know this rhythm.
    """
    return cached_frames + _UNTRIMMED_FRAMES >= max_positions


def num_encoder_frames(mel_frames: int) -> int:
    """Return the encoder frames of *mel_frames*: the second convolution has stride 2."""
    return (mel_frames - 1) // 2 + 1


def num_embeddings(mel_frames: int, pool_step: int = 5) -> int:
    """Return the embeddings of *mel_frames*; a rest shorter than *pool_step* frames is dropped."""
    return num_encoder_frames(mel_frames) // pool_step


class AudioLayer(nn.Module):
    """One pre-norm block; q, k and v are fused (k has no bias: its part stays zero)."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self._num_heads = config.num_heads
        self.self_attn_layer_norm = LayerNorm(size)
        self.qkv_proj = Linear(size, 3 * size)
        self.out_proj = Linear(size, size)
        self.final_layer_norm = LayerNorm(size)
        self.fc1 = Linear(size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, size)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `apm.layers.N.` and the memory that each fills."""
        weights, biases = self.qkv_proj.weight.chunk(3), self.qkv_proj.bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            yield f"self_attn.{name}_proj.weight", weight
            if name != "k":
                yield f"self_attn.{name}_proj.bias", bias
        yield "self_attn.out_proj.weight", self.out_proj.weight
        yield "self_attn.out_proj.bias", self.out_proj.bias
        for name in ("self_attn_layer_norm", "final_layer_norm", "fc1", "fc2"):
            yield f"{name}.weight", getattr(self, name).weight
            yield f"{name}.bias", getattr(self, name).bias

    def finish_loading(self) -> None:
        """Zero the part of the fused bias that no published tensor fills."""
        self.qkv_proj.bias.chunk(3)[1].zero_()

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key, value, each (..., heads, D), of x (..., C) after the first norm."""
        fused = self.qkv_proj(self.self_attn_layer_norm(x)).unflatten(-1, (3, self._num_heads, -1))
        query, key, value = fused.unbind(-3)
        return query, key, value

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return the block's output from its input and the attention result, both (..., C)."""
        x = x + self.out_proj(mixed)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class AudioEncoder(nn.Module):
    """Mel frames -> language-model embeddings, offline or streaming over a paged cache."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.conv1 = Conv1d(config.num_mel_bins, size, kernel_size=3, padding=1)
        self.conv2 = Conv1d(size, size, kernel_size=3, stride=2, padding=1)
        self.embed_positions = Embedding(config.max_positions, size)
        self.layers = nn.ModuleList(AudioLayer(config) for _ in range(config.num_layers))
        self.layer_norm = LayerNorm(size)
        self.projector = Projector(size, config.llm_hidden_size, config.llm_hidden_size)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names (with their two prefixes) and the memory that each fills."""
        for name in ("conv1", "conv2", "layer_norm"):
            yield f"apm.{name}.weight", getattr(self, name).weight
            yield f"apm.{name}.bias", getattr(self, name).bias
        yield "apm.embed_positions.weight", self.embed_positions.weight
        for index, layer in enumerate(self._layers()):
            for name, tensor in layer.checkpoint_tensors():
                yield f"apm.layers.{index}.{name}", tensor
        for name, tensor in self.projector.named_parameters():
            yield f"audio_projection_layer.{name}", tensor

    def stream(self, mel: Tensor, is_first: Tensor, plan: AttentionPlan, pool: Tensor) -> Tensor:
        """Encode the next second of B rows and append its frames to the cache.

        mel: (B, mel bins, 104) with 2 frames of context on each side. is_first: (B,) bool, rows
        whose sound begins here: their first 2 frames are ignored. plan: 50 tokens a row, row by
        row, each seeing its whole second. pool: (layers, 2, pages, page_size, heads, D), mutated.
        Returns (B, 10, LLM hidden).
        """
        x = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))
        # The sound of a first second begins at frame 2; before it stands the convolution's own zero
        # padding, not what conv1 makes of zero frames.
        before = torch.arange(STREAM_MEL_FRAMES, device=mel.device) < 2
        x = x.masked_fill((is_first[:, None] & before)[:, None], 0.0)
        x = F.gelu(self.conv2(x))[..., 1:-1].transpose(1, 2).flatten(0, 1)
        x = x + self.embed_positions(plan.positions)
        masks = additive_masks(plan, pool.shape[3], 1, x.dtype)
        for layer, layer_pool in zip(self._layers(), pool, strict=True):
            query, key, value = layer.qkv(x)
            write_kv(layer_pool, key, value, plan)
            x = layer.finish(x, attend(query, key, value, layer_pool, plan, masks))
        features = self.layer_norm(x).unflatten(0, (-1, STREAM_FRAMES))
        return self._project(features)

    def forward(self, mels: Sequence[Tensor], sees_all: bool = False) -> list[Tensor]:
        """Encode recordings of up to 30 s, each as if it were alone.

        mels: one (mel bins, frames) tensor a recording. sees_all: full attention (half-duplex
        audio); else each frame sees its second and all before it. Returns one (embeddings, LLM
        hidden) each.
        """
        features, lengths = self.features(mels, sees_all)
        embeddings = self._project(features)
        step = self.config.pool_step
        return [row[: length // step] for row, length in zip(embeddings, lengths, strict=True)]

    def features(self, mels: Sequence[Tensor], sees_all: bool) -> tuple[Tensor, list[int]]:
        """Return (B, T, C) after the final norm, padded, and the number of frames of each row."""
        counts = [mel.shape[1] for mel in mels]
        lengths = [num_encoder_frames(count) for count in counts]
        weight = self.conv1.weight
        padded = torch.zeros(
            (len(mels), mels[0].shape[0], max(counts)), dtype=weight.dtype, device=weight.device
        )
        for row, mel in zip(padded, mels, strict=True):
            row[:, : mel.shape[1]] = mel
        x = self._convolve(padded, torch.tensor(counts, device=weight.device))
        x = x + self.embed_positions.weight[: x.shape[1]]
        mask = self._offline_mask(torch.tensor(lengths, device=weight.device), x.shape[1], sees_all)
        for layer in self._layers():
            query, key, value = (t.transpose(1, 2) for t in layer.qkv(x))
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = layer.finish(x, mixed.transpose(1, 2).flatten(2))
        return self.layer_norm(x), lengths

    def _convolve(self, mel: Tensor, counts: Tensor) -> Tensor:
        """Return (B, T, C), with what conv1 makes of a row's padding zeroed: the row ends there."""
        x = F.gelu(self.conv1(mel))
        padding = torch.arange(mel.shape[2], device=mel.device) >= counts[:, None]
        x = x.masked_fill(padding[:, None], 0.0)
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def _offline_mask(self, lengths: Tensor, num_frames: int, sees_all: bool) -> Tensor:
        """Return (B, 1, T, T) bool, True where a frame (row) sees another (column)."""
        frames = torch.arange(num_frames, device=lengths.device)
        visible = (frames < lengths[:, None])[:, None, None]
        if sees_all:
            return visible.expand(-1, 1, num_frames, -1)
        block_end = (frames // self.config.block_frames + 1) * self.config.block_frames
        return visible & (frames < block_end[:, None])

    def _project(self, features: Tensor) -> Tensor:
        """Return (B, T // pool_step, LLM hidden) of features (B, T, C): project, then average."""
        step = self.config.pool_step
        projected: Tensor = self.projector(features)
        whole = projected[:, : projected.shape[1] // step * step]
        out: Tensor = whole.unflatten(1, (-1, step)).mean(dim=2)
        return out

    def _layers(self) -> Iterator[AudioLayer]:
        for layer in self.layers:
            assert isinstance(layer, AudioLayer)
            yield layer

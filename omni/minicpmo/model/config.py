"""The sizes of a MiniCPM-o 4.5 checkpoint, read from its config.json and checked.

A key that config.json leaves out takes the published value written here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeGuard, get_args

from attrs import frozen

from omni.errors import CheckpointError

SpeechAttention = Literal["full_attention", "sliding_window", "sliding_recompute"]


@frozen(kw_only=True)
class DecoderConfig:
    """A stack of pre-norm causal blocks (Qwen3 and Llama differ only in `has_qk_norm`)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    has_qk_norm: bool


@frozen(kw_only=True)
class LlmConfig:
    """The language model: the flat Qwen3 fields of config.json."""

    decoder: DecoderConfig
    vocab_size: int
    max_positions: int


@frozen(kw_only=True)
class VisionConfig:
    """SigLIP2 NaViT. `grid_size`: side of the learned position grid (980 / 14 = 70)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    grid_size: int
    num_channels: int
    layer_norm_eps: float
    drop_last_layer: bool


@frozen(kw_only=True)
class ResamplerConfig:
    """Cross attention from `num_queries` learned queries to the patches of one image."""

    num_queries: int
    hidden_size: int
    num_heads: int
    vision_hidden_size: int


@frozen(kw_only=True)
class AudioConfig:
    """Whisper encoder, projector and pooling. `block_frames`: encoder frames of one second."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_mel_bins: int
    max_positions: int
    pool_step: int
    block_frames: int
    llm_hidden_size: int


@frozen(kw_only=True)
class TtsConfig:
    """The speech-token model. `audio_bos_id`, `text_eos_id`: rows of its own text embedding."""

    decoder: DecoderConfig
    llm_hidden_size: int
    num_text_tokens: int
    num_audio_tokens: int
    audio_bos_id: int
    text_eos_id: int
    normalizes_projection: bool
    attention: SpeechAttention
    window_tokens: int


@frozen(kw_only=True)
class ModelConfig:
    """Everything that config.json says about the modules in this package."""

    llm: LlmConfig
    vision: VisionConfig
    resampler: ResamplerConfig
    audio: AudioConfig
    tts: TtsConfig
    use_image_id: bool

    @classmethod
    def from_directory(cls, directory: Path) -> "ModelConfig":
        """Read *directory*/config.json.

        Raises: CheckpointError, when it is missing, not JSON, another model, or has a bad value.
        """
        path = directory / "config.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise CheckpointError(
                f"{path}: there is no such file, so this is no checkpoint; `omni model check "
                f"{directory}` lists what is missing, `omni model fetch` downloads one"
            ) from exc
        except OSError as exc:
            raise CheckpointError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
        except ValueError as exc:
            raise CheckpointError(f"{path}: not JSON: {exc}") from exc
        if not isinstance(fields, dict):
            raise CheckpointError(f"{path}: must hold one JSON object")
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> "ModelConfig":
        """Build from the parsed config.json. Raises: CheckpointError, naming the field."""
        root = _Section(fields, "config.json")
        _refuse_other_models(root)
        llm = _llm(root)
        vision = _vision(root)
        return cls(
            llm=llm,
            vision=vision,
            resampler=_resampler(root, llm, vision),
            audio=_audio(root, llm),
            tts=_tts(root.section("tts_config"), llm),
            use_image_id=root.flag("use_image_id", True),
        )


class _Section:
    """One JSON object with typed access; each failure names the path of its field."""

    def __init__(self, fields: Mapping[str, object], path: str) -> None:
        self._fields = fields
        self._path = path

    def fail(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {key} must be {wanted}, is {self._fields.get(key)!r}"
        )

    def section(self, key: str) -> "_Section":
        value = self._fields.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return _Section(value, f"{self._path}: {key}")

    def count(self, key: str, default: int) -> int:
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.fail(key, "a positive whole number")
        return value

    def row(self, key: str, default: int, num_rows: int) -> int:
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_rows:
            raise self.fail(key, f"a row of a table with {num_rows} rows")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._fields.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise self.fail(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._fields.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        return str(self._fields.get(key, default))

    def fixed(self, key: str, value: object) -> None:
        """Raise unless *key* is absent or equals *value*: our maths implements nothing else."""
        if self._fields.get(key, value) != value:
            raise self.fail(key, repr(value))


def _refuse_other_models(root: _Section) -> None:
    if root.text("model_type", "") != "minicpmo":
        raise root.fail("model_type", "'minicpmo' (this is another model)")
    # Published both as a string and as a number; MiniCPM-o 2.6 has the same model_type.
    if root.text("version", "4.5") != "4.5":
        raise root.fail("version", "'4.5' (another MiniCPM-o has other layers)")


def _divides(section: _Section, key: str, size: int, parts: int) -> int:
    if size % parts:
        raise section.fail(key, f"a divisor of the hidden size {size}")
    return size // parts


def _llm(root: _Section) -> LlmConfig:
    root.fixed("tie_word_embeddings", False)
    root.fixed("attention_bias", False)
    root.fixed("hidden_act", "silu")
    root.fixed("rope_scaling", None)
    num_heads = root.count("num_attention_heads", 32)
    num_kv_heads = root.count("num_key_value_heads", 8)
    _divides(root, "num_key_value_heads", num_heads, num_kv_heads)
    decoder = DecoderConfig(
        hidden_size=root.count("hidden_size", 4096),
        intermediate_size=root.count("intermediate_size", 12288),
        num_layers=root.count("num_hidden_layers", 36),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=root.count("head_dim", 128),
        rms_norm_eps=root.number("rms_norm_eps", 1e-6),
        rope_theta=root.number("rope_theta", 1e6),
        has_qk_norm=True,
    )
    return LlmConfig(
        decoder=decoder,
        vocab_size=root.count("vocab_size", 151748),
        max_positions=root.count("max_position_embeddings", 40960),
    )


def _vision(root: _Section) -> VisionConfig:
    section = root.section("vision_config")
    section.fixed("hidden_act", "gelu_pytorch_tanh")
    hidden_size = section.count("hidden_size", 1152)
    num_heads = section.count("num_attention_heads", 16)
    _divides(section, "num_attention_heads", hidden_size, num_heads)
    patch_size = section.count("patch_size", 14)
    return VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=section.count("intermediate_size", 4304),
        num_layers=section.count("num_hidden_layers", 27),
        num_heads=num_heads,
        patch_size=patch_size,
        grid_size=section.count("image_size", 980) // patch_size,
        num_channels=section.count("num_channels", 3),
        layer_norm_eps=section.number("layer_norm_eps", 1e-6),
        drop_last_layer=root.flag("drop_vision_last_layer", False),
    )


def _resampler(root: _Section, llm: LlmConfig, vision: VisionConfig) -> ResamplerConfig:
    hidden_size = llm.decoder.hidden_size
    return ResamplerConfig(
        num_queries=root.count("query_num", 64),
        hidden_size=hidden_size,
        num_heads=max(1, hidden_size // 128),
        vision_hidden_size=vision.hidden_size,
    )


def _audio(root: _Section, llm: LlmConfig) -> AudioConfig:
    section = root.section("audio_config")
    section.fixed("activation_function", "gelu")
    section.fixed("scale_embedding", False)
    hidden_size = section.count("d_model", 1024)
    num_heads = section.count("encoder_attention_heads", 16)
    _divides(section, "encoder_attention_heads", hidden_size, num_heads)
    # 50 encoder frames a second: 16 kHz / hop 160 / the stride 2 of the second convolution.
    block_frames = int(root.number("audio_chunk_length", 1.0) * 50)
    return AudioConfig(
        hidden_size=hidden_size,
        intermediate_size=section.count("encoder_ffn_dim", 4096),
        num_layers=section.count("encoder_layers", 24),
        num_heads=num_heads,
        num_mel_bins=section.count("num_mel_bins", 80),
        max_positions=section.count("max_source_positions", 1500),
        pool_step=root.count("audio_pool_step", 5),
        block_frames=block_frames,
        llm_hidden_size=llm.decoder.hidden_size,
    )


def _tts(section: _Section, llm: LlmConfig) -> TtsConfig:
    section.fixed("num_vq", 1)
    section.fixed("hidden_act", "silu")
    section.fixed("condition_type", "hidden_text_merge")
    section.fixed("projector_type", "mlp")
    section.fixed("llm_dim", llm.decoder.hidden_size)
    num_text_tokens = section.count("num_text_tokens", 152064)
    attention = section.text("attention_type", "full_attention")
    if not _is_speech_attention(attention):
        raise section.fail("attention_type", f"one of {', '.join(get_args(SpeechAttention))}")
    if attention == "sliding_recompute":
        section.fixed("window_size", 2)
        section.fixed("recomputed_chunks", 1)
    return TtsConfig(
        decoder=_tts_decoder(section),
        llm_hidden_size=llm.decoder.hidden_size,
        num_text_tokens=num_text_tokens,
        num_audio_tokens=section.count("num_audio_tokens", 6562),
        audio_bos_id=section.row("audio_bos_token_id", 151687, num_text_tokens),
        text_eos_id=section.row("text_eos_token_id", 151692, num_text_tokens),
        normalizes_projection=section.flag("normalize_projected_hidden", True),
        attention=attention,
        window_tokens=section.count("streaming_sliding_window_audio_window_size", 300),
    )


def _is_speech_attention(value: str) -> TypeGuard[SpeechAttention]:
    return value in get_args(SpeechAttention)


def _tts_decoder(section: _Section) -> DecoderConfig:
    hidden_size = section.count("hidden_size", 768)
    num_heads = section.count("num_attention_heads", 12)
    return DecoderConfig(
        hidden_size=hidden_size,
        intermediate_size=section.count("intermediate_size", 3072),
        num_layers=section.count("num_hidden_layers", 20),
        num_heads=num_heads,
        num_kv_heads=section.count("num_key_value_heads", 12),
        head_dim=_divides(section, "num_attention_heads", hidden_size, num_heads),
        # The published checkpoint names neither: LlamaConfig's own defaults hold.
        rms_norm_eps=section.number("rms_norm_eps", 1e-6),
        rope_theta=section.number("rope_theta", 10000.0),
        has_qk_norm=False,
    )

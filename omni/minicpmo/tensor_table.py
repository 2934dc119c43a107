"""The name and shape of every tensor that a checkpoint's safetensors hold, from its config.

Source: the published MiniCPM-o 4.5 checkpoint, 1,414 tensors. No torch here: the command line uses
this to check a directory by its headers alone.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from omni.minicpmo.model.config import DecoderConfig, ModelConfig

Shape = tuple[int, ...]
ShapeTable = Mapping[str, Shape]

#: Stored in the published file and read by nothing: a speaker embedding that is always empty, and
#: the token embedding of a backbone that gets embeddings only.
NEVER_USED = ("tts.projector_spk.", "tts.model.embed_tokens.")

#: Rows of the backbone's unused token embedding: LlamaConfig's default vocabulary.
_BACKBONE_VOCABULARY = 32000

#: torch's two spellings of a weight norm. The loader folds either.
WEIGHT_NORM_SPELLINGS = (
    (".parametrizations.weight.original0", ".weight_g"),
    (".parametrizations.weight.original1", ".weight_v"),
)


def tensor_table(config: ModelConfig) -> ShapeTable:
    """Return name -> shape of every tensor, those of `NEVER_USED` included."""
    parts = (_llm, _vision, _resampler, _audio, _projector, _tts)
    return MappingProxyType({name: shape for part in parts for name, shape in part(config)})


def is_used(name: str) -> bool:
    """Tell whether inference reads the tensor *name*."""
    return not name.startswith(NEVER_USED)


_Rows = Iterator[tuple[str, Shape]]


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> _Rows:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _layer_norm(name: str, size: int) -> _Rows:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _decoder(prefix: str, config: DecoderConfig) -> _Rows:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for index in range(config.num_layers):
        layer = f"{prefix}.layers.{index}"
        yield from _linear(f"{layer}.self_attn.q_proj", queries, hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.k_proj", keys, hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.v_proj", keys, hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.o_proj", hidden, queries, bias=False)
        if config.has_qk_norm:
            yield f"{layer}.self_attn.q_norm.weight", (config.head_dim,)
            yield f"{layer}.self_attn.k_norm.weight", (config.head_dim,)
        yield from _linear(f"{layer}.mlp.gate_proj", inner, hidden, bias=False)
        yield from _linear(f"{layer}.mlp.up_proj", inner, hidden, bias=False)
        yield from _linear(f"{layer}.mlp.down_proj", hidden, inner, bias=False)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield f"{prefix}.norm.weight", (hidden,)


def _llm(config: ModelConfig) -> _Rows:
    hidden, vocab = config.llm.decoder.hidden_size, config.llm.vocab_size
    yield "llm.model.embed_tokens.weight", (vocab, hidden)
    yield from _decoder("llm.model", config.llm.decoder)
    yield "llm.lm_head.weight", (vocab, hidden)


def _vision(config: ModelConfig) -> _Rows:
    vision = config.vision
    hidden, patch = vision.hidden_size, vision.patch_size
    yield "vpm.embeddings.patch_embedding.weight", (hidden, vision.num_channels, patch, patch)
    yield "vpm.embeddings.patch_embedding.bias", (hidden,)
    yield "vpm.embeddings.position_embedding.weight", (vision.grid_size**2, hidden)
    for index in range(vision.num_layers):
        layer = f"vpm.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", hidden, hidden)
        yield from _layer_norm(f"{layer}.layer_norm1", hidden)
        yield from _layer_norm(f"{layer}.layer_norm2", hidden)
        yield from _linear(f"{layer}.mlp.fc1", vision.intermediate_size, hidden)
        yield from _linear(f"{layer}.mlp.fc2", hidden, vision.intermediate_size)
    yield from _layer_norm("vpm.post_layernorm", hidden)


def _resampler(config: ModelConfig) -> _Rows:
    sizes = config.resampler
    hidden = sizes.hidden_size
    yield "resampler.query", (sizes.num_queries, hidden)
    yield "resampler.proj", (hidden, hidden)
    yield from _linear("resampler.kv_proj", hidden, sizes.vision_hidden_size, bias=False)
    yield "resampler.attn.in_proj_weight", (3 * hidden, hidden)
    yield "resampler.attn.in_proj_bias", (3 * hidden,)
    yield from _linear("resampler.attn.out_proj", hidden, hidden)
    for name in ("ln_q", "ln_kv", "ln_post"):
        yield from _layer_norm(f"resampler.{name}", hidden)


def _audio(config: ModelConfig) -> _Rows:
    audio = config.audio
    hidden, inner = audio.hidden_size, audio.intermediate_size
    yield "apm.conv1.weight", (hidden, audio.num_mel_bins, 3)
    yield "apm.conv1.bias", (hidden,)
    yield "apm.conv2.weight", (hidden, hidden, 3)
    yield "apm.conv2.bias", (hidden,)
    yield "apm.embed_positions.weight", (audio.max_positions, hidden)
    for index in range(audio.num_layers):
        layer = f"apm.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            # Whisper's keys have no bias.
            yield from _linear(f"{layer}.self_attn.{part}", hidden, hidden, part != "k_proj")
        yield from _layer_norm(f"{layer}.self_attn_layer_norm", hidden)
        yield from _linear(f"{layer}.fc1", inner, hidden)
        yield from _linear(f"{layer}.fc2", hidden, inner)
        yield from _layer_norm(f"{layer}.final_layer_norm", hidden)
    yield from _layer_norm("apm.layer_norm", hidden)


def _projector(config: ModelConfig) -> _Rows:
    hidden = config.audio.llm_hidden_size
    yield from _linear("audio_projection_layer.linear1", hidden, config.audio.hidden_size)
    yield from _linear("audio_projection_layer.linear2", hidden, hidden)


def _tts(config: ModelConfig) -> _Rows:
    tts = config.tts
    hidden, codes = tts.decoder.hidden_size, tts.num_audio_tokens
    yield "tts.emb_text.weight", (tts.num_text_tokens, hidden)
    yield "tts.emb_code.0.weight", (codes, hidden)
    yield "tts.model.embed_tokens.weight", (_BACKBONE_VOCABULARY, hidden)
    yield from _decoder("tts.model", tts.decoder)
    for name in ("projector_semantic", "projector_spk"):
        yield from _linear(f"tts.{name}.linear1", hidden, tts.llm_hidden_size)
        yield from _linear(f"tts.{name}.linear2", hidden, hidden)
    yield "tts.head_code.0.parametrizations.weight.original0", (codes, 1)
    yield "tts.head_code.0.parametrizations.weight.original1", (codes, hidden)

"""The name and shape of every tensor of the token2wav files `flow.pt` and `hift.pt`, from sizes.

Source: the published 5-file layout (flow.yaml; 328 vocoder tensors) and the causal vocoder of
minicpmo-utils 1.0.7. No torch here.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from attrs import frozen

from omni.minicpmo.tensor_table import Shape, ShapeTable

MEL_BINS = 80
SPEAKER_SIZE = 192
NUM_CODES = 6561
#: n_fft 16: 9 real and 9 imaginary bins.
_SPECTRUM_CHANNELS = 18
_UP_KERNELS = (16, 11, 7)
_SOURCE_KERNELS = (30, 6, 1)
_SOURCE_BLOCK_KERNELS = (7, 7, 11)
_BLOCK_KERNELS = (3, 7, 11)
_TIME_FREQUENCIES = 256

#: Every key of the published hift.pt starts with this.
HIFT_PREFIX = "generator."


@frozen(kw_only=True)
class FlowSizes:
    """The numbers of flow.yaml that fix shapes. Defaults: the published values."""

    hidden_size: int = 512
    heads: int = 8
    num_blocks: int = 6
    num_up_blocks: int = 4
    linear_units: int = 2048
    dit_depth: int = 16
    dit_hidden_size: int = 512
    dit_heads: int = 8
    dit_head_dim: int = 64
    dit_mlp_ratio: float = 4.0


@frozen(kw_only=True)
class HiftSizes:
    """Channels of the vocoder and of its pitch predictor. Defaults: the published values."""

    base_channels: int = 512
    f0_channels: int = 512
    is_causal: bool = False


_Rows = Iterator[tuple[str, Shape]]


def flow_table(sizes: FlowSizes) -> ShapeTable:
    """Return name -> shape of every tensor of flow.pt."""
    rows = dict(_flow_encoder(sizes))
    rows.update(_estimator(sizes))
    return MappingProxyType(rows)


def hift_table(sizes: HiftSizes) -> Mapping[str, Shape]:
    """Return name -> shape of every tensor of hift.pt, without `HIFT_PREFIX`."""
    rows: dict[str, Shape] = {"m_source.l_linear.weight": (1, 9), "m_source.l_linear.bias": (1,)}
    rows.update(_vocoder(sizes))
    rows.update(_f0_predictor(sizes))
    return MappingProxyType(rows)


def _affine(name: str, *shape: int) -> _Rows:
    yield f"{name}.weight", shape
    yield f"{name}.bias", (shape[0],)


def _flow_encoder(sizes: FlowSizes) -> _Rows:
    hidden = sizes.hidden_size
    yield "input_embedding.weight", (NUM_CODES, hidden)
    yield from _affine("spk_embed_affine_layer", MEL_BINS, SPEAKER_SIZE)
    for name in ("embed", "up_embed"):
        yield from _affine(f"encoder.{name}.out.0", hidden, hidden)
        yield from _affine(f"encoder.{name}.out.1", hidden)
    yield from _affine("encoder.after_norm", hidden)
    yield from _affine("encoder.pre_lookahead_layer.conv1", hidden, hidden, 4)
    yield from _affine("encoder.pre_lookahead_layer.conv2", hidden, hidden, 3)
    yield from _affine("encoder.up_layer.conv", hidden, hidden, 5)
    for index in range(sizes.num_blocks):
        yield from _conformer_block(f"encoder.encoders.{index}", sizes)
    for index in range(sizes.num_up_blocks):
        yield from _conformer_block(f"encoder.up_encoders.{index}", sizes)
    yield from _affine("encoder_proj", MEL_BINS, hidden)


def _conformer_block(block: str, sizes: FlowSizes) -> _Rows:
    hidden = sizes.hidden_size
    yield f"{block}.self_attn.pos_bias_u", (sizes.heads, hidden // sizes.heads)
    yield f"{block}.self_attn.pos_bias_v", (sizes.heads, hidden // sizes.heads)
    for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from _affine(f"{block}.self_attn.{part}", hidden, hidden)
    yield f"{block}.self_attn.linear_pos.weight", (hidden, hidden)
    yield from _affine(f"{block}.feed_forward.w_1", sizes.linear_units, hidden)
    yield from _affine(f"{block}.feed_forward.w_2", hidden, sizes.linear_units)
    yield from _affine(f"{block}.norm_ff", hidden)
    yield from _affine(f"{block}.norm_mha", hidden)


def _estimator(sizes: FlowSizes) -> _Rows:
    hidden, prefix = sizes.dit_hidden_size, "decoder.estimator"
    yield from _affine(f"{prefix}.t_embedder.mlp.0", hidden, _TIME_FREQUENCIES)
    yield from _affine(f"{prefix}.t_embedder.mlp.2", hidden, hidden)
    yield from _affine(f"{prefix}.in_proj", hidden, 4 * MEL_BINS)
    for index in range(sizes.dit_depth):
        yield from _dit_block(f"{prefix}.blocks.{index}", sizes)
    yield from _affine(f"{prefix}.final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    yield from _affine(f"{prefix}.final_layer.linear", MEL_BINS, hidden)


def _dit_block(block: str, sizes: FlowSizes) -> _Rows:
    hidden, inner = sizes.dit_hidden_size, sizes.dit_heads * sizes.dit_head_dim
    mlp = int(hidden * sizes.dit_mlp_ratio)
    for part in ("to_q", "to_k", "to_v"):
        yield from _affine(f"{block}.attn.{part}", inner, hidden)
    yield from _affine(f"{block}.attn.q_norm", sizes.dit_head_dim)
    yield from _affine(f"{block}.attn.k_norm", sizes.dit_head_dim)
    yield from _affine(f"{block}.attn.proj", hidden, inner)
    yield from _affine(f"{block}.mlp.fc1", mlp, hidden)
    yield from _affine(f"{block}.mlp.fc2", hidden, mlp)
    yield from _affine(f"{block}.conv.block.1", hidden, hidden, 3)
    yield from _affine(f"{block}.conv.block.3", hidden)
    yield from _affine(f"{block}.conv.block.6", hidden, hidden, 3)
    yield from _affine(f"{block}.adaLN_modulation.1", 9 * hidden, hidden)


def _weight_norm(name: str, outputs: int, first: int, second: int, kernel: int) -> _Rows:
    """Rows of a weight-normed convolution; *first*: channels on the axis of the magnitudes."""
    yield f"{name}.bias", (outputs,)
    yield f"{name}.parametrizations.weight.original0", (first, 1, 1)
    yield f"{name}.parametrizations.weight.original1", (first, second, kernel)


def _vocoder(sizes: HiftSizes) -> _Rows:
    base = sizes.base_channels
    yield from _weight_norm("conv_pre", base, base, MEL_BINS, 5 if sizes.is_causal else 7)
    for index, kernel in enumerate(_UP_KERNELS):
        wide, narrow = base >> index, base >> (index + 1)
        # A transposed convolution stores (inputs, outputs); the causal one is a plain convolution.
        first, second = (narrow, wide) if sizes.is_causal else (wide, narrow)
        yield from _weight_norm(f"ups.{index}", narrow, first, second, kernel)
    for index, kernel in enumerate(_SOURCE_KERNELS):
        channels = base >> (index + 1)
        yield from _affine(f"source_downs.{index}", channels, _SPECTRUM_CHANNELS, kernel)
        block = f"source_resblocks.{index}"
        yield from _residual_block(block, channels, _SOURCE_BLOCK_KERNELS[index])
    for index in range(len(_UP_KERNELS) * len(_BLOCK_KERNELS)):
        stage, kernel_index = divmod(index, len(_BLOCK_KERNELS))
        channels = base >> (stage + 1)
        yield from _residual_block(f"resblocks.{index}", channels, _BLOCK_KERNELS[kernel_index])
    channels = base >> len(_UP_KERNELS)
    yield from _weight_norm("conv_post", _SPECTRUM_CHANNELS, _SPECTRUM_CHANNELS, channels, 7)


def _residual_block(block: str, channels: int, kernel: int) -> _Rows:
    for side in (1, 2):
        for index in range(3):
            yield from _weight_norm(
                f"{block}.convs{side}.{index}", channels, channels, channels, kernel
            )
            yield f"{block}.activations{side}.{index}.alpha", (channels,)


def _f0_predictor(sizes: HiftSizes) -> _Rows:
    width = sizes.f0_channels
    for index in range(5):
        inputs = MEL_BINS if index == 0 else width
        kernel = 4 if sizes.is_causal and index == 0 else 3
        name = f"f0_predictor.condnet.{2 * index}"
        yield from _weight_norm(name, width, width, inputs, kernel)
    yield from _affine("f0_predictor.classifier", 1, width)

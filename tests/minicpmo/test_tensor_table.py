"""The tables of names and shapes against the published numbers and the golden files."""

import math
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open

from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.model.config import ModelConfig
from omni.minicpmo.tensor_table import NEVER_USED, is_used, tensor_table
from omni.minicpmo.tiny_assets import TINY_FLOW, TINY_HIFT
from omni.minicpmo.token2wav_table import (
    HIFT_PREFIX,
    FlowSizes,
    HiftSizes,
    flow_table,
    hift_table,
)

PUBLISHED = ModelConfig.from_fields({"model_type": "minicpmo", "version": "4.5"})

#: Parameters of the published checkpoint by the first part of the name.
PUBLISHED_PARAMETERS = {
    "llm": 8_189_195_264,
    "vpm": 417_792_240,
    "resampler": 88_907_776,
    "apm": 307_216_384,
    "audio_projection_layer": 20_979_712,
    "tts": 347_696_290,
}


def test_the_published_sizes_give_the_published_numbers_of_tensors_and_parameters() -> None:
    table = tensor_table(PUBLISHED)

    parameters: Counter[str] = Counter()
    for name, shape in table.items():
        parameters[name.partition(".")[0]] += math.prod(shape)
    assert parameters == PUBLISHED_PARAMETERS
    assert len(table) == 1414


def test_the_used_part_of_the_table_is_what_the_modules_take() -> None:
    with torch.device("meta"):
        model = MiniCpmO(PUBLISHED)
    taken = {name: tuple(tensor.shape) for name, tensor in model.checkpoint_tensors()}

    used = {name: shape for name, shape in tensor_table(PUBLISHED).items() if is_used(name)}
    assert taken == used


def test_the_table_of_the_golden_sizes_is_the_golden_files(checkpoint_dir: Path) -> None:
    """They leave one never-used tensor out, to save space."""
    stored = {}
    for path in checkpoint_dir.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}

    table = dict(tensor_table(ModelConfig.from_directory(checkpoint_dir)))

    assert table.pop("tts.model.embed_tokens.weight") == (32000, 64)
    assert table == stored
    assert any(name.startswith(NEVER_USED) for name in stored)


def test_the_flow_table_is_the_golden_flow(checkpoint_dir: Path) -> None:
    assert flow_table(TINY_FLOW) == _shapes(checkpoint_dir / "assets/token2wav/flow.pt")


def test_the_vocoder_tables_are_the_golden_vocoders(checkpoint_dir: Path) -> None:
    assets = checkpoint_dir / "assets"
    plain = {HIFT_PREFIX + name: shape for name, shape in hift_table(TINY_HIFT).items()}
    causal = HiftSizes(base_channels=32, f0_channels=32, is_causal=True)

    assert plain == _shapes(assets / "token2wav/hift.pt")
    assert hift_table(causal) == _shapes(assets / "token2wav_causal/hift.pt")


def test_the_published_vocoder_has_328_tensors_and_21_million_parameters() -> None:
    table = hift_table(HiftSizes())

    assert len(table) == 328
    assert sum(map(math.prod, table.values())) == 20_821_295


def test_the_published_flow_has_ten_conformer_and_sixteen_dit_blocks() -> None:
    table = flow_table(FlowSizes())

    assert sum(name.endswith(".norm_mha.weight") for name in table) == 10
    assert sum(name.endswith(".conv.block.1.weight") for name in table) == 16
    assert table["decoder.estimator.blocks.15.adaLN_modulation.1.weight"] == (4608, 512)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    tensors = torch.load(path, weights_only=True)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

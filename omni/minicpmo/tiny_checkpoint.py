"""`omni tiny-checkpoint DIR`: a seeded MiniCPM-o 4.5 of 15 MB in the published layout.

It has every file, config key, added token and tensor of the real one, at sizes that run in real
time on one CPU core, so that the whole path can be tried and tested without weights.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args  # Any: JSON documents

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from omni.errors import ClientError, OmniError
from omni.minicpmo.model.config import ModelConfig
from omni.minicpmo.random_weights import CpuDraw, SpreadOf, draw_all, model_spread
from omni.minicpmo.tensor_table import tensor_table
from omni.minicpmo.tiny_assets import Layout, write_assets
from omni.minicpmo.tiny_behaviour import Vocabulary, teach
from omni.minicpmo.tiny_config import generation_config, preprocessor_config, tiny_config
from omni.minicpmo.tiny_tokenizer import (
    ADDED_TOKENS,
    END_OF_SENTENCE,
    UNKNOWN,
    forbidden_ids,
    train_tokenizer,
    write_tokenizer,
)

#: First parts of tensor names -> shard, as loaders meet them: several files, none with everything.
_SHARDS: tuple[tuple[str, ...], ...] = (
    ("llm.",),
    ("vpm.", "resampler.", "apm.", "audio_projection_layer."),
    ("tts.",),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="omni tiny-checkpoint", description=__doc__)
    parser.add_argument("directory", type=Path, help="new or empty directory")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        default="five-file",
        help="of assets/token2wav: as published, or with the causal vocoder besides",
    )
    options = parser.parse_args(argv)
    try:
        write_tiny_checkpoint(options.directory, options.seed, options.layout)
    except OmniError as exc:
        print(f"omni tiny-checkpoint: {exc}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in options.directory.rglob("*") if path.is_file())
    print(f"{options.directory}: {size / 1e6:.1f} MB, seed {options.seed}")
    return 0


def write_tiny_checkpoint(
    directory: Path, seed: int = 0, layout: Layout = "five-file"
) -> ModelConfig:
    """Write the checkpoint and return its sizes. The same seed and layout give the same bytes.

    Raises: ClientError, if *directory* holds something, cannot be written, or *seed* is negative.
    """
    if seed < 0:
        raise ClientError(f"seed {seed}: must not be negative")
    _make_empty(directory)
    tokenizer = train_tokenizer()
    fields = tiny_config(tokenizer)
    config = ModelConfig.from_fields(fields)
    write_json(directory / "config.json", fields)
    write_json(directory / "preprocessor_config.json", preprocessor_config())
    write_json(directory / "generation_config.json", generation_config(tokenizer))
    write_tokenizer(directory, tokenizer)
    weights = tiny_weights(config, tokenizer, seed)
    shards = [[name for name in weights if name.startswith(part)] for part in _SHARDS]
    write_shards(directory, weights, shards)
    write_assets(directory / "assets", seed, layout)
    return config


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = next(directory.iterdir(), None) is None
    except OSError as exc:
        raise ClientError(f"{directory}: cannot be written: {exc.strerror or exc}") from exc
    if not is_empty:
        raise ClientError(f"{directory}: is not empty; name a new directory")


def tiny_weights(config: ModelConfig, tokenizer: Tokenizer, seed: int) -> dict[str, Tensor]:
    """Return every tensor of the table in bfloat16."""
    weights = draw_all(tensor_table(config), _spread(config), CpuDraw(seed))
    teach(weights, config, vocabulary_of(tokenizer))
    return {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}


def _spread(config: ModelConfig) -> SpreadOf:
    return model_spread(config.llm.decoder.num_layers)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return what behaviour needs of *tokenizer*."""
    ids = tokenizer.get_vocab()
    held = {ids[UNKNOWN], ids[END_OF_SENTENCE], *forbidden_ids(tokenizer)}
    num_base = tokenizer.get_vocab_size(with_added_tokens=False)
    (line_end,) = tokenizer.encode("\n").ids
    return Vocabulary(
        control={text: ids[text] for text in ADDED_TOKENS},
        words=[index for index in range(num_base) if index not in held],
        line_end=line_end,
    )


def write_shards(
    directory: Path, weights: Mapping[str, Tensor], shards: Sequence[Sequence[str]]
) -> None:
    """Write *weights* as one safetensors file for each list of names, with their index."""
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard = {name: weights[name].contiguous() for name in names}
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_json(directory / "model.safetensors.index.json", index)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write *document* readably, with the same bytes on every system."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())

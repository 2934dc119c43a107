"""Random weights at the published size, for benches of the engine where no real ones are.

    python -m bench.engine_weights DIR            a whole checkpoint directory of 19.5 GB
    python -m bench.engine_weights DIR --load     and how long it takes to load, twice
    python -m bench.engine_weights DIR --tiny     the same steps in small, on a CPU
    random_model(device)                          weights in memory, for another bench

Names, shapes, dtype, ids of control tokens and behaviour (it listens, speaks, ends turns) are those
of the published model or of the tiny one; what it says means nothing. The two ONNX files are small
stand-ins. Prints one JSON object.
"""

import argparse
import gc
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from typing import Any  # JSON documents

import torch
from tokenizers import Tokenizer
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.model.audio_encoder import AudioLayer
from omni.minicpmo.model.config import DecoderConfig, ModelConfig
from omni.minicpmo.model.layers import materialize
from omni.minicpmo.model.tts import Tts
from omni.minicpmo.random_weights import CpuDraw, DeviceDraw, draw_all, model_spread
from omni.minicpmo.tensor_table import tensor_table
from omni.minicpmo.tiny_assets import TINY_FLOW, TINY_HIFT, write_token2wav, write_voices
from omni.minicpmo.tiny_behaviour import teach
from omni.minicpmo.tiny_checkpoint import vocabulary_of, write_json, write_shards
from omni.minicpmo.tiny_config import (
    generation_config,
    preprocessor_config,
    published_config,
    tiny_config,
)
from omni.minicpmo.tiny_tokenizer import (
    END_OF_SENTENCE,
    UNKNOWN,
    train_tokenizer,
    vocab_and_merges,
    with_added_tokens,
    write_tokenizer,
)
from omni.minicpmo.token2wav_table import FlowSizes, HiftSizes

#: Source: the published tokenizer: base entries, and two of them that are looked up by name.
_NUM_BASE_ENTRIES = 151_643
_UNKNOWN_ID = 128_244
_END_OF_SENTENCE_ID = 128_247

_SHARD_BYTES = 5_000_000_000
_DISK_BYTES = 20_500_000_000
_PROBE_TOKENS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Write the directory, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="new or empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--load", action="store_true", help="load it twice, then look inside")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if not options.tiny and shutil.disk_usage(_existing(options.directory)).free < _DISK_BYTES:
        sys.exit(f"{options.directory}: {_DISK_BYTES / 1e9:.1f} GB are needed there")
    report = _about(device) | {"seed": options.seed, "tiny": options.tiny}
    report |= write_directory(options.directory, options.seed, options.tiny, device)
    if options.load:
        report |= _measure_load(options.directory, device)
    print(json.dumps(report, indent=2))
    return 0


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.absolute().parents) if path.is_dir())


def _about(device: torch.device) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "bench": "engine_weights",
        "device": name or device.type,
        "torch": torch.__version__,
        "commit": commit,
    }


def published_tokenizer() -> Tokenizer:
    """Return a tokenizer whose 151,748 ids are the published ones wherever a name matters.

    The base vocabulary is filled up with made-up words, which no text is cut into; a model may
    still say them.
    """
    vocab, merges = vocab_and_merges(train_tokenizer())
    texts = [text for text in vocab if text not in (UNKNOWN, END_OF_SENTENCE)]
    words = _made_up_words(set(texts))
    filled: dict[str, int] = {text: index for index, text in enumerate(texts)}
    for index in range(len(texts), _NUM_BASE_ENTRIES):
        if index == _UNKNOWN_ID:
            filled[UNKNOWN] = index
        elif index == _END_OF_SENTENCE_ID:
            filled[END_OF_SENTENCE] = index
        else:
            filled[next(words)] = index
    return with_added_tokens(filled, merges)


def _made_up_words(taken: set[str]) -> Iterator[str]:
    """Yield words of syllables, each with the byte-level mark of a space in front."""
    syllables = [first + vowel for first, vowel in product("bdfgklmnprstvz", "aeiou")]
    for size in count(2):
        for parts in product(syllables, repeat=size):
            word = "Ġ" + "".join(parts)
            if word not in taken:
                yield word


def config_and_tokenizer(is_tiny: bool) -> tuple[dict[str, Any], Tokenizer]:
    """Return config.json's fields and the tokenizer that goes with them."""
    tokenizer = train_tokenizer() if is_tiny else published_tokenizer()
    return (tiny_config if is_tiny else published_config)(tokenizer), tokenizer


def random_weights(
    config: ModelConfig, tokenizer: Tokenizer, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """Return every tensor of the table on *device* in bfloat16: 18.7 GB at the published size."""
    draw = DeviceDraw(seed, device, torch.bfloat16)
    weights = draw_all(tensor_table(config), model_spread(config.llm.decoder.num_layers), draw)
    teach(weights, config, vocabulary_of(tokenizer))
    return weights


def random_model(
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    is_tiny: bool = False,
) -> tuple[MiniCpmO, Tokenizer]:
    """Return modules with random weights made on *device*, without a file.

    Needs 37 GB of the device for a moment.
    """
    fields, tokenizer = config_and_tokenizer(is_tiny)
    config = ModelConfig.from_fields(fields)
    with torch.device("meta"):
        model = MiniCpmO(config)
    materialize(model, device, dtype)
    weights = random_weights(config, tokenizer, seed, device)
    with torch.no_grad():
        for name, target in model.checkpoint_tensors():
            target.copy_(weights.pop(name))
        for module in model.modules():
            if isinstance(module, AudioLayer | Tts):
                module.finish_loading()
    return model, tokenizer


def write_directory(
    directory: Path, seed: int, is_tiny: bool, device: torch.device
) -> dict[str, Any]:
    """Write a checkpoint that the engine can load; return sizes and times."""
    fields, tokenizer = config_and_tokenizer(is_tiny)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", fields)
    write_json(directory / "preprocessor_config.json", preprocessor_config())
    write_json(directory / "generation_config.json", generation_config(tokenizer))
    write_tokenizer(directory, tokenizer)
    sizes = (TINY_FLOW, TINY_HIFT) if is_tiny else (FlowSizes(), HiftSizes())
    write_token2wav(directory / "assets/token2wav", CpuDraw(seed), *sizes, "five-file")
    write_voices(directory / "assets")
    started = time.perf_counter()
    weights = random_weights(ModelConfig.from_fields(fields), tokenizer, seed, device)
    _synchronize(device)
    drawn = time.perf_counter()
    write_shards(directory, weights, _shards(weights))
    return {
        "directory": str(directory),
        "tensors": len(weights),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "draw_s": round(drawn - started, 2),
        "write_s": round(time.perf_counter() - drawn, 2),
    }


def _shards(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names in order, cut where a file would grow beyond its size."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in weights.items():
        num_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + num_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    return shards


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure_load(directory: Path, device: torch.device) -> dict[str, Any]:
    """Load twice, the second time surely from the page cache, and look at the activations."""
    first_s = _timed_load(directory, device)[2]
    gc.collect()
    model, num_bytes, second_s = _timed_load(directory, device)
    return {
        "load_s": [round(first_s, 2), round(second_s, 2)],
        "load_gb": round(num_bytes / 1e9, 2),
        "activations": activations(model),
    }


def _timed_load(directory: Path, device: torch.device) -> tuple[MiniCpmO, int, float]:
    started = time.perf_counter()
    model, report = load_checkpoint(directory, device, torch.bfloat16)
    _synchronize(device)
    return model, report.num_bytes, time.perf_counter() - started


@torch.inference_mode()
def activations(model: MiniCpmO) -> dict[str, dict[str, float | bool]]:
    """Return whether each module's output is finite, its rms and its largest value."""
    device = model.llm.lm_head.weight.device
    ids = torch.arange(_PROBE_TOKENS, device=device)
    mel = torch.linspace(-1.0, 1.0, 80 * 100, device=device).view(80, 100)
    patches = (torch.arange(1024 * 588, device=device) % 251).to(torch.uint8).view(1024, 588)
    hidden = _prefilled(model.llm, model.config.llm.decoder, model.llm.embed(ids))
    condition = torch.cat((model.tts.condition(ids, hidden), model.tts.audio_bos()))
    speech = _prefilled(model.tts, model.config.tts.decoder, condition)
    outputs = {
        "llm_hidden": hidden,
        "llm_logits": model.llm.logits(hidden[-1:]),
        "audio": model.audio([mel])[0],
        "vision": model.vision([patches], [(32, 32)]),
        "tts_hidden": speech,
        "tts_logits": model.tts.logits(speech[-1:]),
    }
    return {name: _summary(tensor) for name, tensor in outputs.items()}


def _prefilled(module: Any, config: DecoderConfig, embeds: Tensor) -> Tensor:
    """*module*: Llm or Tts, which share this call and nothing else."""
    cache = PagedKVCache(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        num_slots=1,
        num_pages=8,
        page_size=16,
        max_tokens=112,
        dtype=embeds.dtype,
        device=embeds.device,
    )
    plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])
    hidden: Tensor = module(embeds, plan, cache.pool)
    return hidden


def _summary(tensor: Tensor) -> dict[str, float | bool]:
    values = tensor.float()
    return {
        "finite": bool(values.isfinite().all()),
        "rms": round(float(values.square().mean().sqrt()), 3),
        "max": round(float(values.abs().max()), 3),
    }


if __name__ == "__main__":
    sys.exit(main())

"""What benches of the engine share: an engine with random weights, and what it is shown."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.engine_weights import config_and_tokenizer, random_model
from omni.engine import Buffer
from omni.minicpmo.load_times import Stopwatch
from omni.minicpmo.loading import Source, load_parts
from omni.minicpmo.random_weights import CpuDraw
from omni.minicpmo.setup import EngineOptions, Loaded, assemble
from omni.minicpmo.tiny_assets import TINY_FLOW, TINY_HIFT, write_token2wav, write_voices
from omni.minicpmo.tiny_checkpoint import write_json
from omni.minicpmo.tiny_tokenizer import write_tokenizer
from omni.minicpmo.token2wav_table import FlowSizes, HiftSizes
from omni.settings import Settings

Load = Callable[[Settings, EngineOptions], Loaded]


def random_load(folder: Path, is_tiny: bool, device: torch.device) -> Load:
    """Return a loader of random weights, made on *device*; *folder* takes the other files."""

    def load(settings: Settings, options: EngineOptions) -> Loaded:
        fields, tokenizer = config_and_tokenizer(is_tiny)
        write_json(folder / "config.json", fields)
        write_tokenizer(folder, tokenizer)
        sizes = (TINY_FLOW, TINY_HIFT) if is_tiny else (FlowSizes(), HiftSizes())
        write_token2wav(folder / "assets/token2wav", CpuDraw(0), *sizes, "five-file")
        write_voices(folder / "assets")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        voice = settings.audio.ref_audio_path
        source = Source(directory=folder, device=device, dtype=dtype, ref_audio_path=voice)
        watch = Stopwatch()
        parts = load_parts(source, lambda: random_model(device, dtype, is_tiny=is_tiny)[0], watch)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the tensors that the weights were drawn in
        return assemble(settings, options, source, parts, watch)

    return load


def describe_device(device: torch.device) -> dict[str, object]:
    """Return what a figure must be read with beside the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__}


def second_of_noise(number: int, loudness: float = 0.1) -> Buffer:
    """Return a second of sound as a session sends it."""
    random = np.random.default_rng(number)
    return Buffer(random.normal(0, loudness, 16_000).astype("<f4").tobytes())


def picture(number: int) -> Buffer:
    """Return a JPEG of 448 x 448, every one another."""
    pixels = np.random.default_rng(number).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return Buffer(file.getvalue())


def numbers(text: str) -> list[int]:
    """Return the whole numbers of `1,16,64`."""
    return [int(part) for part in text.split(",") if part]

"""Fixtures of the MiniCPM-o tests: golden data, and the tiny checkpoint in float32 on the CPU."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from safetensors.torch import load_file
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]

# Two threads spin at every layer of these tiny modules: on busy cores 20-50 times slower, measured.
torch.set_num_threads(1)


@frozen
class Golden:
    """One pair of golden files: what is described (JSON) and the tensors, if there are any."""

    # Any: each JSON file has its own form, told in the golden data's own description.
    facts: Any
    tensors: dict[str, Tensor]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    directory = Path(os.environ.get("OMNI_GOLDEN_DIR", REPOSITORY.parent / "shared" / "golden"))
    if not directory.is_dir():
        pytest.skip(f"no golden data at {directory}; set OMNI_GOLDEN_DIR")
    return directory


@pytest.fixture(scope="session")
def checkpoint_dir(golden_dir: Path) -> Path:
    return golden_dir / "checkpoint"


@pytest.fixture(scope="session")
def expected(golden_dir: Path) -> Callable[[str], Golden]:
    """Return a loader: name without suffix -> Golden. Integer tensors keep their dtype."""

    def load(name: str) -> Golden:
        path = golden_dir / "expected" / name
        tensor_path = path.with_suffix(".safetensors")
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Golden(facts, load_file(tensor_path) if tensor_path.exists() else {})

    return load


@pytest.fixture(scope="session")
def model(checkpoint_dir: Path) -> MiniCpmO:
    """The tiny checkpoint, converted from its bf16 to float32, on the CPU. Nobody changes it."""
    return load_checkpoint(checkpoint_dir, torch.device("cpu"), torch.float32)[0]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield

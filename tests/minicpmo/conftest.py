"""Fixtures of the MiniCPM-o tests: golden data, and the tiny checkpoint in float32 on the CPU."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from omni.engine import Close, Slot
from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.setup import EngineOptions
from tests.memory import give_back
from tests.minicpmo.driver import Driver, golden_driver, slots
from tests.minicpmo.executor import Executor
from tests.minicpmo.script import Script

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


@pytest.fixture(autouse=True, scope="module")
def memory() -> Iterator[None]:
    """Give back what the engines of one module took."""
    yield
    give_back()


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def stream(expected: Callable[[str], Golden]) -> NDArray[np.float32]:
    """The golden speech at 16 kHz. Nobody changes it."""
    samples: NDArray[np.float32] = expected("c_mel").tensors["stream_i16"].float().numpy() / 32768
    return samples


@pytest.fixture(scope="module")
def script() -> Script:
    """What the module's engine says instead of what it draws; `slot` clears it."""
    return Script()


@pytest.fixture(scope="module")
def driver(
    checkpoint_dir: Path, expected: Callable[[str], Golden], script: Script
) -> Iterator[Driver]:
    """The golden engine. Modules that need another one have a fixture of the same name."""
    options = EngineOptions(trim=CacheTrim.V105, choose=script)
    made = golden_driver(checkpoint_dir, expected("i_flow").tensors["noise"], options)
    yield made
    made.engine.close()


@pytest.fixture
def executor(driver: Driver) -> Iterator[Executor]:
    """The engine's modules without its step loop."""
    made = Executor(driver.engine.loaded)
    yield made
    made.release()


@pytest.fixture
def slot(driver: Driver, script: Script) -> Iterator[Slot]:
    """A free slot of the engine, which must be left clean."""
    made = slots(1)[0]
    driver.events.clear()
    yield made
    script.tokens.clear()
    driver.step(made, Close())
    assert driver.is_clean(0)

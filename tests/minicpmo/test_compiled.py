"""service.compile and `omni precompile`: what is built computes the same, and is kept."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from omni.errors import SettingsError
from omni.minicpmo import compiled
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.compiled import (
    cache_folder,
    compile_blocks,
    compile_no_more,
    keep_compiled,
)
from omni.minicpmo.model.vision import VisionLayer
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.precompile import precompile
from omni.process import ROOT
from omni.settings import load_settings
from tests.conftest import clean_environment

# torch's own compiler uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TIMEOUT_S = 300.0
#: Fused operations round once where single ones round each time.
FUSED = 1e-4


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def vision_layer(model: MiniCpmO) -> Iterator[torch.nn.Module]:
    layer = model.vision.tower.layers[0]
    yield layer
    layer._compiled_call_impl = None


def test_a_compiled_layer_computes_what_its_eager_twin_does_and_later_shapes_wait_for_nothing(
    vision_layer: torch.nn.Module, model: MiniCpmO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    width = model.config.vision.hidden_size
    inputs = [torch.randn(2, 12, width)]
    expected = [vision_layer(x) for x in inputs]

    count = compile_blocks([vision_layer])
    results = [vision_layer(x) for x in inputs]

    assert count == 1
    assert vision_layer._compiled_call_impl is not None
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=FUSED, rtol=FUSED)
    assert any(tmp_path.rglob("*.so"))

    num_built = len(list(tmp_path.rglob("*.so")))
    compile_no_more()
    other = torch.randn(1, 20, width)
    torch.testing.assert_close(vision_layer(other), vision_layer.forward(other), atol=0, rtol=0)
    assert len(list(tmp_path.rglob("*.so"))) == num_built


def test_what_is_compiled_is_kept_with_the_data_unless_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")

    keep_compiled(tmp_path)

    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "compiled" / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    monkeypatch.delenv("TRITON_CACHE_DIR")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.engine=pocket"], "--model"),
        pytest.param(
            ["model.model_path=/a/model"],
            "nothing to build",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_where_there_is_nothing_to_build_it_says_so(overrides: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        precompile(load_settings(overrides=overrides))


def test_what_is_built_ahead_is_what_the_next_start_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one kind of layer alone: a CPU's compiler takes two minutes for all of them."""
    write_tiny_checkpoint(tmp_path / "model", seed=7)
    monkeypatch.setattr(compiled, "BLOCKS", (VisionLayer,))
    for variable, name in (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")):
        monkeypatch.setenv(variable, str(cache_folder(tmp_path / "data") / name))
    settings = load_settings(
        overrides=[
            f"model.model_path={tmp_path / 'model'}",
            f"service.data_dir={tmp_path / 'data'}",
            "service.compile=true",
            "fabric.slots=1",
        ]
    )

    told = []
    for _ in range(2):
        torch._dynamo.reset()  # as in a new process
        told.append(precompile(settings))

    assert any((cache_folder(tmp_path / "data") / "inductor").rglob("*.so"))
    assert " 0 new files" not in told[0]
    assert " 0 new files" in told[1]


def test_the_command_takes_the_flags_of_up(tmp_path: Path) -> None:
    words = ["--model", str(tmp_path), "--data-dir", str(tmp_path), "--compile"]

    done = subprocess.run(
        [sys.executable, "-m", "omni.cli", "precompile", *words],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 2
    assert f"omni precompile: {tmp_path}" in done.stderr  # an empty directory is no checkpoint

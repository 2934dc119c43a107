"""The files of a checkpoint are read side by side; what is wrong in any of them is told."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omni.audio import INPUT_HZ
from omni.errors import CheckpointError
from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.engine import MiniCPMOEngine
from omni.minicpmo.load_times import LoadTimes, Stage, Stopwatch
from omni.minicpmo.loading import Parts, Source, load_parts
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.settings import load_settings

CPU = torch.device("cpu")
STAGES = {
    "tokenizer",
    "device",
    "flow",
    "HiFT",
    "ONNX analysers",
    "default voice",
    "weights",
    "wait for the others",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "tiny", seed=3)
    return tmp_path / "tiny"


def load(directory: Path, watch: Stopwatch) -> Parts:
    source = Source(directory=directory, device=CPU, dtype=torch.float32)
    return load_parts(source, lambda: load_checkpoint(directory, CPU, torch.float32)[0], watch)


def test_every_part_is_there_and_its_time(directory: Path) -> None:
    watch = Stopwatch()

    parts = load(directory, watch)

    assert {stage.name for stage in watch.stages} == STAGES
    assert parts.tokenizer.decode(parts.tokenizer.encode("hello")) == "hello"
    assert parts.voices.analyse(parts.default_voice, INPUT_HZ).codes.numel() > 0


def test_what_other_threads_load_is_for_inference_too(directory: Path) -> None:
    with torch.inference_mode():
        parts = load(directory, Stopwatch())

    for module in (parts.model, parts.assets.flow, parts.assets.vocoder):
        assert all(weight.is_inference() for weight in module.parameters())


def test_threads_switch_often_only_while_files_are_read(directory: Path) -> None:
    usual_s, seen_s = sys.getswitchinterval(), []
    source = Source(directory=directory, device=CPU, dtype=torch.float32)

    def load_model() -> MiniCpmO:
        seen_s.append(sys.getswitchinterval())
        return load_checkpoint(directory, CPU, torch.float32)[0]

    load_parts(source, load_model, Stopwatch())

    assert seen_s[0] < usual_s / 10
    assert sys.getswitchinterval() == usual_s


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("tokenizer.json", cut_short),
        ("assets/token2wav/flow.pt", cut_short),
        ("assets/token2wav/hift.pt", Path.unlink),
        ("assets/token2wav/campplus.onnx", cut_short),
        ("assets/HT_ref_audio.wav", cut_short),
        ("model-00002-of-00003.safetensors", cut_short),
    ],
)
def test_a_file_that_is_broken_is_named(
    directory: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(directory / name)

    with pytest.raises(CheckpointError, match=re.escape(Path(name).stem.split("-")[0])):
        load(directory, Stopwatch())


def test_the_engine_tells_where_its_start_went(directory: Path) -> None:
    engine = MiniCPMOEngine(load_settings(overrides=[f"model.model_path={directory}"]))
    engine.load(lambda: None)
    engine.close()

    times = engine.load_times
    assert {stage.name for stage in times.stages} == STAGES | {"driver", "caches"}
    assert all(0 <= stage.begun_s <= times.load_s for stage in times.stages)
    assert times.imports_s > 0


def test_a_stage_that_fails_is_noted() -> None:
    watch = Stopwatch()

    with pytest.raises(ValueError), watch.stage("flow"):
        raise ValueError

    assert [stage.name for stage in watch.stages] == ["flow"]


def test_a_start_is_told_in_one_line_in_the_order_of_its_stages() -> None:
    stages = (Stage("weights", 0.5, 2.1), Stage("tokenizer", 0.0, 0.4))
    times = LoadTimes(
        imports_s=2.0, load_s=2.6, capture_s=20.0, warm_up_s=0.4, stages=stages
    )

    assert str(times) == (
        "imported in 2.0 s, loaded in 2.6 s (tokenizer 0.4, weights 2.1), "
        "steps recorded in 20.0 s, warmed up in 0.4 s"
    )
    assert times.ready_s == pytest.approx(23.0)

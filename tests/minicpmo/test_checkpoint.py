"""Loading refuses what is not the model, names what is wrong, and fills by either way alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni.errors import CheckpointError
from omni.minicpmo.checkpoint import (
    MiniCpmO,
    check_names,
    fill,
    fill_staged,
    index_tensors,
    load_checkpoint,
    require_memory,
)
from omni.minicpmo.model.config import ModelConfig
from omni.minicpmo.tensor_table import is_used, tensor_table

CPU = torch.device("cpu")
FIRST, LAST = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"


@pytest.fixture
def copy(checkpoint_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint directory of our own; weight files are links until a test replaces one."""
    for file in checkpoint_dir.iterdir():
        if file.suffix == ".safetensors":
            (tmp_path / file.name).symlink_to(file)
        elif file.is_file():
            shutil.copy(file, tmp_path / file.name)
    for file in tmp_path.iterdir():
        if not file.is_symlink():
            file.chmod(0o644)
    return tmp_path


def load(directory: Path, pt_path: Path | None = None) -> MiniCpmO:
    return load_checkpoint(directory, CPU, torch.float32, pt_path)[0]


def edit_config(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path.resolve())
    path.unlink()
    change(tensors)
    save_file(tensors, path)


def test_every_used_tensor_is_loaded_and_none_is_left_over(checkpoint_dir):
    _, report = load_checkpoint(checkpoint_dir, CPU, torch.float32)

    assert report.num_tensors == 185
    assert report.left_over == ()


def test_the_folded_head_of_the_speech_model_is_the_golden_one(model, expected):
    golden = expected("h_tts")
    rows = golden.facts["teacher_forced"]["head_rows"]

    torch.testing.assert_close(
        model.tts.head.weight[rows], golden.tensors["head_weight_rows"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_staged_reading_fills_what_mapping_fills(checkpoint_dir, dtype):
    """A 4 KB buffer splits most tensors in pieces; float32 targets take the converting way."""
    stored = index_tensors(checkpoint_dir)
    mapped, staged = (
        {name: torch.empty(entry.shape, dtype=dtype) for name, entry in stored.items()}
        for _ in range(2)
    )

    fill(mapped, stored, CPU)
    fill_staged(staged, stored, CPU, num_readers=3, staging_bytes=4096)

    assert all(torch.equal(mapped[name], staged[name]) for name in stored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen3"}, "model_type must be 'minicpmo'.*is 'qwen3'"),
        ({"version": "2.6"}, "version must be '4.5'.*is '2.6'"),
        ({"hidden_size": "256"}, "hidden_size must be a positive whole number, is '256'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings must be False, is True"),
        ({"vision_config": 5}, "vision_config must be an object"),
        ({"tts_config": {"attention_type": "reindex"}}, "attention_type must be one of full_"),
        ({"tts_config": {"audio_bos_token_id": 10**9}}, "audio_bos_token_id must be a row"),
    ],
)
def test_a_config_that_is_not_ours_is_refused_with_its_field(checkpoint_dir, fields, message):
    config = json.loads((checkpoint_dir / "config.json").read_text())
    if "tts_config" in fields:
        fields = {"tts_config": config["tts_config"] | fields["tts_config"]}

    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_fields(config | fields)


def test_a_directory_without_a_checkpoint_is_told_with_the_ways_out(tmp_path):
    with pytest.raises(CheckpointError, match="`omni model check .*`omni model fetch`"):
        ModelConfig.from_directory(tmp_path)


def test_absent_fields_take_the_published_values():
    config = ModelConfig.from_fields({"model_type": "minicpmo"})

    assert (config.llm.vocab_size, config.llm.decoder.num_layers) == (151748, 36)
    assert (config.vision.grid_size, config.resampler.num_heads) == (70, 32)
    assert (config.audio.block_frames, config.tts.audio_bos_id) == (50, 151687)
    assert (config.tts.decoder.rope_theta, config.tts.attention) == (10000.0, "full_attention")


def test_the_published_sizes_give_the_published_names_and_parameter_count():
    """1,414 tensors are published; 1 + 4 are used by nobody. 9,371,787,666 parameters in all."""
    with torch.device("meta"):
        model = MiniCpmO(ModelConfig.from_fields({"model_type": "minicpmo"}))

    tensors = dict(model.checkpoint_tensors())

    unused = 32000 * 768 + 768 * 4096 + 768 + 768 * 768 + 768
    assert len(tensors) == 1414 - 5
    assert sum(t.numel() for t in tensors.values()) == 9_371_787_666 - unused


def test_our_modules_take_exactly_the_tensors_of_the_published_table(checkpoint_dir):
    config = ModelConfig.from_directory(checkpoint_dir)
    with torch.device("meta"):
        model = MiniCpmO(config)

    ours = {name: tuple(tensor.shape) for name, tensor in model.checkpoint_tensors()}

    assert ours == {name: shape for name, shape in tensor_table(config).items() if is_used(name)}


def test_a_missing_file_of_the_index_is_named(copy):
    (copy / LAST).unlink()

    with pytest.raises(CheckpointError, match=f"names files that are not there: {LAST}"):
        load(copy)


def test_a_truncated_file_is_named_before_anything_is_loaded(copy):
    path = copy / FIRST
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1000])

    with pytest.raises(CheckpointError, match=f"{FIRST}: cut short: llm"):
        load(copy)


def test_a_file_that_is_no_safetensors_is_named(copy):
    (copy / LAST).unlink()
    (copy / LAST).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(CheckpointError, match="not a safetensors file, or cut short"):
        load(copy)


def test_missing_tensors_are_listed(copy):
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["tts.emb_text.weight"], tensors["tts.model.norm.weight"]

    rewrite(copy / LAST, drop)

    with pytest.raises(CheckpointError, match="2 tensors are missing: tts.emb_text.*tts.model.n"):
        load(copy)


def test_a_wrong_shape_is_listed_with_both_shapes(copy):
    edit_config(copy, vocab_size=1464)

    with pytest.raises(CheckpointError, match=r"llm.*is \(1463, 256\), must be \(1464, 256\)"):
        load(copy)


def test_left_over_tensors_are_reported_and_known_unused_ones_are_not(copy, caplog):
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["tts.model.embed_tokens.weight"] = torch.zeros(4, 64)
        tensors["tts.extra"] = torch.zeros(2)

    rewrite(copy / LAST, add)

    _, report = load_checkpoint(copy, CPU, torch.float32)

    assert report.left_over == ("tts.extra",)
    assert "1 tensors are not used: tts.extra" in caplog.text


def test_the_older_spelling_of_the_head_is_accepted(copy, model):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        prefix = "tts.head_code.0.parametrizations.weight.original"
        tensors["tts.head_code.0.weight_g"] = tensors.pop(prefix + "0")
        tensors["tts.head_code.0.weight_v"] = tensors.pop(prefix + "1")

    rewrite(copy / LAST, rename)

    assert torch.equal(load(copy).tts.head.weight, model.tts.head.weight)


def test_the_last_vision_layer_is_dropped_where_the_flag_says_so(copy):
    edit_config(copy, drop_vision_last_layer=True)

    assert len(load(copy).vision.tower.layers) == 2


def test_a_state_dict_replaces_the_tensors_that_it_holds(copy, model, tmp_path):
    changed = model.llm.decoder.norm.weight + 1
    torch.save({"llm.model.norm.weight": changed}, tmp_path / "tuned.pt")

    tuned = load(copy, tmp_path / "tuned.pt")

    assert torch.equal(tuned.llm.decoder.norm.weight, changed)
    assert torch.equal(tuned.llm.lm_head.weight, model.llm.lm_head.weight)


def test_a_state_dict_with_code_or_foreign_names_is_refused(copy, tmp_path):
    torch.save({"llm.nothing": torch.zeros(1)}, tmp_path / "foreign.pt")
    torch.save({"llm.model.norm.weight": Path("x")}, tmp_path / "code.pt")

    with pytest.raises(CheckpointError, match="tensors that the model lacks: llm.nothing"):
        load(copy, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="code.pt: not a plain state dict"):
        load(copy, tmp_path / "code.pt")


def test_too_little_gpu_memory_is_said_with_what_is_missing():
    require_memory(2**30, 2**30)

    with pytest.raises(CheckpointError, match="take 17.5 GiB.*16.0 GiB are free: 1.5 GiB are miss"):
        require_memory(35 * 2**29, 16 * 2**30)


def test_an_unknown_dtype_is_refused_by_name(copy):
    def as_integers(tensors: dict[str, torch.Tensor]) -> None:
        tensors["tts.model.norm.weight"] = torch.ones(64, dtype=torch.int8)

    rewrite(copy / LAST, as_integers)

    with pytest.raises(CheckpointError, match="tts.model.norm.weight has dtype I8; allowed"):
        index_tensors(copy)


def test_names_are_checked_without_reading_weights(checkpoint_dir):
    stored = index_tensors(checkpoint_dir)
    with torch.device("meta"):
        model = MiniCpmO(ModelConfig.from_directory(checkpoint_dir))

    assert check_names(dict(model.checkpoint_tensors()), stored) == ()

"""`omni model check` finds each kind of damage, says the way out, and reads no weights for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni.minicpmo.check import Finding, check_checkpoint, is_usable, main, render
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint

LAST = "model-00003-of-00003.safetensors"
TOKEN2WAV = "assets/token2wav"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    write_tiny_checkpoint(directory, layout="causal")
    return directory


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def errors(directory: Path) -> list[Finding]:
    findings = check_checkpoint(directory)
    found = [finding for finding in findings if finding.level == "error"]
    assert is_usable(findings) is (not found)
    assert all(finding.way_out for finding in found)
    return found


def only_error(directory: Path) -> Finding:
    (finding,) = errors(directory)
    return finding


def edit_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1000])


def test_the_tiny_checkpoint_is_whole(whole: Path) -> None:
    findings = check_checkpoint(whole)

    assert [finding.subject for finding in findings if finding.level != "ok"] == ["config.json"]


def test_the_golden_checkpoint_lacks_nothing_but_a_voice(checkpoint_dir: Path) -> None:
    findings = check_checkpoint(checkpoint_dir)

    noted = [finding.subject for finding in findings if finding.level != "ok"]
    assert noted == ["config.json", "voices"]


def test_sizes_that_differ_from_the_published_ones_are_noted(model: Path) -> None:
    notes = [finding.text for finding in check_checkpoint(model) if finding.level == "note"]

    assert "llm.decoder.hidden_size 128 (published 4096)" in notes[0]


def test_another_version_is_refused(model: Path) -> None:
    edit_json(model / "config.json", lambda fields: fields.update(version="2.6"))

    finding = only_error(model)
    assert "version must be '4.5'" in finding.text
    assert "omni model fetch downloads it" in finding.way_out


def test_another_architecture_is_refused(model: Path) -> None:
    edit_json(model / "config.json", lambda fields: fields.update(model_type="qwen3"))

    assert "this is another model" in only_error(model).text


def test_a_config_that_is_not_json_is_refused(model: Path) -> None:
    (model / "config.json").write_text("<html>404</html>")

    assert "not JSON" in only_error(model).text


def test_a_shard_that_is_cut_short_is_named(model: Path) -> None:
    cut_short(model / LAST)

    assert f"{LAST}: cut short" in only_error(model).text


def test_a_shard_that_is_missing_is_named(model: Path) -> None:
    (model / LAST).unlink()

    assert LAST in only_error(model).text


def test_tensors_that_are_missing_are_listed(model: Path) -> None:
    edit_tensors(model / LAST, lambda tensors: tensors.pop("tts.model.norm.weight"))

    assert "1 tensors are missing: tts.model.norm.weight" in only_error(model).text


def test_tensors_that_nobody_uses_may_be_missing(model: Path) -> None:
    edit_tensors(model / LAST, lambda tensors: tensors.pop("tts.model.embed_tokens.weight"))

    assert errors(model) == []


def test_a_tensor_of_another_shape_is_listed_with_both_shapes(model: Path) -> None:
    wrong = torch.zeros(3, dtype=torch.bfloat16)
    edit_tensors(model / LAST, lambda tensors: tensors.update({"tts.model.norm.weight": wrong}))

    assert "tts.model.norm.weight is (3,), must be (64,)" in only_error(model).text


def test_tensors_that_nobody_knows_are_noted(model: Path) -> None:
    strange = torch.zeros(3, dtype=torch.bfloat16)
    edit_tensors(model / LAST, lambda tensors: tensors.update({"tts.strange": strange}))

    notes = [finding.text for finding in check_checkpoint(model) if finding.level == "note"]
    assert any("nobody knows: tts.strange" in text for text in notes)
    assert errors(model) == []


def test_weights_that_are_not_bfloat16_are_noted(model: Path) -> None:
    edit_tensors(
        model / LAST,
        lambda tensors: tensors.update({n: t.float() for n, t in tensors.items()}),
    )

    notes = [finding.text for finding in check_checkpoint(model) if finding.level == "note"]
    assert any("bfloat16, float32" in text for text in notes)


def test_a_vision_tower_without_its_unused_last_layer_is_accepted(model: Path) -> None:
    shard = model / "model-00002-of-00003.safetensors"

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("vpm.encoder.layers.1.")]:
            del tensors[name]

    edit_tensors(shard, drop)

    assert errors(model) == []


def test_a_tokenizer_without_a_control_token_is_refused(model: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|listen|>", "<|hear|>"), "utf-8")

    assert "<|listen|>" in only_error(model).text


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(model: Path) -> None:
    edit_json(model / "config.json", lambda fields: fields.update(vocab_size=2000))

    texts = [finding.text for finding in errors(model)]
    assert any("2048 tokens, but config.json has 2000 rows" in text for text in texts)


def test_a_missing_chat_template_is_refused(model: Path) -> None:
    edit_json(model / "tokenizer_config.json", lambda fields: fields.pop("chat_template"))

    assert "no chat_template" in only_error(model).text


@pytest.mark.parametrize("name", ["flow.yaml", "campplus.onnx", "config.yaml", "hift_original.pt"])
def test_a_layout_of_token2wav_that_is_not_complete_is_refused(model: Path, name: str) -> None:
    """Without `hift_original.pt` and `config.yaml` both, hift.pt would be taken for the other."""
    (model / TOKEN2WAV / name).unlink()

    finding = only_error(model)
    assert name in finding.text
    assert "there are: " in finding.way_out


def test_a_vocoder_of_the_other_layout_is_refused(model: Path) -> None:
    folder = model / TOKEN2WAV
    shutil.copy(folder / "hift_original.pt", folder / "hift.pt")

    assert "conv_pre.parametrizations.weight.original1 is (32, 80, 7)" in only_error(model).text


@pytest.mark.parametrize("name", ["flow.pt", "hift.pt", "campplus.onnx"])
def test_a_file_of_token2wav_that_is_cut_short_is_named(model: Path, name: str) -> None:
    cut_short(model / TOKEN2WAV / name)

    assert name in only_error(model).text


def test_git_lfs_pointers_are_recognised(model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (model / LAST).write_text(pointer)

    first = errors(model)[0]
    assert LAST in first.text and "git lfs pull" in first.way_out


def test_a_directory_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    assert "no such directory" in only_error(tmp_path / "nowhere").text


def test_an_empty_directory_gets_every_problem_in_one_run(tmp_path: Path) -> None:
    subjects = {finding.subject for finding in errors(tmp_path)}

    assert subjects == {"config.json", "tokenizer", "weights", "token2wav"}


def test_the_table_shows_the_way_out_below_the_problem() -> None:
    findings = [
        Finding(level="ok", subject="weights", text="fine"),
        Finding(level="error", subject="flow", text="broken", way_out="fetch it again"),
    ]

    assert render(findings).splitlines() == [
        "ok     weights  fine",
        "ERROR  flow     broken",
        "                -> fetch it again",
        "1 errors, 0 notes: the engine cannot load it",
    ]


def test_the_command_tells_by_its_status_whether_the_engine_can_start(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(whole)]) == 0
    assert main([str(tmp_path)]) == 1
    assert "the engine cannot load it" in capsys.readouterr().out

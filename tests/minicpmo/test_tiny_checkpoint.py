"""The tiny checkpoint: same bytes for a seed, the published structure, files that really load."""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import safe_open
from tokenizers import Tokenizer

from omni.errors import ClientError
from omni.minicpmo.checkpoint import load_checkpoint
from omni.minicpmo.tiny_checkpoint import main, write_tiny_checkpoint
from omni.minicpmo.tiny_tokenizer import ADDED_TOKENS
from omni.minicpmo.token2wav_assets import Layout, load_assets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    return directory


@pytest.fixture(scope="module")
def causal_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("causal")
    write_tiny_checkpoint(directory, seed=8, layout="causal")
    return directory


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_dir / "tokenizer.json"))


def test_the_same_seed_gives_the_same_bytes(tiny_dir: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, seed=7)

    assert _digests(tmp_path) == _digests(tiny_dir)


def test_another_seed_changes_the_weights_and_nothing_else(
    tiny_dir: Path, causal_dir: Path
) -> None:
    one, other = _digests(tiny_dir), _digests(causal_dir)

    changed = {name for name in one.keys() & other.keys() if one[name] != other[name]}

    assert changed == {
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "assets/token2wav/flow.pt",
        "assets/token2wav/hift.pt",
    }


def test_it_has_the_files_of_the_published_layout(tiny_dir: Path, checkpoint_dir: Path) -> None:
    golden = {name for name in _digests(checkpoint_dir) if "token2wav_causal" not in name}

    voices = {"assets/HT_ref_audio.wav", "assets/system_ref_audio.wav"}
    assert set(_digests(tiny_dir)) == golden | voices


def test_its_tensors_have_the_golden_names(tiny_dir: Path, checkpoint_dir: Path) -> None:
    """Layer numbers aside; the golden files leave one never-used tensor out."""
    unused = {"tts.model.embed_tokens.weight"}

    assert _kinds(_weights(tiny_dir)) == _kinds(_weights(checkpoint_dir)) | unused
    assert {kind for _, kind in _weights(tiny_dir).values()} == {"BF16"}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_its_json_has_the_golden_keys_and_differs_in_numbers_only(
    tiny_dir: Path, checkpoint_dir: Path, name: str
) -> None:
    ours, golden = (json.loads((root / name).read_text()) for root in (tiny_dir, checkpoint_dir))

    assert _without_numbers(ours) == _without_numbers(golden)


def test_all_added_tokens_follow_the_base_vocabulary_in_the_golden_order(
    tokenizer: Tokenizer, checkpoint_dir: Path
) -> None:
    golden = json.loads((checkpoint_dir / "added_tokens.json").read_text())
    num_base = tokenizer.get_vocab_size(with_added_tokens=False)

    assert sorted(golden, key=golden.__getitem__) == list(ADDED_TOKENS)
    ids = [tokenizer.token_to_id(text) for text in ADDED_TOKENS]
    assert ids == list(range(num_base, num_base + 105))
    assert tokenizer.get_vocab_size() == 2048


def test_the_tokenizer_config_says_the_same_of_each_token_as_the_golden_one(
    tiny_dir: Path, checkpoint_dir: Path
) -> None:
    ours, golden = (
        json.loads((root / "tokenizer_config.json").read_text())
        for root in (tiny_dir, checkpoint_dir)
    )

    assert list(ours.pop("added_tokens_decoder").values()) == list(
        golden.pop("added_tokens_decoder").values()
    )
    for own_to_each in ("chat_template", "bad_token_ids"):
        ours.pop(own_to_each), golden.pop(own_to_each)
    assert ours == golden


@pytest.mark.parametrize("text", ["Hello, how are you?", "你好，今天天气怎么样？\n\n", "😀 naïve ½"])
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_header_of_an_answer_has_the_published_pieces(tokenizer: Tokenizer) -> None:
    header = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<|tts_bos|>"

    ids = tokenizer.encode(header).ids
    pieces = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]

    assert pieces == [
        *("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
        *("<think>", "\n\n", "</think>", "\n\n", "<|tts_bos|>"),
    ]


def test_plain_added_tokens_survive_when_special_ones_are_skipped(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.token_to_id(text) for text in ("<think>", "<|speak|>", "</think>", "<unk>")]

    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think></think>"


def test_forbidden_tokens_are_base_tokens_that_cannot_be_spoken(
    tiny_dir: Path, tokenizer: Tokenizer
) -> None:
    forbidden = json.loads((tiny_dir / "tokenizer_config.json").read_text())["bad_token_ids"]
    allowed = set(range(tokenizer.token_to_id("<unk>"))) - set(forbidden)

    assert max(forbidden) < tokenizer.token_to_id("<unk>")
    assert len(forbidden) > 256
    spoken = "".join(tokenizer.decode([index]) for index in allowed)
    assert not set("()[]{}<>\n\r\t\ufffd") & set(spoken)
    assert {"�", "(", "\n"} <= {tokenizer.decode([index]) for index in forbidden}


def test_the_chat_template_writes_what_the_golden_template_writes(
    tiny_dir: Path, checkpoint_dir: Path
) -> None:
    ours, golden = (
        ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            json.loads((root / "tokenizer_config.json").read_text())["chat_template"]
        )
        for root in (tiny_dir, checkpoint_dir)
    )

    for conversation, options in itertools.product(_conversations(), _header_options()):
        assert ours.render(messages=conversation, **options) == golden.render(
            messages=conversation, **options
        )


def test_its_weights_load_with_nothing_missing_or_left_over(tiny_dir: Path) -> None:
    model, report = load_checkpoint(tiny_dir, CPU, torch.float32)

    assert report.left_over == ()
    assert all(bool(tensor.isfinite().all()) for _, tensor in model.checkpoint_tensors())


def test_both_layouts_of_token2wav_load(tiny_dir: Path, causal_dir: Path) -> None:
    plain = load_assets(tiny_dir / "assets/token2wav", CPU)
    causal = load_assets(causal_dir / "assets/token2wav", CPU)

    assert (plain.layout, causal.layout) == (Layout.HIFT, Layout.CAUSAL)


@pytest.mark.parametrize("frames", [1, 4, 301])
def test_the_speech_tokenizer_gives_a_code_for_each_four_mel_frames(
    tiny_dir: Path, frames: int
) -> None:
    run = _onnx(tiny_dir / "assets/token2wav/speech_tokenizer_v2_25hz.onnx")
    mel = np.random.default_rng(1).normal(size=(1, 128, frames)).astype(np.float32)

    codes = run({"feats": mel, "feats_length": np.array([frames], np.int32)})

    assert codes.dtype == np.int32 and codes.shape == (1, -(-frames // 4))
    assert 0 <= codes.min() and codes.max() <= 6560


def test_the_speech_tokenizer_tells_sounds_apart(tiny_dir: Path) -> None:
    run = _onnx(tiny_dir / "assets/token2wav/speech_tokenizer_v2_25hz.onnx")
    mels = np.random.default_rng(2).normal(size=(2, 1, 128, 400)).astype(np.float32)

    one, other = (run({"feats": mel, "feats_length": np.array([400], np.int32)}) for mel in mels)

    assert len(np.unique(one)) > 20
    assert (one != other).mean() > 0.8


def test_the_speaker_embedding_depends_on_the_sound(tiny_dir: Path) -> None:
    run = _onnx(tiny_dir / "assets/token2wav/campplus.onnx")
    banks = np.random.default_rng(3).normal(size=(2, 1, 298, 80)).astype(np.float32)

    one, other = (run({"input": bank}) for bank in banks)

    assert one.shape == (1, 192)
    assert not np.allclose(one, other)


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ClientError, match="is not empty"):
        write_tiny_checkpoint(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_command_writes_a_checkpoint_and_says_how_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(tmp_path / "new"), "--seed", "9", "--layout", "causal"])

    assert status == 0
    assert "MB, seed 9" in capsys.readouterr().out
    assert (tmp_path / "new/assets/token2wav/hift_original.pt").is_file()


def test_the_command_says_what_is_wrong_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    assert main([str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


def _digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _weights(directory: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    stored = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                entry = file.get_slice(name)
                stored[name] = (tuple(entry.get_shape()), entry.get_dtype())
    return stored


def _kinds(weights: dict[str, tuple[tuple[int, ...], str]]) -> set[str]:
    return {re.sub(r"layers\.\d+", "layers.N", name) for name in weights}


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(part) for key, part in value.items()}
    return "number" if type(value) is int else value


def _conversations() -> list[list[dict[str, Any]]]:
    thought = "<think>\nwhy\n</think>\n\nyes"
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello?\n"},
        {"role": "user", "content": "<tool_response>4</tool_response>"},
        {"role": "assistant", "content": "\n\nHi."},
        {"role": "assistant", "content": thought},
        {"role": "assistant", "content": "So.", "reasoning_content": "\ndeep\n"},
        {"role": "assistant", "content": thought, "reasoning_content": None},
    ]
    return [list(some) for size in (1, 2, 3) for some in itertools.product(turns, repeat=size)]


def _header_options() -> list[dict[str, bool]]:
    return [
        {},
        {"add_generation_prompt": True},
        {"add_generation_prompt": True, "enable_thinking": False},
        {"add_generation_prompt": True, "enable_thinking": True, "use_tts_template": True},
        {"add_generation_prompt": True, "enable_thinking": False, "use_tts_template": True},
    ]


def _onnx(path: Path) -> Any:  # a function of arrays by name; onnxruntime has no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]

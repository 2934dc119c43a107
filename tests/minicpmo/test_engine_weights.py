"""bench/engine_weights.py in small: what it writes loads, and it has the published ids."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from bench.engine_weights import main, published_tokenizer, random_model
from omni.minicpmo.check import check_checkpoint, is_usable
from omni.minicpmo.checkpoint import load_checkpoint
from omni.minicpmo.random_weights import DeviceDraw, Spread
from omni.minicpmo.tiny_checkpoint import vocabulary_of

CPU = torch.device("cpu")

#: Source: the published tokenizer.
PUBLISHED_IDS = {
    "<unk>": 128244,
    "</s>": 128247,
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<tool_call>": 151657,
    "<think>": 151667,
    "</think>": 151668,
    "<image>": 151669,
    "<slice>": 151679,
    "<unit>": 151683,
    "</unit>": 151684,
    "<focus>": 151687,
    "</perception>": 151692,
    "<|audio_start|>": 151697,
    "<|audio_end|>": 151699,
    "<|tts_bos|>": 151703,
    "<|tts_eos|>": 151704,
    "<|listen|>": 151705,
    "<|speak|>": 151706,
    "<|turn_eos|>": 151717,
    "<|chunk_eos|>": 151718,
    "<|chunk_tts_eos|>": 151721,
    "<|tts_pad|>": 151722,
    "<|timbre_31|>": 151747,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return published_tokenizer()


def test_every_named_token_has_its_published_id(tokenizer: Tokenizer) -> None:
    assert {text: tokenizer.token_to_id(text) for text in PUBLISHED_IDS} == PUBLISHED_IDS
    assert tokenizer.get_vocab_size() == 151_748


def test_text_survives_the_tokenizer_of_the_published_size(tokenizer: Tokenizer) -> None:
    text = "Hello, how are you? 你好，今天天气怎么样？"

    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_made_up_words_are_words_of_their_own(tokenizer: Tokenizer) -> None:
    words = vocabulary_of(tokenizer).words

    assert len(words) > 150_000
    assert tokenizer.decode(words[-3:]).count(" ") == 3


def test_the_dry_run_writes_a_checkpoint_that_loads_with_finite_activations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), "--tiny", "--load", "--device", "cpu"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert is_usable(check_checkpoint(tmp_path / "new"))
    assert all(summary["finite"] for summary in report["activations"].values())
    assert all(0.1 < summary["rms"] < 20 for summary in report["activations"].values())


def test_weights_in_memory_are_those_of_the_directory(tmp_path: Path) -> None:
    main([str(tmp_path / "new"), "--tiny", "--seed", "3", "--device", "cpu"])
    loaded, _ = load_checkpoint(tmp_path / "new", CPU, torch.bfloat16)

    made, _ = random_model(CPU, seed=3, is_tiny=True)

    wanted = dict(loaded.checkpoint_tensors())
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in made.checkpoint_tensors())


def test_a_draw_depends_on_seed_and_name_and_has_its_spread() -> None:
    spread = Spread(1.0, 0.2)

    def draw(seed: int, name: str) -> torch.Tensor:
        return DeviceDraw(seed, CPU, torch.float32)(name, (100, 100), spread)

    one = draw(1, "a")
    assert torch.equal(one, draw(1, "a"))
    assert not torch.equal(one, draw(2, "a")) and not torch.equal(one, draw(1, "b"))
    assert one.mean().item() == pytest.approx(1.0, abs=0.01)
    assert one.std().item() == pytest.approx(0.2, rel=0.05)

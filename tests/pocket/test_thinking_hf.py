"""A Hugging Face directory answers as the packaged model does: in pieces, and ended when told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.errors import CheckpointError, ContextExhausted
from omni.pocket.thinking import Sampling, Thinking, Utterance, load_thinking

transformers = pytest.importorskip("transformers")  # only where a GPU's packages are

WORDS = "zero one two three four five six seven eight nine".split()
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
QUESTION = (Utterance(role="user", text="one two three"),)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded model of ten words, which says them one by one."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = {f" {word}": index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, "?": len(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="always")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def thinking(directory: Path) -> Iterator[Thinking]:
    model = load_thinking(directory, num_seats=1, seat_tokens=64)
    yield model
    model.close()


def sampled(max_new_tokens: int = 20, stop: tuple[str, ...] = ()) -> Sampling:
    return Sampling(max_new_tokens=max_new_tokens, temperature=1.5, seed=11, stop=stop)


def test_an_answer_comes_in_pieces_up_to_its_length(thinking: Thinking) -> None:
    pieces: list[str] = []

    answer = thinking.answer(0, QUESTION, sampled(), lambda text: pieces.append(text) is None)

    assert "".join(pieces) == answer.text and len([piece for piece in pieces if piece]) > 10
    assert (answer.generated_tokens, answer.finish_reason) == (20, "length")


def test_an_answer_ends_before_a_stop_and_nothing_of_it_is_told(thinking: Thinking) -> None:
    whole = thinking.answer(0, QUESTION, sampled(), lambda _: True).text
    words = whole.split()
    stop = f"{words[4]} {words[5]}"
    pieces: list[str] = []

    answer = thinking.answer(
        0, QUESTION, sampled(stop=(stop,)), lambda text: pieces.append(text) is None
    )

    assert answer.text == "".join(pieces) == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_an_answer_ends_when_nothing_more_is_wanted(thinking: Thinking) -> None:
    pieces: list[str] = []

    def take(text: str) -> bool:
        pieces.append(text)
        return len(pieces) < 4

    answer = thinking.answer(0, QUESTION, sampled(), take)

    assert answer.finish_reason == "stopped" and answer.text == "".join(pieces)


def test_a_message_above_the_context_says_so(thinking: Thinking) -> None:
    with pytest.raises(ContextExhausted):
        thinking.answer(
            0, (Utterance(role="user", text="one " * 100),), sampled(), lambda _: True
        )


def test_a_directory_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CheckpointError):
        load_thinking(tmp_path, num_seats=1, seat_tokens=64)

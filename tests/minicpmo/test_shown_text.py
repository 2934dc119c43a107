"""Stop texts and thoughts, token by token and piece by piece."""

from pathlib import Path

import pytest

from omni.minicpmo.shown_text import Thoughts
from omni.minicpmo.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(checkpoint_dir)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two", "one two"),
        ("<think>\nhm\n</think>\n\none two", "one two"),
        ("one <think>hm</think> two\n", "one two\n"),
        ("<think>never ends", ""),
        ("</think>one", "one"),
    ],
)
def test_a_thought_is_all_between_its_marks_and_the_space_behind(
    tokenizer: Tokenizer, text: str, shown: str
) -> None:
    thoughts = Thoughts(tokenizer)

    kept = [token for token in tokenizer.encode_markup(text) if not thoughts.take(token)]

    assert tokenizer.decode(kept).split() == shown.split()
    assert tokenizer.decode(kept).endswith("\n") is shown.endswith("\n")

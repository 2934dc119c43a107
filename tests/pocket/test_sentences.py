"""Generated text is cut where a voice would pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.pocket.sentences import SentenceCutter, is_sentence


def cut(text: str, step: int = 3) -> list[str]:
    cutter = SentenceCutter()
    starts = range(0, len(text), step)
    return [p for at in starts for p in cutter.push(text[at : at + step])] + cutter.finish()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello there. How are you?", ["Hello there. ", "How are you?"]),
        ("It costs 3.50 today. Yes.", ["It costs 3.50 today. ", "Yes."]),
        ("Dr. Smith is here. Sit.", ["Dr. Smith is here. ", "Sit."]),
        ('He said "no." Then he left.', ['He said "no." ', "Then he left."]),
        ("One\n\nTwo", ["One\n\n", "Two"]),
        ("No. I can't.", ["No. ", "I can't."]),
        ("Yes, well, fine.", ["Yes, well, fine."]),
        (
            "Because the sun is so bright, we see blue, and more.",
            ["Because the sun is so bright, ", "we see blue, and more."],
        ),
        (
            "Hi. Because the sun is so bright, we see blue.",
            ["Hi. ", "Because the sun is so bright, we see blue."],
        ),
    ],
)
def test_text_is_cut_at_pauses(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def test_an_endless_sentence_is_cut_between_words() -> None:
    pieces = cut("word " * 100)

    assert max(map(len, pieces)) <= 141
    assert all(piece.endswith(" ") for piece in pieces)


@given(st.text(alphabet="ab .,!?\n\"'1", max_size=400), st.integers(1, 9))
def test_nothing_is_lost_or_added(text: str, step: int) -> None:
    joined = "".join(cut(text, step))

    assert joined.strip() == text.strip() or text.startswith(joined)
    assert text[len(joined) :].strip() == ""


@given(st.text(alphabet="ab .,!?", max_size=200), st.integers(1, 9))
def test_pieces_say_something(text: str, step: int) -> None:
    assert all(piece.strip() for piece in cut(text, step))


def test_a_sentence_is_known_by_its_end() -> None:
    assert is_sentence('He said "no." ')
    assert not is_sentence("Well, ")

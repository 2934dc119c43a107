"""What is written is said as a person would read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.pocket.spoken_text import number_words, ordinal_words, spoken, time_words, year_words


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("I have 3 dogs.", "I have three dogs."),
        ("1,234,567", "one million two hundred thirty-four thousand five hundred sixty-seven"),
        ("3.14", "three point one four"),
        ("007", "zero zero seven"),
        ("-4 °C", "minus four degrees Celsius"),
        ("$5.50 and £1.20", "five dollars and fifty cents and one pound and twenty pence"),
        ("$3 million", "three million dollars"),
        ("50%", "fifty percent"),
        ("It's 10:05 AM.", "It's ten oh five A M."),
        ("at 10:00", "at ten o'clock"),
        ("at 5 pm", "at five P M"),
        ("the 21st", "the twenty-first"),
        ("in 1999", "in nineteen ninety-nine"),
        ("the 1990s", "the nineteen nineties"),
        ("12 * 3 = 36", "twelve times three equals thirty-six"),
        ("5 - 3", "five minus three"),
        ("pages 5-7", "pages five to seven"),
        ("384,400 km away", "three hundred eighty-four thousand four hundred kilometers away"),
        ("1 km", "one kilometer"),
        ("Dr. Smith, e.g., here", "doctor Smith, for example, here"),
        ("**Bold** and `code`", "Bold and code"),
        ("- one\n- two", "one. two"),
        ("hi 😀 there", "hi there"),
        ("don’t", "don't"),
        ("", ""),
    ],
)
def test_text_is_written_out(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "zero"), (15, "fifteen"), (40, "forty"), (99, "ninety-nine"), (-7, "minus seven")],
)
def test_numbers_are_words(number: int, said: str) -> None:
    assert number_words(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "first"), (12, "twelfth"), (20, "twentieth"), (103, "one hundred third")],
)
def test_ordinals_are_words(number: int, said: str) -> None:
    assert ordinal_words(number) == said


def test_years_and_times_are_said_in_pairs() -> None:
    assert year_words(2024) == "twenty twenty-four"
    assert year_words(2005) == "two thousand five"
    assert year_words(1900) == "nineteen hundred"
    assert time_words(12, 0) == "twelve o'clock"


@given(st.text(max_size=200))
def test_no_text_leaves_a_digit_or_an_odd_sign(text: str) -> None:
    allowed = set(" '.,;:!?-")

    assert all(sign.isalpha() or sign in allowed for sign in spoken(text))

"""The clock, the calendar and sums are answered exactly, and nothing else is touched."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.pocket.arithmetic import value_of_sum
from omni.pocket.computed_answers import computed_answer

NOW = datetime(2026, 11, 23, 15, 5)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What time is it?", "It is 3:05 in the afternoon."),
        ("Can you tell me the time, please?", "It is 3:05 in the afternoon."),
        ("Hey, what's the time?", "It is 3:05 in the afternoon."),
        ("It's time.", None),
        ("What day is it today?", "Today is Monday, November 23, 2026."),
        ("What's today's date?", "Today is Monday, November 23, 2026."),
        ("What year is it?", "It is the year 2026."),
        ("What is twelve times three?", "That is 36."),
        ("What's 7 minus 12?", "That is -5."),
        ("How much is a hundred and twenty divided by seven?", "That is about 17.14."),
        ("What is 15% of 80?", "That is 12."),
        ("What is two to the power of ten?", "That is 1,024."),
        ("What is 5 divided by 0?", None),
        ("What is 9 to the power of 999?", None),
        ("What is 7//2?", None),
        ("What is the capital of France?", None),
        ("What time did dinosaurs live?", None),
        ("I have two dogs and three cats.", None),
    ],
)
def test_only_what_can_be_computed_is(asked: str, answer: str | None) -> None:
    assert computed_answer(asked, NOW) == answer


@given(st.integers(-999, 999), st.integers(-999, 999))
def test_products_are_exact(a: int, b: int) -> None:
    assert value_of_sum(f"What is {a} times {b}?") == f"{a * b:,}"


@given(st.text(max_size=80) | st.text("0123456789+-*/(). ", max_size=20))
def test_no_text_breaks_the_calculator(text: str) -> None:
    value = value_of_sum(text)

    assert value is None or any(sign.isdigit() for sign in value)

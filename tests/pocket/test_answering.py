"""An answer is cut into pieces, ends when it is enough, and is exact where it can be computed."""

from datetime import datetime

import pytest

from omni.pocket.answering import Answering, Order
from omni.pocket.persona import TUNED, Persona
from omni.pocket.thinking import Utterance
from tests.pocket.scripted import ScriptedThinking

NOW = datetime(2026, 11, 23, 10, 5)


def answer_of(
    question: str, script: str, *, instructions: str = "", **order: bool
) -> tuple[list[str], ScriptedThinking, list[int]]:
    persona = Persona.of(instructions)
    thinking = ScriptedThinking(script)
    pieces: list[str] = []
    tokens: list[int] = []
    making = Answering(
        Order(
            messages=(*persona.prefix, Utterance(role="user", text=question)),
            persona=persona,
            sampling=TUNED,
            **({"speak": True} | order),
        ),
        pieces.append,
        lambda: True,
    )
    making.run(thinking, 0, NOW, tokens.append)
    return pieces, thinking, tokens


def test_generation_stops_when_the_answer_is_enough() -> None:
    script = "The sky is blue today. It is also green. And red."

    pieces, thinking, tokens = answer_of("What colour is it?", script)

    assert pieces == ["The sky is blue today. "]
    assert thinking.taken == "The sky is blue today. "
    assert tokens == [7]


def test_a_story_goes_on() -> None:
    script = "There was a dog here. It had a cat. They were friends. Then came a bird. And more."

    pieces, _, _ = answer_of("Tell me a story.", script)

    assert len(pieces) == 4


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What time is it?", "It is 10:05 in the morning."),
        ("What is two plus two?", "That is 4."),
        ("  ", "Sorry, I didn't catch that. Could you say it again?"),
    ],
)
def test_what_is_known_is_said_whole_and_not_generated(question: str, answer: str) -> None:
    pieces, thinking, tokens = answer_of(question, "No.")

    assert "".join(pieces) == answer
    assert thinking.taken == ""
    assert len(tokens) == 1


def test_the_user_s_own_instructions_replace_ours() -> None:
    pieces, _, _ = answer_of("What is your name?", "I am Ahab.", instructions="You are Ahab.")

    assert pieces == ["I am Ahab. "]


def test_text_streams_word_by_word_where_nothing_limits_it() -> None:
    pieces, _, _ = answer_of("Write.", "One two. Three four.", speak=False, is_limited=False)

    assert pieces == ["One ", "two. ", "Three ", "four. "]


def test_an_unwanted_answer_stops_at_once() -> None:
    persona = Persona.of("")
    thinking = ScriptedThinking("One two three four five.")
    messages = (*persona.prefix, Utterance(role="user", text="Count."))
    order = Order(messages=messages, persona=persona, sampling=TUNED, speak=True)
    pieces: list[str] = []

    Answering(order, pieces.append, lambda: False).run(thinking, 0, NOW, lambda _: None)

    assert thinking.taken == "One "
    assert pieces == []

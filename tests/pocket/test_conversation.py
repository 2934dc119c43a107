"""The conversation holds what was really said and heard, within bounds."""

import pytest

from omni.pocket.conversation import INTERRUPTED, Conversation
from omni.pocket.persona import Persona
from omni.pocket.thinking import Utterance


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(Persona.of("You are a pirate."))


def said(conversation: Conversation) -> list[tuple[str, str]]:
    prefix = len(conversation.persona.prefix)
    return [(turn.role, turn.text) for turn in conversation.messages()[prefix:]]


def test_an_interrupted_answer_keeps_only_what_was_heard(conversation: Conversation) -> None:
    conversation.asked("Tell me a story.")
    conversation.answered("Once upon a ", interrupted=True)

    assert said(conversation)[1] == ("assistant", f"Once upon a {INTERRUPTED}")


def test_a_question_that_went_on_is_one_question(conversation: Conversation) -> None:
    conversation.asked("What is the capital")

    prompt = conversation.with_question("of France?")

    assert prompt[-1] == Utterance(role="user", text="What is the capital of France?")
    assert said(conversation) == [("user", "What is the capital")]


def test_an_answer_of_nothing_is_not_noted(conversation: Conversation) -> None:
    conversation.asked("Hello")
    conversation.answered("")

    assert said(conversation) == [("user", "Hello")]


def test_history_is_bounded_and_begins_with_a_question(conversation: Conversation) -> None:
    for number in range(60):
        conversation.asked(f"Question {number}? " * 3)
        conversation.answered(f"Answer {number}. " * 3)

    turns = said(conversation)
    assert sum(len(text) for _, text in turns) <= 1600
    assert turns[0][0] == "user"
    assert turns[-1] == ("assistant", ("Answer 59. " * 3).strip())

"""Instructions make the persona, and the persona decides when an answer is enough."""

import pytest

from omni.engine import ChatRequest, PrepareDuplex, PrepareHalfDuplex
from omni.pocket import sampling
from omni.pocket.persona import Persona


@pytest.mark.parametrize(
    "instructions",
    ["", "You are a helpful assistant.", "Streaming Duplex Conversation! You are an AI assistant."],
)
def test_usual_instructions_mean_our_own(instructions: str) -> None:
    persona = Persona.of(instructions)

    assert not persona.is_custom
    assert len(persona.prefix) > 10


def test_the_user_s_instructions_stand_alone() -> None:
    persona = Persona.of("You are a pirate.")

    assert persona.is_custom
    assert [message.text for message in persona.prefix] == ["You are a pirate."]


@pytest.mark.parametrize("instructions", ["请用中文口语回答。", "模仿音色。You are 面壁小钢炮，请聊天。"])
def test_instructions_that_the_model_cannot_read_mean_our_own(instructions: str) -> None:
    """The demo's pages send Chinese ones by default: the answer was one character, and no sound."""
    assert Persona.of(instructions) == Persona.of("")
    assert Persona.of(instructions, "You sell tea.").prefix[0].text == "You sell tea."


def test_accents_and_a_name_in_another_script_are_read() -> None:
    for text in ("Tu es un café à Paris.", "Call the user 小明, and be brief."):
        assert Persona.of(text).prefix[0].text == text


def test_the_operator_s_prompt_replaces_ours_and_not_the_user_s() -> None:
    assert Persona.of("", "You sell tea.").prefix[0].text == "You sell tea."
    assert Persona.of("You are a pirate.", "You sell tea.").prefix[0].text == "You are a pirate."


def test_one_full_sentence_is_enough_unless_more_is_asked_for() -> None:
    persona = Persona.of("")
    full = "The capital of France is Paris."

    assert persona.is_enough("What is the capital?", [full])
    assert not persona.is_enough("What is the capital?", ["Hello there."])
    assert not persona.is_enough("Tell me a story.", [full])
    assert persona.is_enough("Tell me a story.", [full] * 4)


def test_only_what_was_asked_for_changes_the_tuned_sampling() -> None:
    usual = ChatRequest(messages=())
    warm = ChatRequest(messages=(), temperature=1.2, top_p=0.9)
    greedy = ChatRequest(messages=(), temperature=1.2, do_sample=False)

    assert sampling.of_chat(usual).temperature == 0.0
    assert (sampling.of_chat(warm).temperature, sampling.of_chat(warm).top_p) == (1.2, 0.9)
    assert sampling.of_chat(greedy).temperature == 0.0
    assert sampling.of_half_duplex(PrepareHalfDuplex(temperature=1.1)).temperature == 1.1
    assert sampling.of_duplex(PrepareDuplex(mode="audio_duplex")).temperature == 0.0


def test_answers_are_bounded_whatever_is_asked() -> None:
    request = ChatRequest(messages=(), max_new_tokens=10**6)

    assert sampling.of_chat(request).max_new_tokens <= 1024
    assert sampling.of_half_duplex(PrepareHalfDuplex(max_new_tokens=9)).max_new_tokens == 9

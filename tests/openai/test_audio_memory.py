"""Spoken answers are known by their ids for an hour, and are bounded in number and size."""

from omni.openai.audio_memory import (
    KEPT_S,
    MAX_ANSWERS,
    MAX_TOTAL_CHARS,
    AudioMemory,
    new_audio_id,
)


def test_an_answer_is_known_until_it_expires() -> None:
    memory = AudioMemory()

    expires_at = memory.keep("audio_1", "hello", now=1000.5)

    assert expires_at == 1000 + KEPT_S
    assert memory.find("audio_1", now=expires_at - 0.1) == "hello"
    assert memory.find("audio_1", now=expires_at) is None
    assert memory.find("audio_2", now=1001) is None


def test_the_oldest_answers_make_way_for_new_ones() -> None:
    memory = AudioMemory()

    for number in range(MAX_ANSWERS + 1):
        memory.keep(f"audio_{number}", "x", now=number / MAX_ANSWERS)

    assert memory.find("audio_0", now=1) is None
    assert memory.find("audio_1", now=1) == "x"


def test_the_words_of_all_answers_together_are_bounded() -> None:
    memory = AudioMemory()
    memory.keep("audio_1", "a" * (MAX_TOTAL_CHARS // 2), now=0)

    memory.keep("audio_2", "b" * (MAX_TOTAL_CHARS // 2 + 1), now=0)

    assert memory.find("audio_1", now=1) is None
    assert memory.find("audio_2", now=1) is not None


def test_nobody_guesses_an_id() -> None:
    assert len({new_audio_id() for _ in range(100)}) == 100
    assert len(new_audio_id()) >= 32

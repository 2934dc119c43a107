"""The language model answers, stops when told, and keeps within its context."""

from pathlib import Path
from threading import Thread

import pytest

from omni.errors import CheckpointError, ContextExhausted
from omni.pocket.thinking import Answer, Sampling, Thinking, Utterance, fitting, load_thinking

CAPITAL = (
    Utterance(role="system", text="You are a helpful assistant."),
    Utterance(role="user", text="What is the capital of France?"),
)


def test_a_question_is_answered_piece_by_piece(thinking: Thinking) -> None:
    pieces: list[str] = []

    lengths: list[int] = []
    answer = thinking.answer(
        0, CAPITAL, Sampling(), lambda piece: pieces.append(piece) is None, lengths.append
    )

    assert answer.text == "The capital of France is Paris."
    assert "".join(pieces) == answer.text
    assert len([piece for piece in pieces if piece]) > 3
    assert answer.finish_reason == "stop"
    assert answer.input_tokens > 20
    assert lengths == [answer.input_tokens]


def test_an_answer_ends_when_nothing_more_is_wanted(thinking: Thinking) -> None:
    pieces: list[str] = []

    def take(piece: str) -> bool:
        pieces.append(piece)
        return len(pieces) < 6

    story = (Utterance(role="user", text="Tell me a long story."),)
    answer = thinking.answer(0, story, Sampling(max_new_tokens=200), take)

    assert answer.finish_reason == "stopped"
    assert len(pieces) == 6


def test_the_length_limit_is_kept(thinking: Thinking) -> None:
    story = (Utterance(role="user", text="Tell me a long story."),)

    answer = thinking.answer(0, story, Sampling(max_new_tokens=5), lambda _: True)

    assert (answer.generated_tokens, answer.finish_reason) == (5, "length")


def test_a_prepared_prefix_is_not_computed_again(thinking: Thinking) -> None:
    system = Utterance(role="system", text="You are a helpful assistant. " * 30)
    thinking.prepare(1, (system,), lambda _: True)

    warm = thinking.answer(1, (system, CAPITAL[1]), Sampling(max_new_tokens=2), lambda _: True)
    cold = thinking.answer(0, (system, CAPITAL[1]), Sampling(max_new_tokens=2), lambda _: True)

    assert warm.text == cold.text
    assert warm.cached_tokens > 150 > 20 > cold.cached_tokens


def test_preparing_ends_when_it_is_no_longer_wanted(thinking: Thinking) -> None:
    calls: list[str] = []
    system = Utterance(role="system", text="You are a careful librarian. " * 60)

    thinking.prepare(1, (system,), lambda piece: bool(calls.append(piece)))

    assert calls == [""]


def test_two_seats_answer_at_once_and_apart(thinking: Thinking) -> None:
    answers: dict[int, Answer] = {}

    def ask(seat: int, country: str) -> None:
        question = Utterance(role="user", text=f"What is the capital of {country}?")
        answers[seat] = thinking.answer(seat, (CAPITAL[0], question), Sampling(), lambda _: True)

    threads = [Thread(target=ask, args=pair) for pair in ((0, "Japan"), (1, "Germany"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert "Tokyo" in answers[0].text and "Berlin" not in answers[0].text
    assert "Berlin" in answers[1].text and "Tokyo" not in answers[1].text


def test_old_messages_make_room_for_the_last(thinking: Thinking) -> None:
    chatter = [
        Utterance(role=role, text="blah " * 150) for role in ("user", "assistant") * 3
    ]

    answer = thinking.answer(
        0, (CAPITAL[0], *chatter, CAPITAL[1]), Sampling(max_new_tokens=20), lambda _: True
    )

    assert answer.input_tokens < 512
    assert answer.text


def test_a_message_that_can_never_fit_is_refused(thinking: Thinking) -> None:
    endless = (CAPITAL[0], Utterance(role="user", text="word " * 2000))

    with pytest.raises(ContextExhausted, match="shorten"):
        thinking.answer(0, endless, Sampling(), lambda _: True)


def test_what_is_left_out_begins_with_the_oldest() -> None:
    turns = [
        Utterance(role=role, text=f"{role} {n} " * 9)
        for n in range(4)
        for role in ("user", "assistant")
    ]

    kept = fitting([CAPITAL[0], *turns, CAPITAL[1]], excess_ratio=1.5)

    assert kept is not None
    assert kept[0] == CAPITAL[0] and kept[-1] == CAPITAL[1]
    assert kept[1].role == "user"
    assert 0 < len(kept[1:-1]) < len(turns)
    assert kept[1:-1] == turns[-len(kept[1:-1]) :]
    assert fitting(CAPITAL, 2.0) is None


@pytest.mark.parametrize("name", ["nothing", "text.txt"])
def test_a_path_that_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("no model")

    with pytest.raises(CheckpointError, match="gguf"):
        load_thinking(tmp_path / name, 1, 512)


def test_a_broken_gguf_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)

    with pytest.raises(CheckpointError, match="broken.gguf"):
        load_thinking(broken, 1, 512)


def test_a_hugging_face_directory_says_what_it_needs(tmp_path: Path) -> None:
    """Neither transformers nor weights are here: whichever is missing is named."""
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match="transformers|language model"):
        load_thinking(tmp_path, 1, 512)

"""Items in order and within their bound, and what an engine is told of them."""

from collections.abc import Iterator, Sequence

import pytest

from omni.engine import Buffer, ChatMessage
from omni.openai.errors import Refusal
from omni.realtime.openai.conversation import (
    Conversation,
    heard_last,
    history,
    messages_of,
)
from omni.realtime.openai.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    Picture,
    Role,
    Spoken,
    Text,
    UserSound,
)

SECOND = 16_000 * 4  # bytes


def written(item_id: str, text: str, role: Role = "user") -> Message:
    return Message(id=item_id, role=role, content=[Text(text)])


def spoken(item_id: str, duration_s: float, transcript: str | None = None) -> Message:
    pcm = Buffer(bytes(int(SECOND * duration_s)))
    return Message(id=item_id, role="user", content=[UserSound(pcm, transcript)])


def answer(item_id: str, *pieces: tuple[str, float]) -> Message:
    """Return a spoken answer; each piece has words and seconds of sound."""
    said = Spoken()
    for text, duration_s in pieces:
        said.add(text, int(24_000 * 4 * duration_s))
    return Message(id=item_id, role="assistant", content=[said])


def conversation(*items: Item, max_items: int = 10, max_bytes: int = 2**20) -> Conversation:
    made = Conversation(max_items=max_items, max_bytes=max_bytes)
    for item in items:
        made.add(item)
    return made


def ids(of: Conversation) -> list[str]:
    return [item.id for item in of.items]


def told(
    items: Sequence[Item], instructions: str = "", prompt: str = "", sees: bool = True
) -> tuple[ChatMessage, ...]:
    """Return what an engine is told that prefers words, as pocket does."""
    return messages_of(history(items, 120.0, prefers_words=True), instructions, prompt, sees)


def texts(messages: tuple[ChatMessage, ...]) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.text or part.kind for part in m.parts]) for m in messages]


def spoken_of(item: Message) -> Spoken:
    part = item.content[0]
    assert isinstance(part, Spoken)
    return part


def said_of(item: Message) -> str:
    return spoken_of(item).transcript


# --- order ---


@pytest.mark.parametrize(
    ("after", "order", "previous"),
    [
        (None, ["a", "b", "new"], "b"),
        ("root", ["new", "a", "b"], None),
        ("a", ["a", "new", "b"], "a"),
    ],
)
def test_an_item_stands_where_it_is_put(
    after: str | None, order: list[str], previous: str | None
) -> None:
    there = conversation(written("a", "1"), written("b", "2"))

    in_front, gone = there.add(written("new", "3"), after)

    assert (ids(there), in_front, gone) == (order, previous, [])


def test_an_unknown_place_is_refused_and_changes_nothing() -> None:
    there = conversation(written("a", "1"))

    with pytest.raises(Refusal) as refusal:
        there.add(written("b", "2"), "nowhere")

    assert refusal.value.reason == "item_create_invalid_previous_item_id"
    assert ids(there) == ["a"]


def test_an_id_is_taken_once() -> None:
    with pytest.raises(Refusal, match="already"):
        conversation(written("a", "1"), written("a", "2"))


def test_the_oldest_items_go_when_there_are_too_many() -> None:
    there = conversation(written("a", "1"), written("b", "2"), max_items=2)

    _, gone = there.add(written("c", "3"))

    assert [item.id for item in gone] == ["a"] and ids(there) == ["b", "c"]


def test_a_new_item_stays_even_where_it_is_put_in_front() -> None:
    there = conversation(written("a", "1"), written("b", "2"), max_items=2)

    _, gone = there.add(written("new", "3"), "root")

    assert [item.id for item in gone] == ["a"] and ids(there) == ["new", "b"]


def test_the_oldest_items_go_when_they_are_too_large() -> None:
    there = conversation(spoken("a", 2), written("b", "2"), max_bytes=3 * SECOND)

    _, gone = there.add(spoken("c", 2))

    assert [item.id for item in gone] == ["a"] and ids(there) == ["b", "c"]


class Watched(list[Content]):
    """Content that counts how often it is looked through."""

    num_looks = 0

    def __iter__(self) -> Iterator[Content]:
        self.num_looks += 1
        return super().__iter__()


def test_room_is_made_for_a_large_item_in_one_go() -> None:
    """For each item that went all were weighed again: a thousand held the loop for seconds."""
    items = [Message(id=f"a{n}", role="user", content=Watched([Text("1")])) for n in range(100)]
    there = conversation(*items, max_items=1000, max_bytes=SECOND)
    before = sum(item.content.num_looks for item in items if isinstance(item.content, Watched))

    _, gone = there.add(spoken("b", 5))

    after = sum(item.content.num_looks for item in items if isinstance(item.content, Watched))
    assert len(gone) == 100
    assert after - before <= 2 * len(items)


def test_one_item_above_the_bound_stays() -> None:
    assert ids(conversation(spoken("a", 5), max_bytes=SECOND)) == ["a"]


def test_every_change_is_counted() -> None:
    there = conversation(answer("a", ("one ", 1.0)))
    versions = [there.version]
    there.truncate("a", 0, 500)
    versions.append(there.version)
    there.remove(there.find("a", "delete"))
    versions.append(there.version)

    assert versions[0] < versions[1] < versions[2]


# --- truncation ---


@pytest.mark.parametrize(
    ("end_ms", "kept"),
    [
        (0, ""),
        (1000, "The sea is wide."),
        (1500, "The sea is wide."),  # within a word
        (1700, "The sea is wide. Ships"),
        (3000, "The sea is wide. Ships sail on it."),
    ],
)
def test_an_answer_keeps_what_was_played(end_ms: int, kept: str) -> None:
    item = answer("a", ("The sea is wide. ", 1.0), ("Ships sail on it.", 2.0))

    conversation(item).truncate("a", 0, end_ms)

    assert said_of(item) == kept


def test_words_without_sound_belong_to_the_sound_that_follows() -> None:
    """MiniCPM-o sends its text ahead of the sound."""
    item = answer("a", ("one ", 0), ("two ", 0), ("", 2.0), ("three", 0), ("", 1.0))

    conversation(item).truncate("a", 0, 2000)

    assert said_of(item) == "one two"


@pytest.mark.parametrize(
    ("item", "index", "end_ms", "field"),
    [
        (answer("a", ("one", 1.0)), 0, 1002, "audio_end_ms"),
        (answer("a", ("one", 1.0)), 1, 0, "content_index"),
        (written("a", "one", "assistant"), 0, 0, "content_index"),
        (written("a", "one"), 0, 0, "item_id"),
        (FunctionCall(id="a", call_id="c", name="f", arguments="{}"), 0, 0, "item_id"),
    ],
)
def test_what_cannot_be_truncated_is_refused(
    item: Item, index: int, end_ms: int, field: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        conversation(item).truncate("a", index, end_ms)

    assert refusal.value.loc == (field,)


def test_an_answer_on_its_way_takes_up_nothing_more_once_it_is_truncated() -> None:
    """OpenAI's agents truncate first, and cancel the response then."""
    item = answer("a", ("one ", 1.0), ("two ", 1.0))
    item.status = "in_progress"
    there = conversation(item)

    there.truncate("a", 0, 1000)
    spoken_of(item).add("three", SECOND)

    assert said_of(item) == "one" and spoken_of(item).duration_ms == 1000


# --- for the engine ---


def test_the_system_speaks_first_and_a_role_once_at_a_time() -> None:
    items = [
        written("a", "one"),
        written("s", "Be kind.", "system"),
        written("b", "two"),
        answer("c", ("three", 1.0)),
        written("d", "four"),
    ]

    messages = told(items, "Be brief.")

    assert texts(messages) == [
        ("system", ["Be brief.\n\nBe kind."]),
        ("user", ["one", "two"]),
        ("assistant", ["three"]),
        ("user", ["four"]),
    ]


def test_what_was_written_down_is_not_heard_again() -> None:
    items = [spoken("a", 1, "hello"), answer("b", ("hi", 1.0)), spoken("c", 1)]

    messages = told(items)

    assert texts(messages) == [("user", ["hello"]), ("assistant", ["hi"]), ("user", ["audio"])]


def test_a_message_holds_one_recording() -> None:
    """An engine says what it heard in the last message; two would be told as one."""
    items = [spoken("a", 1), written("b", "one"), spoken("c", 1), written("d", "two")]

    assert texts(told(items)) == [("user", ["audio", "one"]), ("user", ["audio", "two"])]


def test_pictures_are_for_engines_that_see() -> None:
    picture = Picture(Buffer(b"file"), "data:image/png;base64,ZmlsZQ==")
    items = [Message(id="a", role="user", content=[picture, Text("What is it?")])]

    seen, unseen = (told(items, sees=sees) for sees in (True, False))

    assert texts(seen) == [("user", ["image", "What is it?"])]
    assert texts(unseen) == [("user", ["What is it?"])]


@pytest.mark.parametrize(
    ("items", "prompt", "asked"),
    [
        ([], "", "Begin the conversation."),
        ([], "Say hello.", "Say hello."),
        ([answer("a", ("one", 1.0))], "", "Go on."),
    ],
)
def test_an_engine_is_always_asked_something(
    items: list[Item], prompt: str, asked: str
) -> None:
    assert texts(told(items, prompt=prompt))[-1] == ("user", [asked])


def called(call_id: str) -> FunctionCall:
    return FunctionCall(id=f"i_{call_id}", call_id=call_id, name="weather", arguments="{}")


def result(call_id: str, output: str = "sunny") -> FunctionCallOutput:
    return FunctionCallOutput(id=f"o_{call_id}", call_id=call_id, output=output)


def test_calls_stand_behind_the_words_of_their_answer_and_results_behind_them() -> None:
    items = [answer("a", ("one moment", 1.0)), called("c1"), called("c2"), result("c2")]

    (message, given) = told([*items, result("c1", "")])[:2]

    assert [part.text for part in message.parts] == ["one moment"]
    assert [call.id for call in message.tool_calls] == ["c1", "c2"]
    assert (given.role, given.tool_call_id, given.parts[0].text) == ("tool", "c2", "sunny")


def test_a_result_without_words_is_one_nevertheless() -> None:
    (*_, given) = told([called("c1"), result("c1", "")])

    assert (given.role, given.parts) == ("tool", ())


def test_words_behind_a_call_are_another_message() -> None:
    """In one they would stand before it, as the model never wrote them."""
    before, behind, _ = told([called("c1"), answer("a", ("then", 1.0))])

    assert before.tool_calls and not behind.tool_calls


def test_who_asked_by_voice_is_heard_until_the_function_has_answered() -> None:
    items = [spoken("a", 200), called("c1"), result("c1")]

    messages = messages_of(history(items, 120.0, prefers_words=False), "", "", sees=True)

    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[0].parts[0].kind == "audio"


def test_an_engine_that_hears_is_given_the_sound_again() -> None:
    """MiniCPM-o hears more in a voice than its words."""
    items = [spoken("a", 1, "hello"), answer("b", ("hi", 1.0)), spoken("c", 1, "again")]

    messages = messages_of(history(items, 120.0, prefers_words=False), "", "", sees=True)

    assert [part.kind for message in messages for part in message.parts] == [
        "audio",
        "text",
        "audio",
    ]


def test_old_speech_is_left_out_with_all_before_it() -> None:
    items = [written("a", "one"), spoken("b", 5), written("c", "two"), spoken("d", 6)]

    kept = history(items, 10, prefers_words=False)

    assert [item.id for item in kept.items] == ["c", "d"] and kept.heard == {"d"}


def test_old_speech_that_was_written_down_is_told_in_words() -> None:
    items = [spoken("a", 50, "long ago"), spoken("b", 6, "lately"), spoken("c", 5)]

    kept = history(items, 12, prefers_words=False)

    assert kept.items == items and kept.heard == {"b", "c"}


def test_what_was_said_last_is_heard_however_long_it_is() -> None:
    kept = history([spoken("a", 1), spoken("b", 50)], 10, prefers_words=True)

    assert [item.id for item in kept.items] == ["b"] and kept.heard == {"b"}


def test_the_last_item_is_heard_if_a_user_speaks_in_it() -> None:
    said, wrote = spoken("a", 1), written("b", "one")

    assert heard_last([wrote, said]) is said
    assert heard_last([said, wrote]) is None and heard_last([]) is None

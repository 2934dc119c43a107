"""Calls of functions are told from an answer's text, however the tokens come."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omni.engine import ChatMessage, ToolCall
from omni.minicpmo.tiny_tokenizer import train_tokenizer, write_tokenizer
from omni.minicpmo.tokenizer import TextStream, Tokenizer
from omni.minicpmo.tool_calls import MAX_CALLS, ToolCalls, in_order_of_calls, read_call

WEATHER = '{"name": "weather", "arguments": {"place": "Rome"}}'
CLOCK = '{"name": "clock", "arguments": {}}'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, train_tokenizer())
    return Tokenizer.from_directory(directory)


def taken(tokenizer: Tokenizer, ids: list[int]) -> list[str | tuple[str, str]]:
    """Return what leaves an answer of *ids*: text, joined, and calls as (name, arguments)."""
    calls, stream = ToolCalls(tokenizer), TextStream(tokenizer)
    out: list[str | tuple[str, str]] = []

    def add(piece: str | ToolCall) -> None:
        if isinstance(piece, ToolCall):
            out.append((piece.name, piece.arguments))
        elif piece and out and isinstance(out[-1], str):
            out[-1] += piece
        elif piece:
            out.append(piece)

    for token in ids:
        piece = calls.take(token)
        add(calls.text(stream.push((token,))) if piece is None else piece)
    add(calls.text(stream.flush()))
    add(calls.finish())
    return out


def said(tokenizer: Tokenizer, text: str) -> list[str | tuple[str, str]]:
    """Return what leaves an answer of *text*, in which marks stand by name."""
    return taken(tokenizer, tokenizer.encode_markup(text))


def test_a_call_leaves_and_none_of_its_markup_is_text(tokenizer: Tokenizer) -> None:
    text = f"Let me see.\n<tool_call>\n{WEATHER}\n</tool_call>"

    assert said(tokenizer, text) == ["Let me see.", ("weather", '{"place": "Rome"}')]


def test_several_calls_leave_in_order_with_the_words_between_them(tokenizer: Tokenizer) -> None:
    text = (
        f"<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>\n{CLOCK}\n</tool_call>\n\nAnd now "
        f"<tool_call>{CLOCK}</tool_call>"
    )

    assert said(tokenizer, text) == [
        ("weather", '{"place": "Rome"}'),
        ("clock", "{}"),
        "And now",
        ("clock", "{}"),
    ]
    assert said(tokenizer, f"One\n{text}.")[3] == "\n\n\n\nAnd now"


def test_a_call_parts_the_words_as_the_model_parted_them(tokenizer: Tokenizer) -> None:
    parted = said(tokenizer, f" one <tool_call>{CLOCK}</tool_call> two\n")

    assert [piece for piece in parted if isinstance(piece, str)] == [" one", "  two\n"]


@pytest.mark.parametrize(
    "written",
    [
        "",
        "\n",
        "weather",
        "[]",
        '"weather"',
        '{"name": "weather", "arguments": {',
        '{"arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "weather", "arguments": "Rome"}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": {"at": NaN}}',
        '{"name": "weather", "arguments": {"at": 1e999}}',
        '{"name": "weather", "arguments": {"at": "\\ud83d"}}',
        '{"name": "weather", "arguments": {"at": ' + "9" * 5000 + "}}",
        '{"name": "' + "w" * 65 + '", "arguments": {}}',
        '{"name": "weather", "arguments": {"at": ' + "[" * 20_000,
    ],
)
def test_what_is_no_call_is_text_with_its_marks(tokenizer: Tokenizer, written: str) -> None:
    text = f"Look: <tool_call>{written}</tool_call> so."

    assert said(tokenizer, text) == [text]
    assert read_call(written) is None


def test_arguments_that_are_left_out_are_none(tokenizer: Tokenizer) -> None:
    for written in ('{"name": "clock"}', '{"name": "clock", "arguments": null}'):
        call = read_call(written)
        assert call is not None and (call.name, call.arguments) == ("clock", "{}")


def test_arguments_keep_their_order_and_letters() -> None:
    call = read_call('{"arguments": {"b": "Ça 你", "a": [1, 2.5, true]}, "name": "f"}')

    assert call is not None and call.arguments == '{"b": "Ça 你", "a": [1, 2.5, true]}'


def test_each_call_has_an_id_of_its_own() -> None:
    ids = {call.id for call in (read_call(CLOCK) for _ in range(50)) if call is not None}

    assert len(ids) == 50


def test_an_answer_makes_no_more_calls_than_clients_may_send_back(tokenizer: Tokenizer) -> None:
    one = f"<tool_call>{CLOCK}</tool_call>"

    told = said(tokenizer, one * (MAX_CALLS + 1))

    assert told == [("clock", "{}")] * MAX_CALLS + [one]


def test_a_call_that_ends_with_the_answer_is_a_call(tokenizer: Tokenizer) -> None:
    assert said(tokenizer, f"<tool_call>\n{CLOCK}") == [("clock", "{}")]


def test_a_call_that_was_cut_off_is_text(tokenizer: Tokenizer) -> None:
    for cut in ('<tool_call>\n{"name": "clo', "<tool_call>\n", f"<tool_call>{CLOCK} and \n"):
        assert said(tokenizer, f"One moment. {cut}") == [f"One moment. {cut}"]


def test_a_call_within_an_open_one_ends_it(tokenizer: Tokenizer) -> None:
    text = f"<tool_call>{WEATHER}<tool_call>{CLOCK}</tool_call></tool_call>"

    assert said(tokenizer, text) == [("weather", '{"place": "Rome"}'), ("clock", "{}")]


PIECES = st.one_of(
    st.sampled_from([WEATHER, CLOCK, "{}", "broken {", "<tool_call>", "</tool_call>", "\n", " "]),
    st.text(max_size=6),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=10), st.data())
def test_any_split_of_an_answer_gives_the_same(
    tokenizer: Tokenizer, pieces: list[str], data: st.DataObject
) -> None:
    """A text has many token streams: every cut between its characters makes another."""
    whole: list[int] = []
    cut: list[int] = []
    for piece in pieces:
        at = data.draw(st.integers(0, len(piece)))
        whole += tokenizer.encode_markup(piece)
        is_mark = piece in ("<tool_call>", "</tool_call>")
        halves = [piece] if is_mark else [piece[:at], piece[at:]]
        cut += [token for half in halves for token in tokenizer.encode_markup(half)]
    if tokenizer.decode(whole) != tokenizer.decode(cut):
        return  # NFC joined what was cut

    assert taken(tokenizer, whole) == taken(tokenizer, cut)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["Yes", " and", "\n", "5", "{", "é"]), max_size=8))
@example(["\n"])
def test_text_without_calls_is_as_it_was_written(
    tokenizer: Tokenizer, pieces: list[str]
) -> None:
    text = "".join(pieces)

    assert "".join(map(str, said(tokenizer, text))) == text


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_every_object_of_arguments_arrives(
    tokenizer: Tokenizer, arguments: dict[str, object]
) -> None:
    written = json.dumps({"name": "f", "arguments": arguments})

    ((name, text),) = taken(
        tokenizer,
        [
            tokenizer.id("<tool_call>"),
            *tokenizer.encode(written),
            tokenizer.id("</tool_call>"),
        ],
    )

    assert name == "f" and json.loads(text) == arguments


def test_results_stand_in_the_order_of_their_calls() -> None:
    calls = tuple(ToolCall(id=f"c{n}", name="f", arguments="{}") for n in range(3))
    asked = ChatMessage(role="user", parts=())
    called = ChatMessage(role="assistant", parts=(), tool_calls=calls)
    results = [ChatMessage(role="tool", parts=(), tool_call_id=f"c{n}") for n in (2, 9, 0, 1)]

    ordered = in_order_of_calls([asked, called, *results, asked, results[0]])

    ids = [message.tool_call_id for message in ordered]
    assert ids == ["", "", "c0", "c1", "c2", "c9", "", "c2"]
    assert ordered[:2] == [asked, called]


def test_nobody_can_write_a_mark(tokenizer: Tokenizer, tmp_path: Path) -> None:
    marks = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]

    for mark in marks:
        assert len(tokenizer.encode_markup(mark)) == 1
        assert tokenizer.id(mark) not in tokenizer.encode(f"a{mark}b")
        assert tokenizer.decode(tokenizer.encode(f"a{mark}b")) == f"a{mark}b"

"""Whatever a client sends, it gets an `error` for it; its call goes on, and its neighbour's."""

import asyncio

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import ProtocolError
from omni.realtime.binary_sound import SoundReader
from tests.conftest import RunningOmni
from tests.realtime.openai.talk import Talk, talking

_VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
_DEEP = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
_NAMES = ["session", "audio", "item", "item_id", "content_index", "response", "event_id", "type"]
_KINDS = st.sampled_from(
    [
        "session.update",
        "input_audio_buffer.append",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.delete",
        "conversation.item.truncate",
    ]
)
_OBJECTS = st.dictionaries(st.sampled_from(_NAMES), _DEEP, max_size=4)
#: No event of these is right: an id is never known, a session or item never whole.
_EVENTS = st.tuples(_KINDS, _OBJECTS).filter(lambda event: not _may_be_right(*event))
_JUNK = (st.binary(max_size=60) | st.text(max_size=60).map(str.encode)).filter(
    lambda data: not _is_sound(data)
)


def _is_sound(data: bytes) -> bool:
    """Say whether *data* is a binary frame; the mark of a form, with nothing behind it, is one."""
    try:
        SoundReader().read(data)
    except ProtocolError:
        return False
    return True


def _may_be_right(kind: str, fields: dict[str, object]) -> bool:
    if kind == "session.update":
        return isinstance(fields.get("session"), dict)
    return kind == "input_audio_buffer.append" and isinstance(fields.get("audio"), str)


@settings(max_examples=40)
@given(events=st.lists(_EVENTS | _JUNK, min_size=1, max_size=8))
def test_each_malformed_event_gets_one_error_and_ends_nothing(
    omni: RunningOmni, events: list[bytes | tuple[str, dict[str, object]]]
) -> None:
    async def talk_nonsense() -> None:
        async with talking(omni.address) as neighbour, talking(omni.address) as talk:
            for event in events:
                await _send(talk, event)
                await talk.expect("error")
            for one in (talk, neighbour):
                response = await one.ask("still here", output_modalities=["text"])
                assert response["output"][0]["content"][0]["text"] == "still here"

    asyncio.run(talk_nonsense())


_SESSIONS = st.dictionaries(
    st.sampled_from(
        ["audio", "tools", "tool_choice", "output_modalities", "voice", "turn_detection", "type"]
    ),
    _DEEP | st.dictionaries(st.sampled_from(["input", "output", "type"]), _DEEP, max_size=2),
    max_size=3,
)


@settings(max_examples=40)
@given(sessions=st.lists(_SESSIONS, min_size=1, max_size=8))
def test_any_session_is_taken_or_refused(
    omni: RunningOmni, sessions: list[dict[str, object]]
) -> None:
    async def update() -> None:
        async with talking(omni.address) as talk:
            for session in sessions:
                await talk.send("session.update", session=session)
                assert (await talk.receive())["type"] in ("session.updated", "error")

    asyncio.run(update())


@pytest.mark.parametrize(
    "frame", ["[1]", "null", '"text"', '{"type":5}', '{"type":null}', '{"type":{}}', "{" * 100]
)
async def test_what_is_no_event_gets_an_error(omni: RunningOmni, frame: str) -> None:
    async with talking(omni.address) as talk:
        await talk.connection.send_raw(frame)
        (event,) = await talk.expect("error")

    assert event["error"]["event_id"] is None and event["error"]["message"]


async def test_an_id_that_is_too_long_is_named(omni: RunningOmni) -> None:
    async with talking(omni.address) as talk:
        await talk.send("conversation.item.retrieve", item_id="x" * 300)
        (event,) = await talk.expect("error")

    assert event["error"]["param"] == "item_id"


async def _send(talk: Talk, event: bytes | tuple[str, dict[str, object]]) -> None:
    if isinstance(event, bytes):
        await talk.connection._connection.send(event)
    else:
        kind, fields = event
        text = orjson.dumps({**fields, "type": kind}).decode()
        await talk.connection.send_raw(text)

"""Malformed events on `/v1/realtime`: an answer each time, and nobody else is disturbed."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import RunningOmni
from tests.realtime.client import Client, Event, connected

SECOND = base64.b64encode(bytes(4 * 16_000)).decode()
#: By dialect: query, the event that begins, the one that brings sound, how errors are told.
DIALECTS: Mapping[str, tuple[str, Event, str]] = {
    "r1": ("mode=audio", {"type": "session.update", "session": {"instructions": ""}}, "error"),
    "r2": ("mode=audio", {"type": "session.init", "payload": {}}, "session.warning"),
    "turns": ("mode=chat", {"type": "session.init", "payload": {}}, "session.warning"),
}

_NO_TEXT = st.booleans() | st.integers(-(2**31), 2**31) | st.lists(st.integers(0, 9), max_size=3)
_NO_BASE64 = st.text("äöü%", min_size=1) | st.sampled_from(["AAA", "AAAAA===", "AA=="])
_NO_SOUND = _NO_TEXT | _NO_BASE64
_NO_FLAG = st.integers(0, 1) | st.text(max_size=5) | st.lists(st.booleans(), max_size=2)
_NO_SLICES = st.integers(-5, 0) | st.integers(100, 999) | st.text(max_size=3) | st.just(1.5)
_NO_FRAMES = st.lists(_NO_TEXT, min_size=1, max_size=3) | st.text(min_size=1, max_size=4)
_UNKNOWN = st.fixed_dictionaries(
    {"type": st.sampled_from(["", "prepare", "audio_chunk", "response.cancel"])}
)


def _broken(good: Event, **wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    """Return *good* with one of its fields gone wrong."""
    return st.sampled_from(sorted(wrong)).flatmap(
        lambda name: wrong[name].map(lambda value: good | {name: value})
    )


_SOUNDS = {"audio": _NO_SOUND, "force_listen": _NO_FLAG, "video_frames": _NO_FRAMES}
_R1 = _broken(
    {"type": "input_audio_buffer.append", "audio": SECOND}, max_slice_nums=_NO_SLICES, **_SOUNDS
)
_R2 = _broken({"audio": SECOND}, max_slice_nums=_NO_SLICES, hints=_NO_TEXT, **_SOUNDS)
_TURN = _broken(
    {"messages": [{"role": "user", "content": "x"}]},
    messages=_NO_TEXT | st.text(max_size=3) | st.just([{"role": "user", "content": [{}]}]),
    generation=st.text(max_size=3) | st.just({"max_new_tokens": 0}),
    tts=_NO_TEXT | st.just({"enabled": "yes"}),
    streaming=_NO_FLAG,
)


def _appended(input: Event) -> Event:
    return {"type": "input.append", "input": input}


MALFORMED: Mapping[str, st.SearchStrategy[Event]] = {
    "r1": _UNKNOWN | _R1,
    "r2": _UNKNOWN | _R2.map(_appended),
    "turns": _UNKNOWN | _TURN.map(_appended),
}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@settings(max_examples=25)
@given(data=st.data())
def test_every_malformed_event_is_answered_and_no_neighbour_disturbed(
    omni: RunningOmni, dialect: str, data: st.DataObject
) -> None:
    events = data.draw(st.lists(MALFORMED[dialect], min_size=1, max_size=6))
    pid = omni.pid("worker-0")

    asyncio.run(_talk(omni.address, dialect, events))

    assert omni.pid("worker-0") == pid


async def _talk(address: str, dialect: str, events: list[Event]) -> None:
    query, beginning, error = DIALECTS[dialect]
    async with (
        connected(address, f"/v1/realtime?{query}") as client,
        connected(address, "/v1/realtime?dialect=r1&mode=audio") as neighbour,
    ):
        for each, event in ((client, beginning), (neighbour, DIALECTS["r1"][1])):
            await each.socket.send_str(orjson.dumps(event).decode())
            await each.until("session.created")
        for event in events:
            await client.socket.send_str(orjson.dumps(event).decode())
            await client.expect(error)
        await neighbour.send("input_audio_buffer.append", audio=SECOND)
        await neighbour.expect("response.listen")
        await client.send("session.close")
        assert (await client.expect("session.closed"))["type"] == "session.closed"
        assert await client.closed() == 1000


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@settings(max_examples=20)
@given(frame=st.binary(max_size=40) | st.text(max_size=40))
def test_a_frame_of_anything_is_answered(
    omni: RunningOmni, dialect: str, frame: bytes | str
) -> None:
    """As the very first frame, too, where nothing is decided yet."""

    async def talk() -> None:
        query, _, _ = DIALECTS[dialect]
        wanted = "dialect=r2&" if dialect == "r2" else ""
        async with connected(omni.address, f"/v1/realtime?{wanted}{query}") as client:
            await client.expect("session.queue_done")
            await _send(client, frame)
            told = await client.receive()
            assert told["type"] in ("error", "session.warning")

    asyncio.run(talk())


async def _send(client: Client, frame: bytes | str) -> None:
    if isinstance(frame, str):
        await client.socket.send_str(frame)
    else:
        await client.socket.send_bytes(frame)

"""Whatever is sent to the demo's API, there is an answer, and nobody else notices.

Each example opens a neighbour's call on the same server, sends what no protocol allows, sees an
error for each, and then the neighbour gets its result from the same worker.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from yarl import URL

from omni.routes.openapi import described_routes
from omni.settings import Settings
from omni.web import make_app
from tests.conftest import RunningOmni
from tests.realtime.client import Client, connected

FEW = settings(max_examples=12)
Message = bytes | str | dict[str, Any]

_APP = make_app(Settings())
_ROUTES = [route for route in described_routes(_APP) if not route.path.startswith("/v1/")]
#: Every socket of the demo's API.
SOCKETS = [route.path for route in _ROUTES if route.operation.talk is not None]
#: Every route that takes a JSON body, by method and path.
BODIES = [
    (route.method, route.path)
    for route in _ROUTES
    if route.operation.body is not None and "application/json" in route.operation.body.content_types
]
#: Every route that takes something in its path.
PATHS = [
    (route.method, route.path)
    for route in _ROUTES
    if "{" in route.path and route.operation.talk is None
]

# --- what no protocol allows ---------------------------------------------------------------------

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
no_text = st.booleans() | numbers | st.lists(values, max_size=2) | st.just({})
no_number = st.booleans() | st.text(max_size=8) | st.lists(values, max_size=2) | st.just({})
no_object = st.booleans() | numbers | st.text(max_size=8) | st.lists(values, max_size=2)
#: Neither base64, nor whole samples, nor a text at all.
no_sound = (
    no_text
    | st.sampled_from(["%", "AAA", "A===", "====", "ÄÄÄÄ", "AAAA\n", "__--"])
    | st.binary(min_size=1, max_size=99)
    .filter(lambda data: len(data) % 4 != 0)
    .map(lambda data: base64.b64encode(data).decode())
)


def _is_object(text: str | bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


broken_texts = st.text(max_size=40).filter(lambda text: not _is_object(text))
broken_bytes = st.binary(max_size=40).filter(
    lambda data: not _is_object(data) and data[:4] not in (b"S16L", b"F32L")
)
odd_samples = st.binary(max_size=9).filter(lambda body: len(body) % 4 != 0)
unknown_types = st.builds(
    lambda kind, fields: {**fields, "type": f"x-{kind}"}, st.text(max_size=8), st.just({})
)
anything_broken: SearchStrategy[Message] = broken_texts | broken_bytes | unknown_types


def field(kind: str, name: str, wrong: SearchStrategy[Any], **others: Any) -> SearchStrategy[Any]:
    """Return messages of *kind* whose field *name* is wrong."""
    return wrong.map(lambda value: {"type": kind, **others, name: value})


ONE = [{"role": "user", "content": "hello"}]
no_messages = no_object | st.just([]) | st.just([{}]) | st.just([{"role": "king", "content": "x"}])
wrong_parts = no_sound.map(
    lambda sound: [{"role": "user", "content": [{"type": "audio", "data": sound}]}]
)
_CHAT = (
    no_messages.map(lambda messages: {"messages": messages})
    | wrong_parts.map(lambda messages: {"messages": messages})
    | no_object.map(lambda part: {"messages": ONE, "generation": part})
    | no_number.map(lambda n: {"messages": ONE, "generation": {"max_new_tokens": n}})
    | no_sound.map(lambda sound: {"messages": ONE, "tts": {"ref_audio_data": sound}})
)
#: What is wrong on each socket beside what is wrong everywhere.
_OWN: dict[str, SearchStrategy[Any]] = {
    "/ws/chat": _CHAT,
    "/ws/half_duplex/{session_id}": (
        field("audio_chunk", "audio_base64", no_sound)
        | field("prepare", "config", no_object)
        | field("prepare", "system_content", st.booleans() | numbers | st.just({}))
        | field("prepare", "ref_audio_base64", no_sound)
        | odd_samples.map(lambda body: b"F32L" + body)
    ),
    "/ws/duplex/{session_id}": (
        field("audio_chunk", "audio_base64", no_sound)
        | field("audio_chunk", "frame_base64_list", no_object, audio_base64="AAAAAA==")
        | field("prepare", "system_prompt", no_text)
        | field("prepare", "config", no_object)
        | no_number.map(lambda n: {"type": "prepare", "config": {"temperature": n}})
        | field("prepare", "ref_audio_base64", no_sound)
        | field("pause", "timeout", no_number)
        | odd_samples.map(lambda body: b"F32L" + body)
    ),
    "/ws/streaming": (
        field("prefill", "messages", no_messages)
        | field("prefill", "messages", wrong_parts)
        | field("prefill", "ref_audio_base64", no_sound, messages=ONE)
        | field("generate", "max_new_tokens", no_number)
        | st.just({"type": "generate"})
    ),
}


def messages_for(path: str) -> SearchStrategy[list[Message]]:
    """Return lists of messages that are each an error on the socket *path*."""
    own = next((own for known, own in _OWN.items() if known in path), _OWN["/ws/streaming"])
    return st.lists(anything_broken | own, min_size=1, max_size=4)


# --- a neighbour ---------------------------------------------------------------------------------


@asynccontextmanager
async def undisturbed(omni: RunningOmni) -> AsyncIterator[None]:
    """Hold a call meanwhile: it gets its result before and after, from the same worker."""
    pid = omni.pid("worker-0")
    async with connected(omni.address, "/ws/duplex/adx_neighbour") as neighbour:
        await neighbour.prepare()
        for number in (1, 2):
            await neighbour.send_chunk()
            assert (await neighbour.expect("result"))["current_time"] == number
            if number == 1:
                yield
        await neighbour.send("stop")
        await neighbour.expect("stopped")
    assert omni.pid("worker-0") == pid


async def send(client: Client, message: Message) -> None:
    """Send one message: bytes as a binary frame, everything else as text."""
    if isinstance(message, bytes):
        await client.socket.send_bytes(message)
    else:
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        await client.socket.send_str(text)


async def refused(omni: RunningOmni, path: str, messages: list[Message]) -> None:
    """Send *messages*, see an error for each, and go on as if nothing had been."""
    async with connected(omni.address, path) as client:
        for message in messages:
            await send(client, message)
            error = await client.until("error")
            assert error["error"] and error["code"]
        if "streaming" in path:
            await client.send("prefill", messages=ONE)
            await client.until("prefill_done")
        else:
            await client.prepare()


async def refused_and_closed(omni: RunningOmni, path: str, messages: list[Message]) -> None:
    """Send each message on a socket of its own, which takes one only."""
    for message in messages:
        async with connected(omni.address, path) as client:
            await send(client, message)
            error = await client.until("error")
            assert error["error"] and error["code"]
            assert await client.closed() == 1003


async def answered(omni: RunningOmni, method: str, path: str, body: bytes | None) -> int:
    """Return the status of the answer, whose errors have the usual shape."""
    async with aiohttp.ClientSession() as http:
        url = URL(omni.address + path, encoded=True)
        headers = {"Content-Type": "application/json"}
        async with http.request(method, url, data=body, headers=headers) as reply:
            content = await reply.read()
    if reply.status >= 400:
        error = orjson.loads(content)
        assert error["detail"] and isinstance(error["error"], str)
    assert reply.status < 500, content
    return reply.status


# --- the tests -----------------------------------------------------------------------------------


def test_every_kind_of_socket_has_messages_of_its_own() -> None:
    assert {path for path in SOCKETS if path in _OWN} == _OWN.keys()
    assert len(SOCKETS) >= 6 and len(BODIES) >= 8


@pytest.mark.parametrize("path", SOCKETS)
@FEW
@given(data=st.data())
def test_each_malformed_message_gets_an_error_and_nobody_is_disturbed(
    omni: RunningOmni, path: str, data: st.DataObject
) -> None:
    messages = data.draw(messages_for(path))
    run = refused_and_closed if path == "/ws/chat" else refused

    async def talk() -> None:
        async with undisturbed(omni):
            await run(omni, path.format(session_id="adx_fuzz"), messages)

    asyncio.run(talk())


@pytest.mark.parametrize(("method", "path"), BODIES)
@FEW
@given(body=broken_bytes)
def test_a_body_that_is_no_object_is_refused(
    omni: RunningOmni, method: str, path: str, body: bytes
) -> None:
    assume(body)

    async def talk() -> None:
        async with undisturbed(omni):
            place = re.sub(r"{\w+}", "omni", path)
            assert 400 <= await answered(omni, method, place, body) < 500

    asyncio.run(talk())


@pytest.mark.parametrize(("method", "path"), BODIES)
@FEW
@given(data=st.data())
def test_a_body_of_wrong_fields_is_answered(
    omni: RunningOmni, method: str, path: str, data: st.DataObject
) -> None:
    names = st.sampled_from(_names_of(method, path)) | st.text(max_size=8)
    body = data.draw(st.dictionaries(names, values | no_sound, max_size=4))

    async def talk() -> None:
        async with undisturbed(omni):
            place = re.sub(r"{\w+}", "no_such_app", path)
            await answered(omni, method, place, orjson.dumps(body))

    asyncio.run(talk())


@pytest.mark.parametrize(("method", "path"), PATHS)
@FEW
@given(step=st.text(min_size=1, max_size=30) | st.sampled_from(["..", ".", "%2e%2e", "a/../../b"]))
def test_a_path_with_anything_in_it_is_answered(
    omni: RunningOmni, method: str, path: str, step: str
) -> None:
    async def talk() -> None:
        async with undisturbed(omni):
            place = re.sub(r"{\w+}", quote(step, safe=""), path)
            body = b"{}" if method in ("PUT", "POST") else None
            await answered(omni, method, place, body)

    asyncio.run(talk())


def _names_of(method: str, path: str) -> list[str]:
    route = next(r for r in _ROUTES if (r.method, r.path) == (method, path))
    assert route.operation.body is not None
    return [*route.operation.body.schema.get("properties", {}), "messages"]

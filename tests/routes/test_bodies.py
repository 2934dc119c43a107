"""Bodies with media are read beside the event loop, however they are sent."""

import threading
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from omni.realtime.fields import Fields
from omni.routes.bodies import read_media
from omni.routes.errors import errors_as_json

SMALL = orjson.dumps({"text": "hello"})
LARGE = orjson.dumps({"text": "x" * 100_000})


def thread_of(fields: Fields) -> int:
    assert fields.text("text", max_chars=1_000_000)
    return threading.get_ident()


async def answer(request: web.Request) -> web.Response:
    is_beside = await read_media(request, thread_of) != threading.get_ident()
    return web.json_response({"is_beside": is_beside})


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application(middlewares=[errors_as_json])
    app.add_routes([web.post("/", answer)])
    async with TestServer(app) as server:
        async with aiohttp.ClientSession(server.make_url("/")) as session:
            yield session


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 10_000):
        yield body[at : at + 10_000]


@pytest.mark.parametrize("body, is_beside", [(SMALL, False), (LARGE, True)])
@pytest.mark.parametrize("has_length", [True, False])
async def test_a_large_body_is_read_in_a_thread(
    http: aiohttp.ClientSession, body: bytes, is_beside: bool, has_length: bool
) -> None:
    """One sent without its length had been read on the loop, whatever its size."""
    async with http.post("/", data=body if has_length else in_pieces(body)) as reply:
        assert await reply.json() == {"is_beside": is_beside}


@pytest.mark.parametrize("body", [b"", b"[1]", b"{" * 20_000, b"\xff" * 20_000])
async def test_what_is_no_object_is_refused_in_either_place(
    http: aiohttp.ClientSession, body: bytes
) -> None:
    async with http.post("/", data=body) as reply:
        assert reply.status == 400

"""What a route raises becomes an answer, and a line in the log only where the fault is ours."""

import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from omni.routes.errors import errors_as_json


async def leave(request: web.Request) -> web.StreamResponse:
    """Begin an answer to a client that is gone."""
    assert request.transport is not None
    request.transport.abort()
    response = web.StreamResponse()
    await response.prepare(request)
    return response


async def lose(request: web.Request) -> web.StreamResponse:
    """Lose a connection that is not the client's."""
    raise ConnectionResetError("something behind the server")


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application(middlewares=[errors_as_json])
    app.add_routes([web.get("/leave", leave), web.get("/lose", lose)])
    async with TestServer(app) as running:
        yield running


async def test_a_client_that_left_is_no_fault(
    server: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each hang-up in the wrong moment was an error with its traceback."""
    async with aiohttp.ClientSession(server.make_url("/")) as http:
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get("leave")

    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_any_other_lost_connection_is_one(
    server: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession(server.make_url("/")) as http:
        async with http.get("lose") as reply:
            status, body = reply.status, await reply.json()

    assert (status, body) == (500, dict.fromkeys(("detail", "error"), "Internal server error"))
    assert "GET /lose failed" in caplog.text

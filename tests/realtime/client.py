"""A client of the demo's protocol, for tests: sends events, waits for events, sees the close."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import orjson
from aiohttp import WSMsgType
from attrs import define

from tests.fakes import TIMEOUT_S as TIMEOUT_S  # for those who import it from here

Event = dict[str, Any]  # JSON of the server under test

SILENCE = base64.b64encode(bytes(4 * 1600)).decode()
SPEECH = base64.b64encode(np.full(1600, 0.5, "<f4").tobytes()).decode()


@define
class Client:
    """One connection."""

    socket: aiohttp.ClientWebSocketResponse

    async def send(self, kind: str, **fields: object) -> None:
        """Send one event."""
        await self.socket.send_str(orjson.dumps({"type": kind, **fields}).decode())

    async def send_chunk(self, sound: str = SILENCE, **fields: object) -> None:
        """Send one chunk of sound."""
        await self.send("audio_chunk", audio_base64=sound, **fields)

    async def receive(self) -> Event:
        """Return the next event. Fails when the socket closes instead."""
        message = await self._next()
        assert message.type is WSMsgType.TEXT, f"{message.type!r} {message.data!r}"
        event: Event = orjson.loads(message.data)
        return event

    async def expect(self, kind: str) -> Event:
        """Return the next event, which must be of *kind*."""
        event = await self.receive()
        assert event["type"] == kind, event
        return event

    async def until(self, kind: str) -> Event:
        """Return the next event of *kind*; others before it are passed over."""
        while (event := await self.receive())["type"] != kind:
            continue
        return event

    async def moved_up(self, position: int) -> Event:
        """Return the next `queue_update` with that place: others are said every few seconds."""
        while (event := await self.until("queue_update"))["position"] != position:
            continue
        return event

    async def closed(self) -> int:
        """Return the code of the close, which must come next."""
        message = await self._next()
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED), str(message.data)[:200]
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def _next(self) -> aiohttp.WSMessage:
        """Return what comes next. The bound is our own: each ping begins that of aiohttp anew."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.socket.receive()

    async def prepare(self, **fields: object) -> Event:
        """Go from the open socket to `prepared`."""
        await self.send("prepare", **fields)
        return await self.until("prepared")


@asynccontextmanager
async def connected(address: str, path: str, **options: Any) -> AsyncIterator[Client]:
    """Open one connection. options: of aiohttp's `ws_connect`."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(address + path, max_msg_size=0, **options) as socket,
    ):
        yield Client(socket)

"""What leaves a request piece by piece: server-sent events, or the bytes of a sound file."""

import asyncio
import logging
from collections.abc import Awaitable

import orjson
from aiohttp import web

from omni.errors import OmniError
from omni.openai.errors import view_of
from omni.routes.errors import openai_view
from omni.routes.keys import SETTINGS
from omni.routes.openai_turn import Listener, Turn

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


class Outflow:
    """An answer whose headers leave before it is complete; opened by the first thing sent.

    Raises from everything that sends: ConnectionError, also for a client that takes nothing.
    """

    def __init__(self, request: web.Request, content_type: str) -> None:
        self._request = request
        self._send_timeout_s = request.app[SETTINGS].web.send_timeout_s
        self.response = web.StreamResponse(
            headers={
                "Content-Type": content_type,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # a proxy that collects would undo the stream
            }
        )

    @property
    def is_open(self) -> bool:
        """True when the headers have left."""
        return self.response.prepared

    @property
    def is_events(self) -> bool:
        """True for server-sent events."""
        return self.response.content_type == EVENT_STREAM

    async def open(self) -> None:
        """Send the headers, if they have not left yet."""
        if not self.is_open:
            await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.open()
        if data:
            await self._taken(self.response.write(data))

    async def send(self, document: object) -> None:
        """Send a JSON document as an event."""
        await self.write(b"data: " + orjson.dumps(document) + b"\n\n")

    async def close(self) -> None:
        """Send the end."""
        await self.open()
        await self._taken(self.response.write_eof())

    def cut(self) -> None:
        """Break the connection off: the client must not take what it has for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _taken(self, sending: Awaitable[None]) -> None:
        """Wait until the client takes what is sent. Raises: ConnectionError, if it does not."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await sending
        except TimeoutError as exc:
            self.cut()
            raise ConnectionResetError("the client takes nothing") from exc


async def stream_turn(turn: Turn, listener: Listener, outflow: Outflow) -> web.StreamResponse:
    """Run *turn* into *outflow*, and return the response that is sent then.

    What fails before the headers have left is raised; later it is an event, or the end of a file.
    A client that is gone ends it without a word.
    """
    try:
        await turn.run(listener)
        await outflow.close()
    except ConnectionError:
        log.debug("a client left its stream")
    except Exception as exc:  # the border of a request whose headers have left
        if not outflow.is_open:
            raise
        await _fail(turn.request, outflow, exc)
    return outflow.response


async def _fail(request: web.Request, outflow: Outflow, error: Exception) -> None:
    view = view_of(error) if isinstance(error, OmniError) else openai_view(request, error)
    if not outflow.is_events:
        log.warning("a sound file is cut short: %s", view.message)
        outflow.cut()
        return
    try:
        await outflow.send(view.body)
        await outflow.close()
    except ConnectionError:
        log.debug("a client left its stream before it heard why that ended")

"""Bodies of requests: read whole within the limit, as a JSON object."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from omni.errors import TooLarge
from omni.realtime.fields import Fields, read_object

#: Above this a body is parsed in a thread.
_INLINE_BYTES = 2**20
#: The same where a body may hold media: a WAV file of 155 KiB takes 50 ms to resample.
_INLINE_MEDIA_BYTES = 8 * 2**10

Read = TypeVar("Read")


async def read_fields(request: web.Request, max_bytes: int | None = None) -> Fields:
    """Return the JSON object that *request* carries.

    max_bytes: where less than the server's own limit is taken. Raises: ProtocolError, TooLarge.
    """
    body = await (request.read() if max_bytes is None else _read_up_to(request, max_bytes))
    if len(body) > _INLINE_BYTES:
        return await asyncio.to_thread(read_object, body)
    return read_object(body)


async def read_media(request: web.Request, read: Callable[[Fields], Read]) -> Read:
    """Return what *read* makes of the JSON object that *request* carries, sound and pictures in it.

    Raises: ProtocolError, TooLarge, and what *read* does.
    """
    body = await request.read()
    if len(body) > _INLINE_MEDIA_BYTES:
        return await asyncio.to_thread(lambda: read(read_object(body)))
    return read(read_object(body))


async def _read_up_to(request: web.Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.content.iter_chunked(2**14):
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"The body is above {max_bytes >> 10} KiB")
    return bytes(body)

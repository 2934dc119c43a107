"""Bodies of requests: read whole within the limit, as a JSON object."""

import asyncio

from aiohttp import web

from omni.errors import TooLarge
from omni.realtime.fields import Fields, read_object

#: Above this a body is parsed in a thread.
INLINE_BYTES = 2**20


async def read_fields(request: web.Request, max_bytes: int | None = None) -> Fields:
    """Return the JSON object that *request* carries.

    max_bytes: where less than the server's own limit is taken. Raises: ProtocolError, TooLarge.
    """
    body = await (request.read() if max_bytes is None else _read_up_to(request, max_bytes))
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(read_object, body)
    return read_object(body)


async def _read_up_to(request: web.Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.content.iter_chunked(2**14):
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"The body is above {max_bytes >> 10} KiB")
    return bytes(body)

"""Bodies of requests: read whole within the limit, as a JSON object."""

import asyncio

from aiohttp import web

from omni.realtime.fields import Fields, read_object

#: Above this a body is parsed in a thread.
INLINE_BYTES = 2**20


async def read_fields(request: web.Request) -> Fields:
    """Return the JSON object that *request* carries. Raises: ProtocolError."""
    body = await request.read()
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(read_object, body)
    return read_object(body)

"""Traces that the phone page sends of itself."""

from aiohttp import web

from omni.routes.bodies import read_fields
from omni.routes.describe import AN_OBJECT, FLAG, describe, record
from omni.routes.errors import json_reply
from omni.routes.keys import DIAGNOSTICS

MAX_TRACE_KB = 64


@describe(
    "Keep a trace of a push-to-talk",
    tag="Service",
    help=f"Any JSON object up to {MAX_TRACE_KB} KiB; appended to a file of the server's operator.",
    body=AN_OBJECT,
    reply=record({"ok": FLAG}),
)
async def post_record_trace(request: web.Request) -> web.Response:
    """Append the body to the trace."""
    fields = await read_fields(request, MAX_TRACE_KB << 10)
    request.app[DIAGNOSTICS].trace(dict(fields.values))
    return json_reply({"ok": True})

"""Sessions that run now, for the operator: ending one of them."""

from aiohttp import web

from omni.errors import Cancelled
from omni.recording.layout import clean_id
from omni.routes.describe import FLAG, describe, record
from omni.routes.errors import json_reply
from omni.routes.keys import LIVE

#: The short word that clients of tickets know, too.
_ENDED = "Cancelled"


@describe(
    "End a session that runs",
    tag="Sessions",
    help=(
        'Its socket is told "Cancelled" and closed (1000), and its slot is free. `success` is '
        "false where no WebSocket holds it: an HTTP request, or a call of OpenAI Realtime."
    ),
    reply=record({"success": FLAG}),
)
async def delete_live_session(request: web.Request) -> web.Response:
    """End one session."""
    connection = request.app[LIVE].find(clean_id(request.match_info["session_id"]))
    if connection is None:
        return json_reply({"success": False})
    reason = Cancelled("The operator of this server ended the session")
    await connection.fail(reason, _ENDED)
    return json_reply({"success": True})

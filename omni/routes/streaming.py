"""The demo's older streaming chat: its socket under three paths, and the route that stops it."""

import time

from aiohttp import web

from omni.realtime.live import Connection
from omni.realtime.socket import ClientSocket
from omni.realtime.streaming import StreamingDialect
from omni.realtime.streaming_session import StreamingSession
from omni.recording.layout import clean_id
from omni.routes.bodies import read_fields
from omni.routes.describe import FLAG, TEXT, Body, describe, describe_socket, list_of, record
from omni.routes.errors import json_reply
from omni.routes.gate import GUARD, VISITOR
from omni.routes.keys import APPS, LIVE, SETTINGS
from omni.routes.socket_schemas import STREAMING_CLIENT, STREAMING_SERVER
from omni.routes.sockets import endpoint_of, new_id
from omni.routes.status import worker_id

_STOPPED = record({"worker_id": TEXT, "success": FLAG, "message": TEXT})


@describe_socket(
    "Chat in a stream, turn by turn",
    tag="Chat",
    help=(
        "The demo's older chat: one socket, many turns. `prefill` brings the conversation and "
        "asks for a slot, `generate` for the answer; after `done` the slot is free."
    ),
    client=STREAMING_CLIENT,
    server=STREAMING_SERVER,
)
async def streaming(request: web.Request) -> web.StreamResponse:
    """Serve `/ws/streaming/{session_id}`; without an id the session gets one."""
    request.app[APPS].require("turnbased")
    settings = request.app[SETTINGS]
    session = StreamingSession(
        request_type="streaming",
        client_id=clean_id(request.match_info.get("session_id", new_id("stm"))),
        prepare_timeout_s=settings.duplex.pause_timeout,
        request_timeout_s=settings.service.request_timeout,
    )
    socket = ClientSocket(settings.web)
    return await endpoint_of(request, session, StreamingDialect(), socket).run(request)


@describe(
    "Stop streaming answers",
    tag="Chat",
    help=(
        "Of one session, or of all where none is named; where keys are needed, of one's own alone. "
        "Each stopped turn ends with its `done`."
    ),
    body=Body(schema=record({"session_id": TEXT}, optional=["session_id"]), required=False),
    reply=record(
        {"success": FLAG, "message": TEXT, "stopped": list_of(_STOPPED)},
        optional=["message", "stopped"],
    ),
)
async def stop_streaming(request: web.Request) -> web.Response:
    """Stop the turns of one session or of all."""
    client_id = ""
    if await request.read():
        client_id = clean_id((await read_fields(request)).text("session_id"))
    stopped = [
        await _stop(connection, session)
        for connection in request.app[LIVE].all()
        if isinstance(session := connection.session, StreamingSession)
        if client_id in ("", session.client_id) and session.is_answering
        if request.app[GUARD].owns(request[VISITOR], session.client_id)
    ]
    if not stopped:
        return json_reply({"success": False, "message": "No streaming worker found"})
    return json_reply({"success": True, "stopped": stopped})


async def _stop(connection: Connection, session: StreamingSession) -> dict[str, object]:
    worker = worker_id(session.worker) if session.worker else ""
    await connection.perform(session.stop_answer(time.monotonic()))
    text = f"Stopping the answer of {session.client_id}"
    return {"worker_id": worker, "success": True, "message": text}

"""The demo's WebSockets: who may open one, and which dialect and session it gets."""

import secrets
import time

from aiohttp import web

from omni.errors import Forbidden
from omni.realtime.chat import ChatDialect
from omni.realtime.chat_session import ChatSession
from omni.realtime.dialect import Dialect
from omni.realtime.duplex import DuplexDialect, DuplexMode
from omni.realtime.duplex_session import DuplexSession
from omni.realtime.early import EarlyCommands
from omni.realtime.endpoint import Endpoint
from omni.realtime.half_duplex import HalfDuplexDialect
from omni.realtime.half_duplex_session import HalfDuplexSession
from omni.realtime.session import Session
from omni.realtime.socket import ClientSocket
from omni.recording.layout import clean_id
from omni.routes.bodies import read_fields
from omni.routes.describe import FLAG, TEXT, describe, describe_socket, record
from omni.routes.errors import json_reply
from omni.routes.gate import GUARD, VISITOR
from omni.routes.keys import APPS, DIAGNOSTICS, LINK, LIVE, RECORDINGS, SETTINGS
from omni.routes.socket_schemas import (
    CHAT_CLIENT,
    CHAT_SERVER,
    DUPLEX_CLIENT,
    DUPLEX_SERVER,
    HALF_DUPLEX_CLIENT,
    HALF_DUPLEX_SERVER,
)

_AUDIO_PREFIXES = ("adx_", "audio_duplex_")


@describe_socket(
    "Talk in full duplex",
    tag="Conversation",
    help=(
        "Sound in chunks of about 1 s, and pictures where the id does not begin with `adx_` or "
        "`audio_duplex_`. Exactly one `result` answers each chunk."
    ),
    client=DUPLEX_CLIENT,
    server=DUPLEX_SERVER,
)
async def duplex(request: web.Request) -> web.StreamResponse:
    """Serve `/ws/duplex/{session_id}`."""
    client_id = clean_id(request.match_info["session_id"])
    mode = duplex_mode(client_id)
    request.app[APPS].require("audio_duplex" if mode == "audio_duplex" else "omni")
    settings = request.app[SETTINGS]
    session = DuplexSession(
        request_type=mode,
        client_id=client_id,
        prepare_timeout_s=settings.duplex.pause_timeout,
        pause_timeout_s=settings.duplex.pause_timeout,
        max_backlog_chunks=settings.web.max_backlog_chunks,
        unix_offset_s=time.time() - time.monotonic(),
    )
    return await _serve(request, session, DuplexDialect(mode))


@describe_socket(
    "Talk hands-free, turn by turn",
    tag="Conversation",
    help="The server hears where speech begins and ends, and answers then.",
    client=HALF_DUPLEX_CLIENT,
    server=HALF_DUPLEX_SERVER,
)
async def half_duplex(request: web.Request) -> web.StreamResponse:
    """Serve `/ws/half_duplex/{session_id}`."""
    return await _serve_half_duplex(request, tells_pictures=False)


@describe_socket(
    "Talk hands-free, with a camera",
    tag="Conversation",
    help="As `/ws/half_duplex/{session_id}`; the server also tells how many pictures came.",
    client=HALF_DUPLEX_CLIENT,
    server=HALF_DUPLEX_SERVER,
)
async def half_duplex_omni(request: web.Request) -> web.StreamResponse:
    """Serve `/ws/half_duplex_omni/{session_id}`."""
    return await _serve_half_duplex(request, tells_pictures=True)


async def _serve_half_duplex(request: web.Request, tells_pictures: bool) -> web.StreamResponse:
    request.app[APPS].require("half_duplex_audio")
    settings = request.app[SETTINGS]
    session = HalfDuplexSession(
        request_type="half_duplex_audio",
        client_id=clean_id(request.match_info["session_id"]),
        prepare_timeout_s=settings.duplex.pause_timeout,
    )
    dialect = HalfDuplexDialect(settings.web.half_duplex_timeout_s, tells_pictures)
    return await _serve(request, session, dialect)


@describe_socket(
    "Chat in a stream, one turn a socket",
    tag="Chat",
    help="The request is that of `POST /api/chat`, with `max_new_tokens` 256 unless it says more.",
    client=CHAT_CLIENT,
    server=CHAT_SERVER,
)
async def chat(request: web.Request) -> web.StreamResponse:
    """Serve `/ws/chat`."""
    request.app[APPS].require("turnbased")
    settings = request.app[SETTINGS]
    session = ChatSession(
        request_type="chat",
        client_id=new_id("chat"),
        prepare_timeout_s=settings.duplex.pause_timeout,
        request_timeout_s=settings.service.request_timeout,
    )
    return await _serve(request, session, ChatDialect())


@describe(
    "Cut the answer of a half-duplex session",
    tag="Conversation",
    help="Its turn ends with the text so far.",
    body=record({"session_id": TEXT}, optional=["session_id"]),
    reply=record({"success": FLAG, "message": TEXT}),
)
async def stop_half_duplex(request: web.Request) -> web.Response:
    """Cut the running answer of a half-duplex session; its turn ends with the text so far."""
    fields = await read_fields(request)
    connection = request.app[LIVE].find(clean_id(fields.text("session_id")))
    if connection is None or not isinstance(connection.session, HalfDuplexSession):
        return json_reply({"success": False, "message": "No such half-duplex session"})
    if not request.app[GUARD].owns(request[VISITOR], connection.session.client_id):
        raise Forbidden("This session is another key's: the admin key is needed")
    actions = connection.session.stop_answer()
    await connection.perform(actions)
    text = "Stopping the answer" if actions else "No answer is running"
    return json_reply({"success": bool(actions), "message": text})


def duplex_mode(client_id: str) -> DuplexMode:
    """Return the mode that a client's own id names; one rule for the whole server."""
    return "audio_duplex" if client_id.startswith(_AUDIO_PREFIXES) else "omni_duplex"


def new_id(prefix: str) -> str:
    """Return an id of the demo's form, unlikely to be there already."""
    return f"{prefix}_{secrets.token_hex(6)}"


def endpoint_of(
    request: web.Request, session: Session, dialect: Dialect, socket: ClientSocket
) -> Endpoint:
    """Return the endpoint that serves *session* on *socket*, in *dialect*."""
    app = request.app
    return Endpoint(
        link=app[LINK],
        linked=app[LINK].open_session(session.client_id, session.request_type),
        live=app[LIVE],
        recordings=app[RECORDINGS],
        diagnostics=app[DIAGNOSTICS],
        dialect=dialect,
        session=session,
        socket=socket,
        early=EarlyCommands(app[SETTINGS].web.max_early_kb << 10),
        owner=request[VISITOR].key_id or request[VISITOR].address,
    )


async def _serve(
    request: web.Request, session: Session, dialect: Dialect
) -> web.StreamResponse:
    socket = ClientSocket(request.app[SETTINGS].web)
    return await endpoint_of(request, session, dialect, socket).run(request)

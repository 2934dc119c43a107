"""`/v1/realtime`: three dialects at one address, told apart by the handshake or the first event."""

import time

from aiohttp import web

from omni.realtime.choice import PROTOCOLS, Choice, chosen, offered
from omni.realtime.dialect import Dialect
from omni.realtime.duplex import DuplexMode
from omni.realtime.duplex_session import DuplexSession
from omni.realtime.r1 import R1Dialect
from omni.realtime.r2 import R2Dialect
from omni.realtime.r2_chat import R2ChatDialect
from omni.realtime.session import Session
from omni.realtime.socket import ClientSocket
from omni.realtime.turns_session import TurnsSession
from omni.realtime.undecided import UndecidedDialect
from omni.routes import openai_realtime
from omni.routes.describe import Event, Param, describe_socket, one_of
from omni.routes.keys import APPS, LIVE, SETTINGS
from omni.routes.sockets import endpoint_of, new_id

_APPS = {"audio": "audio_duplex", "video": "omni", "chat": "turnbased"}


@describe_socket(
    "Talk in real time",
    tag="Realtime",
    help=(
        "The MiniCPM-o realtime protocol (R1), the wire of `openbmb-realtime` (R2) and the events "
        "of OpenAI Realtime. Which one a client speaks follows from its subprotocol, its query, "
        "its headers or its first event; `dialect` says it outright."
    ),
    params=(
        Param(name="mode", schema=one_of("audio", "video", "chat")),
        Param(name="dialect", schema=one_of("r1", "r2", "openai")),
        Param(name="model", help="for OpenAI clients; the model that is served answers"),
    ),
    client=(
        Event(type="session.update", help="R1, OpenAI"),
        Event(type="session.init", help="R2"),
        Event(type="input_audio_buffer.append", help="R1, OpenAI"),
        Event(type="input.append", help="R2"),
        Event(type="session.close", help="R1, R2"),
    ),
    server=(
        Event(type="session.queued"),
        Event(type="session.queue_update"),
        Event(type="session.queue_done"),
        Event(type="session.created"),
        Event(type="response.output_audio.delta", help="R1, OpenAI"),
        Event(type="response.listen", help="R1"),
        Event(type="response.output.delta", help="R2"),
        Event(type="response.done", help="R2 in turns, OpenAI"),
        Event(type="session.closed", help="R1, R2"),
        Event(type="error"),
    ),
)
async def realtime(request: web.Request) -> web.StreamResponse:
    """Serve `/v1/realtime`."""
    request.app[APPS].require("realtime")
    protocols = offered(request.headers.get("Sec-WebSocket-Protocol"))
    choice = chosen(request.query, request.headers, protocols)
    socket = ClientSocket(request.app[SETTINGS].web, PROTOCOLS)
    if choice.dialect == "openai":
        await socket.prepare(request)
        return await openai_realtime.serve(request, socket, choice.is_beta)
    request.app[APPS].require(_APPS[choice.mode])
    session, dialect = _spoken(request, choice)
    endpoint = endpoint_of(request, session, dialect, socket)
    await endpoint.run(request)
    if endpoint.handed_over is None:
        return socket
    return await openai_realtime.serve(request, socket, False, endpoint.handed_over)


def _spoken(request: web.Request, choice: Choice) -> tuple[Session, Dialect]:
    """Return the session that the client wants, and what it speaks."""
    if choice.mode == "chat":
        return _turns_session(request), R2ChatDialect()
    mode: DuplexMode = "audio_duplex" if choice.mode == "audio" else "omni_duplex"
    settings = request.app[SETTINGS].realtime
    limit_s = settings.audio_limit_s if choice.mode == "audio" else settings.video_limit_s
    r1, r2 = R1Dialect(mode, limit_s), R2Dialect(mode, settings.idle_timeout_s)
    session = _duplex_session(request, mode, choice.dialect == "r2")
    spoken: dict[str, Dialect] = {"r1": r1, "r2": r2}
    return session, spoken.get(choice.dialect, UndecidedDialect(r1, r2))


def _duplex_session(request: web.Request, mode: DuplexMode, is_r2: bool) -> DuplexSession:
    settings = request.app[SETTINGS]
    return DuplexSession(
        request_type=mode,
        client_id=new_id("sess") if is_r2 else _new_r1_id(request),
        prepare_timeout_s=settings.duplex.pause_timeout,
        pause_timeout_s=settings.duplex.pause_timeout,
        max_backlog_chunks=settings.web.max_backlog_chunks,
        unix_offset_s=time.time() - time.monotonic(),
    )


def _new_r1_id(request: web.Request) -> str:
    """Return an id of the demo's form; of two clients in one millisecond, one gets the next."""
    now_ms = int(time.time() * 1000)
    while request.app[LIVE].find(f"rt_{now_ms}") is not None:
        now_ms += 1
    return f"rt_{now_ms}"


def _turns_session(request: web.Request) -> TurnsSession:
    settings = request.app[SETTINGS]
    return TurnsSession(
        request_type="chat",
        client_id=new_id("sess"),
        prepare_timeout_s=settings.duplex.pause_timeout,
        request_timeout_s=settings.service.request_timeout,
        idle_timeout_s=settings.realtime.idle_timeout_s,
    )

"""The OpenAI Realtime dialect on `/v1/realtime`, and its ephemeral keys."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterator, Sequence

from aiohttp import WSMsgType, web
from attrs import define, field

from omni.errors import Cancelled, OmniError, QueueFull
from omni.log import session_logging
from omni.openai.errors import Refusal
from omni.realtime.dialect import Frame
from omni.realtime.fields import Fields
from omni.realtime.openai.call_record import CallRecord
from omni.realtime.openai.client_secrets import DEFAULT_S, MAX_S, MIN_S
from omni.realtime.openai.config import SessionConfig, new_config, updated
from omni.realtime.openai.events import error_event, new_id
from omni.realtime.openai.session import RealtimeSession
from omni.realtime.openai.shown_config import shown
from omni.realtime.session import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_TRY_LATER
from omni.realtime.socket import ClientSocket
from omni.routes.bodies import read_fields
from omni.routes.describe import (
    AN_OBJECT,
    TEXT,
    WHOLE,
    Body,
    between,
    describe,
    one_of,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.gate import VISITOR
from omni.routes.keys import CLIENT_SECRETS, LINK, LIVE, RECORDINGS, SETTINGS
from omni.routes.openai_models import TAG, served_model
from omni.routes.openai_turn import find_voice
from omni.routes.served import served

log = logging.getLogger(__name__)

_KEY_PROTOCOL = "openai-insecure-api-key."


_SESSION = said(AN_OBJECT, "as `session.update` of the Realtime API takes it")
_BODY = record(
    {
        "session": _SESSION,
        "expires_after": record(
            {"anchor": one_of("created_at"), "seconds": between(WHOLE, MIN_S, MAX_S)},
            optional=("anchor", "seconds"),
        ),
    },
    optional=("session", "expires_after"),
)


@describe(
    "Make an ephemeral key",
    tag=TAG,
    help="With it a browser may open `/v1/realtime` until it expires; its sessions begin as set.",
    body=Body(schema=_BODY, required=False),
    reply=record({"value": TEXT, "expires_at": WHOLE, "session": AN_OBJECT}),
    errors=(401,),
)
async def post_client_secrets(request: web.Request) -> web.Response:
    """Return a key for clients that cannot keep one."""
    num_bytes = len(await request.read())  # kept by the request: it is not read twice
    fields = await read_fields(request) if num_bytes else Fields({})
    config = _new_config(request)
    if fields.has("session"):
        config = updated(config, fields.section("session"))
    after = fields.section("expires_after")
    after.choice("anchor", "created_at", ("created_at",))
    expires_at = int(time.time()) + after.whole("seconds", DEFAULT_S, MIN_S, MAX_S)
    maker = request[VISITOR].key_id
    value = request.app[CLIENT_SECRETS].issue(config, expires_at, maker, num_bytes)
    session = shown(config, new_id("sess"), 0, is_beta=False)
    return json_reply({"value": value, "expires_at": expires_at, "session": session})


def maker_of_secret(app: web.Application, value: str) -> str | None:
    """Return the id of the key that made the ephemeral key *value*, "" for none.

    None where *value* is no ephemeral key of this server, or is not valid any more.
    """
    return app[CLIENT_SECRETS].maker_of(value, time.time())


async def serve(
    request: web.Request,
    socket: ClientSocket,
    is_beta: bool,
    first_frame: bytes | None = None,
) -> web.StreamResponse:
    """Speak the OpenAI dialect on *socket*, which is prepared, until it closes.

    is_beta: with the names of the beta. first_frame: what the client said already.
    """
    call = _Call(request=request, socket=socket, is_beta=is_beta)
    socket.render_error = _rendered
    with session_logging(call.id):
        with request.app[LIVE].holding_call(call):
            await call.run(first_frame)
        await call.close()
    return socket


@define(eq=False, kw_only=True)
class _Call:
    """One connection: a task that reads, a task for each answer, and a clock."""

    request: web.Request
    socket: ClientSocket
    is_beta: bool
    id: str = field(factory=lambda: new_id("sess"))
    _over: asyncio.Event = field(factory=asyncio.Event, init=False)
    _close: tuple[int, str] = field(default=(CLOSE_NORMAL, ""), init=False)
    _is_gone: bool = field(default=False, init=False)
    _heard_at: float = field(factory=time.monotonic, init=False)

    async def run(self, first_frame: bytes | None) -> None:
        """Serve to the end; every answer that is on its way then is stopped."""
        record = CallRecord(recordings=self.request.app[RECORDINGS], client_id=self.id)
        try:
            async with asyncio.TaskGroup() as group:
                session = await self._session(group, record)
                await session.open()
                reader = group.create_task(
                    self._read(session, first_frame), name=f"read {self.id}"
                )
                clock = group.create_task(self._watch_time(), name=f"clock {self.id}")
                await self._over.wait()
                reader.cancel()
                clock.cancel()
                session.stop()
        except* ConnectionError as gone:
            log.info("session %s: its client is gone: %s", self.id, gone.exceptions[0])
            self._is_gone = True
        except* Exception:
            log.exception("session %s failed", self.id)
            await self._end(OmniError("The server failed; this session is over"), 1011)
        finally:  # also when aiohttp cancels the handler of a client that is gone
            record.close()
            log.info("session %s is over: %d %s", self.id, *self._close)

    async def close(self) -> None:
        """Close the socket as the session ended."""
        if self._is_gone:
            self.socket.cut()
        else:
            await self.socket.end(*self._close)

    async def shut_down(self) -> None:
        """End because this process stops."""
        await self._end(Cancelled("The server stops: open a new session"), CLOSE_GOING_AWAY)

    async def _session(self, group: asyncio.TaskGroup, record: CallRecord) -> RealtimeSession:
        app, settings = self.request.app, self.request.app[SETTINGS].realtime
        capabilities = await served(app)
        config = _config_of(self.request)
        return RealtimeSession(
            id=self.id,
            config=config,
            is_beta=self.is_beta,
            expires_at=int(time.time() + settings.session_timeout_s),
            group=group,
            link=app[LINK],
            capabilities=capabilities,
            settings=settings,
            record=record,
            find_voice=functools.partial(find_voice, app),
            send=self.socket.tell,
            send_away=self._send_away,
        )

    async def _read(self, session: RealtimeSession, first_frame: bytes | None) -> None:
        if first_frame is not None:
            await session.take(first_frame, binary=False)
        async for message in self.socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self._heard_at = time.monotonic()
                await session.take(message.data, message.type is WSMsgType.BINARY)
            if self._over.is_set():
                return
        self._over.set()

    async def _watch_time(self) -> None:
        settings = self.request.app[SETTINGS].realtime
        ends_at = time.monotonic() + settings.session_timeout_s
        while True:
            idle_at = self._heard_at + settings.idle_timeout_s
            left_s = min(ends_at, idle_at) - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            elif ends_at < idle_at:
                text = f"The session lasted {settings.session_timeout_s:.0f} s, and may not longer"
                return await self._end(Refusal((), text, "session_expired"), CLOSE_NORMAL)
            else:
                text = f"Nothing came for {settings.idle_timeout_s:.0f} s"
                return await self._end(Refusal((), text, "session_idle"), CLOSE_NORMAL)

    async def _send_away(self, error: QueueFull) -> None:
        busy = Refusal((), f"{error}: try again later", "server_busy")
        await self._end(busy, CLOSE_TRY_LATER)

    async def _end(self, error: OmniError, code: int) -> None:
        """Tell why the session ends, and end it; the first reason counts."""
        if self._over.is_set() or self._is_gone:
            return
        self._over.set()
        self._close = (code, str(error))
        try:
            await self.socket.tell(_rendered(error))
        except ConnectionError:
            self._is_gone = True


def _rendered(error: OmniError) -> Sequence[Frame]:
    return error_event(error).frames()


def _new_config(request: web.Request) -> SessionConfig:
    is_transcription = request.query.get("intent") == "transcription"
    return new_config(served_model(request), "transcription" if is_transcription else "realtime")


def _config_of(request: web.Request) -> SessionConfig:
    """Return how the session begins: as its ephemeral key says, if it comes with one."""
    secrets, now_s = request.app[CLIENT_SECRETS], time.time()
    for key in _keys_of(request):
        if (config := secrets.find(key, now_s)) is not None:
            return config
    return _new_config(request)


def _keys_of(request: web.Request) -> Iterator[str]:
    """Yield the keys in the handshake; browsers can send one as a subprotocol alone."""
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        yield key.strip()
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith(_KEY_PROTOCOL):
            yield name.strip().removeprefix(_KEY_PROTOCOL)

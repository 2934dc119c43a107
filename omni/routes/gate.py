"""The gate: every request passes it before its route, and shows a host, an origin and a key.

A middleware, so that no route can forget it. What is refused over HTTP gets an error in the shape
of its dialect; a browser that opens a page is led to the sign-in; a WebSocket is refused at the
handshake, but one that only has to wait is accepted, told so and closed with 1013.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import orjson
from aiohttp import web
from attrs import evolve, frozen

from omni.errors import (
    Forbidden,
    OmniError,
    ProtocolError,
    RateLimited,
    TooLarge,
    Unauthorized,
    rendering_of,
)
from omni.openai.errors import view_of
from omni.recording.layout import clean_id
from omni.routes.errors import Handler
from omni.routes.keys import LINK
from omni.security.addresses import (
    caller_of,
    client_address,
    is_loopback,
    is_own_host,
    is_own_origin,
)
from omni.security.key_book import Key, KeyBook
from omni.security.limits import Limits, Quota
from omni.security.rules import OPENAI_PATHS, is_locked, need_of
from omni.security.signin import MAX_AGE_S, issue, key_id_of
from omni.settings import Settings

COOKIE = "omni_signin"
SIGNIN_PAGE = "/signin"
#: A browser's WebSocket cannot send headers: its key is one of the subprotocols that it offers.
#: The first is OpenAI's name for that; beside ours a client offers `omni`, which is echoed.
KEY_PROTOCOLS = ("openai-insecure-api-key.", "omni-key.")
PROTOCOLS = ("omni", "realtime", "map.realtime")
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_OWN_SITES = {"same-origin", "none"}
#: Routes that take media or files; the others' bodies are small.
_LARGE = {
    "/api/chat",
    "/api/assets/ref_audio",
    "/api/sessions/{session_id}/upload-recording",
    "/v1/chat/completions",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
}
_STATIC = "/static"
#: The one route that ephemeral keys open, and what stands for those that no key made.
_REALTIME = "/v1/realtime"
_EPHEMERAL = Key(id="ephemeral", kind="api", name="of /v1/realtime/client_secrets", sha256="")
#: Where a turn is answered without a WebSocket: it holds a session, too.
_TURNS = {
    "/api/chat",
    "/v1/chat/completions",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
}


@frozen
class Visitor:
    """Who asks. address: as limits count it. key: what it has shown, if anything."""

    address: str
    key: Key | None
    is_admin: bool

    @property
    def key_id(self) -> str:
        """The key's id; "" for none."""
        return self.key.id if self.key else ""


VISITOR = web.RequestKey("visitor", Visitor)


class Guard:
    """What the gate knows.

    maker_of_ephemeral: tells of a short-lived key of realtime sessions the id of the key that made
    it, "" where no key did; None for any other text.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.security
        self.only_loopback = is_loopback(settings.web.host)
        self.is_locked = is_locked(settings.security, self.only_loopback)
        self.is_tls = settings.web.https
        self.book = KeyBook(Path(settings.service.data_dir), settings.security)
        self.maker_of_ephemeral: Callable[[str], str | None] = lambda text: None
        self.limits = Limits()
        self._owners: dict[str, list[str]] = {}  # of live sessions, by client id
        self._max_large, self._max_small = (
            settings.web.max_body_mb * 2**20,
            settings.security.max_small_body_kb * 2**10,
        )

    def admit(self, request: web.Request, pattern: str) -> Visitor:
        """Return who asks. Raises: Forbidden, Unauthorized, RateLimited, ProtocolError."""
        self._check_host(request)
        self._check_origin(request)
        address = self.address_of(request)
        caller = "" if is_loopback(address) else caller_of(address)
        if caller and pattern != _STATIC:
            quota = Quota(f"address {caller}", self.settings.requests_per_minute_per_address)
            self.limits.count_request([quota], time.monotonic())
        need = need_of(request.method, pattern, self.is_locked, bool(self.settings.api_keys))
        key = self._key_of(request, address, pattern) if need != "nothing" else None
        if key is None and need != "nothing":
            raise Unauthorized(
                "A key is needed: send `Authorization: Bearer KEY`, or sign in at "
                f"{SIGNIN_PAGE}; `omni keys api` makes one"
            )
        is_admin = not self.is_locked or (key is not None and key.kind == "admin")
        if need == "admin" and not is_admin:
            raise Forbidden("The admin key is needed; `omni keys admin` makes one")
        visitor = Visitor(caller, key, is_admin)
        if key is not None and pattern != _STATIC:
            quota = Quota(f"key {key.id}", self.settings.requests_per_minute_per_key)
            self.limits.count_request([quota], time.monotonic())
        return visitor

    def find(self, text: str, address: str) -> Key | None:
        """Return the key that *text* is. Raises: RateLimited after many wrong ones."""
        name = f"address {caller_of(address)}, wrong keys"
        wrong = Quota(name, self.settings.sign_ins_per_minute)
        now_s = time.monotonic()
        self.limits.check([wrong], now_s)
        key = self.book.find(text)
        if key is None:
            self.limits.count_request([wrong], now_s)
        return key

    def address_of(self, request: web.Request) -> str:
        """Return the client's address, also where a trusted proxy stands between."""
        forwarded_for = ",".join(request.headers.getall("X-Forwarded-For", ()))
        return client_address(request.remote or "", forwarded_for, self.settings.trusted_proxies)

    def session_quotas(self, visitor: Visitor) -> list[Quota]:
        """Return what *visitor* may hold at once."""
        quotas = []
        if visitor.address:
            limit = self.settings.max_sessions_per_address
            quotas.append(Quota(f"address {visitor.address}", max_sessions=limit))
        if visitor.key is not None:
            limit = self.settings.max_sessions_per_key
            quotas.append(Quota(f"key {visitor.key.id}", max_sessions=limit))
        return quotas

    def max_body_bytes(self, pattern: str) -> int:
        """Return the largest body that a route takes."""
        return self._max_large if pattern in _LARGE else min(self._max_small, self._max_large)

    @contextmanager
    def owning(self, visitor: Visitor, client_id: str) -> Iterator[None]:
        """Remember that the session *client_id* is *visitor*'s, for the time of the block."""
        if not visitor.key_id or not client_id:
            yield
            return
        self._owners.setdefault(client_id, []).append(visitor.key_id)
        try:
            yield
        finally:
            self._owners[client_id].remove(visitor.key_id)
            if not self._owners[client_id]:
                del self._owners[client_id]

    def owns(self, visitor: Visitor, client_id: str) -> bool:
        """True when the session *client_id* is *visitor*'s own, or *visitor* the admin.

        Anybody can open a socket with the id of another's session; nobody comes to own it so.
        """
        return visitor.is_admin or set(self._owners.get(client_id, ())) == {visitor.key_id}

    def cookie_for(self, key: Key) -> str:
        """Return the cookie of a browser that has shown *key*."""
        return issue(key.id, self.book.signing_secret(), time.time())

    def is_secure(self, request: web.Request) -> bool:
        """True when the client's side of the way is TLS, ours or a trusted proxy's."""
        is_proxied = request.remote in self.settings.trusted_proxies
        said = request.headers.get("X-Forwarded-Proto", "") if is_proxied else ""
        return said == "https" if said else self.is_tls

    def _key_of(self, request: web.Request, address: str, pattern: str) -> Key | None:
        if (text := _shown_key(request)) is not None:
            maker = self.maker_of_ephemeral(text) if pattern == _REALTIME else None
            return self.find(text, address) if maker is None else self._ephemeral_of(maker)
        if not (cookie := request.cookies.get(COOKIE)):
            return None
        key_id = key_id_of(cookie, self.book.signing_secret(), time.time())
        return None if key_id is None else self.book.with_id(key_id)

    def _ephemeral_of(self, maker: str) -> Key | None:
        """Return what an ephemeral key counts as: its maker's, and gone when that is removed."""
        if not maker:
            return _EPHEMERAL
        key = self.book.with_id(maker)
        return None if key is None else evolve(key, kind="api")

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1:
            raise ProtocolError("A request has one Host header")
        host = hosts[0] if hosts else ""
        if not host and request.version == (1, 0):
            return  # no browser speaks it
        if not is_own_host(host, self.settings.allowed_hosts, self.only_loopback):
            raise Forbidden(f"This server is not {host[:200]!r}; see security.allowed_hosts")

    def _check_origin(self, request: web.Request) -> None:
        """Refuse what pages of other sites open or send; only browsers say where a page is from."""
        if request.method in _SAFE_METHODS and not is_websocket(request):
            return
        origins = request.headers.getall("Origin", [])
        site = request.headers.get("Sec-Fetch-Site", "")
        if not origins and (not site or site in _OWN_SITES):
            return
        allowed = self.settings.allowed_origins
        origin, host = ", ".join(origins), request.headers.get("Host", "")
        if "*" in allowed or origin in allowed:
            return
        if is_own_origin(origin, host, self.is_tls) and (not site or site in _OWN_SITES):
            return
        raise Forbidden(f"Pages of {origin[:200]!r} may not connect; see security.allowed_origins")


GUARD = web.AppKey("guard", Guard)


@web.middleware
async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through to its route, or refuse it."""
    guard, pattern = request.app[GUARD], pattern_of(request)
    with ExitStack() as held:
        try:
            visitor = guard.admit(request, pattern)
            if is_websocket(request) or (request.method == "POST" and pattern in _TURNS):
                held.enter_context(guard.limits.session(guard.session_quotas(visitor)))
                client_id = clean_id(request.match_info.get("session_id", ""))
                held.enter_context(guard.owning(visitor, client_id))
        except OmniError as exc:
            request.app[LINK].meter.refused[exc.code] += 1
            if isinstance(exc, Unauthorized) and _is_page(request, pattern):
                raise web.HTTPFound(f"{SIGNIN_PAGE}?next={quote(request.path_qs)}") from None
            if isinstance(exc, RateLimited) and is_websocket(request):
                return await _turn_away(request, exc)
            raise
        request[VISITOR] = visitor
        return await handler(_bounded(request, guard.max_body_bytes(pattern)))


def pattern_of(request: web.Request) -> str:
    """Return the pattern of the request's route, as `/api/queue/{ticket_id}`; "" for none."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def is_websocket(request: web.Request) -> bool:
    """True for the handshake of a WebSocket."""
    # Stripped as aiohttp strips it: HTTP leaves a no-break space in a value, Python does not.
    return request.headers.get("Upgrade", "").lower().strip() == "websocket"


def sign_in(response: web.StreamResponse, guard: Guard, key: Key, request: web.Request) -> None:
    """Put the cookie on *response*; no script can read it, and no other site's page can send it."""
    response.set_cookie(
        COOKIE,
        guard.cookie_for(key),
        max_age=MAX_AGE_S,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=guard.is_secure(request),
    )


def _shown_key(request: web.Request) -> str | None:
    """Return the key that the request itself shows; None where it shows none."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        for prefix in KEY_PROTOCOLS:
            if protocol.strip().startswith(prefix):
                return protocol.strip().removeprefix(prefix)
    return None


def _is_page(request: web.Request, pattern: str) -> bool:
    """True where a person looks at a page, and not a program at an API."""
    wants_page = "text/html" in request.headers.get("Accept", "")
    return request.method == "GET" and wants_page and not is_websocket(request) and bool(pattern)


def _bounded(request: web.Request, max_bytes: int) -> web.Request:
    """Return *request*, whose body can be read up to *max_bytes*. Raises: TooLarge, ProtocolError.

    A body is taken as it is: unpacked, a small one could be of any size.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProtocolError("Send the body as it is, without a Content-Encoding")
    if not request.can_read_body:
        return request
    if (request.content_length or 0) > max_bytes:
        raise TooLarge(f"The body is above {max_bytes} bytes")
    return request.clone(client_max_size=max_bytes)


async def _turn_away(request: web.Request, error: RateLimited) -> web.WebSocketResponse:
    """Tell a WebSocket why it may not stay: at the handshake a browser would learn nothing."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False, timeout=1.0)
    await socket.prepare(request)
    event: dict[str, object] = {"type": "error", "retry_after_s": round(error.retry_after_s, 1)}
    if request.path.startswith(OPENAI_PATHS):
        event |= view_of(error).body
    else:
        event |= {"error": str(error), "message": str(error), "code": error.code}
    await socket.send_str(orjson.dumps(event).decode())
    await socket.close(code=rendering_of(error).close_code, message=b"too many")
    return socket

"""Every error over HTTP, in one shape: `{"detail": ..., "error": text}`; under /v1 in OpenAI's."""

import logging
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from omni.errors import CapacityError, NoWorker, OmniError, Unauthorized, rendering_of
from omni.openai.errors import ErrorView, type_of, view_of
from omni.realtime.fields import FieldError
from omni.security.rules import OPENAI_PATHS

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Status of a request whose client did not wait for the answer. Source: nginx.
CLIENT_LEFT = 499
_BODY_ERRORS = (web.RequestPayloadError, HttpProcessingError, ClientPayloadError)


def json_reply(body: object, status: int = 200) -> web.Response:
    """Return *body* as JSON that no cache keeps."""
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a route raises into an answer; nothing of an inner fault is shown."""
    try:
        return await handler(request)
    except Exception as exc:  # the border of a request
        if isinstance(exc, ConnectionError) and _is_gone(request):
            log.debug("%s %s: its client left", request.method, request.path)
            return web.Response(status=CLIENT_LEFT)  # for the counters: nobody hears it
        reply_to = openai_reply if request.path.startswith(OPENAI_PATHS) else demo_reply
        reply = reply_to(request, exc)
        if isinstance(exc, Unauthorized):
            reply.headers["WWW-Authenticate"] = 'Bearer realm="omni"'
        return reply


def openai_reply(request: web.Request, error: Exception) -> web.Response:
    """Return the answer for whatever a route under /v1 raises."""
    view = openai_view(request, error)
    reply = json_reply(view.body, view.status)
    if view.retry_after_s is not None:
        reply.headers["Retry-After"] = str(max(1, round(view.retry_after_s)))
    if isinstance(error, web.HTTPException) and "Allow" in error.headers:
        reply.headers["Allow"] = error.headers["Allow"]
    return reply


def openai_view(request: web.Request, error: Exception) -> ErrorView:
    """Return how OpenAI's clients see *error*; redirects pass."""
    if isinstance(error, OmniError):
        return view_of(error)
    if isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        text, code = error.reason, None
        if error.status in (404, 405):
            text, code = f"Unknown request URL: {request.method} {request.path}", "unknown_url"
        return ErrorView(status=error.status, message=text, type=type_of(error.status), code=code)
    if isinstance(error, _BODY_ERRORS):
        text = f"The body cannot be read: {error}"
        return ErrorView(status=400, message=text, type=type_of(400))
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return ErrorView(status=500, message="Internal server error", type=type_of(500))


def demo_reply(request: web.Request, error: Exception) -> web.Response:
    """Return the answer for whatever any other route raises."""
    if isinstance(error, FieldError):
        return field_reply(error)
    if isinstance(error, OmniError):
        return error_reply(error)
    if isinstance(error, web.HTTPException):
        return http_reply(request, error)
    if isinstance(error, _BODY_ERRORS):
        return _reply(400, f"The body cannot be read: {error}")
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _reply(500, "Internal server error")


def error_reply(error: OmniError, no_worker: str = "Service not ready") -> web.Response:
    """Return the answer for one of our own errors. no_worker: what is said of a `NoWorker`."""
    text = no_worker if isinstance(error, NoWorker) else str(error)
    reply = _reply(rendering_of(error).http_status, text)
    if isinstance(error, CapacityError):
        reply.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return reply


def field_reply(error: FieldError) -> web.Response:
    """Return the 422 that names a wrong field."""
    given = error.given if isinstance(error.given, int | float | bool | None) else None
    problem = {
        "type": "value_error",
        "loc": ["body", *error.loc],
        "msg": error.problem,
        "input": given,
    }
    return json_reply({"detail": [problem], "error": str(error)}, 422)


def http_reply(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return aiohttp's own answer in our shape; redirects pass."""
    if error.status < 400:
        raise error
    if error.status == 404 and request.headers.get("Upgrade", "").lower() == "websocket":
        return _reply(403, "There is no such socket")
    reply = _reply(error.status, error.reason)
    if (allowed := error.headers.get("Allow")) is not None:
        reply.headers["Allow"] = allowed
    return reply


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _reply(status: int, text: str) -> web.Response:
    return json_reply({"detail": text, "error": text}, status)

"""Every error over HTTP, in one shape: `{"detail": ..., "error": text}`."""

import logging
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from omni.errors import CapacityError, NoWorker, OmniError, rendering_of
from omni.realtime.fields import FieldError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
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
    except FieldError as exc:
        return field_reply(exc)
    except OmniError as exc:
        return error_reply(exc)
    except web.HTTPException as exc:
        return http_reply(request, exc)
    except _BODY_ERRORS as exc:
        return _reply(400, f"The body cannot be read: {exc}")
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _reply(500, "Internal server error")


def error_reply(error: OmniError) -> web.Response:
    """Return the answer for one of our own errors."""
    text = "Service not ready" if isinstance(error, NoWorker) else str(error)
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


def _reply(status: int, text: str) -> web.Response:
    return json_reply({"detail": text, "error": text}, status)

"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, for every /v1 route.

`type` and the status choose the exception that OpenAI's clients raise; they try again by themselves
after 408, 409, 429 and 5xx, when `Retry-After` says.
"""

from attrs import frozen

from omni.errors import CapacityError, NotFound, NoWorker, OmniError, rendering_of
from omni.realtime.fields import FieldError, Location, dotted


class Refusal(FieldError):
    """A field of an OpenAI request is wrong, and `reason` is OpenAI's code for that."""

    def __init__(self, loc: Location, problem: str, reason: str = "invalid_value") -> None:
        super().__init__(loc, problem)
        self.reason = reason


class ModelNotFound(NotFound):
    """There is no model of that name here."""


@frozen(kw_only=True)
class ErrorView:
    """An error as a client sees it. retry_after_s: None where trying again helps nobody."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None

    @property
    def body(self) -> dict[str, object]:
        """What stands in the answer, or in an event of a stream."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


#: What OpenAI calls our codes, where it has a word; else our own.
_CODES = {
    "invalid_request": None,
    "protocol_error": None,
    "queue_full": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "unauthorized": "invalid_api_key",
    "server_error": None,
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
#: The waiting line is full: who asks has to slow down, as with OpenAI's own limits.
_STATUSES = {"queue_full": 429}


def view_of(error: OmniError) -> ErrorView:
    """Return how *error* is shown."""
    if isinstance(error, FieldError):
        return ErrorView(
            status=400,
            message=str(error),
            type="invalid_request_error",
            param=dotted(error.loc) or None,
            code=error.reason if isinstance(error, Refusal) else "invalid_value",
        )
    status = _STATUSES.get(error.code) or rendering_of(error).http_status
    code = "model_not_found" if isinstance(error, ModelNotFound) else error.code
    return ErrorView(
        status=status,
        message="No worker is ready: try again soon" if type(error) is NoWorker else str(error),
        type=type_of(status),
        param="model" if isinstance(error, ModelNotFound) else None,
        code=_CODES.get(code, code),
        retry_after_s=error.retry_after_s if isinstance(error, CapacityError) else None,
    )


def type_of(status: int) -> str:
    """Return the type of an error of that HTTP status."""
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")

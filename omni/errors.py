"""The errors that omni raises, and what each becomes on HTTP and on a WebSocket, in one table."""

from attrs import frozen


class OmniError(Exception):
    """Base of everything omni raises on purpose. The text says what was wrong and the way out."""

    code = "server_error"
    #: A finer word for it, as the realtime protocols have one; "" where the code says enough.
    reason = ""


class ClientError(OmniError):
    """The caller can correct it."""

    code = "invalid_request"


class ProtocolError(ClientError):
    """A message or event that is not what the protocol says; the text carries the field's path."""

    code = "protocol_error"
    reason = "invalid_payload"


class UnknownEvent(ProtocolError):
    """There is no event of that type."""

    reason = "unknown_event"


class MissingField(ProtocolError):
    """An event lacks what it cannot do without."""

    reason = "missing_field"


class NotReady(ProtocolError):
    """Too early: the session is not prepared."""

    reason = "not_ready"


class Unusable(ProtocolError):
    """A frame after which a connection cannot go on, by the rules of its dialect."""


class NotFound(ClientError):
    """Nothing is there under that name."""

    code = "not_found"


class Forbidden(ClientError):
    """The caller may not do that: a disabled app, a missing key, a foreign origin."""

    code = "forbidden"


class Unauthorized(ClientError):
    """Nobody may do that without a key, and none was shown, or one that is not known."""

    code = "unauthorized"


class TooLarge(ClientError):
    """A body, frame or file is above its limit."""

    code = "too_large"


class CapacityError(OmniError):
    """Try again later, after `retry_after_s` seconds."""

    code = "no_capacity"

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(CapacityError):
    """The waiting line has no place left."""

    code = "queue_full"


class RateLimited(CapacityError):
    """One key or one address asks for more than its share."""

    code = "rate_limited"


class NoWorker(CapacityError):
    """No worker can serve this now: none is ready, or the broker is away."""

    code = "no_worker"


class LeaseExpired(CapacityError):
    """The session's right to its slot ended: neither traffic nor heartbeat renewed it."""

    code = "lease_expired"


class ContextExhausted(CapacityError):
    """The slot's context is full, and the engine cannot drop anything of it."""

    code = "context_exhausted"


class Cancelled(OmniError):
    """The ticket or the generation was cancelled by its owner or an operator."""

    code = "cancelled"


class ServerStops(Cancelled):
    """This process stops, and all that it holds ends with it."""

    reason = "server_shutdown"


class WorkerLost(OmniError):
    """The worker of this session died or hung. This session ends; others go on."""

    code = "worker_lost"


class GenerationFailed(OmniError):
    """The engine failed on this unit or turn; the session itself can go on."""

    code = "generation_failed"


class EngineDead(OmniError):
    """The engine cannot go on at all; its process exits."""

    code = "engine_dead"


class SettingsError(OmniError):
    """A setting is unknown or out of range. Stops the start."""

    code = "settings_error"


class CheckpointError(OmniError):
    """A model file is missing, broken or not what the engine expects. Stops the start."""

    code = "checkpoint_error"


@frozen
class Rendering:
    """How one error code is shown to clients: HTTP status and WebSocket close code."""

    http_status: int
    close_code: int


RENDERINGS: dict[str, Rendering] = {
    "server_error": Rendering(500, 1011),
    "invalid_request": Rendering(400, 1003),
    "protocol_error": Rendering(400, 1003),
    "not_found": Rendering(404, 1008),
    "unauthorized": Rendering(401, 1008),
    "forbidden": Rendering(403, 1008),
    "too_large": Rendering(413, 1009),
    "no_capacity": Rendering(503, 1013),
    "queue_full": Rendering(503, 1013),
    "rate_limited": Rendering(429, 1013),
    "no_worker": Rendering(503, 1013),
    "lease_expired": Rendering(503, 1013),
    "context_exhausted": Rendering(503, 1013),
    "cancelled": Rendering(409, 1000),
    "worker_lost": Rendering(503, 1011),
    "generation_failed": Rendering(500, 1011),
    "engine_dead": Rendering(503, 1011),
    "settings_error": Rendering(500, 1011),
    "checkpoint_error": Rendering(500, 1011),
}


def rendering_of(error: OmniError) -> Rendering:
    """Return how *error* is shown; every code stands in the table (pinned by a test)."""
    return RENDERINGS[error.code]


def _all_kinds(base: type[OmniError]) -> list[type[OmniError]]:
    return [base] + [kind for child in base.__subclasses__() for kind in _all_kinds(child)]


def error_from_code(code: str, message: str, retry_after_s: float = 5.0) -> OmniError:
    """Return the error that *code* names, for one that travelled as a message between processes."""
    for kind in _all_kinds(OmniError):
        if kind.code == code:
            if issubclass(kind, CapacityError):
                return kind(message, retry_after_s)
            return kind(message)
    return OmniError(f"{code}: {message}")

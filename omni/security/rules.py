"""Which key a route needs. Routes stand here by their pattern, so that no spelling slips past."""

from typing import Literal

from omni.settings import SecuritySettings

Need = Literal["nothing", "key", "admin"]

#: What everybody may see: that the server lives, how to sign in, and files that hold no secrets.
_OPEN = {"/health", "/signin", "/api/signin", "/api/signout", "/static", "/favicon.ico"}
#: What looks into everybody's conversations, or changes the server for everybody.
_ADMIN = {
    ("GET", "/sessions"),
    ("GET", "/api/sessions"),
    ("DELETE", "/sessions/{session_id}"),
    ("DELETE", "/api/sessions/{session_id}"),
    ("PUT", "/api/config/eta"),
}
_ADMIN_PATHS = "/api/admin/"
#: Where OpenAI's dialect is spoken.
OPENAI_PATHS = "/v1/"


def is_locked(settings: SecuritySettings, only_loopback: bool) -> bool:
    """True when nothing but the open routes is served without a key."""
    if settings.require_keys == "auto":
        return not only_loopback
    return settings.require_keys == "always"


def need_of(method: str, pattern: str, locked: bool, has_api_keys: bool) -> Need:
    """Return what a request needs.

    pattern: of its route, as `/api/queue/{ticket_id}`. locked: see `is_locked`. has_api_keys: the
    settings list some; then `/v1` needs one wherever the server listens.
    """
    method = "GET" if method == "HEAD" else method
    if pattern in _OPEN:
        return "nothing"
    if locked and (pattern.startswith(_ADMIN_PATHS) or (method, pattern) in _ADMIN):
        return "admin"
    if locked or (has_api_keys and pattern.startswith(OPENAI_PATHS)):
        return "key"
    return "nothing"

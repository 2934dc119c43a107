"""A browser's sign-in: what its cookie says, signed, so that the server keeps no table of them."""

import base64
import hashlib
import hmac

#: A browser signs in again after 30 days.
MAX_AGE_S = 30 * 86_400
_MAX_CHARS = 200


def issue(key_id: str, secret: bytes, now_s: float) -> str:
    """Return a cookie for whoever has shown the key *key_id*. now_s: Unix seconds."""
    body = f"{key_id}.{int(now_s) + MAX_AGE_S}"
    return f"{body}.{_signature(body, secret)}"


def key_id_of(cookie: str, secret: bytes, now_s: float) -> str | None:
    """Return the key that *cookie* was issued for; None if it is forged, broken or too old."""
    body, _, signature = cookie[:_MAX_CHARS].rpartition(".")
    key_id, _, until_s = body.rpartition(".")
    shown = signature.encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(shown, _signature(body, secret).encode()):
        return None
    return key_id if now_s < int(until_s) else None


def _signature(body: str, secret: bytes) -> str:
    digest = hmac.digest(secret, body.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")

"""Ephemeral keys: a page gets one from the server that it belongs to, and connects with it."""

import secrets
from collections import OrderedDict

from attrs import define, field, frozen

from omni.realtime.openai.config import SessionConfig

PREFIX = "ek_"
#: What an ephemeral key lives when nothing is asked for, and what may be asked for, in s.
DEFAULT_S, MIN_S, MAX_S = 600, 10, 7200


@frozen
class _Issued:
    expires_at: float
    config: SessionConfig


@define(eq=False)
class ClientSecrets:
    """The keys that are valid. When there are max_secrets, the oldest goes. Times: Unix seconds."""

    max_secrets: int
    _issued: OrderedDict[str, _Issued] = field(factory=OrderedDict, init=False)

    def issue(self, config: SessionConfig, expires_at: float) -> str:
        """Return a new key for sessions that begin as *config*."""
        value = PREFIX + secrets.token_hex(32)
        self._issued[value] = _Issued(expires_at, config)
        while len(self._issued) > self.max_secrets:
            self._issued.popitem(last=False)
        return value

    def find(self, value: str, now_s: float) -> SessionConfig | None:
        """Return how a session with the key *value* begins; None if it is not valid."""
        issued = self._issued.get(value)
        if issued is None:
            return None
        if now_s >= issued.expires_at:
            del self._issued[value]
            return None
        return issued.config

"""Ephemeral keys: a page gets one from the server that it belongs to, and connects with it."""

import secrets
from collections import OrderedDict

from attrs import define, field, frozen

from omni.realtime.openai.config import SessionConfig

PREFIX = "ek_"
#: What an ephemeral key lives when nothing is asked for, and what may be asked for, in s.
DEFAULT_S, MIN_S, MAX_S = 600, 10, 7200


#: What all keys together may begin with: instructions can be long, and keys are many.
MAX_BYTES = 64 * 2**20


@frozen
class _Issued:
    expires_at: float
    config: SessionConfig
    maker: str
    num_bytes: int


@define(eq=False)
class ClientSecrets:
    """The keys that are valid; above max_secrets or `MAX_BYTES` the oldest go. Times: Unix s."""

    max_secrets: int
    _issued: OrderedDict[str, _Issued] = field(factory=OrderedDict, init=False)
    _num_bytes: int = field(default=0, init=False)

    def issue(
        self, config: SessionConfig, expires_at: float, maker: str = "", num_bytes: int = 0
    ) -> str:
        """Return a new key for sessions that begin as *config*.

        maker: the id of the key that asks for it; "" for none. num_bytes: of *config*, as sent.
        """
        value = PREFIX + secrets.token_hex(32)
        self._issued[value] = _Issued(expires_at, config, maker, num_bytes)
        self._num_bytes += num_bytes
        while len(self._issued) > self.max_secrets or self._num_bytes > MAX_BYTES:
            self._forget(next(iter(self._issued)))
        return value

    def find(self, value: str, now_s: float) -> SessionConfig | None:
        """Return how a session with the key *value* begins; None if it is not valid."""
        issued = self._valid(value, now_s)
        return None if issued is None else issued.config

    def maker_of(self, value: str, now_s: float) -> str | None:
        """Return the id of the key that asked for *value*, "" for none; None: it is not valid."""
        issued = self._valid(value, now_s)
        return None if issued is None else issued.maker

    def _valid(self, value: str, now_s: float) -> _Issued | None:
        issued = self._issued.get(value)
        if issued is not None and now_s >= issued.expires_at:
            self._forget(value)
            return None
        return issued

    def _forget(self, value: str) -> None:
        self._num_bytes -= self._issued.pop(value).num_bytes

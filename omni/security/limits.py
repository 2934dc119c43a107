"""How much one key and one address may do: requests a minute, sessions at once.

The clock is passed in. Every table is bounded; the address that was quiet longest is forgotten
first, which gives it a full bucket again and nobody else anything.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import define, field, frozen

from omni.errors import RateLimited

#: Callers whose requests are counted at the same time.
MAX_CALLERS = 10_000
#: Someone who may hold no further session now is asked to come back after so long.
SESSION_RETRY_S = 5.0


@frozen
class Quota:
    """What one caller may do. name: of the caller (`key api-1`). 0: no limit."""

    name: str
    requests_per_minute: int = 0
    max_sessions: int = 0


@define
class _Bucket:
    tokens: float
    at_s: float


@define
class Limits:
    """What callers have done of late, and what they hold."""

    _buckets: OrderedDict[str, _Bucket] = field(factory=OrderedDict, init=False)
    _sessions: Counter[str] = field(factory=Counter, init=False)

    def check(self, quotas: Sequence[Quota], now_s: float) -> None:
        """Raise RateLimited where `count_request` would, and count nothing."""
        for quota in quotas:
            if (bucket := self._buckets.get(quota.name)) is not None:
                _refuse_above(quota, _filled(bucket, quota, now_s))

    def count_request(self, quotas: Sequence[Quota], now_s: float) -> None:
        """Count one request of the callers in *quotas*. Raises: RateLimited."""
        for quota in quotas:
            if quota.requests_per_minute:
                self._take(quota, now_s)

    @contextmanager
    def session(self, quotas: Sequence[Quota]) -> Iterator[None]:
        """Hold one session of the callers in *quotas* for the time of the block.

        Raises: RateLimited when one of them holds all that it may; then none is counted.
        """
        for quota in quotas:
            if quota.max_sessions and self._sessions[quota.name] >= quota.max_sessions:
                raise RateLimited(
                    f"{quota.max_sessions} sessions at once are all that one "
                    f"{quota.name.partition(' ')[0]} may hold: end one first",
                    SESSION_RETRY_S,
                )
        self._sessions.update(quota.name for quota in quotas)
        try:
            yield
        finally:
            for quota in quotas:
                self._sessions[quota.name] -= 1
                if not self._sessions[quota.name]:
                    del self._sessions[quota.name]

    def __len__(self) -> int:
        """Return how many callers are remembered."""
        return len(self._buckets)

    def _take(self, quota: Quota, now_s: float) -> None:
        """Take a token out of the caller's bucket, which holds one minute's worth."""
        bucket = self._buckets.pop(quota.name, None)
        bucket = bucket or _Bucket(float(quota.requests_per_minute), now_s)
        self._buckets[quota.name] = bucket  # the newest stands last
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        bucket.tokens, bucket.at_s = _filled(bucket, quota, now_s), now_s
        _refuse_above(quota, bucket.tokens)
        bucket.tokens -= 1.0


def _filled(bucket: _Bucket, quota: Quota, now_s: float) -> float:
    """Return the tokens in *bucket* now."""
    come = (now_s - bucket.at_s) * quota.requests_per_minute / 60
    return min(float(quota.requests_per_minute), bucket.tokens + come)


def _refuse_above(quota: Quota, tokens: float) -> None:
    if tokens < 1.0:
        raise RateLimited(
            f"{quota.requests_per_minute} requests a minute are all that one "
            f"{quota.name.partition(' ')[0]} may send",
            (1.0 - tokens) * 60 / quota.requests_per_minute,
        )

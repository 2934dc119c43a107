"""How long sessions last and tickets wait: moving averages, and a simulation over busy slots."""

import heapq
from collections.abc import Iterable
from math import inf

from attrs import Factory, define, fields

from omni.messages import EtaConfig, EtaView, RequestType
from omni.settings import ServiceSettings

#: Remaining time assumed for a session that lasts longer than expected. Source: protocol 3.3.
OVERDUE_S = 15.0
#: Expected duration of a request type that the configuration does not know. Source: protocol 3.3.
UNKNOWN_S = 30.0

REQUEST_TYPES: tuple[RequestType, ...] = (
    "chat",
    "half_duplex_audio",
    "audio_duplex",
    "omni_duplex",
    "streaming",
)


@define
class EtaBook:
    """Expected durations by request type: configured until enough sessions were measured."""

    config: EtaConfig
    alpha: float
    min_samples: int
    _streaming_s: float
    _ema_s: dict[str, float] = Factory(dict)
    _samples: dict[str, int] = Factory(dict)

    @classmethod
    def from_settings(cls, service: ServiceSettings) -> "EtaBook":
        """Return a book with the configured durations and no measurements."""
        config = EtaConfig(
            eta_chat_s=service.eta_chat_s,
            eta_half_duplex_s=service.eta_half_duplex_s,
            eta_audio_duplex_s=service.eta_audio_duplex_s,
            eta_omni_duplex_s=service.eta_omni_duplex_s,
            eta_streaming_s=service.eta_streaming_s,
        )
        return cls(
            config, service.eta_ema_alpha, service.eta_ema_min_samples, service.eta_streaming_s
        )

    def replace_config(self, config: EtaConfig) -> str:
        """Take *config* whole; its ema_alpha None keeps the present one.

        Returns what is wrong with it, and then takes nothing of it.
        """
        for item in fields(EtaConfig):
            value = getattr(config, item.name)
            if item.name == "ema_alpha":
                allowed, limits = value is None or 0 < value <= 1, "in (0, 1]"
            else:
                allowed, limits = value is None or 0 <= value < inf, "at least 0"
            if not allowed:
                return f"{item.name} = {value} is not allowed; it is {limits}"
        self.config = config
        if config.ema_alpha is not None:
            self.alpha = config.ema_alpha
        return ""

    def record(self, request_type: str, duration_s: float) -> None:
        """Count one finished session."""
        if duration_s <= 0:
            return
        before = self._ema_s.get(request_type)
        after = duration_s
        if before is not None:
            after = self.alpha * duration_s + (1 - self.alpha) * before
        self._ema_s[request_type] = after
        self._samples[request_type] = self._samples.get(request_type, 0) + 1

    def eta_s(self, request_type: str) -> float:
        """Return how long a session of that type is expected to last."""
        if self._samples.get(request_type, 0) >= self.min_samples:
            return self._ema_s[request_type]
        return self._base_s(request_type)

    def remaining_s(self, request_type: str, elapsed_s: float) -> float:
        """Return the remaining time of a running session, as the waiting estimate counts it."""
        eta_s = self.eta_s(request_type)
        return eta_s - elapsed_s if elapsed_s < eta_s else OVERDUE_S

    def shown_remaining_s(self, request_type: str, elapsed_s: float) -> float:
        """Return the remaining time of a running session, as people are shown it."""
        return max(0.0, self.eta_s(request_type) - elapsed_s)

    def view(self) -> EtaView:
        """Return what the estimates rest on."""
        return EtaView(
            config=self.config,
            ema_alpha=self.alpha,
            ema_s={name: self._ema_s.get(name) for name in REQUEST_TYPES},
            samples={name: self._samples.get(name, 0) for name in REQUEST_TYPES},
        )

    def _base_s(self, request_type: str) -> float:
        config = self.config
        streaming_s = config.eta_streaming_s
        bases = {
            "chat": config.eta_chat_s,
            "half_duplex_audio": config.eta_half_duplex_s,
            "audio_duplex": config.eta_audio_duplex_s,
            "omni_duplex": config.eta_omni_duplex_s,
            "streaming": self._streaming_s if streaming_s is None else streaming_s,
        }
        return bases.get(request_type, UNKNOWN_S)


class WaitSimulation:
    """Lets tickets take, one after another, the slot that becomes free first.

    Times are moments of one clock, so that it can be carried on a little later with a newcomer.
    """

    def __init__(self, busy_until_s: Iterable[float]) -> None:
        self._free_at_s = list(busy_until_s)
        heapq.heapify(self._free_at_s)

    def next_wait_s(self, now_s: float, eta_s: float) -> float:
        """Return the wait of the next ticket in line, whose session will last *eta_s*."""
        if not self._free_at_s:
            return 0.0
        at_s = self._free_at_s[0]
        heapq.heapreplace(self._free_at_s, at_s + eta_s)
        return round(max(0.0, at_s - now_s), 1)

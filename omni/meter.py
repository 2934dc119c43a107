"""What the web process counts while it works: cheap enough for every chunk, read at each scrape.

Everything belongs to the event loop, so nothing is locked. Labels come from closed sets: kinds of
session, stages, hops, routes, codes; never from what clients send.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from attrs import define, field, fields

from omni.engine import ChatDone, Prepared, StageCosts, TurnDone, UnitResult
from omni.messages import Message, RequestType, Stamp

#: Upper bounds in seconds: from a hop inside one host to a whole long answer.
FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0)
#: Different hops that are told apart; a peer that invents more is not followed.
MAX_HOPS = 32
#: A stamp of another host's clock makes nonsense of a hop.
_MAX_HOP_NS = 3_600_000_000_000
_STAGES = tuple(item.name for item in fields(StageCosts))

Way = Literal["to_worker", "to_web"]
_Key = TypeVar("_Key")


@define(eq=False)
class Tally:
    """A histogram: how many values came up to each bound, and their sum."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    sum: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Stage(NamedTuple):
    """Where compute time went. of: one unit of a duplex session, a turn, or a chat.

    name: of a field of `StageCosts`, without its `_ms`.
    """

    of: Literal["unit", "turn", "chat"]
    name: str


class Hop(NamedTuple):
    """A part of a chunk's way, between two stamps."""

    start: str
    end: str


class Ended(NamedTuple):
    """How a session ended. code: of the error that ended it; `closed` for the usual end."""

    kind: RequestType
    code: str


class Answered(NamedTuple):
    """An HTTP request that was answered. route: its pattern, "" for none."""

    method: str
    route: str
    status: int


@define(eq=False)
class Meter:
    """All of it. Times in seconds."""

    units: dict[RequestType, Tally] = field(factory=dict, init=False)
    late_units: Counter[RequestType] = field(factory=Counter, init=False)
    stages: dict[Stage, Tally] = field(factory=dict, init=False)
    hops: dict[Hop, Tally] = field(factory=dict, init=False)
    waits: dict[RequestType, Tally] = field(factory=dict, init=False)
    ended: Counter[Ended] = field(factory=Counter, init=False)
    num_bytes: Counter[Way] = field(factory=Counter, init=False)
    num_messages: Counter[Way] = field(factory=Counter, init=False)
    answered: Counter[Answered] = field(factory=Counter, init=False)
    answer_times: dict[str, Tally] = field(factory=dict, init=False)
    refused: Counter[str] = field(factory=Counter, init=False)
    loop_lag: Tally = field(factory=lambda: Tally(FAST_S), init=False)

    def sent(self, num_bytes: int) -> None:
        """Count a message of a session to its worker."""
        self.num_messages["to_worker"] += 1
        self.num_bytes["to_worker"] += num_bytes

    def received(
        self,
        kind: RequestType,
        deadline_s: float,
        event: Message,
        stamps: Sequence[Stamp],
        num_bytes: int,
    ) -> None:
        """Count an event of a session. deadline_s: how long a unit may take, its chunk's length."""
        self.num_messages["to_web"] += 1
        self.num_bytes["to_web"] += num_bytes
        if isinstance(event, UnitResult):
            self._count_costs("unit", event.costs)
            self._count_way(kind, deadline_s, stamps)
        elif isinstance(event, TurnDone):
            self._count_costs("turn", event.costs)
        elif isinstance(event, ChatDone):
            self._count_costs("chat", event.costs)

    def leased(self, kind: RequestType, waited_s: float) -> None:
        """Count a session that got its slot."""
        _tally(self.waits, kind, SLOW_S).add(waited_s)

    def session_ended(self, kind: RequestType, code: str) -> None:
        """Count a session that is over."""
        self.ended[Ended(kind, code)] += 1

    def replied(self, answered: Answered, took_s: float | None) -> None:
        """Count an HTTP request. took_s: None for a WebSocket, which lasts as its session does."""
        self.answered[answered] += 1
        if took_s is not None:
            _tally(self.answer_times, answered.route, FAST_S).add(took_s)

    def _count_costs(self, of: Literal["unit", "turn", "chat"], costs: StageCosts) -> None:
        for name in _STAGES:
            cost_ms = getattr(costs, name)
            if cost_ms is not None:
                _tally(self.stages, Stage(of, name[:-3]), FAST_S).add(cost_ms / 1000)

    def _count_way(self, kind: RequestType, deadline_s: float, stamps: Sequence[Stamp]) -> None:
        """Count how long each part of a chunk's way took; of skipped chunks nothing is known."""
        if len(stamps) < 2 or stamps[0].hop != "web":
            return
        took_s = (stamps[-1].at_ns - stamps[0].at_ns) / 1e9
        _tally(self.units, kind, FAST_S).add(took_s)
        if took_s > deadline_s:
            self.late_units[kind] += 1
        for before, after in zip(stamps, stamps[1:]):
            took_ns = after.at_ns - before.at_ns
            hop = Hop(before.hop, after.hop)
            if 0 <= took_ns < _MAX_HOP_NS and (hop in self.hops or len(self.hops) < MAX_HOPS):
                _tally(self.hops, hop, FAST_S).add(took_ns / 1e9)


def deadline_of(event: Message, before_s: float) -> float:
    """Return how long a unit may take: the chunk length that `Prepared` has agreed on."""
    return event.chunk_ms / 1000 if isinstance(event, Prepared) else before_s


def _tally(tallies: dict[_Key, Tally], key: _Key, bounds: Sequence[float]) -> Tally:
    found = tallies.get(key)
    if found is None:
        found = tallies[key] = Tally(bounds)
    return found

"""Stand-ins with the behaviour that a test chooses: an engine, a clock."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from omni.engine import Arrival, Capabilities, Emission

#: Of waits for what must come: a busy machine is slow, and only what never comes takes so long.
TIMEOUT_S = 60.0


def until(is_true: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Return when *is_true*; fail the test when that takes longer than *timeout_s*."""
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, "did not become true in time"
        time.sleep(0.002)


class FakeClock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def ns(self) -> int:
        """The same clock in nanoseconds."""
        return int(self.now_s * 1e9)

    def advance(self, by_s: float) -> None:
        """Let *by_s* seconds pass."""
        self.now_s += by_s


class FakeEngine:
    """Notes every step's arrivals, and answers them with `answer` (nothing, unless it is set).

    `gate`: while cleared, `step` hangs as a stuck device call would. `fail_with`: raised by the
    next step. `stepped`: set by each step that had arrivals.
    """

    def __init__(self, num_slots: int = 2) -> None:
        self.num_slots = num_slots
        self.answer: Callable[[Arrival], Sequence[Emission]] = lambda arrival: ()
        self.later: deque[Emission] = deque()
        self.seen: list[Arrival] = []
        self.gate = threading.Event()
        self.gate.set()
        self.stepped = threading.Event()
        self.is_stuck = False
        self.fail_with: BaseException | None = None
        self.fail_load_with: BaseException | None = None
        self.is_closed = False

    def load(self, wake: Callable[[], None]) -> Capabilities:
        """Return capabilities at once, or fail as told."""
        if self.fail_load_with is not None:
            raise self.fail_load_with
        return Capabilities(
            engine="fake", model="fake", modes=("chat", "audio_duplex"), num_slots=self.num_slots
        )

    @property
    def busy(self) -> bool:
        """Never: what is in `later` comes with the next input."""
        return False

    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Answer as told."""
        if not self.gate.wait(0):
            self.is_stuck = True
            self.gate.wait(60)
            self.is_stuck = False
        if self.fail_with is not None:
            raise self.fail_with
        self.seen += arrivals
        emissions: list[Emission] = []
        while self.later:  # a test adds to it meanwhile
            emissions.append(self.later.popleft())
        for arrival in arrivals:
            emissions += self.answer(arrival)
        if arrivals:
            self.stepped.set()
        return emissions

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

"""Where an answer goes: out at once, or held back while it is not certain that it is wanted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from attrs import define, field

from omni.engine import SessionEvent, StageCosts
from omni.minicpmo.session import Session
from omni.minicpmo.work import Program, Until, done

Stage = Literal["prefill", "llm", "tts", "token2wav"]


@define(eq=False)
class Outlet:
    """Passes the events of one answer on.

    is_held: half duplex begins to answer in a pause that may not be the end; nothing leaves until
    `release`. The user's stop counts from then on; `cancel` ends an answer that nobody wants.
    """

    session: Session
    is_held: bool = False
    is_cancelled: bool = False
    _events: list[SessionEvent] = field(factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the answer should end where it is."""
        return self.is_cancelled or (not self.is_held and self.session.is_stopped)

    def emit(self, event: SessionEvent) -> None:
        """Give *event* to the client, or keep it."""
        if self.is_held:
            self._events.append(event)
        else:
            self.session.emit(event)

    def release(self) -> None:
        """Let out what was held, and everything from now on at once."""
        self.is_held = False
        for event in self._events:
            self.session.emit(event)
        self._events.clear()

    def cancel(self) -> None:
        """End the answer; nothing of it leaves any more."""
        self.is_cancelled = True
        self._events.clear()

    def wait(self) -> Program[None]:
        """Wait while the outlet is held: an answer that may be void does not run far ahead."""
        if self.is_held and not self.is_over:
            yield from done(Until(holds=lambda: not self.is_held or self.is_over))


@define(eq=False)
class Costs:
    """Adds up the time of an answer's stages. Stages of one answer follow one another."""

    now_s: Callable[[], float]
    start_s: float = field(init=False)
    _spent_ms: dict[Stage, float] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.start_s = self.now_s()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count the time inside to *stage*; also around a `yield from`."""
        start_s = self.now_s()
        try:
            yield
        finally:
            spent_ms = 1000 * (self.now_s() - start_s)
            self._spent_ms[stage] = self._spent_ms.get(stage, 0.0) + spent_ms

    def total(self) -> StageCosts:
        """Return the costs until now."""
        return StageCosts(
            prefill_ms=self._spent_ms.get("prefill"),
            llm_ms=self._spent_ms.get("llm"),
            tts_ms=self._spent_ms.get("tts"),
            token2wav_ms=self._spent_ms.get("token2wav"),
            all_ms=1000 * (self.now_s() - self.start_s),
        )

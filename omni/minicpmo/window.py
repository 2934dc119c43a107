"""The sliding window of a duplex call, so that a call has no end: which units stay in the KV cache.

basic: when the cache is longer than `high_tokens` after a unit, the oldest units go until it is at
most `low_tokens`. context: at most `max_units` stay; what the model said in those that went is kept
as text between the system prompt's two parts. In both the system prompt stays, and keys behind a
gap are rotated to their new positions.
"""

from collections import deque
from collections.abc import Sequence

from attrs import define, field, frozen

from omni.minicpmo.session import Session, WindowOptions
from omni.minicpmo.work import Feed, Ids, Program, done


@frozen(kw_only=True)
class UnitRecord:
    """A finished unit. length: tokens in the cache. said: the text tokens that it spoke."""

    number: int
    length: int
    said: tuple[int, ...]


@define(kw_only=True)
class Window:
    """What lies in one session's cache: [prefix][marker, previous][suffix][units].

    prefix_length: tokens up to and with the reference audio. suffix: the ids behind it.
    """

    options: WindowOptions
    marker: tuple[int, ...]
    prefix_length: int
    suffix: tuple[int, ...]
    units: deque[UnitRecord] = field(factory=deque)
    previous: list[int] = field(factory=list)

    @classmethod
    def of(cls, session: Session, prefix_length: int, suffix: Sequence[int]) -> "Window":
        """Return the window of a session whose prompt has just been fed."""
        options = session.around.window
        return cls(
            options=options,
            marker=tuple(session.tokenizer.encode(options.marker)),
            prefix_length=prefix_length,
            suffix=tuple(suffix),
        )

    @property
    def remembered(self) -> tuple[int, ...]:
        """The ids between prefix and suffix."""
        return (*self.marker, *self.previous) if self.previous else ()

    @property
    def preserved(self) -> int:
        """Tokens in front of the units."""
        return self.prefix_length + len(self.remembered) + len(self.suffix)

    def note(self, unit: UnitRecord) -> None:
        """Add the unit that was just finished; its tokens are in the cache, or about to be."""
        self.units.append(unit)

    def num_due(self, length: int) -> int:
        """Return how many of the oldest units must go from a cache of *length* tokens."""
        if self.options.mode == "context":
            return max(0, len(self.units) - self.options.max_units)
        if self.options.mode == "off" or length <= self.options.high_tokens:
            return 0
        return self._num_until(length, self.options.low_tokens)

    def num_half(self, length: int) -> int:
        """Return how many units to drop to halve the units' part (the pool of pages is short)."""
        return self._num_until(length, self.preserved + (length - self.preserved) // 2)

    def _num_until(self, length: int, wanted: int) -> int:
        count = 0
        # The newest unit stays: its text may go on.
        while length > wanted and count < len(self.units) - 1:
            length -= self.units[count].length
            count += 1
        return count

    def drop(self, session: Session, count: int) -> Program[None]:
        """Take the *count* oldest units out of the cache. Every noted unit must be in it."""
        if not count:
            return
        prefix, old_middle = self.prefix_length, (*self.remembered, *self.suffix)
        gone = [self.units.popleft() for _ in range(count)]
        removed = sum(unit.length for unit in gone)
        if self.options.mode == "context":
            said = [token for unit in gone for token in unit.said]
            self.previous = (self.previous + said)[-self.options.max_previous_tokens :]
        middle = (*self.remembered, *self.suffix)
        if middle == old_middle:
            session.splice(self.preserved, removed)
            return
        session.splice(prefix, len(old_middle) + removed, len(middle))
        yield from done(Feed(parts=[Ids(middle)], start=prefix))

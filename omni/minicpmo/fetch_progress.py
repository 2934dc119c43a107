"""What a download shows: a living line on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable
from typing import TextIO

from attrs import define, field

_REDRAW_S = 0.2
_LINE_EVERY_PERCENT = 5
_PIECE_BYTES = 1 << 20


def gigabytes(num_bytes: float) -> str:
    """Return *num_bytes* in decimal gigabytes, as disks and hubs are labelled."""
    return f"{num_bytes / 1e9:.1f} GB"


@define
class FetchProgress:
    """Counts the bytes of all files together and prints to *out*."""

    out: TextIO
    clock: Callable[[], float] = time.monotonic
    total_bytes: int = field(default=0, init=False)
    done_bytes: int = field(default=0, init=False)
    _started_s: float = field(default=0.0, init=False)
    _drawn_s: float = field(default=0.0, init=False)
    _next_percent: int = field(default=0, init=False)
    #: Bytes of this run, for the speed: those of an earlier one came at once.
    _moved_bytes: int = field(default=0, init=False)

    def start(self, total_bytes: int) -> None:
        """Begin to count towards *total_bytes*."""
        self.total_bytes = total_bytes
        self._started_s = self.clock()

    def advance(self, num_bytes: int) -> None:
        """Count *num_bytes* more, or fewer where something starts anew."""
        self.done_bytes += num_bytes
        if 0 < num_bytes <= _PIECE_BYTES:
            self._moved_bytes += num_bytes
        now_s = self.clock()
        if self.out.isatty():
            if now_s - self._drawn_s >= _REDRAW_S:
                self._drawn_s = now_s
                self.out.write(f"\r\x1b[2K{self.line(now_s)}")
                self.out.flush()
        elif self._percent() >= self._next_percent:
            self._next_percent = self._percent() + _LINE_EVERY_PERCENT
            print(self.line(now_s), file=self.out, flush=True)

    def line(self, now_s: float) -> str:
        """Return done, total, speed and time left."""
        speed = self._moved_bytes / max(now_s - self._started_s, 1e-3)
        left_s = (self.total_bytes - self.done_bytes) / max(speed, 1.0)
        text = f"{gigabytes(self.done_bytes)} of {gigabytes(self.total_bytes)}"
        text += f"  {self._percent()} %  {speed / 1e6:.1f} MB/s"
        return text + (f"  {left_s / 60:.0f} min left" if self._moved_bytes else "")

    def finish(self) -> None:
        """Leave the living line."""
        if self.out.isatty() and self._drawn_s:
            self.out.write("\n")
            self.out.flush()

    def _percent(self) -> int:
        return int(100 * self.done_bytes / max(self.total_bytes, 1))

"""What `omni up` shows while processes start: one living line on a terminal, else a line each."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from omni.children import Child

REDRAW_S = 0.2
CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Prints to *out*; on a terminal the line is drawn over until `finish`.

    Where nobody is there any more (a closed terminal, a pipe) it falls silent: that ends no server.
    """

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._is_there = True
        self._started_s = time.monotonic()
        self._drawn_s = 0.0
        self._ready: set[str] = set()
        self._has_line = False

    def update(self, children: Sequence[Child]) -> None:
        """Show how far *children* are."""
        if self._is_terminal:
            self._draw(children)
            return
        for child in children:
            if child.is_ready and child.name not in self._ready:
                self._ready.add(child.name)
                self.say(f"{child.name} ready after {child.ready_after_s:.1f} s")

    def note(self, name: str, what: str) -> None:
        """Say what happened to a process."""
        self.say(f"omni: {name} {what}")

    def say(self, text: str) -> None:
        """Print *text* on lines of its own."""
        self.finish()
        self._write(f"{text}\n")

    def finish(self) -> None:
        """Leave the living line; what follows stands below."""
        if self._has_line:
            self._write(CLEAR_LINE)
            self._has_line = False

    def _draw(self, children: Sequence[Child]) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        parts = [
            f"{child.name} ready" if child.is_ready else f"{child.name} {child.age_s:.0f} s ..."
            for child in children
        ]
        self._write(f"{CLEAR_LINE}starting: {'   '.join(parts)}")
        self._has_line = True

    def _write(self, text: str) -> None:
        if self._is_there:
            try:
                self._out.write(text)
                self._out.flush()
            except OSError:
                self._is_there = False

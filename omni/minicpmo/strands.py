"""The running programs of one session: resumes each with what it waited for."""

from collections.abc import Callable
from typing import Any

from attrs import define, field

from omni.minicpmo.session import Session
from omni.minicpmo.work import Fork, Join, Program, Strand, Until, Work

# Any: strands of one session have results of many types; `Join` gives each its own again.
AnyStrand = Strand[Any]
AnyWork = Work[Any]


@define(eq=False)
class Strands:
    """A session with its own program (`main`) and what that forked.

    queue: takes work that somebody else must do; he calls `resume` with its result.
    """

    session: Session
    queue: Callable[["Strands", AnyStrand, AnyWork], None]
    main: AnyStrand | None = None
    error: Exception | None = None
    is_over: bool = False
    _running: list[AnyStrand] = field(factory=list)
    _waiting: dict[AnyStrand, Until] = field(factory=dict)
    _joining: dict[AnyStrand, AnyStrand] = field(factory=dict)  # who waits -> for whom

    def begin(self, program: Program[None]) -> None:
        """Start the session's own program; when it ends, all is over."""
        self.main = Strand(program)
        self._running.append(self.main)
        self.resume(self.main, None)

    def resume(self, strand: AnyStrand, result: object) -> None:
        """Resume *strand* with *result* (raised there, if it is an exception) and let it go on
        until it waits for something that is not there yet.
        """
        while not self.is_over:
            try:
                work = _advance(strand.program, result)
            except StopIteration as stop:
                self._finish(strand, stop.value, None)
                return
            except Exception as exc:
                self._finish(strand, None, exc)
                return
            match work:
                case Fork(program=program):
                    result = self._fork(program)
                case Until() if not work.holds():
                    self._waiting[strand] = work
                    return
                case Until():
                    result = None
                case Join(strand=other) if not other.is_done:
                    self._joining[strand] = other
                    return
                case Join(strand=other):
                    result = other.error or other.result
                case _:
                    self.queue(self, strand, work)
                    return

    def settle(self) -> None:
        """Resume every strand whose `Until` holds by now, until none does."""
        while ready := [strand for strand, until in self._waiting.items() if until.holds()]:
            for strand in ready:
                if self._waiting.pop(strand, None) is not None:
                    self.resume(strand, None)

    def close(self) -> None:
        """End all programs where they are."""
        self.is_over = True
        running, self._running = self._running, []
        self._waiting.clear()
        self._joining.clear()
        for strand in reversed(running):
            strand.program.close()

    def _fork(self, program: Program[Any]) -> AnyStrand:
        strand: AnyStrand = Strand(program)
        self._running.append(strand)
        self.resume(strand, None)
        return strand

    def _finish(self, strand: AnyStrand, result: object, error: Exception | None) -> None:
        strand.is_done, strand.result, strand.error = True, result, error
        self._running.remove(strand)
        if strand is self.main:
            self.is_over, self.error = True, error
            return
        for waiter in [waiter for waiter, other in self._joining.items() if other is strand]:
            del self._joining[waiter]
            self.resume(waiter, error or result)


def _advance(program: Program[Any], result: object) -> AnyWork:
    if isinstance(result, Exception):
        return program.throw(result)
    return program.send(result)

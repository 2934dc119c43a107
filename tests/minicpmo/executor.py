"""Answers the work of one session item by item, with no batches and no threads.

It is what the engine's step loop must be equal to, and it runs programs that are no mode of the
engine (a part of one, with options that no request has).
"""

from collections.abc import Callable
from random import Random
from typing import TypeVar

import torch
from attrs import define, field

from omni.engine import SessionEvent, Slot
from omni.minicpmo.runner import Runner, patches_of, pieces_of
from omni.minicpmo.session import Session
from omni.minicpmo.setup import Loaded
from omni.minicpmo.strands import AnyStrand, AnyWork, Strands
from omni.minicpmo.thinking import FeedShare
from omni.minicpmo.work import (
    Aside,
    Draw,
    EncodeAudio,
    EncodeImages,
    Feed,
    Ids,
    Program,
    Speak,
    SpeakOn,
    Vocode,
)

T = TypeVar("T")
W = TypeVar("W", bound=AnyWork)


@define(eq=False)
class Executor:
    """Runs programs of one session on *loaded*; done: what it computed with what came of it."""

    loaded: Loaded
    slot: Slot = Slot(index=0, generation=1)
    session: Session = field(init=False)
    done: list[tuple[AnyWork, object]] = field(factory=list)
    _queue: list[tuple[AnyStrand, AnyWork]] = field(factory=list)
    _num_given: int = 0

    def __attrs_post_init__(self) -> None:
        self.session = Session(self.slot, self.loaded.around, self.runner, Random(0))

    @property
    def runner(self) -> Runner:
        return self.loaded.runner

    @property
    def events(self) -> list[SessionEvent]:
        """Everything that the session said."""
        return self.session.events

    def run(self, make: Callable[[Session], Program[T]]) -> T:
        """Run the program that *make* gives to its end; return its result or raise its error."""
        results: list[T] = []

        def whole() -> Program[None]:
            results.append((yield from make(self.session)))

        strands = Strands(self.session, lambda _, strand, work: self._queue.append((strand, work)))
        strands.begin(whole())
        while not strands.is_over:
            assert self._queue, "the program waits for something that never comes"
            strand, work = self._queue.pop(0)
            try:
                result = self._compute(work)
            except Exception as exc:
                result = exc
            self.done.append((work, result))
            strands.resume(strand, result)
            strands.settle()
        if strands.error is not None:
            raise strands.error
        return results[0]

    def works(self, kind: type[W]) -> list[W]:
        """Return the work of one kind, in order."""
        return [work for work, _ in self.done if isinstance(work, kind)]

    def release(self) -> None:
        """Free the slot."""
        self.runner.release(self.slot.index)

    def _compute(self, work: AnyWork) -> object:
        runner, slot = self.runner, self.slot.index
        match work:
            case Aside():
                return work.call()
            case EncodeImages():
                return runner.see(*patches_of(work))
            case EncodeAudio():
                return [
                    torch.cat(runner.listen(pieces, work.sees_all)) for pieces in pieces_of(work)
                ]
            case Feed(parts=[Ids(ids=[token])], start=None):
                return runner.thinking.decode([slot], [token])[0]
            case Feed():
                return runner.thinking.prefill([FeedShare(slot, work, 0, len(work))])[0]
            case Draw():
                return runner.thinking.draw([work], [self.session])[0]
            case Vocode():
                (sounding,) = runner.vocoding.vocode([slot], [work])
                return sounding if isinstance(sounding, Exception) else sounding.take()
            case Speak() | SpeakOn():
                return self._speak(work)
        raise AssertionError(f"{type(work).__name__} is not part of these programs")

    def _speak(self, work: Speak | SpeakOn) -> object:
        slot = self.slot.index
        if isinstance(work, Speak):
            self._num_given = 0
            self.runner.begin_speech([slot], [work])
        while (spoken := self.runner.spoken(slot, self._num_given, work)) is None:
            self.runner.speak([slot])
        self._num_given += len(spoken.codes)
        return spoken

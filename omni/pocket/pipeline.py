"""Sound -> text -> answer -> sound in background threads: the work behind every session's turns."""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime

import numpy as np

from omni import audio
from omni.errors import GenerationFailed, OmniError
from omni.pocket.answering import Answering, Order
from omni.pocket.hearing import Hearing, Hints
from omni.pocket.lanes import Job, Lane
from omni.pocket.results import Broke, Finished, Heard, Piece, Prefilled, Result, Turn
from omni.pocket.speaking import Voice
from omni.pocket.thinking import Thinking, Utterance

log = logging.getLogger(__name__)

Post = Callable[[Result], None]

_NO_SOUND: audio.Waveform = np.zeros(0, dtype=np.float32)
#: What Whisper makes of breath and noise.
_NO_WORDS = frozenset({"", "you", "hmm", "mm", "mmm", "mhm", "mm-hmm", "uh", "um", "ah", "oh"})


class Pipeline:
    """The models and the threads that run them, shared by all sessions.

    Lanes take sessions in turn, one job of each at a time. Results are posted from background
    threads; within a turn they come in order.
    """

    def __init__(
        self,
        hearing: Hearing,
        thinking: Thinking,
        voice: Voice,
        num_seats: int,
        now: Callable[[], datetime],
    ) -> None:
        self._hearing = hearing
        self._thinking = thinking
        self._voice = voice
        self._now = now
        self._ears = Lane("ears", 1)
        self._mind = Lane("mind", num_seats)
        self._mouth = Lane("mouth", 1)

    def hear(
        self,
        session: Hashable,
        turn: Turn,
        waveform: audio.Waveform,
        post: Post,
        hints: Hints = Hints(),
    ) -> None:
        """Post what is said in *waveform* (16 kHz)."""

        def run() -> None:
            began = time.perf_counter()
            text = self._hearing.transcribe(waveform, hints)
            turn.hearing_ms += (time.perf_counter() - began) * 1000
            post(Heard(turn, "" if text.lower().strip(" .,!?") in _NO_WORDS else text))

        self._ears.submit(session, _guarded(run, turn, post))

    def answer(self, session: Hashable, seat: int, turn: Turn, order: Order, post: Post) -> None:
        """Post the answer that *order* asks for: `Prefilled`, its pieces, `Finished`."""

        def give(text: str) -> None:
            if order.speak:
                self.say(session, turn, text, post)
            else:
                post(Piece(turn, text, _NO_SOUND))

        def run() -> None:
            making = Answering(order, give, lambda: not turn.is_cancelled)
            answer = making.run(
                self._thinking, seat, self._now(), lambda tokens: post(Prefilled(turn, tokens))
            )
            finished = Finished(turn, answer)
            if order.speak:  # behind the pieces, which are still being said
                self._mouth.submit(session, _guarded(lambda: post(finished), turn, post))
            else:
                post(finished)

        self._mind.submit(session, _guarded(run, turn, post))

    def say(self, session: Hashable, turn: Turn, text: str, post: Post) -> None:
        """Post *text*, which can be said in one go, with its sound."""

        def run() -> None:
            began = time.perf_counter()
            waveform = self._voice.say(text)
            turn.speaking_ms += (time.perf_counter() - began) * 1000
            post(Piece(turn, text, waveform))

        self._mouth.submit(session, _guarded(run, turn, post))

    def warm(self, session: Hashable, seat: int, turn: Turn, messages: Sequence[Utterance]) -> None:
        """Bring *messages* into the seat's cache, unless *turn* is cancelled first."""

        def run() -> None:
            self._thinking.prepare(seat, messages, lambda _: not turn.is_cancelled)

        self._mind.submit(session, _guarded(run, turn, lambda _: None))

    def drop(self, session: Hashable) -> None:
        """Forget the waiting work of *session*."""
        for lane in (self._ears, self._mind, self._mouth):
            lane.drop(session)

    def close(self, timeout_s: float) -> None:
        """End all work and free the models."""
        for lane in (self._ears, self._mind, self._mouth):
            lane.close(timeout_s)
        self._thinking.close()


def _guarded(job: Job, turn: Turn, post: Post) -> Job:
    """Return *job* that is skipped when *turn* is cancelled, and whose failure is posted."""

    def run() -> None:
        if turn.is_cancelled:
            return
        try:
            job()
        except OmniError as exc:
            post(Broke(turn, exc))
        except Exception as exc:  # the border of a background job
            log.exception("the work of a turn failed")
            post(Broke(turn, GenerationFailed(f"{type(exc).__name__}: {exc}")))

    return run

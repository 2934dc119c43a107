"""From speech to an answer: work begins at a pause, and gets out when speech has ended."""

from collections.abc import Hashable

from attrs import define, field

from omni import audio
from omni.pocket.answering import Order
from omni.pocket.conversation import Conversation
from omni.pocket.pipeline import Pipeline, Post
from omni.pocket.results import Heard, Result, Turn
from omni.pocket.thinking import Sampling
from omni.vad import Speech


@define(kw_only=True)
class Turns:
    """The turns of one spoken session, at most one at a time.

    At a short pause the utterance so far is transcribed and answered ahead; when speech goes on,
    that is thrown away, and when it has ended, it is let out. So the silence that proves the end
    costs no time.
    """

    session: Hashable
    seat: int
    pipeline: Pipeline
    conversation: Conversation
    sampling: Sampling
    speak: bool
    post: Post
    _turn: Turn | None = None
    _warming: Turn = field(factory=Turn)
    _has_ended: bool = False
    _held: list[Result] = field(factory=list)

    @property
    def is_answering(self) -> bool:
        """True from the end of an utterance until `close_turn` or `cancel`."""
        return self._has_ended

    @property
    def turn(self) -> Turn | None:
        """The turn that is being worked on."""
        return self._turn

    def on_speech(self, change: Speech) -> None:
        """Begin, throw away or let out, as *change* says."""
        match change.kind:
            case "paused":
                self._begin(change.waveform)
            case "resumed":
                if not self._has_ended:
                    self.cancel()
            case "ended":
                if self._turn is None:
                    self._begin(change.waveform)
                self._has_ended = True
            case _:
                pass

    def on_result(self, result: Result) -> None:
        """Take what background work gives; of an older turn it is dropped."""
        if result.turn is not self._turn:
            return
        if isinstance(result, Heard) and result.text:
            self._answer(result.turn, result.text)
        self._held.append(result)

    def take(self) -> list[Result]:
        """Return what may be let out now."""
        if not self._has_ended:
            return []
        results, self._held = self._held, []
        return results

    def cancel(self) -> None:
        """Stop the work of the present turn and drop what it gave."""
        if self._turn is not None:
            self._turn.is_cancelled = True
            self.pipeline.drop(self.session)
        self.close_turn()

    def close_turn(self) -> None:
        """Be ready for the next utterance."""
        self._turn = None
        self._has_ended = False
        self._held.clear()

    def warm(self) -> None:
        """Bring the conversation so far into the model's cache, while nobody waits for it."""
        self._warming.is_cancelled = True
        self._warming = Turn()
        messages = self.conversation.messages()
        self.pipeline.warm(self.session, self.seat, self._warming, messages)

    def close(self) -> None:
        """Stop everything."""
        self._warming.is_cancelled = True
        self.cancel()
        self.pipeline.drop(self.session)

    def _begin(self, waveform: audio.Waveform) -> None:
        self._turn = Turn()
        self.pipeline.hear(self.session, self._turn, waveform, self.post)

    def _answer(self, turn: Turn, question: str) -> None:
        self._warming.is_cancelled = True
        order = Order(
            messages=self.conversation.with_question(question),
            persona=self.conversation.persona,
            sampling=self.sampling,
            speak=self.speak,
        )
        self.pipeline.answer(self.session, self.seat, turn, order, self.post)

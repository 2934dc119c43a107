"""One answer while it is made: text becomes pieces, and pieces end it when they are enough."""

from collections.abc import Callable
from datetime import datetime

from attrs import define, field, frozen

from omni.pocket.computed_answers import computed_answer
from omni.pocket.persona import Persona
from omni.pocket.sentences import SentenceCutter, is_sentence
from omni.pocket.thinking import Answer, Sampling, Thinking, Utterance


@frozen(kw_only=True)
class Order:
    """What to answer, and how. The last of messages is the question.

    speak: sound is wanted, so the text comes in pieces that can be said. is_limited: the answer may
    end by the persona's rules; else it ends where the model or max_new_tokens does.
    """

    messages: tuple[Utterance, ...]
    persona: Persona
    sampling: Sampling
    speak: bool
    is_limited: bool = True

    @property
    def question(self) -> str:
        """What the user said last."""
        return self.messages[-1].text


@define
class Answering:
    """Makes one answer. give: takes its pieces. is_wanted: False ends it at the next token."""

    order: Order
    give: Callable[[str], None]
    is_wanted: Callable[[], bool]
    _cutter: SentenceCutter = field(factory=SentenceCutter)
    _pieces: list[str] = field(factory=list)
    _is_enough: bool = False

    def run(
        self, thinking: Thinking, seat: int, now: datetime, prefilled: Callable[[int], None]
    ) -> Answer:
        """Make the answer on *seat*. Raises: GenerationFailed, ContextExhausted."""
        known = self._known_answer(now)
        if known is not None:
            return self._recite(known, prefilled)
        order = self.order
        answer = thinking.answer(seat, order.messages, order.sampling, self.take, prefilled)
        for piece in self._cutter.finish():
            self._on_piece(piece)
        return answer

    def take(self, text: str) -> bool:
        """Take the next piece of generated text; False when no more is wanted."""
        if not self.is_wanted() or self._is_enough:
            return False
        if not self.order.speak and not self.order.is_limited:
            if text:
                self.give(text)
            return True
        for piece in self._cutter.push(text):
            self._on_piece(piece)
        return not self._is_enough

    def _known_answer(self, now: datetime) -> str | None:
        if not self.order.question.strip():
            return "Sorry, I didn't catch that. Could you say it again?"
        return computed_answer(self.order.question, now)

    def _recite(self, text: str, prefilled: Callable[[int], None]) -> Answer:
        """Give *text* whole: what is known needs no limit, but ends where the request says."""
        for mark in self.order.sampling.stop:
            text = text.partition(mark)[0] if mark else text
        num_words = len(self.order.question.split())
        prefilled(num_words)
        for piece in [*self._cutter.push(text), *self._cutter.finish()]:
            self.give(piece)
        return Answer(
            text=text,
            input_tokens=num_words,
            generated_tokens=len(text.split()),
            finish_reason="stop",
            prefill_ms=0.0,
            generate_ms=0.0,
        )

    def _on_piece(self, piece: str) -> None:
        if self._is_enough:
            return
        self.give(piece)
        self._pieces.append(piece)
        if self.order.is_limited and is_sentence(piece):
            self._is_enough = self.order.persona.is_enough(self.order.question, self._pieces)

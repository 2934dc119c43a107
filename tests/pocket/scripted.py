"""A language model that says what a test wrote."""

from collections.abc import Callable, Sequence

from omni.pocket.thinking import Answer, Sampling, TakeText, Utterance


class ScriptedThinking:
    """Gives a fixed text, a word at a time, as long as it is wanted."""

    name = "scripted"

    def __init__(self, text: str) -> None:
        self._text = text
        self.taken = ""

    def prepare(self, seat: int, messages: Sequence[Utterance], take: TakeText) -> None:
        """Nothing to prepare."""

    def answer(
        self,
        seat: int,
        messages: Sequence[Utterance],
        sampling: Sampling,
        take: TakeText,
        prefilled: Callable[[int], None] = lambda input_tokens: None,
    ) -> Answer:
        """Give the text."""
        prefilled(7)
        for word in self._text.split(" "):
            self.taken += word + " "
            if not take(word + " "):
                break
        return Answer(
            text=self.taken,
            input_tokens=7,
            generated_tokens=len(self.taken.split()),
            finish_reason="stop",
            prefill_ms=0,
            generate_ms=1,
        )

    def close(self) -> None:
        """Nothing to close."""

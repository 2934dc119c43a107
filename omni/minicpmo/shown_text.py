"""What of an answer is shown: thoughts only on request."""

from omni.minicpmo.tokenizer import Tokenizer


class Thoughts:
    """Tells thoughts from the answer: what stands from <think> to </think>, and space behind it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start, self._end = tokenizer.id("<think>"), tokenizer.id("</think>")
        self._is_inside = False
        self._is_behind = False

    def take(self, token: int) -> bool:
        """Take the next token; say whether it belongs to a thought."""
        if token == self._end:
            self._is_inside, self._is_behind = False, True
            return True
        self._is_inside = self._is_inside or token == self._start
        if not self._is_inside and self._is_behind:
            self._is_behind = not self._tokenizer.decode((token,)).strip()
            return self._is_behind
        return self._is_inside

"""What was said in spoken answers, by their ids: a later request names it instead of repeating it.

OpenAI keeps the sound of an answer for a while; here its words are kept, which is what the model is
given of its own earlier answers.
"""

import secrets
from collections import OrderedDict

from attrs import define, field, frozen

#: How long an answer can be named.
KEPT_S = 3600
MAX_ANSWERS = 10_000
MAX_TOTAL_CHARS = 8 * 2**20


@frozen
class _Answer:
    text: str
    expires_at: int


@define
class AudioMemory:
    """Transcripts by id. Full: the oldest go, before their time is over."""

    _answers: OrderedDict[str, _Answer] = field(factory=OrderedDict, init=False)
    _num_chars: int = field(default=0, init=False)

    def keep(self, audio_id: str, text: str, now: float) -> int:
        """Keep *text* under *audio_id*; return when it is forgotten. Times in Unix seconds."""
        expires_at = int(now) + KEPT_S
        self._answers[audio_id] = _Answer(text, expires_at)
        self._num_chars += len(text)
        while len(self._answers) > MAX_ANSWERS or self._num_chars > MAX_TOTAL_CHARS:
            self._forget_oldest()
        return expires_at

    def find(self, audio_id: str, now: float) -> str | None:
        """Return the transcript; None where there is none any more."""
        while self._answers and next(iter(self._answers.values())).expires_at <= now:
            self._forget_oldest()
        answer = self._answers.get(audio_id)
        return None if answer is None else answer.text

    def _forget_oldest(self) -> None:
        _, answer = self._answers.popitem(last=False)
        self._num_chars -= len(answer.text)


def new_audio_id() -> str:
    """Return an id that nobody guesses."""
    return "audio_" + secrets.token_hex(16)

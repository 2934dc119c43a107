"""An answer on its way out in chunks: sound, and with it the words that begin in it."""

import re
from collections import deque

import numpy as np
from attrs import define, field, frozen

from omni import audio


@frozen(eq=False)
class Portion:
    """What goes out with one chunk. is_last: the answer ends with it."""

    text: str
    waveform: audio.Waveform
    is_last: bool


@define
class _Piece:
    waveform: audio.Waveform
    words: deque[tuple[int, str]]  # first sample, word with its space
    position: int = 0

    @classmethod
    def of(cls, text: str, waveform: audio.Waveform) -> "_Piece":
        """Spread the words of *text* over *waveform* by their letters."""
        samples_a_letter = waveform.size / max(1, len(text))
        words = ((m.start(), m[0]) for m in re.finditer(r"\s*\S+\s*", text))
        return cls(waveform, deque((int(at * samples_a_letter), word) for at, word in words))

    def take(self, num_samples: int) -> tuple[str, audio.Waveform]:
        end = min(self.position + num_samples, self.waveform.size)
        part, self.position = self.waveform[self.position : end], end
        text = ""
        while self.words and (self.words[0][0] < end or end == self.waveform.size):
            text += self.words.popleft()[1]
        return text, part

    @property
    def is_over(self) -> bool:
        return self.position >= self.waveform.size


@define
class Playout:
    """Hands out an answer no faster than it can be played, and knows what was handed out."""

    _pieces: deque[_Piece] = field(factory=deque)
    _is_finished: bool = False
    heard: str = ""
    has_begun: bool = False

    @property
    def is_empty(self) -> bool:
        """True while there is nothing to hand out, not even an end."""
        return not self._pieces and not (self._is_finished and self.has_begun)

    def push(self, text: str, waveform: audio.Waveform) -> None:
        """Add a piece (24 kHz; empty: text alone, which goes out at once)."""
        self._pieces.append(_Piece.of(text, waveform))

    def finish(self) -> None:
        """Say that no piece follows."""
        self._is_finished = True

    def take(self, num_samples: int) -> Portion:
        """Return the next *num_samples* of sound, or what is there, with its words."""
        self.has_begun = True
        text = ""
        parts: list[audio.Waveform] = [np.zeros(0, dtype=np.float32)]
        left = num_samples
        while self._pieces and (left > 0 or not self._pieces[0].waveform.size):
            words, part = self._pieces[0].take(left)
            text += words
            parts.append(part)
            left -= part.size
            if self._pieces[0].is_over:
                self._pieces.popleft()
        self.heard += text
        is_last = self._is_finished and not self._pieces
        return Portion(text, np.concatenate(parts), is_last)

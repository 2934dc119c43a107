"""Speech tokens on their way to token2wav: when a chunk is due; the silence of a short unit."""

from enum import Enum

import numpy as np
import numpy.typing as npt
from attrs import define, field, frozen

LOOKAHEAD_CODES = 3  # codes that a chunk sees and leaves to the next
CHUNK_CODES = 28  # 25 consumed, 1 s of sound
MIN_CHUNK_CODES = 8  # Source: the reference's flush mode
SILENCE_CODE = 4218
UNIT_SAMPLES = 24_000  # 1 s


class Pace(Enum):
    """When codes leave the buffer."""

    FULL = "full"  # whole chunks only: chat, half duplex
    FLUSH = "flush"  # whatever makes a chunk of 8 codes: duplex, whose unit must sound now


@frozen
class CodeChunk:
    """Codes for one call of token2wav: all but the last 3 are consumed, or all if is_last."""

    codes: tuple[int, ...]
    is_last: bool


@define
class CodeBuffer:
    """The codes of one turn. 3 to 27 stay in it between calls (FLUSH: 3 to 7)."""

    pace: Pace
    _codes: list[int] = field(factory=list)

    @classmethod
    def after_silence(cls, pace: Pace) -> "CodeBuffer":
        """Return the buffer of a new spoken turn: it starts with three codes of silence."""
        return cls(pace, [SILENCE_CODE] * LOOKAHEAD_CODES)

    def __len__(self) -> int:
        return len(self._codes)

    def push(self, codes: list[int]) -> None:
        self._codes += codes

    def take(self, *, ends_turn: bool) -> list[CodeChunk]:
        """Return the chunks that are due, in order.

        ends_turn: the last one is final and empties the buffer. There is one final chunk in a turn,
        also where the codes end exactly with a chunk; none if the turn had no codes at all.
        """
        least = CHUNK_CODES if self.pace is Pace.FULL else MIN_CHUNK_CODES
        chunks = []
        while len(self._codes) >= least:
            codes = tuple(self._codes[:CHUNK_CODES])
            chunks.append(CodeChunk(codes, is_last=False))
            del self._codes[: len(codes) - LOOKAHEAD_CODES]
        if ends_turn and self._codes:
            chunks.append(CodeChunk(tuple(self._codes), is_last=True))
            self._codes.clear()
        return chunks


def fill_unit(sound: npt.NDArray[np.float32], *, ends_turn: bool) -> npt.NDArray[np.float32]:
    """Return a unit's sound as drop-in players expect it: at least 1 s, silence first.

    The end of a turn stays as it is, unless it has no sound at all.
    """
    if len(sound) >= UNIT_SAMPLES or (ends_turn and len(sound)):
        return sound
    return np.pad(sound, (UNIT_SAMPLES - len(sound), 0))

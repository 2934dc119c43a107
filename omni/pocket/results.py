"""What background work hands back to a session, and the turn that it belongs to."""

from attrs import define, frozen

from omni import audio
from omni.errors import OmniError
from omni.pocket.thinking import Answer


@define(eq=False)
class Turn:
    """One utterance and its answer. A cancelled turn's work stops, and its results are dropped.

    The times are what its work took in the background, in ms.
    """

    is_cancelled: bool = False
    hearing_ms: float = 0.0
    speaking_ms: float = 0.0


@frozen
class Heard:
    """What the user said; "" where it was no speech."""

    turn: Turn
    text: str


@frozen
class Prefilled:
    """The prompt is in."""

    turn: Turn
    input_tokens: int


@frozen(eq=False)
class Piece:
    """The next piece of an answer, with its sound (24 kHz; empty where none is wanted)."""

    turn: Turn
    text: str
    waveform: audio.Waveform


@frozen
class Finished:
    """The answer is complete; every piece came before this."""

    turn: Turn
    answer: Answer


@frozen
class Broke:
    """The work of this turn failed."""

    turn: Turn
    error: OmniError


Result = Heard | Prefilled | Piece | Finished | Broke

"""One unit of a duplex call: its input, and what the model decides and says in it."""

from collections.abc import Sequence

from attrs import define, field, frozen
from torch import Tensor

from omni.engine import StageCosts
from omni.minicpmo.images import SlicedImage
from omni.minicpmo.prompt import NUM_IMAGE_TOKENS, Prompts
from omni.minicpmo.tokenizer import ControlTokens
from omni.minicpmo.work import Embeds, Ids, Part, filled

#: Characters that a unit speaks at most. Source: the published demo server.
MAX_CHARACTERS = 28


@frozen(kw_only=True, eq=False)
class Perceived:
    """What one unit brings. image_embeds: (slices, 64, C), sources and slices in order."""

    images: Sequence[SlicedImage] = ()
    image_embeds: Tensor | None = None
    sound: Tensor | None = None  # (10, C)

    @property
    def num_slices(self) -> int:
        """Pictures and slices."""
        return sum(len(image.patches) for image in self.images)

    @property
    def num_image_tokens(self) -> int:
        """Their tokens."""
        return NUM_IMAGE_TOKENS * self.num_slices

    @property
    def num_audio_tokens(self) -> int:
        """Those of the sound."""
        return 0 if self.sound is None else len(self.sound)

    def parts(self, prompts: Prompts) -> list[Part]:
        """Return the unit's input as it is fed: pictures, then sound, without any delimiter."""
        parts: list[Part] = []
        first = 0
        for image in self.images:
            assert self.image_embeds is not None
            count = len(image.patches)
            embeds = self.image_embeds[first : first + count]
            parts += filled(prompts.duplex_frame(image.grid), embeds, ())
            first += count
        return [*parts, Embeds(self.sound)] if self.sound is not None else parts


@define(kw_only=True)
class Said:
    """What the model said in a unit, token by token.

    tokens: all that were fed, the decision first, which is never spoken (Q14). hidden: the state at
    each spoken token. terminator: ends the unit; fed with the next unit's input.
    """

    tokens: list[int] = field(factory=list)
    hidden: list[Tensor] = field(factory=list)
    terminator: int = -1
    ends_turn: bool = False

    @property
    def spoken(self) -> list[int]:
        """The tokens that are text and sound."""
        return self.tokens[1:]

    def is_listen(self, control: ControlTokens) -> bool:
        """Whether the unit is silence: the model listens, unless it ended a turn first (Q17)."""
        return self.terminator == control.listen and not self.ends_turn


@define(kw_only=True)
class Stopwatch:
    """Times at which the stages of a unit ended, in seconds."""

    start_s: float
    prefilled_s: float = 0.0
    decoded_s: float = 0.0
    spoken_s: float = 0.0
    sounded_s: float = 0.0

    def costs(self, now_s: float, is_listen: bool) -> StageCosts:
        """Return the stages' costs."""
        if is_listen:
            return StageCosts(
                prefill_ms=_ms(self.start_s, self.prefilled_s),
                llm_ms=_ms(self.prefilled_s, self.decoded_s),
                all_ms=_ms(self.start_s, now_s),
            )
        has_sound = bool(self.sounded_s)
        return StageCosts(
            prefill_ms=_ms(self.start_s, self.prefilled_s),
            llm_ms=_ms(self.prefilled_s, self.decoded_s),
            tts_prep_ms=0.0 if has_sound else None,  # the condition is part of the first step
            tts_ms=_ms(self.decoded_s, self.spoken_s) if has_sound else None,
            token2wav_ms=_ms(self.spoken_s, self.sounded_s) if has_sound else None,
            all_ms=_ms(self.start_s, now_s),
        )


def _ms(start_s: float, stop_s: float) -> float:
    return 1000 * (stop_s - start_s)


def opening(pending: Sequence[int], control: ControlTokens) -> Ids:
    """Return the ids in front of a unit's input: the end of the unit before, if it is not fed."""
    return Ids([*pending, control.unit_start])

"""What a conversation waits for: the items that its program yields, and what each gives back.

A conversation is a program: a generator that yields work and is resumed with its result, so that a
mode reads top to bottom as one session's story, while the engine computes the items of all sessions
together. A program writes

    fed = yield from done(Feed(parts=(Ids(ids),), wants_logits=True))

Whatever fails is raised there as an OmniError, and concerns this session alone.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum, auto
from typing import Any, Generic, TypeVar

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray
from torch import Tensor

from omni.minicpmo.code_buffer import CodeChunk
from omni.minicpmo.images import SlicedImage
from omni.minicpmo.prompt import Prompt
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.voice import Voice

T = TypeVar("T")
Waveform = NDArray[np.float32]


@frozen(eq=False)
class Work(Generic[T]):
    """Something to wait for; a T is the result."""


# Any: a generator has one type for all that is sent into it; `done` gives each item its own.
Program = Generator[Work[Any], Any, T]


def done(work: Work[T]) -> Program[T]:
    """Wait for *work* and return its result: `result = yield from done(work)`."""
    result: T = yield work
    return result


# --- seeing and hearing ------------------------------------------------------------------------


@frozen(kw_only=True, eq=False)
class EncodeImages(Work[Tensor]):
    """Pictures -> (pictures and slices in order, 64, C)."""

    images: Sequence[SlicedImage]


@frozen(kw_only=True, eq=False)
class EncodeAudio(Work[list[Tensor]]):
    """Whole recordings (float32, 16 kHz) -> (tokens, C) each, 10 tokens a second.

    sees_all: full attention (half duplex); else a frame sees its second and what came before.
    """

    recordings: Sequence[Waveform]
    sees_all: bool = False


@frozen(kw_only=True, eq=False)
class HearUnit(Work[Tensor]):
    """The next second of the session's stream -> (10, C). `Session.has_unit` must hold."""


# --- thinking ----------------------------------------------------------------------------------


@frozen(eq=False)
class Ids:
    """Token ids."""

    ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


@frozen(eq=False)
class Embeds:
    """Embeddings (N, C) of pictures or sound."""

    embeds: Tensor

    def __len__(self) -> int:
        return len(self.embeds)


Part = Ids | Embeds


@frozen(kw_only=True, eq=False)
class Fed:
    """The last token's state after the final norm, (1, C), and its logits, (1, V) float32."""

    hidden: Tensor
    logits: Tensor | None

    @property
    def next_logits(self) -> Tensor:
        """The logits of a `Feed` that wanted them."""
        assert self.logits is not None
        return self.logits


@frozen(kw_only=True, eq=False)
class Feed(Work[Fed]):
    """Append *parts* (at least one token) to the session's KV cache.

    start: fill the hole that `Session.splice` has left there. Raises ContextExhausted or
    CapacityError; the cache may then hold the first part of a long prompt: truncate it.
    """

    parts: Sequence[Part]
    wants_logits: bool = False
    start: int | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


@frozen(kw_only=True)
class Drawn:
    """A token, and whether it belongs into the history that the repetition penalty looks at."""

    token: int
    is_recorded: bool


@frozen(kw_only=True, eq=False)
class Draw(Work[Drawn]):
    """Choose the next token. logits: (1, V). history: of the session; it is not copied."""

    logits: Tensor
    sampling: TextSampling
    history: Sequence[int] = ()
    forbids_end: bool = False


# --- speaking ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class Spoken:
    """The codes since the last result, and whether the call has ended."""

    codes: tuple[int, ...]
    is_done: bool


@frozen(kw_only=True, eq=False)
class Speak(Work[Spoken]):
    """Begin a call of the session's speech turn (`Session.open_speech`) and wait for its codes.

    text_ids: n tokens. hidden: (n, C), the language model's state at each. min_codes, max_codes:
    None for the bounds of the turn's procedure. num_codes: give back as soon as so many are there,
    and the rest to `SpeakOn`; None: the whole call.
    """

    text_ids: Sequence[int]
    hidden: Tensor
    is_turn_end: bool
    min_codes: int | None = None
    max_codes: int | None = None
    num_codes: int | None = None


@frozen(kw_only=True, eq=False)
class SpeakOn(Work[Spoken]):
    """Wait for further codes of the session's call; it rests while nobody waits."""

    num_codes: int | None = None


@frozen(kw_only=True, eq=False)
class Vocode(Work[Waveform]):
    """Codes -> their sound, float32 at 24 kHz. voice: begin a turn of this voice first.

    Without chunks it only begins the turn, and so shows whether there is room for the voice.
    """

    chunks: Sequence[CodeChunk]
    voice: Voice | None = None


# --- everything else ---------------------------------------------------------------------------


class Lane(Enum):
    """Which background threads. No request may delay a call, and no film another request.

    VOICE: one, analyses voices. MEDIA: reads texts, pictures and sounds of requests. FILM: requests
    with films, which may take minutes. FRAME: pictures of calls. SPEECH: finds where speech begins
    and ends.
    """

    VOICE = auto()
    MEDIA = auto()
    FILM = auto()
    FRAME = auto()
    SPEECH = auto()


@frozen(kw_only=True, eq=False)
class Aside(Work[T]):
    """Run *call* in a background thread. It must not touch a device or the session."""

    call: Callable[[], T]
    lane: Lane = Lane.MEDIA


@frozen(kw_only=True, eq=False)
class Until(Work[None]):
    """Wait until *holds*, which is asked again whenever something happened."""

    holds: Callable[[], bool]


@define(eq=False)
class Strand(Generic[T]):
    """A program beside the session's own, made by `Fork`. Join every strand."""

    program: Program[T]
    is_done: bool = False
    result: Any = None  # a T, once is_done without an error
    error: Exception | None = None


@frozen(kw_only=True, eq=False)
class Fork(Work[Strand[T]]):
    """Let *program* run beside this one; it ends with the session at the latest."""

    program: Program[T] = field(repr=False)


@frozen(kw_only=True, eq=False)
class Join(Work[T]):
    """Wait for a strand; give its result, or raise what it raised."""

    strand: Strand[T]


def filled(prompt: Prompt, images: Tensor | None, audios: Sequence[Tensor]) -> list[Part]:
    """Return *prompt* with embeddings in its places.

    images: (spans, 64, C), one for each of prompt.images. audios: one (tokens, C) a recording, laid
    over the audio spans in order (a recording may cover several spans).
    """
    places: list[tuple[int, Tensor]] = []
    if images is not None:
        places += [(s.start, e) for s, e in zip(prompt.images, images, strict=True)]
    rest = list(audios)
    for span in prompt.audios:
        count = span.stop - span.start
        if count == 0:
            continue
        places.append((span.start, rest[0][:count]))
        rest[0] = rest[0][count:]
        if not len(rest[0]):
            rest.pop(0)
    parts: list[Part] = []
    position = 0
    for start, embeds in sorted(places, key=lambda place: place[0]):
        if start > position:
            parts.append(Ids(prompt.ids[position:start]))
        parts.append(Embeds(embeds))
        position = start + len(embeds)
    if position < len(prompt.ids):
        parts.append(Ids(prompt.ids[position:]))
    return parts

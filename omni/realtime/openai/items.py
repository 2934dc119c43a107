"""The items of a conversation: messages of the three roles, function calls and their results."""

from typing import Literal

from attrs import define, field, frozen

from omni.audio import INPUT_HZ, OUTPUT_HZ
from omni.engine import Buffer

Role = Literal["system", "user", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]

_FLOAT32_BYTES = 4
_MS = 1000


@define
class Text:
    """`input_text` of a user or system, `output_text` of an assistant."""

    text: str


@define
class UserSound:
    """`input_audio`. pcm: float32 at 16 kHz. transcript: None until somebody wrote it down."""

    pcm: Buffer = field(repr=False)
    transcript: str | None = None

    @property
    def duration_s(self) -> float:
        """How long it is."""
        return len(self.pcm) / (_FLOAT32_BYTES * INPUT_HZ)


@frozen
class Picture:
    """`input_image`. data: a compressed image file; url: the `data:` URL that it came in."""

    data: Buffer = field(repr=False)
    url: str = field(repr=False)
    detail: str = "auto"


@frozen
class Piece:
    """Words of an answer with the sound that says them, which may be none."""

    text: str
    duration_ms: float


@define
class Spoken:
    """`output_audio`: the answer piece by piece, so that what was played of it can be kept.

    is_cut: nobody will hear what an engine says from here on.
    """

    pieces: list[Piece] = field(factory=list)
    is_cut: bool = False

    @property
    def transcript(self) -> str:
        """Its words."""
        return "".join(piece.text for piece in self.pieces).strip()

    @property
    def duration_ms(self) -> float:
        """How long its sound is."""
        return sum(piece.duration_ms for piece in self.pieces)

    def add(self, text: str, num_bytes: int) -> None:
        """Append what an engine said, unless it was cut. num_bytes: of float32 at 24 kHz."""
        if not self.is_cut:
            self.pieces.append(Piece(text, num_bytes / _FLOAT32_BYTES * _MS / OUTPUT_HZ))

    def truncate(self, end_ms: float) -> None:
        """Keep what was played until *end_ms*: of a piece cut in two, as much of its words."""
        kept: list[Piece] = []
        for piece in self._with_their_sound():
            if end_ms <= 0:
                break
            if piece.duration_ms > end_ms:
                piece = Piece(_words(piece.text, end_ms / piece.duration_ms), end_ms)
            kept.append(piece)
            end_ms -= piece.duration_ms
        self.pieces = kept
        self.is_cut = True

    def _with_their_sound(self) -> list[Piece]:
        """Return the pieces such that words which came ahead of their sound lie with it.

        An engine may send text first and its sound later; words that have none belong to the next.
        """
        joined: list[Piece] = []
        waiting = ""
        for piece in self.pieces:
            waiting += piece.text
            if piece.duration_ms:
                joined.append(Piece(waiting, piece.duration_ms))
                waiting = ""
        if waiting and joined:  # its words are over, the sound of the last ones is not cut further
            joined[-1] = Piece(joined[-1].text + waiting, joined[-1].duration_ms)
        return joined


Content = Text | UserSound | Picture | Spoken


@define(eq=False)
class Message:
    """A message."""

    id: str
    role: Role
    content: list[Content]
    status: Status = "completed"


@define(eq=False)
class FunctionCall:
    """A call that a model wanted, or that the client says it did."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Status = "completed"


@define(eq=False)
class FunctionCallOutput:
    """What a function gave."""

    id: str
    call_id: str
    output: str
    status: Status = "completed"


Item = Message | FunctionCall | FunctionCallOutput


def num_bytes(item: Item) -> int:
    """Return how much memory the sound, pictures and words of *item* take, about."""
    if not isinstance(item, Message):
        return len(item.arguments if isinstance(item, FunctionCall) else item.output)
    return sum(_size(content) for content in item.content)


def has_sound(item: Item) -> bool:
    """Say whether a user speaks in *item*."""
    return isinstance(item, Message) and any(isinstance(c, UserSound) for c in item.content)


def _size(content: Content) -> int:
    match content:
        case Text():
            return len(content.text)
        case UserSound():
            return len(content.pcm)
        case Picture():
            return len(content.data) + len(content.url)
        case Spoken():
            return sum(len(piece.text) for piece in content.pieces)


def _words(text: str, share: float) -> str:
    """Return the first words of *text*, about *share* of its length; a word is heard or not."""
    end = round(len(text) * share)
    if end >= len(text):
        return text
    cut = max(text.rfind(" ", 0, end + 1), 0)
    return text[:cut]

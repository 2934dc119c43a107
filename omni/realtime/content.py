"""Messages and their parts (text, image, audio, video), as chat and half duplex send them."""

from collections.abc import Sequence
from typing import Literal

from omni.engine import ChatMessage, Part
from omni.realtime.fields import FieldError, Fields
from omni.realtime.media import SoundLeft, decode_file, decode_picture, decode_sound

Kind = Literal["text", "image", "audio", "video"]
_KINDS: tuple[Kind, ...] = ("text", "image", "audio", "video")
Author = Literal["system", "user", "assistant"]
_AUTHORS: tuple[Author, ...] = ("system", "user", "assistant")
#: What is said for a user who said nothing, where an engine wants a question to answer.
BEGIN = "Begin the conversation."
GO_ON = "Go on."
MAX_MESSAGES = 2_000
MAX_PARTS = 512
MAX_VIDEO_BYTES = 256 * 2**20
MAX_RATE_HZ = 192_000


def parse_messages(fields: Fields, name: str = "messages") -> tuple[ChatMessage, ...]:
    """Return the conversation under *name*; messages without content are left out.

    Raises: FieldError, also when nothing is left.
    """
    sound = SoundLeft()
    messages = tuple(
        message
        for entry in fields.objects(name, MAX_MESSAGES)
        if (message := _parse_message(entry, sound)).parts
    )
    if not messages:
        raise fields.wrong(name, "at least one message with content is expected")
    return messages


def parse_parts(fields: Fields, name: str, sound: SoundLeft | None = None) -> tuple[Part, ...]:
    """Return the content under *name*: a text, or a list of texts and part objects.

    sound: what the whole request may still bring of it; None: this content is all.
    """
    sound = SoundLeft() if sound is None else sound
    value = fields.values.get(name)
    if isinstance(value, str):
        return (Part(kind="text", text=fields.text(name)),) if value else ()
    return tuple(
        _parse_entry(entry, Fields({}, (*fields.loc, name)), index, sound)
        for index, entry in enumerate(fields.items(name, MAX_PARTS))
    )


def only(parts: Sequence[Part], kinds: Sequence[Kind], loc_name: str) -> None:
    """Raise FieldError when a part is none of *kinds*."""
    for index, part in enumerate(parts):
        if part.kind not in kinds:
            raise FieldError((loc_name, index), f"{part.kind} cannot stand here")


def _parse_message(fields: Fields, sound: SoundLeft) -> ChatMessage:
    if not fields.has("role"):
        raise fields.wrong("role", "is missing")
    role = fields.choice("role", "user", _AUTHORS)
    return ChatMessage(role=role, parts=parse_parts(fields, "content", sound))


def _parse_entry(entry: object, parent: Fields, index: int, sound: SoundLeft) -> Part:
    loc = (*parent.loc, index)
    if isinstance(entry, str):
        return Part(kind="text", text=entry)
    if not isinstance(entry, dict):
        raise FieldError(loc, "a text or an object is expected", entry)
    return _parse_part(Fields(entry, loc), sound)


def _parse_part(fields: Fields, sound: SoundLeft) -> Part:
    if not fields.has("type"):
        raise fields.wrong("type", "is missing")
    kind = fields.choice("type", "text", _KINDS)
    if kind == "text":
        return Part(kind="text", text=fields.text("text"))
    if not fields.has("data"):
        raise fields.wrong("data", "is missing")
    data = fields.text("data", max_chars=2 * MAX_VIDEO_BYTES)
    loc = (*fields.loc, "data")
    if kind == "audio":
        rate_hz = fields.whole("sample_rate", 16_000, 1_000, MAX_RATE_HZ)
        pcm = sound.read(lambda max_s: decode_sound(data, loc, max_s, rate_hz), loc)
        return Part(kind="audio", data=pcm)
    if kind == "image":
        return Part(kind="image", data=decode_picture(data, loc))
    stack_frames = fields.whole("stack_frames", 1, 1, 64)
    video = decode_file(data, loc, MAX_VIDEO_BYTES)
    return Part(kind="video", data=video, stack_frames=stack_frames)

"""Items as clients send them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from omni.audio import INPUT_HZ, resample
from omni.engine import Buffer
from omni.openai.errors import Refusal
from omni.openai.media import read_image
from omni.realtime.fields import FieldError, Fields
from omni.realtime.media import MAX_IMAGE_BYTES, checked_sound, decode_base64
from omni.realtime.openai.config import MAX_NAME_CHARS, FormatName
from omni.realtime.openai.events import new_id
from omni.realtime.openai.formats import decode, rate_hz
from omni.realtime.openai.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    Picture,
    Role,
    Spoken,
    Text,
    UserSound,
)

#: Longest sound in one item: OpenAI's limit of 15 MiB in PCM16 at 24 kHz.
MAX_ITEM_S = 300.0
MAX_PARTS = 64
_MAX_SOUND_CHARS = 24 * 2**20
_MAX_IMAGE_CHARS = 2 * MAX_IMAGE_BYTES
_ROLES: tuple[Role, ...] = ("user", "assistant", "system")
_KINDS = ("message", "function_call", "function_call_output")
_DETAILS = ("auto", "low", "high")

#: What each role may say; the second name is the beta's.
_PARTS: Mapping[Role, Sequence[str]] = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text", "output_audio", "text", "audio"),
}


def read_item(fields: Fields, sound: FormatName) -> Item:
    """Return the item in *fields*, with an id of ours where it has none. sound: of its recordings.

    Raises: FieldError.
    """
    required(fields, "type")
    kind = fields.choice("type", "message", _KINDS)
    item_id = fields.text("id", max_chars=MAX_NAME_CHARS) or new_id("item")
    if kind == "message":
        return _message(fields, item_id, sound)
    if kind == "function_call":
        for name in ("name", "arguments"):
            required(fields, name)
        return FunctionCall(
            id=item_id,
            call_id=fields.text("call_id", max_chars=MAX_NAME_CHARS) or new_id("call"),
            name=fields.text("name", max_chars=MAX_NAME_CHARS),
            arguments=fields.text("arguments"),
        )
    for name in ("call_id", "output"):
        required(fields, name)
    return FunctionCallOutput(
        id=item_id,
        call_id=fields.text("call_id", max_chars=MAX_NAME_CHARS),
        output=fields.text("output"),
    )


def required(fields: Fields, name: str) -> None:
    """Raise Refusal when *name* is not there."""
    if not fields.has(name):
        raise Refusal((*fields.loc, name), "is missing", "missing_required_parameter")


def _message(fields: Fields, item_id: str, sound: FormatName) -> Message:
    for name in ("role", "content"):
        required(fields, name)
    role = fields.choice("role", "user", _ROLES)
    parts = list(fields.objects("content", MAX_PARTS))
    if not parts:
        raise fields.wrong("content", "at least one part is expected")
    return Message(id=item_id, role=role, content=[_part(part, role, sound) for part in parts])


def _part(fields: Fields, role: Role, sound: FormatName) -> Content:
    required(fields, "type")
    kind = fields.choice("type", "", _PARTS[role])
    if kind == "input_audio":
        return _recording(fields, sound)
    return _READERS[kind](fields)


def _recording(fields: Fields, sound: FormatName) -> UserSound:
    required(fields, "audio")
    loc = (*fields.loc, "audio")
    data = decode_base64(fields.text("audio", max_chars=_MAX_SOUND_CHARS), loc)
    if not data or (sound == "audio/pcm" and len(data) % 2):
        raise FieldError(loc, f"{len(data)} bytes are no sound of {sound}")
    samples = resample(decode(sound, data), rate_hz(sound), INPUT_HZ)
    if samples.size > MAX_ITEM_S * INPUT_HZ:
        raise FieldError(loc, f"the sound is longer than {MAX_ITEM_S:.0f} s")
    given = fields.text("transcript") if fields.has("transcript") else None
    pcm = checked_sound(samples.astype(np.float32, copy=False), INPUT_HZ, MAX_ITEM_S)
    return UserSound(pcm=Buffer(pcm), transcript=given)


def _picture(fields: Fields) -> Picture:
    required(fields, "image_url")
    url = fields.text("image_url", max_chars=_MAX_IMAGE_CHARS)
    return Picture(
        data=read_image(url, (*fields.loc, "image_url")),
        url=url,
        detail=fields.choice("detail", "auto", _DETAILS),
    )


def _text(fields: Fields) -> Text:
    required(fields, "text")
    return Text(fields.text("text"))


def _spoken(fields: Fields) -> Spoken:
    required(fields, "transcript")  # what the client says was said; its sound is not heard again
    spoken = Spoken()
    spoken.add(fields.text("transcript"), 0)
    return spoken


_READERS: Mapping[str, Callable[[Fields], Content]] = {
    "input_text": _text,
    "input_image": _picture,
    "output_text": _text,
    "text": _text,
    "output_audio": _spoken,
    "audio": _spoken,
}

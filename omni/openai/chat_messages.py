"""The messages of a chat completion -> the engine's. Blocks: media are checked and decoded here."""

from collections.abc import Callable

from attrs import evolve

from omni.engine import ChatMessage, Part
from omni.openai.errors import Refusal
from omni.openai.media import (
    MAX_SOUND_BYTES,
    MAX_VIDEO_BYTES,
    read_image,
    read_recording,
    read_video,
)
from omni.realtime.content import BEGIN, GO_ON, MAX_MESSAGES, MAX_PARTS, Author
from omni.realtime.fields import FieldError, Fields
from omni.realtime.media import MAX_IMAGE_BYTES, MAX_SPEECH_S

_AUTHORS: dict[str, Author] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
#: Parts that cost nothing to read.
_LIGHT = ("text", "refusal")
_SOUND_KINDS = ("wav", "mp3")
_DETAILS = ("auto", "low", "high", "original")

#: An audio id -> what was said in it; None where nobody knows it any more.
Recall = Callable[[str], str | None]


def read_messages(fields: Fields, recall: Recall) -> tuple[ChatMessage, ...]:
    """Return the conversation under `messages`, with a question last; empty ones are left out.

    Raises: FieldError.
    """
    messages = tuple(
        message
        for entry in fields.objects("messages", MAX_MESSAGES)
        if (message := _message(entry, recall)).parts
    )
    if not messages:
        raise fields.wrong("messages", "at least one message with content is expected")
    return _with_question(messages)


def _with_question(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Return *messages* such that the last one asks, as engines want it.

    Voice agents greet by a word of the system's alone: behind others it is what they ask for.
    """
    *before, last = messages
    if last.role == "system" and before:
        return (*before, evolve(last, role="user"))
    if last.role in ("system", "assistant"):
        said = Part(kind="text", text=GO_ON if last.role == "assistant" else BEGIN)
        return (*messages, ChatMessage(role="user", parts=(said,)))
    return messages


def has_media(fields: Fields) -> bool:
    """Say whether there is anything to be decoded in a request, which may be malformed."""
    messages = fields.values.get("messages")
    contents = [
        entry.get("content")
        for entry in (messages if isinstance(messages, list) else ())
        if isinstance(entry, dict)
    ]
    return any(
        isinstance(part, dict) and part.get("type") not in _LIGHT
        for content in contents
        if isinstance(content, list)
        for part in content
    )


def wants_detail(fields: Fields) -> bool:
    """Say whether a picture of the conversation, which was read, is to be seen in detail."""
    return any(
        part.section("image_url").values.get("detail") in ("high", "original")
        for entry in fields.objects("messages", MAX_MESSAGES)
        if isinstance(entry.values.get("content"), list)
        for part in entry.objects("content", MAX_PARTS)
        if part.values.get("type") == "image_url"
    )


def _message(fields: Fields, recall: Recall) -> ChatMessage:
    if not fields.has("role"):
        raise Refusal((*fields.loc, "role"), "is missing", "missing_required_parameter")
    role = _AUTHORS[fields.choice("role", "user", tuple(_AUTHORS))]
    parts = _parts(fields)
    if role == "assistant" and fields.has("audio"):
        parts = (*parts, _recalled(fields.section("audio"), recall))
    return ChatMessage(role=role, parts=parts)


def _recalled(fields: Fields, recall: Recall) -> Part:
    text = recall(fields.text("id", max_chars=200))
    if text is None:
        problem = "there is no such audio, or no more: send what was said as content"
        raise Refusal((*fields.loc, "id"), problem, "audio_not_found")
    return Part(kind="text", text=text)


def _parts(fields: Fields) -> tuple[Part, ...]:
    content = fields.values.get("content")
    if isinstance(content, str):
        return (Part(kind="text", text=fields.text("content")),) if content else ()
    parts = (_part(entry) for entry in fields.objects("content", MAX_PARTS))
    return tuple(part for part in parts if part is not None)


def _part(fields: Fields) -> Part | None:
    match fields.values.get("type"):
        case "text":
            return Part(kind="text", text=fields.text("text"))
        case "image_url":
            image = _named(fields, "image_url", "url")
            image.choice("detail", "auto", _DETAILS)
            url = image.text("url", max_chars=2 * MAX_IMAGE_BYTES)
            return Part(kind="image", data=read_image(url, (*image.loc, "url")))
        case "input_audio":
            sound = _named(fields, "input_audio", "data")
            sound.choice("format", "wav", _SOUND_KINDS)
            data = sound.text("data", max_chars=2 * MAX_SOUND_BYTES)
            pcm = read_recording(data, (*sound.loc, "data"), MAX_SPEECH_S)
            return Part(kind="audio", data=pcm)
        case "video_url":
            video = _named(fields, "video_url", "url")
            url = video.text("url", max_chars=2 * MAX_VIDEO_BYTES)
            return Part(kind="video", data=read_video(url, (*video.loc, "url")))
        case "refusal":
            return None
    kinds = "text, image_url, input_audio, video_url"
    raise FieldError((*fields.loc, "type"), f"one of {kinds} is expected")


def _named(fields: Fields, name: str, inner: str) -> Fields:
    """Return the object under *name*, which must have *inner*."""
    section = fields.section(name)
    if not section.has(inner):
        raise Refusal((*section.loc, inner), "is missing", "missing_required_parameter")
    return section

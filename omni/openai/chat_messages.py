"""The messages of a chat completion -> the engine's. Blocks: media are checked and decoded here."""

from collections.abc import Callable, Mapping
from typing import Literal

from attrs import evolve

from omni.engine import ChatMessage, Part, ToolCall
from omni.openai.errors import Refusal
from omni.openai.media import (
    MAX_SOUND_BYTES,
    MAX_VIDEO_BYTES,
    read_image,
    read_recording,
    read_video,
)
from omni.openai.tools import MAX_CALLS, MAX_NAME_CHARS
from omni.realtime.content import BEGIN, GO_ON, MAX_MESSAGES, MAX_PARTS
from omni.realtime.fields import FieldError, Fields
from omni.realtime.media import MAX_IMAGE_BYTES, SoundLeft

_AUTHORS: Mapping[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
#: Parts that cost nothing to read.
_LIGHT = ("text", "refusal")
_SOUND_KINDS = ("wav", "mp3")
_MAX_ID_CHARS = 200
_DETAILS = ("auto", "low", "high", "original")

#: An audio id -> what was said in it; None where nobody knows it any more.
Recall = Callable[[str], str | None]


def read_messages(fields: Fields, recall: Recall) -> tuple[ChatMessage, ...]:
    """Return the conversation under `messages`, with a question last; empty ones are left out.

    Raises: FieldError.
    """
    messages: list[ChatMessage] = []
    called: set[str] = set()
    left = SoundLeft()
    for entry in fields.objects("messages", MAX_MESSAGES):
        message = _message(entry, recall, left)
        called.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in called:
            raise entry.wrong("tool_call_id", "it names no call of the messages before it")
        if message.parts or message.tool_calls or message.role == "tool":
            messages.append(message)
    if not messages:
        raise fields.wrong("messages", "at least one message with content is expected")
    return _with_question(tuple(messages))


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


def _message(fields: Fields, recall: Recall, left: SoundLeft) -> ChatMessage:
    if not fields.has("role"):
        raise Refusal((*fields.loc, "role"), "is missing", "missing_required_parameter")
    role = _AUTHORS[fields.choice("role", "user", tuple(_AUTHORS))]
    parts = _parts(fields, left)
    if role == "tool":
        call_id = _call_id(fields)
        return ChatMessage(role=role, parts=_only_text(fields, parts), tool_call_id=call_id)
    if role != "assistant":
        return ChatMessage(role=role, parts=parts)
    if fields.has("audio"):
        parts = (*parts, _recalled(fields.section("audio"), recall))
    calls = tuple(_call(entry) for entry in fields.objects("tool_calls", MAX_CALLS))
    return ChatMessage(role=role, parts=parts, tool_calls=calls)


def _only_text(fields: Fields, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if any(part.kind != "text" for part in parts):
        raise fields.wrong("content", "what a function gave is text")
    return parts


def _call_id(fields: Fields) -> str:
    if not fields.has("tool_call_id"):
        problem = "is missing"
        raise Refusal((*fields.loc, "tool_call_id"), problem, "missing_required_parameter")
    return fields.text("tool_call_id", max_chars=_MAX_ID_CHARS)


def _call(fields: Fields) -> ToolCall:
    fields.choice("type", "function", ("function",))
    if not fields.has("id"):
        raise Refusal((*fields.loc, "id"), "is missing", "missing_required_parameter")
    function = _named(fields, "function", "name")
    return ToolCall(
        id=fields.text("id", max_chars=_MAX_ID_CHARS),
        name=function.text("name", max_chars=MAX_NAME_CHARS),
        arguments=function.text("arguments"),
    )


def _recalled(fields: Fields, recall: Recall) -> Part:
    text = recall(fields.text("id", max_chars=200))
    if text is None:
        problem = "there is no such audio, or no more: send what was said as content"
        raise Refusal((*fields.loc, "id"), problem, "audio_not_found")
    return Part(kind="text", text=text)


def _parts(fields: Fields, left: SoundLeft) -> tuple[Part, ...]:
    content = fields.values.get("content")
    if isinstance(content, str):
        return (Part(kind="text", text=fields.text("content")),) if content else ()
    parts = (_part(entry, left) for entry in fields.objects("content", MAX_PARTS))
    return tuple(part for part in parts if part is not None)


def _part(fields: Fields, left: SoundLeft) -> Part | None:
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
            loc = (*sound.loc, "data")
            pcm = left.read(lambda max_s: read_recording(data, loc, max_s), loc)
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

"""Events of the client: one frozen class each, read strictly from one frame."""

from collections.abc import Callable, Mapping

from attrs import frozen

from omni.engine import Buffer
from omni.errors import ProtocolError
from omni.openai.errors import Refusal
from omni.openai.tools import Choice, read_choice
from omni.realtime.binary_sound import SoundReader
from omni.realtime.fields import FieldError, Fields, read_object
from omni.realtime.media import decode_base64
from omni.realtime.openai.config import (
    MAX_NAME_CHARS,
    FormatName,
    Modality,
    SessionConfig,
    given_tools,
    max_tokens,
    modality,
    sound_format,
    updated,
    voice_name,
)
from omni.realtime.openai.formats import rate_hz
from omni.realtime.openai.items import Item
from omni.realtime.openai.read_items import read_item, required

MAX_INPUT_ITEMS = 500
#: Longest sound in one event; microphones send 0.1 s, programs whole questions.
MAX_APPEND_S = 120.0
_MAX_SOUND_CHARS = 16 * 2**20
_MAX_METADATA = 16
#: The longest answer position that can be named: a day.
_MAX_MS = 86_400_000


@frozen(kw_only=True)
class SessionUpdate:
    """The session as it shall be from here on."""

    config: SessionConfig


@frozen(kw_only=True)
class AppendSound:
    """Sound. data: in the session's format; pcm: of a binary frame, float32 at 16 kHz."""

    data: bytes = b""
    pcm: Buffer | None = None


@frozen(kw_only=True)
class CommitSound:
    """Make an item of the sound so far."""


@frozen(kw_only=True)
class ClearSound:
    """Forget the sound so far."""


@frozen(kw_only=True)
class CreateItem:
    """Add an item. previous_item_id: None: at the end; `root`: in front."""

    item: Item
    previous_item_id: str | None


@frozen(kw_only=True)
class RetrieveItem:
    """Show an item whole."""

    item_id: str


@frozen(kw_only=True)
class DeleteItem:
    """Take an item out."""

    item_id: str


@frozen(kw_only=True)
class TruncateItem:
    """Keep of an answer what was played of it."""

    item_id: str
    content_index: int
    audio_end_ms: int


@frozen(kw_only=True)
class CreateResponse:
    """Answer now. None: as the session has it.

    in_conversation: False for an answer out of band. input: what it answers instead of the
    conversation; a text in it is the id of an item there.
    """

    instructions: str | None = None
    output_modality: Modality | None = None
    output_format: FormatName | None = None
    voice: str | None = None
    max_output_tokens: int | None = None
    in_conversation: bool = True
    input: tuple[Item | str, ...] | None = None
    metadata: Mapping[str, object] | None = None
    tools: tuple[Mapping[str, object], ...] | None = None
    tool_choice: Choice | None = None


@frozen(kw_only=True)
class CancelResponse:
    """End the running answer. response_id: None: the conversation's own."""

    response_id: str | None


@frozen(kw_only=True)
class ClearOutput:
    """Means something over WebRTC alone."""


ClientEvent = (
    SessionUpdate
    | AppendSound
    | CommitSound
    | ClearSound
    | CreateItem
    | RetrieveItem
    | DeleteItem
    | TruncateItem
    | CreateResponse
    | CancelResponse
    | ClearOutput
)


@frozen
class Received:
    """A frame that was read. event_id: the client's name for it; error: why there is no event."""

    event: ClientEvent | None
    event_id: str | None = None
    error: ProtocolError | None = None


def read_frame(
    data: bytes, binary: bool, config: SessionConfig, reader: SoundReader
) -> Received:
    """Return what the frame *data* says, to a session that is set as *config*. Never raises.

    reader: of the session's binary frames; an Opus stream goes on from one to the next.
    """
    event_id = None
    try:
        if binary:
            return Received(AppendSound(pcm=reader.read(data)))
        fields = read_object(data)
        given = fields.values.get("event_id")
        event_id = given if isinstance(given, str) and len(given) <= MAX_NAME_CHARS else None
        return Received(_read_event(fields, config), event_id)
    except ProtocolError as exc:
        return Received(None, event_id, exc)


def _read_event(fields: Fields, config: SessionConfig) -> ClientEvent:
    kind = fields.values.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        known = ", ".join(_READERS)
        raise Refusal(("type",), f"{str(kind)[:60]!r} is no event; known: {known}")
    fields.text("event_id", max_chars=MAX_NAME_CHARS)
    return reader(fields, config)


def _session_update(fields: Fields, config: SessionConfig) -> SessionUpdate:
    required(fields, "session")
    return SessionUpdate(config=updated(config, fields.section("session")))


def _append(fields: Fields, config: SessionConfig) -> AppendSound:
    required(fields, "audio")
    text = fields.text("audio", max_chars=_MAX_SOUND_CHARS)
    data = decode_base64(text, ("audio",))
    width = 2 if config.input_format == "audio/pcm" else 1
    if len(data) % width:
        raise FieldError(("audio",), f"{len(data)} bytes are no whole number of 16-bit samples")
    if len(data) > MAX_APPEND_S * width * rate_hz(config.input_format):
        raise FieldError(("audio",), f"more than {MAX_APPEND_S:.0f} s of sound in one event")
    return AppendSound(data=data)


def _create_item(fields: Fields, config: SessionConfig) -> CreateItem:
    required(fields, "item")
    previous = fields.text("previous_item_id", max_chars=MAX_NAME_CHARS) or None
    item = read_item(fields.section("item"), config.input_format)
    return CreateItem(item=item, previous_item_id=previous)


def _truncate(fields: Fields, config: SessionConfig) -> TruncateItem:
    for name in ("content_index", "audio_end_ms"):
        required(fields, name)
    return TruncateItem(
        item_id=_item_id(fields),
        content_index=fields.whole("content_index", 0, 0, 1000),
        audio_end_ms=fields.whole("audio_end_ms", 0, 0, _MAX_MS),
    )


def _create_response(fields: Fields, config: SessionConfig) -> CreateResponse:
    given = fields.section("response")
    output = given.section("audio").section("output")
    flat = modality(given, "modalities", config.output_modality)
    return CreateResponse(
        instructions=given.text("instructions") if given.has("instructions") else None,
        output_modality=modality(given, "output_modalities", flat),
        output_format=sound_format(output, "format", config.output_format),
        voice=voice_name(output, voice_name(given, config.voice)),
        max_output_tokens=max_tokens(given, "max_output_tokens", config.max_output_tokens),
        in_conversation=given.text("conversation", "auto", MAX_NAME_CHARS) != "none",
        input=_read_input(given, config) if given.has("input") else None,
        metadata=_metadata(given),
        tools=given_tools(given, ()) if given.has("tools") else None,
        tool_choice=read_choice(given) if given.has("tool_choice") else None,
    )


def _read_input(given: Fields, config: SessionConfig) -> tuple[Item | str, ...]:
    items: list[Item | str] = []
    for entry in given.objects("input", MAX_INPUT_ITEMS):
        if entry.values.get("type") == "item_reference":
            items.append(_named(entry, "id"))
        else:
            items.append(read_item(entry, config.input_format))
    return tuple(items)


def _metadata(given: Fields) -> Mapping[str, object] | None:
    if not given.has("metadata"):
        return None
    section = given.section("metadata")
    if len(section.values) > _MAX_METADATA:
        raise given.wrong("metadata", f"more than {_MAX_METADATA} entries")
    return {name: section.text(name, max_chars=512) for name in section.values}


def _item_id(fields: Fields) -> str:
    return _named(fields, "item_id")


def _named(fields: Fields, name: str) -> str:
    required(fields, name)
    return fields.text(name, max_chars=MAX_NAME_CHARS)


_READERS: Mapping[str, Callable[[Fields, SessionConfig], ClientEvent]] = {
    "session.update": _session_update,
    "input_audio_buffer.append": _append,
    "input_audio_buffer.commit": lambda fields, config: CommitSound(),
    "input_audio_buffer.clear": lambda fields, config: ClearSound(),
    "conversation.item.create": _create_item,
    "conversation.item.retrieve": lambda fields, config: RetrieveItem(item_id=_item_id(fields)),
    "conversation.item.delete": lambda fields, config: DeleteItem(item_id=_item_id(fields)),
    "conversation.item.truncate": _truncate,
    "response.create": _create_response,
    "response.cancel": lambda fields, config: CancelResponse(
        response_id=fields.text("response_id", max_chars=MAX_NAME_CHARS) or None
    ),
    "output_audio_buffer.clear": lambda fields, config: ClearOutput(),
}

"""Events of the server, in the names of the present API or of its beta."""

import secrets
from collections.abc import Mapping

import orjson
from attrs import frozen

from omni.errors import OmniError
from omni.openai.errors import view_of
from omni.realtime.dialect import Frame

#: What the beta called it; "": it had no such event.
_BETA_NAMES = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
    "conversation.item.done": "",
}
_BETA_PARTS = {"output_text": "text", "output_audio": "audio"}


@frozen
class ServerEvent:
    """One event towards the client; it gets its `event_id` when it is written.

    sound: the binary frame that follows it, where the client asked for such.
    """

    kind: str
    fields: Mapping[str, object]
    sound: Frame | None = None

    @classmethod
    def of(cls, kind: str, **fields: object) -> "ServerEvent":
        """Return the event of that type with these fields."""
        return cls(kind, fields)

    def frames(self, is_beta: bool = False) -> list[Frame]:
        """Return the event as one frame, or two with its sound; none where the beta had none."""
        kind, fields = self.kind, dict(self.fields)
        if is_beta:
            kind = _BETA_NAMES.get(kind, kind)
            fields = {name: _in_beta(value) for name, value in fields.items()}
        if not kind:
            return []
        event = Frame(orjson.dumps({"type": kind, "event_id": new_id("event"), **fields}))
        return [event] if self.sound is None else [event, self.sound]


def error_event(error: OmniError, event_id: str | None = None) -> ServerEvent:
    """Return the `error` event of *error*. event_id: of the client's event that caused it."""
    return ServerEvent.of("error", error={**error_object(error), "event_id": event_id})


def error_object(error: OmniError) -> Mapping[str, object]:
    """Return *error* as OpenAI clients know errors."""
    view = view_of(error)
    return {
        "type": view.type,
        "code": view.code,
        "message": view.message,
        "param": view.param,
    }


def new_id(prefix: str) -> str:
    """Return an id of the form that OpenAI's have: `item_...`, `resp_...`, `event_...`."""
    return f"{prefix}_{secrets.token_hex(10)}"


def _in_beta(value: object) -> object:
    """Return *value* with the beta's names of the parts of an answer."""
    if isinstance(value, list):
        return [_in_beta(entry) for entry in value]
    if isinstance(value, Mapping):
        renamed = {name: _in_beta(entry) for name, entry in value.items()}
        if (kind := renamed.get("type")) in _BETA_PARTS:
            renamed["type"] = _BETA_PARTS[str(kind)]
        if "output_modalities" in renamed:
            renamed["modalities"] = _with_text(renamed.pop("output_modalities"))
        return renamed
    return value


def _with_text(modalities: object) -> object:
    return ["text", "audio"] if modalities == ["audio"] else modalities

"""The events of one answer, in the order that clients rely on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pybase64
from attrs import define, evolve, field, frozen

from omni.audio import OUTPUT_HZ, Waveform
from omni.engine import ChatDone, ToolCall
from omni.errors import OmniError
from omni.realtime.binary_sound import SoundForm, SoundWriter
from omni.realtime.openai.config import FormatName, Modality
from omni.realtime.openai.conversation import Conversation
from omni.realtime.openai.events import ServerEvent, error_object, new_id
from omni.realtime.openai.formats import Encoder
from omni.realtime.openai.items import FunctionCall, Item, Message, Spoken, Text
from omni.realtime.openai.shown_config import format_object
from omni.realtime.openai.shown_items import shown_item

#: Sound in one delta: Python's usual client takes frames of 1 MiB, and 16 s would be more.
_MAX_DELTA_S = 1.0
_CHARS_A_TOKEN = 4

Ending = Literal["completed", "cancelled", "incomplete", "failed"]


@frozen(kw_only=True)
class Usage:
    """What an answer cost, in tokens."""

    input_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    text_tokens: int = 0
    speech_tokens: int = 0

    @classmethod
    def of(cls, done: ChatDone) -> "Usage":
        """Return what the engine counted."""
        return cls(
            input_tokens=done.input_tokens,
            input_audio_tokens=done.input_audio_tokens,
            input_image_tokens=done.input_image_tokens,
            text_tokens=done.generated_tokens,
            speech_tokens=done.speech_tokens,
        )

    def shown(self) -> dict[str, object]:
        """Return it as clients are shown it."""
        heard, seen = self.input_audio_tokens, self.input_image_tokens
        num_output = self.text_tokens + self.speech_tokens
        return {
            "total_tokens": self.input_tokens + num_output,
            "input_tokens": self.input_tokens,
            "output_tokens": num_output,
            "input_token_details": {
                "text_tokens": self.input_tokens - heard - seen,
                "audio_tokens": heard,
                "image_tokens": seen,
                "cached_tokens": 0,
            },
            "output_token_details": {
                "text_tokens": self.text_tokens,
                "audio_tokens": self.speech_tokens,
            },
        }


@define(eq=False, kw_only=True)
class Response:
    """One answer. conversation: where its items go; None for an answer out of band.

    item: its words; there may be none where it calls functions. input_tokens: of the prompt, once
    the engine has counted them. left_out: what of the request the engine was not told.
    """

    modality: Modality
    output_format: FormatName
    voice: str
    max_output_tokens: int | None
    conversation: Conversation | None
    metadata: Mapping[str, object] | None = None
    sound: SoundForm = "base64"
    id: str = field(factory=lambda: new_id("resp"), init=False)
    item: Message | None = field(default=None, init=False)
    _output: list[Item] = field(factory=list, init=False)
    is_over: bool = field(default=False, init=False)
    input_tokens: int = field(default=0, init=False)
    left_out: OmniError | None = field(default=None, init=False)
    _status: str = field(default="in_progress", init=False)
    _status_details: dict[str, object] | None = field(default=None, init=False)
    _usage: Usage | None = field(default=None, init=False)
    _said: str = field(default="", init=False)
    _encoder: Encoder = field(init=False)
    _writer: SoundWriter = field(init=False)

    @_encoder.default
    def _make_encoder(self) -> Encoder:
        return Encoder(self.output_format)

    @_writer.default
    def _make_writer(self) -> SoundWriter:
        return SoundWriter(self.sound)

    @property
    def has_output(self) -> bool:
        """True once it said or called something."""
        return bool(self._output)

    @property
    def text(self) -> str:
        """What was said so far."""
        return self._said.strip()

    def created(self) -> list[ServerEvent]:
        """Return the first event."""
        return [ServerEvent.of("response.created", response=self._shown())]

    def said(self, text: str, pcm: bytes | memoryview) -> list[ServerEvent]:
        """Return the events of a piece of the answer. pcm: float32 at 24 kHz."""
        if not text and not len(pcm):
            return []
        events = [] if self.item is not None else self._begin()
        part = self._part
        self._said += text
        if isinstance(part, Text):
            part.text += text
            return [*events, *self._deltas("output_text", text)]
        part.add(text, len(pcm))
        events += self._deltas("output_audio_transcript", text)
        return events + self._sound(np.frombuffer(pcm, "<f4"))

    def called(self, call: ToolCall) -> list[ServerEvent]:
        """Return the events of a call of a function: an item of its own, begun and complete."""
        item = FunctionCall(
            id=new_id("item"), call_id=call.id, name=call.name, arguments="", status="in_progress"
        )
        events = self._add_item(item)
        item.arguments, item.status = call.arguments, "completed"
        about = {"item_id": item.id, "call_id": call.id}
        kind, text = "response.function_call_arguments", call.arguments
        return [
            *events,
            self._of_item(f"{kind}.delta", item, **about, delta=text),
            self._of_item(f"{kind}.done", item, **about, name=call.name, arguments=text),
            *self._item_done(item),
        ]

    def finish(
        self,
        status: Ending,
        usage: Usage | None = None,
        reason: str | None = None,
        error: Mapping[str, object] | None = None,
    ) -> list[ServerEvent]:
        """Return the last events. usage: None where the engine did not come to count it."""
        self.is_over = True
        self._status = status
        if status == "completed" and self.left_out is not None:
            # in an `error` event Pipecat would see the end of the call
            error = error_object(self.left_out)
        if status != "completed" or error:
            details = {"type": status, "reason": reason, "error": error}
            self._status_details = {name: value for name, value in details.items() if value}
        self._usage = usage or self._estimate()
        events = []
        if status == "completed" and not self._output:
            events += self._begin()
        if self.item is not None:
            self.item.status = "completed" if status == "completed" else "incomplete"
            events += self._end_item(self.item)
        return [*events, ServerEvent.of("response.done", response=self._shown())]

    @property
    def _part(self) -> Text | Spoken:
        assert self.item is not None
        part = self.item.content[0]
        assert isinstance(part, Text | Spoken)
        return part

    def _begin(self) -> list[ServerEvent]:
        """Add the item of the words, empty as yet."""
        item = Message(id=new_id("item"), role="assistant", content=[], status="in_progress")
        self.item = item
        events = self._add_item(item)
        item.content.append(Text("") if self.modality == "text" else Spoken())
        return [*events, self._of_part("response.content_part.added", part=self._shown_part())]

    def _add_item(self, item: Item) -> list[ServerEvent]:
        """Add *item* to answer and conversation."""
        self._output.append(item)
        begun = shown_item(item)
        events = [self._of_item("response.output_item.added", item, item=begun)]
        if self.conversation is not None:
            previous, gone = self.conversation.add(item)
            added = ServerEvent.of(
                "conversation.item.added", previous_item_id=previous, item=begun
            )
            events += [added, *deleted(gone)]
        return events

    def _end_item(self, item: Message) -> list[ServerEvent]:
        return [*self._end_part(), *self._item_done(item)]

    def _item_done(self, item: Item) -> list[ServerEvent]:
        shown = shown_item(item)
        events = [self._of_item("response.output_item.done", item, item=shown)]
        if self.conversation is not None:
            previous = self.conversation.before(item)
            events.append(
                ServerEvent.of("conversation.item.done", previous_item_id=previous, item=shown)
            )
        return events

    def _end_part(self) -> list[ServerEvent]:
        done = self._of_part("response.content_part.done", part=self._shown_part())
        if self.modality == "text":
            return [self._of_part("response.output_text.done", text=self._said), done]
        return [
            *self._sound(np.zeros(0, np.float32), last=True),
            self._of_part("response.output_audio.done"),
            self._of_part("response.output_audio_transcript.done", transcript=self._said),
            done,
        ]

    def _sound(self, samples: Waveform, last: bool = False) -> list[ServerEvent]:
        if self.sound != "base64":
            return self._binary_sound(samples, last)
        size = int(_MAX_DELTA_S * OUTPUT_HZ)
        events: list[ServerEvent] = []
        for at in range(0, max(samples.size, 1), size):
            data = self._encoder.push(samples[at : at + size], last)
            events += self._deltas("output_audio", pybase64.b64encode_as_string(data))
        return events

    def _binary_sound(self, samples: Waveform, last: bool) -> list[ServerEvent]:
        fields, frames = self._writer.told("delta", samples.tobytes(), last)
        event = self._of_part("response.output_audio.delta", **fields)
        return [evolve(event, sound=frame) for frame in frames]

    def _deltas(self, kind: str, delta: str) -> Iterator[ServerEvent]:
        if delta:
            yield self._of_part(f"response.{kind}.delta", delta=delta)

    def _of_item(self, kind: str, about: Item, /, **fields: object) -> ServerEvent:
        place = self._output.index(about)
        return ServerEvent.of(kind, response_id=self.id, output_index=place, **fields)

    def _of_part(self, kind: str, **fields: object) -> ServerEvent:
        assert self.item is not None
        return self._of_item(kind, self.item, item_id=self.item.id, content_index=0, **fields)

    def _shown_part(self) -> dict[str, object]:
        if self.modality == "text":
            return {"type": "text", "text": self._said}
        return {"type": "audio", "transcript": self._said}

    def _estimate(self) -> Usage:
        calls = [item for item in self._output if isinstance(item, FunctionCall)]
        num_chars = len(self._said) + sum(len(call.arguments) for call in calls)
        num_tokens = -(-num_chars // _CHARS_A_TOKEN)
        return Usage(input_tokens=self.input_tokens, text_tokens=num_tokens)

    def _shown(self) -> dict[str, object]:
        sound = {"format": format_object(self.output_format), "voice": self.voice}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": self._status,
            "status_details": self._status_details,
            "output": [shown_item(item) for item in self._output],
            "conversation_id": self.conversation.id if self.conversation else None,
            "output_modalities": [self.modality],
            "max_output_tokens": self.max_output_tokens or "inf",
            "audio": {"output": sound},
            "usage": None if self._usage is None else self._usage.shown(),
            "metadata": self.metadata,
        }


def deleted(items: Sequence[Item]) -> list[ServerEvent]:
    """Return the events that tell of items which had to go."""
    return [ServerEvent.of("conversation.item.deleted", item_id=item.id) for item in items]

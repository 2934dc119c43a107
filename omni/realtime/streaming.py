"""The demo's older dialect of `/ws/streaming`: `prefill`, then `generate`, many turns a socket."""

from collections.abc import Sequence

from attrs import define, field

from omni.engine import ChatRequest, ReplyChunk
from omni.errors import ProtocolError
from omni.realtime.binary_sound import SoundForm, sound_form
from omni.realtime.chat import SOCKET_MAX_NEW_TOKENS
from omni.realtime.content import parse_messages
from omni.realtime.dialect import (
    Command,
    Frame,
    Generate,
    Interrupt,
    Notice,
    Open,
    Prefilled,
    Stop,
    StreamEnded,
    event,
)
from omni.realtime.duplex import MAX_SLICES, parse_voice
from omni.realtime.fields import Fields, read_object
from omni.realtime.native import AnswerWriter, render_common


@define
class StreamingDialect:
    """Speaks `/ws/streaming`. The client sends its whole history with each `prefill`."""

    _asked_form: SoundForm = field(default="base64", init=False)
    _answers: AnswerWriter = field(factory=AnswerWriter, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            raise ProtocolError("Invalid message: JSON text is expected")
        fields = read_object(data)
        match kind := fields.text("type"):
            case "prefill":
                form, opening = sound_form(fields), Open(input=_parse_prefill(fields))
                self._asked_form = form
                return opening
            case "generate":
                return _parse_generate(fields)
            case "stop":
                return Interrupt()
            case "close":
                return Stop()
            case "":
                raise ProtocolError("Missing type")
        raise ProtocolError(f"Unknown type: {kind[:60]}")

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case ReplyChunk():
                return self._answers.render(notice)
            case Prefilled():  # a `prefill` during an answer was refused, and changed nothing
                self._answers.mouth.form = self._asked_form
                self._answers.begin()
                return _render_prefilled(notice)
            case StreamEnded():
                return _render_ended(notice)
        return render_common(notice)


def _parse_prefill(fields: Fields) -> ChatRequest:
    """Return the request without what `generate` says."""
    name = "tts_ref_audio_base64" if fields.has("tts_ref_audio_base64") else "ref_audio_base64"
    return ChatRequest(
        messages=parse_messages(fields),
        voice=parse_voice(fields, name),
        max_slice_nums=fields.optional_whole("max_slice_nums", 1, MAX_SLICES),
    )


def _parse_generate(fields: Fields) -> Generate:
    default = ChatRequest(messages=())
    return Generate(
        speak=fields.flag("generate_audio", True),
        max_new_tokens=fields.whole("max_new_tokens", SOCKET_MAX_NEW_TOKENS, 1, 4096),
        length_penalty=fields.number("length_penalty", default.length_penalty, 0.1, 5),
    )


def _render_prefilled(prefilled: Prefilled) -> Sequence[Frame]:
    """The tokens are counted when the answer is made; `done` tells them."""
    fields: dict[str, object] = {
        "prompt_length": prefilled.prompt_length,
        "message_count": prefilled.num_messages,
        "cached_tokens": 0,
        "input_tokens": 0,
    }
    return event("prefill_done", **fields, **_recording(prefilled.recording_id))


def _render_ended(ended: StreamEnded) -> Sequence[Frame]:
    done = ended.done
    return event(
        "done",
        elapsed_ms=round(1000 * ended.elapsed_s, 1),
        session_id=ended.session_id,
        stopped=done.finish_reason == "cancelled",
        token_stats={
            "cached_tokens": 0,
            "input_tokens": done.input_tokens,
            "generated_tokens": done.generated_tokens,
            "total_tokens": done.input_tokens + done.generated_tokens,
        },
        **_recording(ended.recording_id),
    )


def _recording(recording_id: str) -> dict[str, object]:
    return {"recording_session_id": recording_id} if recording_id else {}

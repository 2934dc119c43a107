"""R2 in turns (`?mode=chat`): after `session.init` each `input.append` is a whole chat request."""

from collections.abc import Sequence

from attrs import define, evolve, field

from omni.engine import ChatMessage, Part, ReplyChunk
from omni.errors import MissingField, ProtocolError
from omni.realtime.binary_sound import sound_form
from omni.realtime.chat import SOCKET_MAX_NEW_TOKENS, parse_request
from omni.realtime.dialect import (
    Begin,
    ChatAnswered,
    Command,
    Frame,
    Notice,
    Open,
    QueueDone,
    Ready,
    TurnBegun,
    Waiting,
    event,
)
from omni.realtime.duplex import refuse_tools
from omni.realtime.fields import Fields, no_event, read_object
from omni.realtime.r2_events import R2Session
from omni.realtime.usage import Usage

#: A turn in which nothing is wrong, to find what is wrong in a `session.init`.
_ANY_TURN = {"messages": [{"role": "user", "content": "?"}]}


@define
class R2ChatDialect:
    """Speaks R2 in turns. The slot is asked for with each turn; a turn that waits is told so."""

    _session: R2Session = field(factory=R2Session, init=False)
    _init: Fields = field(factory=lambda: Fields({}), init=False)
    _is_waiting: bool = field(default=True, init=False)  # the first `queue_done` is always told
    _response_id: str = field(default="", init=False)
    _input_id: str = field(default="", init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            raise ProtocolError("A turn is JSON in a text frame")
        fields = read_object(data)
        match fields.text("type"):
            case "session.init":
                return self._parse_init(fields)
            case "input.append":
                return self._parse_append(fields)
            case "session.close":
                return self._session.parse_close(fields)
        raise no_event(fields)

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case ReplyChunk():
                return self._render_chunk(notice)
            case ChatAnswered():
                return self._render_done(notice)
            case TurnBegun(input_id=input_id):
                self._response_id, self._input_id = self._session.next_response_id(), input_id
                self._session.mouth.cut()
                return []
            case Ready():
                return self._session.create(notice, "turn_based")
            case Waiting():
                self._is_waiting = True
            case QueueDone() if not self._is_waiting:
                return []
            case QueueDone():
                self._is_waiting = False
        return self._session.render(notice)

    def _parse_init(self, fields: Fields) -> Begin:
        try:
            payload = fields.section("payload")
            payload.choice("mode", "turn_based", ("full_duplex", "turn_based"))
            _system_prompt(payload)
            refuse_tools(payload)
            parse_request(_with_defaults(Fields(_ANY_TURN), payload), SOCKET_MAX_NEW_TOKENS)
            self._session.choose_sound(sound_form(payload))
        except ProtocolError as exc:
            raise self._session.refuse_init(exc) from exc
        if not self._session.is_created:  # a second one is refused, and changes nothing
            self._init = payload
        return Begin()

    def _parse_append(self, fields: Fields) -> Open:
        input = self._session.read_input(fields)
        if not input.has("messages"):
            raise MissingField("input.messages is missing")
        refuse_tools(input)
        request = parse_request(_with_defaults(input, self._init), SOCKET_MAX_NEW_TOKENS)
        messages = _with_system(request.messages, _system_prompt(self._init))
        return Open(
            input=evolve(request, messages=messages),
            stream=input.flag("streaming", True),
            input_id=input.text("input_id", max_chars=200),
        )

    def _render_chunk(self, chunk: ReplyChunk) -> Sequence[Frame]:
        frames: list[Frame] = []
        if chunk.text:
            frames += self._delta(kind="text", text=chunk.text)
        audio, follows = self._session.mouth.told("audio", chunk.pcm, chunk.is_final)
        if len(chunk.pcm) or follows:
            frames += [*self._delta(kind="audio", **audio), *follows]
        return frames

    def _render_done(self, answer: ChatAnswered) -> Sequence[Frame]:
        done = answer.done
        extra = {"recording_session_id": answer.recording_id} if answer.recording_id else {}
        return self._session.mouth.whole(
            "response.done",
            "audio",
            answer.pcm,
            **self._ids(),
            text=done.text,
            **extra,
            reason="error" if answer.failure else "turn_end",
            finish_reason=done.finish_reason,
            metrics={
                "prefill_ms": done.costs.prefill_ms,
                "generate_ms": done.costs.llm_ms,
                "cost_tts_ms": done.costs.tts_ms,
                "cost_token2wav_ms": done.costs.token2wav_ms,
                "cost_all_ms": done.costs.all_ms,
                "n_tokens": done.generated_tokens,
            },
            **self._session.usage.add(Usage.of_chat(done)),
        )

    def _delta(self, **fields: object) -> list[Frame]:
        return event("response.output.delta", **self._ids(), **fields)

    def _ids(self) -> dict[str, object]:
        return {
            "session_id": self._session.session_id,
            "response_id": self._response_id,
            "input_id": self._input_id or None,
        }


def _system_prompt(init: Fields) -> str:
    return init.text("system_prompt", init.text("instructions"))


def _with_defaults(input: Fields, init: Fields) -> Fields:
    """Return a turn's request with what `session.init` said where it says nothing itself."""
    config, voice = init.section("config").values, init.section("voice").values
    defaults = {
        "max_new_tokens": config.get("max_tokens"),
        "temperature": config.get("temperature"),
        "length_penalty": config.get("length_penalty"),
    }
    speaking = {
        "enabled": config.get("tts_enabled"),
        "ref_audio_data": voice.get("ref_audio_base64") or voice.get("ref_audio"),
    }
    merged = {
        "generation": defaults | _given(input.section("generation")),
        "tts": speaking | _given(input.section("tts")),
    }
    return Fields({**input.values, **merged}, input.loc)


def _given(fields: Fields) -> dict[str, object]:
    """Return the fields that say something: null is the same as absent."""
    return {name: value for name, value in fields.values.items() if value is not None}


def _with_system(messages: tuple[ChatMessage, ...], prompt: str) -> tuple[ChatMessage, ...]:
    """Return *messages* behind the session's instructions, unless they bring their own."""
    if not prompt or any(message.role == "system" for message in messages):
        return messages
    return (ChatMessage(role="system", parts=(Part(kind="text", text=prompt),)), *messages)

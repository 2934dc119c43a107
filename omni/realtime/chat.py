"""The demo's dialect of `/ws/chat`, and the request that it shares with `POST /api/chat`."""

from collections.abc import Sequence
from typing import Literal, get_args

from attrs import define, field

from omni.audio import INPUT_HZ
from omni.engine import (
    Buffer,
    ChatRequest,
    PrefillDone,
    ReplyChunk,
    SpeechSampling,
    VoiceMode,
)
from omni.errors import ProtocolError
from omni.realtime.binary_sound import SoundWriter, sound_form
from omni.realtime.content import parse_messages
from omni.realtime.dialect import (
    ChatAnswered,
    Command,
    Frame,
    Notice,
    Open,
    QueueDone,
    Stop,
    event,
)
from omni.realtime.duplex import MAX_SLICES, parse_voice
from omni.realtime.fields import Fields, read_object
from omni.realtime.native import render_common

#: The demo answers shorter on its socket than on its HTTP route.
SOCKET_MAX_NEW_TOKENS = 256
HTTP_MAX_NEW_TOKENS = 512

_MAX_SEED = 2**63 - 1
_MAX_VOICE_MS = 3_600_000
_VOICE_BYTES_A_MS = INPUT_HZ // 1000 * 4  # float32
VOICE_MODES: tuple[VoiceMode, ...] = get_args(VoiceMode)
VOICE_LANGUAGES: tuple[Literal["en"], Literal["zh"]] = ("en", "zh")


@define
class ChatDialect:
    """Speaks `/ws/chat`: one request, one answer."""

    _is_asked: bool = field(default=False, init=False)
    _mouth: SoundWriter = field(factory=SoundWriter, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            raise ProtocolError("Invalid message: a chat request is JSON text")
        fields = read_object(data)
        if fields.values.get("type") in ("stop", "cancel"):
            return Stop()
        form, request = sound_form(fields), parse_request(fields, SOCKET_MAX_NEW_TOKENS)
        opening = Open(input=request, stream=fields.flag("streaming", True))
        if not self._is_asked:  # a second one is refused, and changes nothing
            self._is_asked, self._mouth.form = True, form
        return opening

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case ReplyChunk():
                return self._render_chunk(notice)
            case PrefillDone(input_tokens=input_tokens):
                return event("prefill_done", input_tokens=input_tokens)
            case ChatAnswered():
                return self._render_done(notice)
            case QueueDone():  # its clients wait in silence; who waited knows by `prefill_done`
                return []
        return render_common(notice)

    def _render_chunk(self, chunk: ReplyChunk) -> Sequence[Frame]:
        audio, frames = self._mouth.told("audio_data", chunk.pcm, chunk.is_final)
        fields: dict[str, object] = {"text_delta": chunk.text} if chunk.text else {}
        if len(chunk.pcm) or frames:
            fields |= audio
        return [*event("chunk", **fields), *frames] if fields else []

    def _render_done(self, answer: ChatAnswered) -> Sequence[Frame]:
        done = answer.done
        fields: dict[str, object] = {
            "text": done.text,
            "generated_tokens": done.generated_tokens,
            "input_tokens": done.input_tokens,
            "finish_reason": done.finish_reason,
        }
        if answer.recording_id:
            fields["recording_session_id"] = answer.recording_id
        if answer.stream:
            return event("done", **fields)
        return self._mouth.whole("done", "audio_data", answer.pcm, **fields)


def parse_request(fields: Fields, max_new_tokens: int) -> ChatRequest:
    """Return the chat request in *fields*. max_new_tokens: the default of this way in."""
    generation, tts = fields.section("generation"), fields.section("tts")
    image = fields.section("image")
    default = ChatRequest(messages=())
    has_film = fields.flag("omni_mode", default.omni_mode)
    return ChatRequest(
        messages=parse_messages(fields),
        max_new_tokens=generation.whole("max_new_tokens", max_new_tokens, 1, 4096),
        min_new_tokens=generation.whole("min_new_tokens", default.min_new_tokens, 0, 4096),
        do_sample=generation.flag("do_sample", default.do_sample),
        temperature=generation.number("temperature", default.temperature, 0, 2),
        top_p=generation.number("top_p", default.top_p, 0, 1),
        top_k=generation.whole("top_k", default.top_k, 0, 100_000),
        repetition_penalty=generation.number(
            "repetition_penalty", default.repetition_penalty, 0.1, 10
        ),
        length_penalty=generation.number("length_penalty", default.length_penalty, 0.1, 5),
        max_inp_length=generation.whole("max_inp_length", default.max_inp_length, 1, 1_000_000),
        speak=tts.flag("enabled", False),
        voice=_parse_voice(tts),
        voice_mode=tts.choice("mode", "omni" if has_film else "audio_assistant", VOICE_MODES),
        voice_language=tts.choice("language", "en", VOICE_LANGUAGES),
        speech=_parse_speech(tts.section("sampling")),
        max_slice_nums=image.optional_whole("max_slice_nums", 1, MAX_SLICES),
        use_image_id=image.flag("use_image_id", default.use_image_id),
        omni_mode=has_film,
        enable_thinking=fields.flag("enable_thinking", default.enable_thinking),
        streaming=fields.flag("streaming", default.streaming),
        seed=generation.optional_whole("seed", 0, _MAX_SEED),
    )


def _parse_speech(sampling: Fields) -> SpeechSampling:
    """Return what is known of *sampling*; `min_p` and `tau_r` change nothing, there as here."""
    default = SpeechSampling()
    return SpeechSampling(
        temperature=sampling.number("temperature", default.temperature, 0, 2),
        top_p=sampling.number("top_p", default.top_p, 0.01, 1),
        top_k=sampling.whole("top_k", default.top_k, 1, 64),
        repetition_penalty=sampling.number(
            "repetition_penalty", default.repetition_penalty, 0.1, 10
        ),
        window=sampling.whole("win_size", default.window, 1, 64),
    )


def _parse_voice(tts: Fields) -> Buffer:
    voice = parse_voice(tts, "ref_audio_data")
    most_ms = tts.optional_whole("ref_audio_max_ms", 1000, _MAX_VOICE_MS)
    return Buffer(voice[: most_ms * _VOICE_BYTES_A_MS]) if most_ms is not None else voice

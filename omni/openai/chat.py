"""`POST /v1/chat/completions`: what a request says. Blocks, where media are in it."""

from attrs import frozen

from omni.engine import ChatMessage, ChatRequest
from omni.openai.chat_messages import Recall, read_messages, wants_detail
from omni.openai.errors import Refusal
from omni.openai.tools import read_choice, read_tools
from omni.realtime.fields import Fields

#: Longest answer, also where a request names none.
MAX_TOKENS = 4096
_HIGH_DETAIL_SLICES = 2
_MAX_STOPS = 4
_MAX_STOP_CHARS = 1000
_MAX_NUMBER = 2**31
_SEEDS = 2**63
#: What a whole answer may be sent in; a stream is pcm16, by OpenAI's own rule.
WHOLE_FORMATS = ("wav", "mp3", "flac", "opus", "aac", "pcm16")
STREAM_FORMATS = ("pcm16",)
DEFAULT_FORMAT = "wav"


@frozen(kw_only=True)
class ChatCompletion:
    """A request, read. request: without its voice, which is known by a name or id alone.

    audio_format: "" where no sound is wanted.
    """

    request: ChatRequest
    voice: str = ""
    audio_format: str = ""
    stream: bool = False
    include_usage: bool = False


def read_completion(fields: Fields, recall: Recall) -> ChatCompletion:
    """Return the request in *fields*; unknown keys are ignored. Raises: FieldError."""
    _refuse_unsupported(fields)
    stream = fields.flag("stream", False)
    speaks = "audio" in _modalities(fields)
    audio_format = _audio_format(fields.section("audio"), stream) if speaks else ""
    messages = read_messages(fields, recall)
    return ChatCompletion(
        request=_request(fields, messages, speaks, stream),
        voice=read_voice(fields.section("audio")) if speaks else "",
        audio_format=audio_format,
        stream=stream,
        include_usage=fields.section("stream_options").flag("include_usage", False),
    )


def read_voice(fields: Fields) -> str:
    """Return the name or id of the voice that *fields* asks for; "" for none."""
    if isinstance(fields.values.get("voice"), dict):
        return fields.section("voice").text("id", max_chars=200)
    return fields.text("voice", max_chars=200)


def _request(
    fields: Fields, messages: tuple[ChatMessage, ...], speaks: bool, stream: bool
) -> ChatRequest:
    default = ChatRequest(messages=())
    temperature = fields.number("temperature", default.temperature, 0, 2)
    tools = read_tools(fields, is_nested=True)
    has_video = any(part.kind == "video" for message in messages for part in message.parts)
    return ChatRequest(
        messages=messages,
        max_new_tokens=_max_tokens(fields),
        do_sample=temperature > 0,
        temperature=temperature or default.temperature,
        top_p=fields.number("top_p", default.top_p, 0, 1),
        speak=speaks,
        voice_mode="omni" if has_video else default.voice_mode,
        max_slice_nums=_HIGH_DETAIL_SLICES if wants_detail(fields) else 1,
        omni_mode=has_video,
        streaming=stream,
        stop=_stops(fields),
        seed=_seed(fields),
        tools=tools if read_choice(fields) == "auto" else (),
    )


def _refuse_unsupported(fields: Fields) -> None:
    """Raise Refusal for what would be answered otherwise than it was asked for."""
    if fields.has("n") and fields.whole("n", 1, 1, _MAX_NUMBER) > 1:
        raise Refusal(("n",), "one answer a request is made here", "unsupported_value")
    if fields.flag("logprobs", False) or fields.whole("top_logprobs", 0, 0, _MAX_NUMBER):
        text = "probabilities of tokens are not given here"
        raise Refusal(("logprobs",), text, "unsupported_value")
    kind = fields.section("response_format").values.get("type", "text")
    if kind != "text":
        raise Refusal(("response_format", "type"), "answers are text here", "unsupported_value")


def _modalities(fields: Fields) -> set[str]:
    wanted = {str(item) for item in fields.items("modalities", 8)} or {"text"}
    if wanted - {"text", "audio"}:
        raise Refusal(("modalities",), "text and audio are the modalities", "unsupported_value")
    return wanted


def _audio_format(fields: Fields, stream: bool) -> str:
    if not stream:
        return fields.choice("format", DEFAULT_FORMAT, WHOLE_FORMATS)
    wanted = fields.choice("format", STREAM_FORMATS[0], WHOLE_FORMATS)
    if wanted not in STREAM_FORMATS:
        text = f"{wanted} is for whole answers: with stream, the format is pcm16"
        raise Refusal(("audio", "format"), text, "unsupported_value")
    return wanted


def _max_tokens(fields: Fields) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if fields.has(name):
            return min(fields.whole(name, MAX_TOKENS, 1, _MAX_NUMBER), MAX_TOKENS)
    return MAX_TOKENS


def _stops(fields: Fields) -> tuple[str, ...]:
    if isinstance(fields.values.get("stop"), str):
        stops: tuple[object, ...] = (fields.text("stop", max_chars=_MAX_STOP_CHARS),)
    else:
        stops = tuple(fields.items("stop", _MAX_STOPS))
    for index, stop in enumerate(stops):
        if not isinstance(stop, str) or len(stop) > _MAX_STOP_CHARS:
            raise Refusal(("stop", index), "a short text is expected")
    return tuple(stop for stop in stops if isinstance(stop, str) and stop)


def _seed(fields: Fields) -> int | None:
    if not fields.has("seed"):
        return None
    return fields.whole("seed", 0, -_SEEDS, _SEEDS - 1) % _SEEDS

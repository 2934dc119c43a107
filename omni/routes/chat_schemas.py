"""What a chat request may hold, as JSON Schema: for every way in that takes one."""

from omni.realtime.chat import VOICE_LANGUAGES, VOICE_MODES
from omni.realtime.content import MAX_MESSAGES, MAX_PARTS, MAX_RATE_HZ
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Schema,
    between,
    list_of,
    one_of,
    or_null,
    record,
    said,
)

_BASE64 = said(TEXT, "base64, standard alphabet with padding")
_FILE = {**_BASE64, "minLength": 4}


def _part(kind: str, needed: dict[str, Schema], free: dict[str, Schema] | None = None) -> Schema:
    fields = {"type": {"const": kind}, **needed, **(free or {})}
    return record(fields, optional=list(free or {}))


PART: Schema = {
    "anyOf": [
        _part("text", {"text": TEXT}),
        _part("image", {"data": _FILE}),
        _part(
            "audio",
            {"data": said(_BASE64, "float32 mono, or a WAV file")},
            {"sample_rate": between(WHOLE, 1000, MAX_RATE_HZ)},
        ),
        _part("video", {"data": _FILE}, {"stack_frames": between(WHOLE, 1, 64)}),
    ]
}
MESSAGE = record(
    {
        "role": one_of("system", "user", "assistant"),
        "content": {"anyOf": [TEXT, {**list_of(PART), "maxItems": MAX_PARTS}]},
    }
)
MESSAGES: Schema = {**list_of(MESSAGE), "minItems": 1, "maxItems": MAX_MESSAGES}

_GENERATION = {
    "max_new_tokens": between(WHOLE, 1, 4096),
    "min_new_tokens": between(WHOLE, 0, 4096),
    "do_sample": FLAG,
    "temperature": between(NUMBER, 0, 2),
    "top_p": between(NUMBER, 0, 1),
    "top_k": between(WHOLE, 0, 100_000),
    "repetition_penalty": between(NUMBER, 0.1, 10),
    "length_penalty": between(NUMBER, 0.1, 5),
    "max_inp_length": between(WHOLE, 1, 1_000_000),
    "seed": or_null(between(WHOLE, 0, 2**63 - 1)),
}
_SPEECH = {
    "temperature": between(NUMBER, 0, 2),
    "top_p": between(NUMBER, 0.01, 1),
    "top_k": between(WHOLE, 1, 64),
    "repetition_penalty": between(NUMBER, 0.1, 10),
    "win_size": between(WHOLE, 1, 64),
}
_TTS = {
    "enabled": FLAG,
    "mode": one_of(*VOICE_MODES),
    "ref_audio_data": or_null(_BASE64),
    "ref_audio_max_ms": or_null(between(WHOLE, 1000, 3_600_000)),
    "language": one_of(*VOICE_LANGUAGES),
    "sampling": record(_SPEECH, optional=list(_SPEECH)),
}
_IMAGE = {"max_slice_nums": or_null(between(WHOLE, 1, 16)), "use_image_id": FLAG}
_OPTIONS = {
    "generation": record(_GENERATION, optional=list(_GENERATION)),
    "tts": record(_TTS, optional=list(_TTS)),
    "image": record(_IMAGE, optional=list(_IMAGE)),
    "omni_mode": FLAG,
    "enable_thinking": FLAG,
    "streaming": FLAG,
}
CHAT_REQUEST = record({"messages": MESSAGES, **_OPTIONS}, optional=list(_OPTIONS))

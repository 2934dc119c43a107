"""What a recording says about its session as a whole: `meta.json`."""

from datetime import datetime

from attrs import asdict

from omni.engine import (
    ChatMessage,
    ChatRequest,
    PrepareDuplex,
    PrepareHalfDuplex,
    SessionInput,
)
from omni.recording.journal import Began, Opened
from omni.recording.layout import utc_iso

Config = dict[str, object]

#: Fields of `PrepareDuplex` that stand under a name or form of their own.
_NOT_PLAIN = ("mode", "system_prompt", "voice", "tts_voice")


def meta_document(
    began: Began, config: Config, ended_at: float | None, size_bytes: int | None = None
) -> dict[str, object]:
    """Return the content of meta.json. ended_at: Unix seconds; None while the session runs."""
    started = datetime.fromtimestamp(began.started_at)  # people read the title by their own clock
    document: dict[str, object] = {
        "session_id": began.recording_id,
        "app_type": began.request_type,
        "created_at": utc_iso(began.started_at),
        "ended_at": None if ended_at is None else utc_iso(ended_at),
        "duration_s": None if ended_at is None else round(ended_at - began.started_at, 1),
        "worker_id": began.worker,
        "title": f"对话 {started:%m-%d %H:%M}",
        "config": config,
    }
    if size_bytes is not None:
        document["size_bytes"] = size_bytes
    return document


def config_of(item: SessionInput | Opened) -> Config:
    """Return what *item*, an opening input or the client's own wishes, adds to the config."""
    match item:
        case PrepareDuplex():
            return _duplex_config(item)
        case PrepareHalfDuplex():
            return _half_duplex_config(item)
        case ChatRequest():
            return _chat_config(item)
        case Opened(timeout_s=float() as timeout_s):
            return {"timeout_s": timeout_s}
    return {}


def _duplex_config(prepare: PrepareDuplex) -> Config:
    plain = {name: value for name, value in asdict(prepare, recurse=False).items()}
    return {
        "system_prompt": prepare.system_prompt,
        "ref_audio": bool(len(prepare.voice)),
        **{name: value for name, value in plain.items() if name not in _NOT_PLAIN},
    }


def _half_duplex_config(prepare: PrepareHalfDuplex) -> Config:
    return {
        "system_content_count": len(prepare.system),
        "system_prompt": " ".join(part.text for part in prepare.system if part.text),
        "ref_audio": any(part.kind == "audio" for part in prepare.system),
        "vad": asdict(prepare.vad),
        "generation": {
            "max_new_tokens": prepare.max_new_tokens,
            "length_penalty": prepare.length_penalty,
            "temperature": prepare.temperature,
        },
        "tts_enabled": prepare.speak,
    }


def _chat_config(request: ChatRequest) -> Config:
    system = [message for message in request.messages if message.role == "system"]
    return {
        "system_prompt": " ".join(text_of(message) for message in system),
        "streaming": request.streaming,
        "ref_audio": bool(len(request.voice)),
    }


def text_of(message: ChatMessage) -> str:
    """Return the text of a message's parts."""
    return " ".join(part.text for part in message.parts if part.text)

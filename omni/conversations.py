"""What `omni talk` can speak: each dialect and mode, as a conversation of `omni.client`."""

import base64
import secrets
from collections.abc import Callable
from typing import Literal

from omni.audio import (
    INPUT_HZ,
    OUTPUT_HZ,
    StreamResampler,
    Waveform,
    float32_from_waveform,
    pcm16_from_waveform,
    waveform_from_pcm16,
)
from omni.client import Conversation, Event, Exchange, Talker
from omni.errors import ClientError

TalkDialect = Literal["demo", "r1", "r2", "openai"]
TalkMode = Literal["duplex", "half", "chat"]
DIALECTS: tuple[TalkDialect, ...] = ("demo", "r1", "r2", "openai")
MODES: tuple[TalkMode, ...] = ("duplex", "half", "chat")

#: The unit of R1, which does not say what it takes.
_R1_CHUNK_MS = 1000


async def ask(
    talker: Talker,
    mode: TalkMode,
    question: Waveform | str,
    dialect: TalkDialect = "demo",
    chunk_ms: int = 200,
) -> Exchange:
    """Return the answer to *question*, sound at 16 kHz or a text.

    Raises: ClientError for what a dialect does not have, and what `Talker.ask` does.
    """
    if isinstance(question, str):
        return await talker.ask(conversation(dialect, mode, question))
    if (dialect, mode) == ("demo", "chat"):  # takes a recording whole
        part = {"type": "audio", "data": _float32(question)}
        return await talker.ask(_demo_chat_of(part))
    return await talker.ask(conversation(dialect, mode, None, chunk_ms), question)


def conversation(
    dialect: TalkDialect, mode: TalkMode, text: str | None = None, chunk_ms: int = 200
) -> Conversation:
    """Return how *dialect* is spoken in *mode*. text: of a written question; None: it is spoken.

    Raises: ClientError for what a dialect does not have.
    """
    spoken: dict[tuple[TalkDialect, TalkMode], Callable[[int], Conversation]] = {
        ("demo", "duplex"): _demo_duplex,
        ("demo", "half"): _demo_half,
        ("r1", "duplex"): _r1,
        ("r2", "duplex"): _r2,
        ("openai", "half"): _openai,
    }
    written: dict[TalkDialect, Callable[[str], Conversation]] = {
        "demo": _demo_chat,
        "r2": _r2_turns,
        "openai": _openai_written,
    }
    if mode == "chat" and text is not None and dialect in written:
        return written[dialect](text)
    if text is None and (dialect, mode) in spoken:
        return spoken[dialect, mode](chunk_ms)
    known = [f"{name} --mode {kind}" for name, kind in spoken]
    asked = "spoken" if text is None else "written"
    raise ClientError(
        f"--dialect {dialect} --mode {mode} takes no {asked} question. Spoken: {', '.join(known)}; "
        f"written, --mode chat: {', '.join(written)}"
    )


def default_mode(dialect: TalkDialect, is_written: bool) -> TalkMode:
    """Return the mode that is meant where none is named."""
    if is_written:
        return "chat"
    return "half" if dialect == "openai" else "duplex"


# --- the demo's own sockets


def _demo_duplex(chunk_ms: int) -> Conversation:
    def hear(event: Event, exchange: Exchange) -> bool:
        if event["type"] == "transcript":
            exchange.heard += event["text"]
        if event["type"] != "result":
            return False
        if not event["is_listen"]:
            exchange.add(event["text"], _decoded(event.get("audio_data")))
        return bool(event["end_of_turn"])

    return Conversation(
        path=f"/ws/duplex/adx_{secrets.token_hex(4)}",
        asks_on="queue_done",
        opening={"type": "prepare", "config": {"chunk_ms": chunk_ms}},
        ready_on="prepared",
        wrap=_demo_chunk,
        hear=hear,
        chunk_ms=1000,
        closing={"type": "stop"},
    )


def _demo_half(chunk_ms: int) -> Conversation:
    def hear(event: Event, exchange: Exchange) -> bool:
        if event["type"] == "chunk":
            exchange.add(event["text_delta"], _decoded(event.get("audio_data")))
        elif event["type"] == "transcript":
            exchange.heard += event["text"]
        return bool(event["type"] == "turn_done")

    return Conversation(
        path=f"/ws/half_duplex/hdx_{secrets.token_hex(4)}",
        asks_on="queue_done",
        opening={"type": "prepare"},
        ready_on="prepared",
        wrap=_demo_chunk,
        hear=hear,
        chunk_ms=chunk_ms,
        closing={"type": "stop"},
    )


def _demo_chunk(piece: Waveform) -> Event:
    return {"type": "audio_chunk", "audio_base64": _float32(piece)}


def _demo_chat(text: str) -> Conversation:
    return _demo_chat_of({"type": "text", "text": text})


def _demo_chat_of(part: Event) -> Conversation:
    def hear(event: Event, exchange: Exchange) -> bool:
        if event["type"] == "chunk":
            exchange.add(event.get("text_delta", ""), _decoded(event.get("audio_data")))
        if event["type"] != "done":
            return False
        exchange.text = event.get("text") or exchange.text
        return True

    return Conversation(path="/ws/chat", said=(_chat_request([part]),), hear=hear)


def _chat_request(content: object) -> Event:
    return {
        "messages": [{"role": "user", "content": content}],
        "tts": {"enabled": True, "mode": "audio_assistant"},
    }


# --- the MiniCPM-o realtime protocols


def _r1(chunk_ms: int) -> Conversation:
    def hear(event: Event, exchange: Exchange) -> bool:
        if event["type"] != "response.output_audio.delta":
            return False
        exchange.add(event["text"], _decoded(event["audio"]))
        return bool(event["end_of_turn"])

    def wrap(piece: Waveform) -> Event:
        return {"type": "input_audio_buffer.append", "audio": _float32(piece)}

    return Conversation(
        path="/v1/realtime?mode=audio&dialect=r1",
        asks_on="session.queue_done",
        opening={"type": "session.update", "session": {"instructions": ""}},
        ready_on="session.created",
        wrap=wrap,
        hear=hear,
        chunk_ms=max(chunk_ms, _R1_CHUNK_MS),
        closing={"type": "session.close", "reason": "user_stop"},
    )


def _r2(chunk_ms: int) -> Conversation:
    def wrap(piece: Waveform) -> Event:
        return {"type": "input.append", "input": {"audio": _float32(piece)}}

    return Conversation(
        path="/v1/realtime?mode=audio&dialect=r2",
        asks_on="session.queue_done",
        opening={"type": "session.init", "payload": {"config": {"chunk_ms": chunk_ms}}},
        ready_on="session.created",
        wrap=wrap,
        hear=_hear_r2,
        chunk_ms=chunk_ms,
        closing={"type": "session.close", "reason": "user_stop"},
    )


def _r2_turns(text: str) -> Conversation:
    return Conversation(
        path="/v1/realtime?mode=chat",
        asks_on="session.queue_done",
        opening={"type": "session.init"},
        ready_on="session.created",
        said=({"type": "input.append", "input": _chat_request(text)},),
        hear=_hear_r2,
        closing={"type": "session.close", "reason": "user_stop"},
    )


def _hear_r2(event: Event, exchange: Exchange) -> bool:
    """Note what *event* brings: a turn ends with a `listen` that has a text, a chat with `done`."""
    if event["type"] == "session.user_transcript":
        exchange.heard += event["text"]
    if event["type"] == "response.output.delta" and event["kind"] != "listen":
        exchange.add(event.get("text") or "", _decoded(event.get("audio")))
    is_end = event.get("kind") == "listen" and event.get("text") is not None
    return is_end or event["type"] == "response.done"


# --- OpenAI Realtime


def _openai(chunk_ms: int) -> Conversation:
    to_24_khz = StreamResampler(INPUT_HZ, OUTPUT_HZ)

    def wrap(piece: Waveform) -> Event:
        pcm = pcm16_from_waveform(to_24_khz.push(piece))
        return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}

    return Conversation(
        path="/v1/realtime?model=omni",
        asks_on="session.created",
        opening={"type": "session.update", "session": {"type": "realtime"}},
        ready_on="session.updated",
        wrap=wrap,
        hear=_hear_openai,
        chunk_ms=chunk_ms,
    )


def _openai_written(text: str) -> Conversation:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    return Conversation(
        path="/v1/realtime?model=omni",
        asks_on="session.created",
        opening={"type": "session.update", "session": {"type": "realtime"}},
        ready_on="session.updated",
        said=({"type": "conversation.item.create", "item": item}, {"type": "response.create"}),
        hear=_hear_openai,
    )


def _hear_openai(event: Event, exchange: Exchange) -> bool:
    match event["type"]:
        case "response.output_audio.delta":
            waveform = waveform_from_pcm16(base64.b64decode(event["delta"]))
            exchange.add(audio=float32_from_waveform(waveform))
        case "response.output_audio_transcript.delta" | "response.output_text.delta":
            exchange.add(event["delta"])
        case "conversation.item.input_audio_transcription.completed":
            exchange.heard += event["transcript"]
    return bool(event["type"] == "response.done")


def _float32(samples: Waveform) -> str:
    return base64.b64encode(float32_from_waveform(samples)).decode()


def _decoded(audio: str | None) -> bytes:
    return base64.b64decode(audio) if audio else b""

"""The sound of inputs and events, float32 as engines have it <-> PCM16 as recordings keep it."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from attrs import evolve

from omni.audio import (
    Waveform,
    float32_from_waveform,
    pcm16_from_waveform,
    waveform_from_float32,
    waveform_from_pcm16,
)
from omni.engine import (
    AudioChunk,
    Buffer,
    ChatMessage,
    ChatRequest,
    Part,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    SpeakRequest,
    TranscribeRequest,
    UnitResult,
)

_Change = Callable[[Buffer], Buffer]
_Kept = TypeVar("_Kept", bound=SessionInput | SessionEvent)


def as_pcm16(item: _Kept) -> _Kept:
    """Return *item* with its sound as 16-bit PCM: half the bytes, and what WAV files hold."""
    return _changed(item, lambda pcm: Buffer(pcm16_from_waveform(waveform_from_float32(pcm))))


def as_float32(item: _Kept) -> _Kept:
    """Return *item* with the sound that `as_pcm16` gave it as float32 again."""
    return _changed(item, lambda pcm: Buffer(float32_from_waveform(waveform_from_pcm16(pcm))))


def waveform_of(pcm: Buffer) -> Waveform:
    """Return the samples of a contract's buffer (float32)."""
    return waveform_from_float32(pcm) if len(pcm) else np.zeros(0, np.float32)


def held_bytes(item: SessionInput) -> int:
    """Return the bytes of sound, pictures and films that *item* holds."""
    match item:
        case AudioChunk(pcm=pcm, frames=frames):
            return len(pcm) + sum(map(len, frames))
        case ChatRequest(messages=messages, voice=voice):
            return len(voice) + sum(len(part.data) for told in messages for part in told.parts)
        case PrepareDuplex(voice=voice, tts_voice=tts_voice):
            return len(voice) + len(tts_voice)
        case PrepareHalfDuplex(system=system):
            return sum(len(part.data) for part in system)
    return 0


def _changed(item: _Kept, change: _Change) -> _Kept:
    match item:
        case AudioChunk() | UnitResult() | ReplyChunk() | TranscribeRequest():
            return evolve(item, pcm=change(item.pcm)) if len(item.pcm) else item
        case SpeakRequest(voice=voice):
            return evolve(item, voice=_some(voice, change))
        case PrepareDuplex(voice=voice, tts_voice=tts_voice):
            return evolve(item, voice=_some(voice, change), tts_voice=_some(tts_voice, change))
        case PrepareHalfDuplex(system=system):
            return evolve(item, system=_parts(system, change))
        case ChatRequest(messages=messages, voice=voice):
            told = tuple(_message(message, change) for message in messages)
            return evolve(item, messages=told, voice=_some(voice, change))
    return item


def _message(message: ChatMessage, change: _Change) -> ChatMessage:
    return evolve(message, parts=_parts(message.parts, change))


def _parts(parts: tuple[Part, ...], change: _Change) -> tuple[Part, ...]:
    return tuple(
        evolve(part, data=_some(part.data, change)) if part.kind == "audio" else part
        for part in parts
    )


def _some(pcm: Buffer, change: _Change) -> Buffer:
    return change(pcm) if len(pcm) else pcm

"""Which program answers which opening: the modes that the engine has."""

from typing import assert_never

from omni.engine import (
    ChatRequest,
    Mode,
    Opening,
    PrepareDuplex,
    PrepareHalfDuplex,
    SpeakRequest,
    TranscribeRequest,
)
from omni.minicpmo.chat import chat
from omni.minicpmo.duplex import duplex
from omni.minicpmo.half_duplex import half_duplex
from omni.minicpmo.session import Session
from omni.minicpmo.speak import speak
from omni.minicpmo.transcribe import transcribe
from omni.minicpmo.work import Program

MODES: tuple[Mode, ...] = ("chat", "half_duplex", "audio_duplex", "omni_duplex")


def program_of(session: Session, opening: Opening) -> Program[None]:
    """Return the story of a session that begins with *opening*."""
    match opening:
        case ChatRequest():
            return chat(session, opening)
        case SpeakRequest():
            return speak(session, opening)
        case TranscribeRequest():
            return transcribe(session, opening)
        case PrepareHalfDuplex():
            return half_duplex(session, opening)
        case PrepareDuplex():
            return duplex(session, opening)
        case _:
            assert_never(opening)

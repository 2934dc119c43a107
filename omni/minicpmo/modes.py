"""Which program answers which opening: the modes that the engine has."""

from omni.engine import ChatRequest, Mode, PrepareDuplex, PrepareHalfDuplex
from omni.minicpmo.chat import chat
from omni.minicpmo.duplex import duplex
from omni.minicpmo.half_duplex import half_duplex
from omni.minicpmo.session import Session
from omni.minicpmo.work import Program

Opening = ChatRequest | PrepareHalfDuplex | PrepareDuplex

MODES: tuple[Mode, ...] = ("chat", "half_duplex", "audio_duplex", "omni_duplex")


def program_of(session: Session, opening: Opening) -> Program[None]:
    """Return the story of a session that begins with *opening*."""
    match opening:
        case ChatRequest():
            return chat(session, opening)
        case PrepareHalfDuplex():
            return half_duplex(session, opening)
        case PrepareDuplex():
            return duplex(session, opening)

"""Which program answers which opening: the modes that the engine has."""

from omni.engine import ChatRequest, Mode, PrepareDuplex, PrepareHalfDuplex
from omni.errors import ClientError
from omni.minicpmo.duplex import duplex
from omni.minicpmo.session import Session
from omni.minicpmo.work import Program

Opening = ChatRequest | PrepareHalfDuplex | PrepareDuplex

MODES: tuple[Mode, ...] = ("audio_duplex", "omni_duplex")


def program_of(session: Session, opening: Opening) -> Program[None]:
    """Return the story of a session that begins with *opening*.

    Raises: ClientError, when no program takes it.
    """
    match opening:
        case PrepareDuplex():
            return duplex(session, opening)
        case ChatRequest() | PrepareHalfDuplex():
            raise ClientError(f"{type(opening).__name__} is not served by this engine")

"""Which dialect a client of `/v1/realtime` speaks, by what its handshake says."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from attrs import frozen

from omni.errors import ProtocolError

RealtimeMode = Literal["audio", "video", "chat"]
RealtimeDialect = Literal["r1", "r2", "undecided", "openai"]

MAP_PROTOCOL = "map.realtime"
OPENAI_PROTOCOL = "realtime"
#: What the server answers with; a client's key may stand among its own, and is never sent back.
PROTOCOLS = (MAP_PROTOCOL, OPENAI_PROTOCOL)
_BETA_PROTOCOL = "openai-beta."
_MODES: tuple[RealtimeMode, ...] = ("audio", "video", "chat")
_Option = TypeVar("_Option", bound=str)
_DIALECTS: tuple[RealtimeDialect, ...] = ("r1", "r2", "openai")


@frozen
class Choice:
    """What was understood. is_beta: the client asks for OpenAI's beta events."""

    dialect: RealtimeDialect
    mode: RealtimeMode = "video"
    is_beta: bool = False


def chosen(
    query: Mapping[str, str], headers: Mapping[str, str], protocols: Sequence[str]
) -> Choice:
    """Return the first of the rules that fits; a `dialect` in the query is above all of them.

    query: as it stands in the address. headers: case-insensitive. Raises: ProtocolError for a mode
    or a dialect that there is not.
    """
    mode = _one_of("mode", query, _MODES)
    wanted = _one_of("dialect", query, _DIALECTS)
    is_beta = "OpenAI-Beta" in headers or any(p.startswith(_BETA_PROTOCOL) for p in protocols)
    if wanted is not None:
        if wanted == "r1" and mode == "chat":
            raise ProtocolError("mode: R1 has no chat; it has audio and video")
        return Choice(wanted, mode or "video", is_beta)
    if MAP_PROTOCOL in protocols:
        return Choice("r2", mode or "video")
    if is_beta or any(_is_openai(protocol) for protocol in protocols):
        return Choice("openai", mode or "video", is_beta)
    if mode is not None:
        return Choice("r2" if mode == "chat" else "undecided", mode)
    if "model" in query or "intent" in query or "OpenAI/" in headers.get("User-Agent", ""):
        return Choice("openai")
    return Choice("undecided")


def offered(header: str | None) -> list[str]:
    """Return the subprotocols in *header*, `Sec-WebSocket-Protocol` as the client wrote it."""
    return [name.strip() for name in (header or "").split(",") if name.strip()]


def _is_openai(protocol: str) -> bool:
    return protocol == OPENAI_PROTOCOL or protocol.startswith("openai-")


def _one_of(
    name: str, query: Mapping[str, str], options: Sequence[_Option]
) -> _Option | None:
    text = query.get(name)
    for option in options:
        if text == option:
            return option
    if text:
        raise ProtocolError(f"{name}: {text[:60]!r} is not one of {', '.join(options)}")
    return None

"""Which dialect a handshake asks for: each rule of the protocol, and what stands above it."""

import pytest
from multidict import CIMultiDict

from omni.errors import ProtocolError
from omni.realtime.choice import Choice, chosen, offered

PYTHON = {"User-Agent": "AsyncOpenAI/Python 3.54.0"}
NODE = {"user-agent": "OpenAI/JS 5.0.1"}
BETA = {"openai-beta": "realtime=v1"}


def _chosen(
    query: dict[str, str] = {}, headers: dict[str, str] = {}, protocols: str | None = None
) -> Choice:
    return chosen(query, CIMultiDict(headers), offered(protocols))


@pytest.mark.parametrize(
    ("query", "headers", "protocols", "choice"),
    [
        ({"mode": "audio"}, {}, "map.realtime", Choice("r2", "audio")),
        ({"mode": "chat", "model": "m"}, {}, "x, map.realtime", Choice("r2", "chat")),
        ({}, PYTHON, "map.realtime", Choice("r2", "video")),
        ({}, {}, "realtime", Choice("openai")),
        ({"mode": "audio"}, {}, "realtime, openai-insecure-api-key.k", Choice("openai", "audio")),
        ({}, {}, "openai-insecure-api-key.k", Choice("openai")),
        ({}, {}, "realtime, openai-beta.realtime-v1", Choice("openai", is_beta=True)),
        ({"model": "m"}, BETA, None, Choice("openai", is_beta=True)),
        ({"mode": "chat"}, {}, None, Choice("r2", "chat")),
        ({"mode": "chat"}, PYTHON, None, Choice("r2", "chat")),
        ({"mode": "audio"}, {}, None, Choice("undecided", "audio")),
        ({"mode": "video", "model": "m"}, PYTHON, None, Choice("undecided", "video")),
        ({"model": "m"}, {}, None, Choice("openai")),
        ({"intent": "transcription"}, {}, None, Choice("openai")),
        ({}, PYTHON, None, Choice("openai")),
        ({}, NODE, None, Choice("openai")),
        ({}, {}, None, Choice("undecided", "video")),
        ({}, {"User-Agent": "Mozilla/5.0"}, "unknown", Choice("undecided", "video")),
        ({"dialect": "r1"}, PYTHON, "map.realtime", Choice("r1")),
        ({"dialect": "r2", "mode": "audio"}, {}, "realtime", Choice("r2", "audio")),
        ({"dialect": "r2", "mode": "chat"}, {}, None, Choice("r2", "chat")),
        ({"dialect": "openai", "mode": "audio"}, {}, None, Choice("openai", "audio")),
    ],
)
def test_the_first_rule_that_fits_decides(
    query: dict[str, str], headers: dict[str, str], protocols: str | None, choice: Choice
) -> None:
    assert _chosen(query, headers, protocols) == choice


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"mode": "smell"}, "audio, video, chat"),
        ({"dialect": "r3"}, "r1, r2, openai"),
        ({"dialect": "r1", "mode": "chat"}, "R1 has no chat"),
    ],
)
def test_what_there_is_not_is_named(query: dict[str, str], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        _chosen(query)

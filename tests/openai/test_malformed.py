"""Whatever a client sends under /v1: an error in OpenAI's shape, and everybody else goes on."""

import asyncio
import json
import zlib

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import RunningOmni
from tests.openai.conftest import TIMEOUT_S

MAX_EXAMPLES = 60

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["text", "image_url", "input_audio", "video_url", "refusal", "?"]
        )
        | JSON,
        "text": JSON,
        "image_url": st.fixed_dictionaries({}, optional={"url": JSON, "detail": JSON}) | JSON,
        "input_audio": st.fixed_dictionaries({}, optional={"data": JSON, "format": JSON}) | JSON,
        "video_url": st.fixed_dictionaries({}, optional={"url": JSON}) | JSON,
    },
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | JSON,
        "content": st.lists(PARTS, max_size=3) | JSON,
        "audio": st.fixed_dictionaries({}, optional={"id": JSON}) | JSON,
    },
)
CHATS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=3) | JSON},
    optional={
        name: JSON
        for name in (
            "model",
            "modalities",
            "audio",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "stop",
            "seed",
            "n",
            "logprobs",
            "tools",
            "tool_choice",
            "response_format",
        )
    },
)
SPEECHES = st.fixed_dictionaries(
    {},
    optional={
        name: JSON
        for name in (
            "input",
            "voice",
            "instructions",
            "response_format",
            "speed",
            "stream_format",
        )
    },
)
FORM_FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "file",
            "model",
            "language",
            "prompt",
            "response_format",
            "temperature",
            "timestamp_granularities[]",
            "stream",
        ]
    ),
    st.text(max_size=20),
)


async def answer(
    server: RunningOmni, path: str, data: bytes, content_type: str = "application/json"
) -> tuple[int, bytes, str]:
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    headers = {"Content-Type": content_type}
    async with aiohttp.ClientSession(server.address, timeout=timeout) as http:
        async with http.post(path, data=data, headers=headers) as reply:
            return reply.status, await reply.read(), reply.content_type


def check(status: int, body: bytes, content_type: str) -> None:
    """A good answer, or a client's error in OpenAI's shape; never a server's."""
    if status == 200:
        return
    assert 400 <= status < 500, (status, body)
    assert content_type == "application/json"
    error = orjson.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] == "invalid_request_error"


relaxed = settings(max_examples=MAX_EXAMPLES)


@relaxed
@given(body=CHATS)
def test_any_chat_is_answered_or_refused(server: RunningOmni, body: dict[str, object]) -> None:
    check(*asyncio.run(answer(server, "/v1/chat/completions", _json(body))))


@relaxed
@given(body=SPEECHES)
def test_any_speech_is_answered_or_refused(server: RunningOmni, body: dict[str, object]) -> None:
    check(*asyncio.run(answer(server, "/v1/audio/speech", _json(body))))


@relaxed
@given(fields=FORM_FIELDS)
def test_any_form_is_answered_or_refused(server: RunningOmni, fields: dict[str, str]) -> None:
    lines = []
    for name, value in fields.items():
        file = '; filename="a.wav"' if name == "file" else ""
        lines += [f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n', value]
    body = "\r\n".join([*lines, "--b--\r\n"]).encode("utf-8", "replace")

    kind = "multipart/form-data; boundary=b"
    check(*asyncio.run(answer(server, "/v1/audio/transcriptions", body, kind)))


@relaxed
@given(data=st.binary(max_size=200))
@pytest.mark.parametrize(
    "path, content_type",
    [
        ("/v1/chat/completions", "application/json"),
        ("/v1/audio/speech", "application/json"),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=b"),
    ],
)
def test_any_bytes_are_refused(
    server: RunningOmni, path: str, content_type: str, data: bytes
) -> None:
    status, body, kind = asyncio.run(answer(server, path, data, content_type))

    assert status == 400
    check(status, body, kind)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/transcriptions"])
async def test_a_body_that_unpacks_to_too_much_is_too_large(
    http: aiohttp.ClientSession, path: str
) -> None:
    """Sixty-four megabytes of zeros, in sixty-four kilobytes."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    kind = "multipart/form-data; boundary=b" if "audio" in path else "application/json"
    headers = {"Content-Encoding": "gzip", "Content-Type": kind}

    async with http.post(path, data=bomb, headers=headers) as reply:
        status, answer = reply.status, await reply.json()

    assert status in (400, 413), answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}


async def test_after_all_of_it_the_same_worker_serves(server: RunningOmni) -> None:
    """Stands last in this file: what came before must have left no mark."""
    (worker,) = (await server.status()).workers
    body = _json({"messages": [{"role": "user", "content": "still there"}]})

    status, reply, _ = await answer(server, "/v1/chat/completions", body)

    assert (status, worker.restarts, worker.state) == (200, 0, "ready")
    assert orjson.loads(reply)["choices"][0]["message"]["content"] == "still there"


def _json(document: object) -> bytes:
    return json.dumps(document).encode()  # orjson would refuse large numbers by itself

"""The protocol's sections 12.1 to 12.4 where no other test tells a wrong row.

Fields and values stand here by hand: they are the protocol's, not the code's.
"""

import asyncio
import base64
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from aiohttp.test_utils import TestServer
from attrs import evolve

from omni.link import open_link
from omni.openai.chat import read_completion
from omni.openai.speech import read_order
from omni.openai.transcription import read_form
from omni.realtime.fields import Fields
from omni.routes import openai_turn
from omni.settings import FabricSettings, Settings
from omni.web import make_app
from tests.fabric import EchoWorker, broker_thread, fabric
from tests.openai.conftest import MODEL, TIMEOUT_S, picture_url, sound_file

__all__ = ["fabric"]

ASK = [{"role": "user", "content": "one two"}]
WAV = {"voice": "alloy", "format": "wav"}


def seen(detail: str | None) -> list[dict[str, Any]]:
    """Return messages with a picture in them."""
    picture = {"url": picture_url()} | ({"detail": detail} if detail else {})
    return [{"role": "user", "content": [{"type": "image_url", "image_url": picture}]}]


#: What a body says, and what the engine (request.) or the answer is told of it.
CHAT = [
    ({}, "request.max_new_tokens", 4096),
    ({"max_tokens": 7}, "request.max_new_tokens", 7),
    ({"max_completion_tokens": 7, "max_tokens": 9}, "request.max_new_tokens", 7),
    ({}, "request.temperature", 0.7),
    ({"temperature": 1.5}, "request.temperature", 1.5),
    ({"temperature": 0}, "request.do_sample", False),
    ({"top_p": 0.3}, "request.top_p", 0.3),
    ({"stop": "a"}, "request.stop", ("a",)),
    ({"stop": ["a", "b"]}, "request.stop", ("a", "b")),
    ({"seed": 5}, "request.seed", 5),
    ({"messages": seen("high")}, "request.max_slice_nums", 2),
    ({"messages": seen("low")}, "request.max_slice_nums", 1),
    ({"messages": seen(None)}, "request.max_slice_nums", 1),
    ({"modalities": ["text"]}, "request.speak", False),
    ({"modalities": ["text", "audio"], "audio": WAV}, "request.speak", True),
    ({"modalities": ["text", "audio"], "audio": WAV}, "voice", "alloy"),
    ({"modalities": ["text", "audio"], "audio": {"voice": {"id": "v1"}}}, "voice", "v1"),
    ({"modalities": ["text", "audio"], "audio": WAV}, "audio_format", "wav"),
    ({"stream": True}, "stream", True),
    ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
    ({"response_format": {"type": "text"}}, "stream", False),
    ({"n": 1, "user": "u", "metadata": {"a": "b"}, "no_such_key": [1]}, "stream", False),
]
SPEECH = [
    ({}, "audio_format", "mp3"),
    ({}, "speed", 1.0),
    ({"voice": "alloy"}, "voice", "alloy"),
    ({"voice": {"id": "v1"}}, "voice", "v1"),
    ({"instructions": "Whisper."}, "request.instructions", "Whisper."),
    ({"stream_format": "sse"}, "is_events", True),
]
FORM = [
    ({"prompt": "Köln"}, "prompt", "Köln"),
    ({"language": "zh"}, "language", "zh"),
    ({"temperature": "0.5"}, "temperature", 0.5),
    ({}, "temperature", 0.0),
]


def at(thing: object, path: str) -> object:
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


@pytest.mark.parametrize(("said", "path", "value"), CHAT, ids=lambda item: str(item)[:40])
def test_a_field_of_a_chat_reaches_whom_it_is_for(
    said: dict[str, Any], path: str, value: object
) -> None:
    completion = read_completion(Fields({"messages": ASK, **said}), lambda audio_id: None)

    assert at(completion, path) == value


@pytest.mark.parametrize(("said", "path", "value"), SPEECH, ids=lambda item: str(item)[:40])
def test_a_field_of_a_text_to_read_reaches_whom_it_is_for(
    said: dict[str, Any], path: str, value: object
) -> None:
    assert at(read_order(Fields({"input": "one", **said})), path) == value


@pytest.mark.parametrize(("said", "path", "value"), FORM, ids=lambda item: str(item)[:40])
def test_a_field_of_a_recording_reaches_whom_it_is_for(
    said: dict[str, str], path: str, value: object
) -> None:
    assert at(read_form(said, []), path) == value


# --- shapes, as they stand on the wire -----------------------------------------------------------


async def body_of(http: aiohttp.ClientSession, path: str, **options: Any) -> dict[str, Any]:
    async with http.request("POST" if options else "GET", path, **options) as reply:
        assert reply.status == 200
        body: dict[str, Any] = await reply.json()
        return body


async def test_a_list_of_models_has_its_shape(http: aiohttp.ClientSession) -> None:
    listed = await body_of(http, "/v1/models")

    (model,) = listed["data"]
    assert listed.keys() == {"object", "data"} and listed["object"] == "list"
    assert model.keys() == {"id", "object", "created", "owned_by"}


async def test_an_answer_has_its_shape(http: aiohttp.ClientSession) -> None:
    body = {"model": MODEL, "messages": ASK}
    written = await body_of(http, "/v1/chat/completions", json=body)
    spoken = {**body, "modalities": ["text", "audio"], "audio": WAV}
    said = await body_of(http, "/v1/chat/completions", json=spoken)

    for reply in (written, said):
        (choice,) = reply["choices"]
        assert {"id", "object", "created", "model", "choices", "usage"} <= reply.keys()
        assert choice.keys() == {"index", "message", "finish_reason", "logprobs"}
        assert (choice["index"], choice["logprobs"]) == (0, None)
        assert (choice["message"]["role"], choice["message"]["refusal"]) == ("assistant", None)
        assert {"audio_tokens", "cached_tokens"} <= reply["usage"]["prompt_tokens_details"].keys()
        details = reply["usage"]["completion_tokens_details"]
        assert {"audio_tokens", "reasoning_tokens"} <= details.keys()
    assert written["choices"][0]["message"]["content"] == "one two"
    message = said["choices"][0]["message"]
    assert message["content"] is None
    assert message["audio"].keys() == {"id", "data", "expires_at", "transcript"}


@pytest.mark.parametrize(
    ("kind", "rate_hz"),
    [("wav", 24_000), ("mp3", 24_000), ("flac", 24_000), ("aac", 24_000), ("opus", 48_000)],
)
async def test_sound_is_mono_at_24_khz(
    http: aiohttp.ClientSession, kind: str, rate_hz: int
) -> None:
    """Opus has one rate for whoever decodes it."""
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": kind}}
    reply = await body_of(http, "/v1/chat/completions", json={"messages": ASK, **spoken})

    data = base64.b64decode(reply["choices"][0]["message"]["audio"]["data"])
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams.audio
        assert (stream.codec_context.sample_rate, stream.codec_context.channels) == (rate_hz, 1)


async def test_a_stream_is_data_lines_and_ends_with_done(http: aiohttp.ClientSession) -> None:
    body = {"messages": ASK, "stream": True}
    async with http.post("/v1/chat/completions", json=body) as reply:
        kind, lines = reply.headers["Content-Type"], (await reply.text()).split("\n\n")

    assert kind.startswith("text/event-stream")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])
    assert '"delta":{}' in lines[-3] and '"finish_reason":"stop"' in lines[-3]


async def test_a_verbose_transcript_has_its_shape(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData({"response_format": "verbose_json", "model": MODEL})
    form.add_field("file", sound_file(1.5), filename="a.wav")

    body = await body_of(http, "/v1/audio/transcriptions", data=form)

    assert {"task", "duration", "language", "text", "segments"} <= body.keys()
    assert body["task"] == "transcribe"
    assert len(body["segments"]) == 2
    assert all({"id", "start", "end", "text"} <= each.keys() for each in body["segments"])


# --- waiting -------------------------------------------------------------------------------------


def test_who_waits_hears_a_comment_every_ten_seconds() -> None:
    assert openai_turn.WAITING_WORD_S == 10


async def test_comments_come_again_and_again(
    fabric: FabricSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web in this process, where they need not be ten seconds apart."""
    monkeypatch.setattr(openai_turn, "WAITING_WORD_S", 0.05)
    settings = Settings()
    settings = evolve(
        settings,
        fabric=fabric,
        service=evolve(settings.service, data_dir=str(tmp_path)),
        recording=evolve(settings.recording, enabled=False),
    )
    with broker_thread(fabric), closing(EchoWorker(fabric, num_slots=1)) as worker:
        worker.start()
        async with (
            open_link(fabric, role="web", name="web-1") as link,
            TestServer(make_app(settings)) as server,
            aiohttp.ClientSession(server.make_url("/")) as http,
            asyncio.timeout(TIMEOUT_S),
        ):
            await link.wait_connected(TIMEOUT_S)
            holder = link.open_session("holder", "chat")
            async for _ in holder.wait_for_lease():
                pass
            body = {"messages": ASK, "stream": True}
            async with http.post("v1/chat/completions", json=body) as reply:
                heard = [await reply.content.readuntil(b"\n\n") for _ in range(3)]
                holder.close()
                rest = await reply.text()

    assert heard == [b": queued\n\n"] * 3
    assert rest.endswith("data: [DONE]\n\n")

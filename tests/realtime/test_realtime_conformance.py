"""`/v1/realtime`: the protocol's sections 1, 10, 11 and 13, where no other test tells a wrong row.

Names and numbers stand here by hand: they are the protocol's, not the code's.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType
from openbmb_realtime.protocol import parse_server_event

from omni.settings import RealtimeSettings, WebSettings
from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import Client, Event, connected
from tests.realtime.test_realtime_socket import SECOND

HELLO = [{"role": "user", "content": "hello"}]
UPDATE = {"instructions": ""}
#: Section 11.4; `backend` is a text, and what an engine does not measure is null.
METRICS = {
    "backend",
    "kv_cache_length",
    "prefill_ms",
    "generate_ms",
    "wall_clock_ms",
    "cost_llm_ms",
    "cost_tts_prep_ms",
    "cost_tts_ms",
    "cost_token2wav_ms",
    "cost_all_ms",
    "n_tokens",
    "n_tts_tokens",
    "vision_slices",
    "vision_tokens",
}
#: What a client of R2 may be told; section 11.5 says what the others would do to the SDK.
R2_TYPES = {
    "session.queued",
    "session.queue_update",
    "session.queue_done",
    "session.created",
    "response.output.delta",
    "response.done",
    "session.closed",
    "session.usage",
    "session.warning",
}


@pytest.fixture(scope="module")
def narrow(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with two slots, on which R1 may last for a second with pictures."""
    running = start_omni({"fabric.slots": 2, "realtime.video_limit_s": 1})
    yield running
    running.stop()


@pytest.fixture
async def server(narrow: RunningOmni) -> RunningOmni:
    """That server, when nobody of the test before is left."""
    await narrow.until_idle()
    return narrow


@asynccontextmanager
async def full(server: RunningOmni) -> AsyncIterator[None]:
    """Hold both slots for the time of the block."""
    async with (
        connected(server.address, "/ws/duplex/adx_h1") as one,
        connected(server.address, "/ws/duplex/adx_h2") as two,
    ):
        await one.prepare()
        await two.prepare()
        yield


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session


async def waiting(http: aiohttp.ClientSession, number: int) -> list[dict[str, Any]]:
    """Return the tickets once there are so many."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with http.get("/api/queue") as reply:
                items: list[dict[str, Any]] = (await reply.json())["items"]
            if len(items) == number:
                return items


# --- 1.1, 10: numbers ----------------------------------------------------------------------------


def test_limits_are_those_of_the_protocol() -> None:
    web, realtime = WebSettings(), RealtimeSettings()

    assert web.https is True
    assert (web.max_frame_mb, web.max_body_mb) == (128, 256)
    assert web.ping_interval_s == 20
    assert (realtime.video_limit_s, realtime.audio_limit_s) == (300, 600)


@pytest.mark.parametrize("path", ["/ws/duplex/adx_1", "/v1/realtime", "/v1/realtime?model=m"])
async def test_a_ping_has_its_pong(server: RunningOmni, path: str) -> None:
    """The SDK sends one every 20 s, and goes where none comes back."""
    async with connected(server.address, path, autoping=False) as client:
        await client.socket.ping(b"there?")
        while (message := await client.socket.receive(TIMEOUT_S)).type is WSMsgType.TEXT:
            continue

    assert (message.type, message.data) == (WSMsgType.PONG, b"there?")


# --- 1.6, 3.1, 10: ids and types of those who wait -----------------------------------------------

WAYS = [
    ("/v1/realtime", {}, "omni_duplex", r"rt_\d{13}"),
    ("/v1/realtime?mode=video", {}, "omni_duplex", r"rt_\d{13}"),
    ("/v1/realtime?mode=audio", {}, "audio_duplex", r"rt_\d{13}"),
    ("/v1/realtime?mode=audio", {"protocols": ["map.realtime"]}, "audio_duplex", r"sess_\w{12}"),
    ("/v1/realtime?dialect=r2", {}, "omni_duplex", r"sess_[0-9a-f]{12}"),
    ("/ws/half_duplex/hdx_12345678", {}, "half_duplex_audio", "hdx_12345678"),
    ("/ws/half_duplex_omni/hdomni_1", {}, "half_duplex_audio", "hdomni_1"),
    ("/ws/duplex/omni_mb1", {}, "omni_duplex", "omni_mb1"),
    ("/ws/duplex/adx_mb1", {}, "audio_duplex", "adx_mb1"),
    ("/ws/duplex/audio_duplex_1", {}, "audio_duplex", "audio_duplex_1"),
    ("/ws/duplex/odd", {}, "omni_duplex", "odd"),
    ("/ws/duplex/adx_%7E.x%C3%A4", {}, "audio_duplex", "adx___x_"),
    ("/ws/duplex/adx_" + "x" * 200, {}, "audio_duplex", "adx_x{124}"),
    ("/ws/chat", {}, "chat", r"chat_[0-9a-f]{12}"),
    ("/ws/streaming", {}, "streaming", r"stm_[0-9a-f]{12}"),
]


async def test_everybody_waits_under_the_type_and_id_of_the_way_in(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(full(server))
        for number, (path, options, _, _) in enumerate(WAYS, 1):
            place = connected(server.address, path, **options)
            client = await stack.enter_async_context(place)
            if path in ("/ws/chat", "/ws/streaming"):
                await client.send("prefill", messages=HELLO)
            items = await waiting(http, number)

    shown = [(item["request_type"], item["session_id"]) for item in items]
    for (request_type, session_id), (path, _, wanted, pattern) in zip(shown, WAYS, strict=True):
        assert request_type == wanted, path
        assert re.fullmatch(pattern, session_id), (path, session_id)


# --- 10 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [4000, 16_000])
async def test_an_r1_unit_is_one_event_whatever_its_length(
    server: RunningOmni, samples: int
) -> None:
    sound = base64.b64encode(bytes(4 * samples)).decode()
    async with connected(server.address, "/v1/realtime?dialect=r1&mode=audio") as client:
        await client.send("session.update", session=UPDATE)
        await client.until("session.created")
        for number in range(8):
            await client.send("input_audio_buffer.append", audio=sound, force_listen=number == 3)
        kinds = [(await client.receive())["type"] for _ in range(8)]
        await client.send("session.close")
        closed = await client.expect("session.closed")

    assert kinds == ["response.listen"] * 7 + ["response.output_audio.delta"]
    assert closed["reason"] == "stopped"


async def test_an_r1_session_of_sound_may_last_longer_than_one_with_pictures(
    server: RunningOmni,
) -> None:
    path = "/v1/realtime?dialect=r1&mode="
    async with (
        connected(server.address, path + "audio") as sound,
        connected(server.address, path + "video") as pictures,
    ):
        for client in (sound, pictures):  # the one with pictures begins later
            await client.send("session.update", session=UPDATE)
            await client.until("session.created")
        closed = await pictures.expect("session.closed")
        await sound.send("input_audio_buffer.append", audio=SECOND)
        await sound.expect("response.listen")

    assert closed["reason"] == "timeout"


# --- 11 ------------------------------------------------------------------------------------------


async def r2_session(server: RunningOmni) -> list[Event]:
    """Return what a client hears in eight units, two of which speak, up to the end."""
    events: list[Event] = []
    async with connected(server.address, "/v1/realtime?mode=video") as client:
        await client.send("session.init", payload={})
        await hear(client, events, is_created)
        for _ in range(8):
            await client.send("input.append", input={"audio": SECOND})
        await client.send("input.append", input={"audio": "odd"})  # a warning
        await hear(client, events, lambda event: event.get("chunk_index") == 8)
        await client.send("session.close")
        await hear(client, events, lambda event: event["type"] == "session.closed")
    return events


async def hear(client: Client, events: list[Event], is_last: Callable[[Event], bool]) -> None:
    """Add to *events* what comes, up to one that *is_last*."""
    events.append(await client.receive())
    while not is_last(events[-1]):
        events.append(await client.receive())


def is_created(event: Event) -> bool:
    return bool(event["type"] == "session.created")


async def test_r2_sends_nothing_that_its_sdk_takes_for_something_else(
    server: RunningOmni,
) -> None:
    events = await r2_session(server)
    async with connected(server.address, "/v1/realtime?mode=chat") as client:
        await client.send("session.init", payload={})
        await client.send("input.append", input={"messages": HELLO, "tts": {"enabled": True}})
        await hear(client, events, lambda event: event["type"] == "response.done")

    assert {event["type"] for event in events} <= R2_TYPES
    heard = [parse_server_event(orjson.dumps(event)).kind for event in events]
    assert heard.count("error") == 0
    assert heard.count("listen") == 2 and heard.count("turn_completed") == 1


async def test_every_delta_of_a_unit_has_every_metric(server: RunningOmni) -> None:
    events = await r2_session(server)

    deltas = [event for event in events if event["type"] == "response.output.delta"]
    assert {delta["kind"] for delta in deltas} == {"listen", "text", "audio"}
    for delta in deltas:
        assert METRICS <= delta["metrics"].keys()
        assert isinstance(delta["metrics"]["backend"], str)
        assert isinstance(delta["server_send_ts"], float) and delta["server_send_ts"] > 1.7e9
        assert delta["response_id"].startswith("resp_")
        assert {"session_id", "input_id"} <= delta.keys()
        assert ("audio" in delta) is (delta["kind"] == "audio")


@pytest.mark.parametrize("mode", ["audio", "chat"])
async def test_r2_refuses_the_words_of_the_other_dialects(server: RunningOmni, mode: str) -> None:
    """As a warning: the session goes on."""
    codes = []
    async with connected(server.address, f"/v1/realtime?dialect=r2&mode={mode}") as client:
        await client.send("session.init", payload={})
        await client.until("session.created")
        for kind in ("session.update", "input_audio_buffer.append", "response.create"):
            await client.send(kind, audio=SECOND, session=UPDATE)
            codes.append((await client.expect("session.warning"))["code"])
        await client.send("session.close")
        await client.expect("session.closed")

    assert codes == ["unknown_event"] * 3


async def test_a_turn_of_r2_ends_after_256_tokens_unless_it_says_otherwise(
    server: RunningOmni,
) -> None:
    """The null engine says one word for each of the question, and counts it as a token."""
    question = {"messages": [{"role": "user", "content": "word " * 300}]}
    more = question | {"generation": {"max_new_tokens": 280}}
    done = []
    async with connected(server.address, "/v1/realtime?mode=chat") as client:
        await client.send("session.init", payload={})
        for turn in (question, more):
            await client.send("input.append", input=turn)
            done.append(await client.until("response.done"))

    assert [len(turn["text"].split()) for turn in done] == [256, 280]


USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
DELTA = {"type": "response.output.delta"}
AUDIO = "AACAPgAAgD4="  # two samples of 0.25
#: Section 11.5, row by row: a frame, and what the SDK makes of it.
READ = [
    ({**DELTA, "kind": "text", "text": "a", "end_of_turn": True}, "text", {"text": "a"}),
    ({**DELTA, "kind": "text", "delta": "a"}, "text", {"text": "a", "end_of_turn": False}),
    ({**DELTA, "kind": "audio", "audio": AUDIO}, "audio", {"audio_base64": AUDIO}),
    ({**DELTA, "kind": "audio", "audio": "odd"}, "other", {}),
    ({**DELTA, "kind": "audio", "audio": None}, "other", {}),
    ({**DELTA, "kind": "listen", "text": ""}, "listen", {"text": ""}),
    ({**DELTA, "kind": "listen", "text": "I"}, "listen", {"text": "I"}),
    ({**DELTA, "kind": "listen"}, "other", {}),
    ({"type": "response.listen"}, "listen", {}),
    ({"type": "response.output_audio.delta", "audio": AUDIO, "text": "a"}, "audio", {"text": None}),
    ({"type": "response.output_audio.delta", "delta": AUDIO}, "audio", {"audio_base64": AUDIO}),
    ({"type": "response.output_text.delta", "delta": "a"}, "text", {"text": "a"}),
    ({"type": "response.output_text.done", "text": "a"}, "text", {"end_of_turn": True}),
    ({"type": "response.text.done", "text": "a"}, "text", {"end_of_turn": True}),
    ({"type": "assistant.transcript", "text": "a"}, "text", {"end_of_turn": True}),
    ({"type": "user.transcript", "text": "a"}, "listen", {"text": "a"}),
    ({"type": "transcription.completed", "text": "a"}, "listen", {"text": "a"}),
    (
        {"type": "conversation.item.input_audio_transcription.completed", "transcript": "a"},
        "listen",
        {"text": "a"},
    ),
    ({"type": "response.done", "usage": USAGE}, "turn_completed", {"usage_cumulative": True}),
    (
        {"type": "response.done", "response": {"usage": USAGE}},
        "turn_completed",
        {"usage_cumulative": False},
    ),
    ({**DELTA, "kind": "text", "text": "a", "usage": USAGE}, "text", {"usage": None}),
    ({**DELTA, "kind": "listen", "text": "", "usage": USAGE}, "listen", {"usage": None}),
    ({**DELTA, "kind": "listen", "usage": USAGE}, "other", {"usage": None}),
    (
        {**DELTA, "kind": "audio", "audio": AUDIO, "usage": USAGE},
        "audio",
        {"usage_cumulative": True},
    ),
    ({"type": "session.usage", "usage": USAGE}, "usage", {"usage_cumulative": True}),
    ({"type": "session.closed", "usage": USAGE}, "closed", {"usage_cumulative": True}),
    ({"type": "session.usage", "usage": {**USAGE, "total_tokens": 8.0}}, "other", {"usage": None}),
    ({"type": "no.such.event"}, "other", {}),
    ({"type": "queue_update", "position": 1}, "other", {}),
    ({"type": "session.queue_update", "position": 1}, "queued", {"position": 1}),
    ({"type": "session.queued", "position": 1}, "queued", {"position": 1}),
    ({"type": "queued", "estimated_wait_s": 2.5}, "queued", {"estimated_wait_seconds": 2.5}),
    ({"type": "session.created", "session": {"id": "x"}}, "created", {"session_id": ""}),
    ({"type": "error", "error": {"code": "c", "message": "m"}}, "error", {"code": "c"}),
    ({"type": "error", "error": "m"}, "error", {"message": "m"}),
    ({"type": "session.warning", "code": "c", "message": "m"}, "other", {}),
]


@pytest.mark.parametrize(("frame", "kind", "fields"), READ, ids=lambda item: str(item)[:60])
def test_the_sdk_reads_a_frame_as_the_protocol_says(
    frame: Event, kind: str, fields: dict[str, object]
) -> None:
    """Facts of the pinned package that the choice of what R2 sends rests on."""
    heard = parse_server_event(orjson.dumps(frame))

    assert heard.kind == kind
    assert {name: getattr(heard, name) for name in fields} == fields


# --- 13 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("?model=m", {}),
        ("", {"headers": {"OpenAI-Beta": "realtime=v1"}}),
        ("", {"headers": {"User-Agent": "AsyncOpenAI/Python 3.54.0"}}),
        ("", {"protocols": ["openai-insecure-api-key.none"]}),
    ],
)
async def test_openai_s_client_need_not_wait_for_its_first_word(
    server: RunningOmni, query: str, options: dict[str, object]
) -> None:
    """Others have all slots; one is asked for when there is something to answer."""
    async with full(server):
        async with connected(server.address, f"/v1/realtime{query}", **options) as client:
            created = await client.expect("session.created")
        async with aiohttp.ClientSession(server.address) as http:
            assert await waiting(http, 0) == []

    assert created["session"]["id"].startswith("sess_")

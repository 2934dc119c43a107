"""`omni up --model DIR`: the engine in its own process behind the whole server, and its death."""

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import pytest
from openbmb_realtime.protocol import parse_server_event

from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.wav import waveform_from_wav
from tests.conftest import RunningOmni, StartOmni
from tests.minicpmo.pictures import golden_picture
from tests.realtime.client import Client, Event, connected
from tests.realtime.openai.talk import sound_of, talking

#: Of a whole conversation on cores that others use as well; only a broken server reaches it.
TIMEOUT_S = 300.0
SPEECH = Path(__file__).parents[2] / "omni" / "assets" / "default_voice.wav"


@pytest.fixture(scope="module")
def running(
    start_omni: StartOmni, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOmni]:
    """A server with two workers of two slots, which compute on the tiny checkpoint."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    settings = {"model.engine": "auto", "fabric.slots": 2, "fabric.heartbeat_misses": 100}
    started = start_omni(settings, "--workers", "2", "--model", str(directory))
    yield started
    started.stop()


def second(loudness: float) -> str:
    """Return a second of noise, base64 of float32 at 16 kHz."""
    samples = np.random.default_rng(3).normal(0, loudness, 16_000)
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def picture() -> str:
    file = io.BytesIO()
    golden_picture(320, 240, 1).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


async def talk(client: Client, count: int, **fields: object) -> list[Event]:
    """Send *count* seconds, loud and quiet by turns, and return their results."""
    for number in range(count):
        await client.send_chunk(second(0.3 if number % 3 == 0 else 0.001), **fields)
    async with asyncio.timeout(TIMEOUT_S):
        return [await client.expect("result") for _ in range(count)]


async def test_an_audio_call_listens_and_speaks(running: RunningOmni) -> None:
    async with connected(running.address, "/ws/duplex/adx_1") as client:
        prepared = await client.prepare(config={"force_listen_count": 0})
        results = await talk(client, 6)

    assert (prepared["engine"], prepared["chunk_ms"]) == ("minicpmo", 1000)
    assert [result["current_time"] for result in results] == [1, 2, 3, 4, 5, 6]
    assert {result["is_listen"] for result in results} == {True, False}
    for result in results:
        sound = base64.b64decode(result["audio_data"] or "")
        assert bool(sound) is not result["is_listen"]
        assert result["kv_cache_length"] > 0


async def test_an_omni_call_sees(running: RunningOmni) -> None:
    async with connected(running.address, "/ws/duplex/omni_1") as client:
        await client.prepare(config={"force_listen_count": 0})
        results = await talk(client, 3, frame_base64_list=[picture()])

    assert [result["vision_slices"] for result in results] == [1, 1, 1]
    assert [result["vision_tokens"] for result in results] == [64, 64, 64]


async def test_a_broken_picture_is_told_and_the_call_goes_on(running: RunningOmni) -> None:
    broken = base64.b64encode(b"\xff\xd8\xff no picture").decode()
    async with connected(running.address, "/ws/duplex/omni_2") as client:
        await client.prepare(config={"force_listen_count": 0})
        await client.send_chunk(second(0.3), frame_base64_list=[broken])
        seen = [(await client.receive())["type"] for _ in range(2)]
        results = await talk(client, 2)

    assert sorted(seen) == ["error", "result"]
    assert len(results) == 2


async def test_a_chat_is_streamed_with_text_and_sound(running: RunningOmni) -> None:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "data": picture()},
        {"type": "audio", "data": second(0.1)},
    ]
    request = {
        "messages": [{"role": "user", "content": content}],
        "generation": {"max_new_tokens": 24},
        "tts": {"enabled": True},
    }
    async with connected(running.address, "/ws/chat") as client:
        await client.socket.send_json(request)
        async with asyncio.timeout(TIMEOUT_S):
            prefilled = await client.expect("prefill_done")
            events = [await client.receive()]
            while events[-1]["type"] == "chunk":
                events.append(await client.receive())
        code = await client.closed()

    *chunks, done = events
    assert (done["type"], code) == ("done", 1000)
    assert done["input_tokens"] == prefilled["input_tokens"] > 64 + 10
    assert "".join(chunk.get("text_delta", "") for chunk in chunks) == done["text"] != ""
    assert 0 < done["generated_tokens"] <= 24
    assert any(chunk.get("audio_data") for chunk in chunks)


async def test_a_chat_that_is_answered_whole_has_a_wav(running: RunningOmni) -> None:
    request = {
        "messages": [{"role": "user", "content": "Hello"}],
        "generation": {"max_new_tokens": 12},
        "tts": {"enabled": True},
    }
    async with aiohttp.ClientSession() as http, asyncio.timeout(TIMEOUT_S):
        async with http.post(f"{running.address}/api/chat", json=request) as reply:
            answer = await reply.json()

    assert answer["success"] is True, answer
    assert answer["text"]
    assert base64.b64decode(answer["audio_data"])[:4] == b"RIFF"


async def test_a_broken_picture_in_a_chat_is_told(running: RunningOmni) -> None:
    broken = {"type": "image", "data": base64.b64encode(b"no picture").decode()}
    request = {"messages": [{"role": "user", "content": ["What is this?", broken]}]}
    async with connected(running.address, "/ws/chat") as client:
        await client.socket.send_json(request)
        error = await client.until("error")

    assert "messages[0].content[1] (image)" in error["error"]


async def test_hands_free_speech_is_answered(running: RunningOmni) -> None:
    samples, rate_hz = waveform_from_wav(SPEECH.read_bytes())
    assert rate_hz == 16_000
    heard = np.concatenate((np.zeros(11_200), samples[:9600], np.zeros(16_000))).astype("<f4")
    config = {"generation": {"max_new_tokens": 24}, "vad": {"min_silence_duration_ms": 600}}
    async with connected(running.address, "/ws/half_duplex/hdx_1") as client:
        await client.prepare(config=config)
        for at in range(0, len(heard), 3200):
            await client.send_chunk(base64.b64encode(heard[at : at + 3200].tobytes()).decode())
        async with asyncio.timeout(TIMEOUT_S):
            events = [await client.receive()]
            while events[-1]["type"] != "turn_done":
                events.append(await client.receive())

    kinds = [event["type"] for event in events]
    chunks = [event for event in events if event["type"] == "chunk"]
    assert kinds == ["vad_state", "vad_state", "generating", *["chunk"] * len(chunks), "turn_done"]
    assert events[-1]["turn_index"] == 1
    assert "".join(chunk["text_delta"] for chunk in chunks) == events[-1]["text"]
    assert chunks[-1]["is_final"] is True


async def test_a_worker_killed_in_mid_batch_ends_only_its_own_calls(running: RunningOmni) -> None:
    """Four calls on two workers; one worker dies while it computes for two of them."""
    names = [f"adx_k{number}" for number in range(4)]
    async with AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for name in names:
            place = connected(running.address, f"/ws/duplex/{name}")
            clients[name] = await stack.enter_async_context(place)
            await clients[name].prepare(config={"force_listen_count": 0})
            await talk(clients[name], 1)
        view = (await running.status()).workers[0]
        lost = {task.client_id for task in view.tasks}
        for name in lost:
            for _ in range(4):
                await clients[name].send_chunk(second(0.001))
        await clients[min(lost)].expect("result")  # the next ones are being computed
        running.kill(view.name)

        async with asyncio.timeout(TIMEOUT_S):
            errors = [await clients[name].until("error") for name in lost]
        results = [await talk(clients[name], 3) for name in names if name not in lost]

    assert len(lost) == len(results) == 2
    assert [error["code"] for error in errors] == ["worker_lost", "worker_lost"]
    assert all([unit["current_time"] for unit in each] == [2, 3, 4] for each in results)


async def test_a_killed_worker_comes_back_and_serves(running: RunningOmni) -> None:
    async with asyncio.timeout(2 * TIMEOUT_S):
        while [view.state for view in (await running.status()).workers] != ["ready", "ready"]:
            await asyncio.sleep(0.1)
    async with (
        connected(running.address, "/ws/duplex/adx_4") as first,
        connected(running.address, "/ws/duplex/adx_5") as second_call,
    ):
        for client in (first, second_call):
            await client.prepare(config={"force_listen_count": 0})
            assert len(await talk(client, 2)) == 2


async def test_r2_completes_each_turn_once_and_counts_every_token(running: RunningOmni) -> None:
    """Turns of several units, some interrupted; read by the parser of the real SDK."""
    payload = {"config": {"force_listen_count": 0, "max_tokens": 30}}
    events: list[Event] = []
    async with connected(running.address, "/v1/realtime?dialect=r2&mode=video") as client:
        await client.send("session.init", payload=payload)
        await client.until("session.created")
        for number in range(12):
            loudness = 0.3 if number % 3 == 0 else 0.001
            sound = {"audio": second(loudness), "video_frames": [picture()]}
            await client.send("input.append", input=sound | {"force_listen": number == 8})
            unit = [await client.receive()]
            while unit[-1].get("chunk_index") != number + 1:
                unit.append(await client.receive())
            events += unit
        await client.send("session.close")
        while not events or events[-1]["type"] != "session.closed":
            events.append(await client.receive())

    heard = [parse_server_event(orjson.dumps(event)) for event in events]
    turns = {event["response_id"] for event in events if event.get("kind") in ("text", "audio")}
    completed = [event for event in heard if event.kind == "listen"]
    assert turns and len(completed) in (len(turns), len(turns) - 1), "the last may be open"
    usage = heard[-1].usage
    assert usage is not None
    assert usage.vision_input_tokens == 64 * 12
    assert usage.audio_input_tokens is not None and usage.audio_input_tokens >= 10 * 12
    told = [event["chunk_usage"]["total_tokens"] for event in events if "chunk_usage" in event]
    assert events[-1]["usage"]["total_tokens"] > sum(told), "the prompt was counted, too"


async def test_r2_ends_a_call_behind_the_unit_that_fills_its_context(running: RunningOmni) -> None:
    payload = {"config": {"force_listen_count": 0, "max_kv_tokens": 200}}
    events: list[Event] = []
    async with connected(running.address, "/v1/realtime?dialect=r2&mode=video") as client:
        await client.send("session.init", payload=payload)
        await client.until("session.created")
        for _ in range(6):  # a picture is 64 tokens, a second of sound 10
            sound = {"audio": second(0.001), "video_frames": [picture()]}
            await client.send("input.append", input=sound)
        while not events or events[-1]["type"] != "session.closed":
            events.append(await client.receive())
        code = await client.closed()

    deltas = [event for event in events if event["type"] == "response.output.delta"]
    lengths = [delta["metrics"]["kv_cache_length"] for delta in deltas]
    assert (events[-1]["reason"], code) == ("context_full", 1000)
    assert lengths[-1] >= 200 and lengths[0] < 200
    assert all(length < 200 for length in lengths if length != lengths[-1])


async def test_r1_listens_and_speaks_and_sees(running: RunningOmni) -> None:
    session = {"instructions": "Be brief.", "config": {"force_listen_count": 0}}
    async with connected(running.address, "/v1/realtime?dialect=r1&mode=video") as client:
        await client.send("session.update", session=session)
        created = await client.until("session.created")
        units: list[Event] = []
        for number in range(8):
            sound = second(0.3 if number % 3 == 0 else 0.001)
            await client.send("input_audio_buffer.append", audio=sound, video_frames=[picture()])
            units.append(await client.receive())
        await client.send("session.close", reason="user_stop")
        closed = await client.receive()

    spoken = [unit for unit in units if unit["type"] != "response.listen"]
    assert created["prompt_length"] > 0
    assert 0 < len(spoken) < len(units)
    assert all(len(base64.b64decode(unit["audio"])) > 0 for unit in spoken)
    assert units[-1]["kv_cache_length"] > 8 * 64 + 8 * 10
    assert closed == {"type": "session.closed", "reason": "stopped"}


async def test_openai_realtime_answers_words_about_a_picture_by_voice(
    running: RunningOmni,
) -> None:
    """The real package; every event is what its own types say."""
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/jpeg;base64,{picture()}"},
    ]
    item = {"type": "message", "role": "user", "content": content}
    async with talking(running.address) as talk:
        await talk.update(output_modalities=["audio"], max_output_tokens=24)
        await talk.send("conversation.item.create", item=item)
        await talk.send("response.create")
        done = (await talk.until("response.done"))["response"]

    (output,) = done["output"]
    assert done["status"] in ("completed", "incomplete")
    assert output["content"][0]["transcript"]
    assert len(sound_of(talk.events)) > 0
    usage = done["usage"]
    assert usage["input_token_details"]["image_tokens"] == 64
    assert usage["output_token_details"]["audio_tokens"] > 0

"""`/ws/chat` of a whole server with the null engine, which answers with the user's own words."""

import base64

import aiohttp
import orjson
import pytest

from tests.conftest import RunningOmni
from tests.realtime.client import Client, Event, connected

WORDS = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


async def _ask(client: Client, **request: object) -> None:
    await client.socket.send_str(orjson.dumps(request).decode())


async def _until_done(client: Client) -> list[Event]:
    events = [await client.receive()]
    while events[-1]["type"] != "done":
        events.append(await client.receive())
    return events


async def _num_tasks(address: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/status") as reply:
        return len((await reply.json())["running_tasks"])


async def test_an_answer_is_streamed_and_the_socket_closed(address: str) -> None:
    async with connected(address, "/ws/chat") as client:
        await _ask(client, messages=WORDS)
        events = await _until_done(client)

        assert await client.closed() == 1000
    assert [event["type"] for event in events] == [
        "prefill_done",
        "chunk",
        "chunk",
        "chunk",
        "done",
    ]
    assert "".join(event["text_delta"] for event in events[1:-1]) == "one two three"
    assert (events[-1]["text"], events[-1]["generated_tokens"]) == ("one two three", 3)
    assert "audio_data" not in events[-1]


async def test_a_whole_answer_has_its_sound_in_done(address: str) -> None:
    async with connected(address, "/ws/chat") as client:
        await _ask(client, messages=WORDS, streaming=False, tts={"enabled": True})
        events = await _until_done(client)

    assert [event["type"] for event in events] == ["prefill_done", "done"]
    assert len(base64.b64decode(events[-1]["audio_data"])) == 3 * 4 * 24_000


async def test_the_socket_holds_no_slot_before_its_request(
    omni: RunningOmni, address: str
) -> None:
    await omni.until_idle()  # an answer is told before its slot is free
    async with connected(address, "/ws/chat"):
        assert await _num_tasks(address) == 0


async def test_a_large_request_is_taken(address: str) -> None:
    """A WebSocket frame of 20 MiB of base64 video."""
    video = base64.b64encode(bytes(15 * 2**20)).decode()
    content = [{"type": "video", "data": video}, {"type": "text", "text": "seen"}]
    async with connected(address, "/ws/chat") as client:
        await _ask(client, messages=[{"role": "user", "content": content}])

        assert (await _until_done(client))[-1]["text"] == "seen"


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[]", "{}", '{"messages": []}', '{"messages": [{"role": "user"}]}', b"x"],
)
async def test_a_wrong_request_gets_an_error_and_a_close(
    address: str, frame: str | bytes
) -> None:
    async with connected(address, "/ws/chat") as client:
        if isinstance(frame, bytes):
            await client.socket.send_bytes(frame)
        else:
            await client.socket.send_str(frame)
        error = await client.expect("error")

        assert await client.closed() == 1003
    assert error["error"]


async def test_stop_ends_an_answer_with_what_there_is(slow: RunningOmni) -> None:
    async with connected(slow.address, "/ws/chat") as client:
        long = [{"role": "user", "content": "word " * 4000}]
        await _ask(client, messages=long, generation={"max_new_tokens": 4096})
        await client.until("chunk")
        await _ask(client, type="stop")
        done = await client.until("done")

    assert 0 < done["generated_tokens"] < 4000


async def test_a_client_that_hangs_up_frees_its_slot(slow: RunningOmni) -> None:
    async with connected(slow.address, "/ws/chat") as client:
        long = [{"role": "user", "content": "word " * 4000}]
        await _ask(client, messages=long, generation={"max_new_tokens": 4096})
        await client.until("chunk")

    await slow.until_idle()


async def test_a_second_request_on_the_same_socket_is_refused(address: str) -> None:
    async with connected(address, "/ws/chat") as client:
        long = [{"role": "user", "content": "word " * 800}]
        await _ask(client, messages=long, generation={"max_new_tokens": 4096})
        await _ask(client, messages=WORDS)
        error = await client.until("error")
        await client.until("done")

        assert await client.closed() == 1000
    assert "One request per socket" in error["error"]

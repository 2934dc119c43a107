"""The older streaming chat behind a whole server: turns, waiting, stopping, recording."""

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import SPEECH, Client, connected

LONG = " ".join(f"word{number}" for number in range(4000))


@pytest.fixture(scope="module")
def one_slot(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot, so that whoever holds it is seen."""
    running = start_omni({"fabric.slots": 1, "recording.enabled": "true"})
    yield running
    running.stop()


@pytest.fixture
async def server(one_slot: RunningOmni) -> RunningOmni:
    """That server, when nobody of the test before is left."""
    await one_slot.until_idle()
    return one_slot


def asking(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "is_last_chunk": True, **fields}


async def turn(client: Client, text: str, **generate: object) -> tuple[list[str], list[Any], Any]:
    """Return the types of all events of a turn, its chunks, and its done."""
    await client.send("prefill", **asking(text))
    events = [await client.until("prefill_done")]
    await client.send("generate", **generate)
    while events[-1]["type"] != "done":
        events.append(await client.receive())
    chunks = [event for event in events if event["type"] == "chunk"]
    return [event["type"] for event in events], chunks, events[-1]


async def api(server: RunningOmni, method: str, path: str, **options: Any) -> Any:
    async with aiohttp.ClientSession(server.address) as http:
        async with http.request(method, path, **options) as reply:
            assert reply.status == 200
            return await reply.json()


async def until_busy(server: RunningOmni, number: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await api(server, "GET", "/status"))["busy_slots"] != number:
            await asyncio.sleep(0.02)


async def until_finalised(server: RunningOmni, recording_id: str) -> Any:
    path = f"/api/sessions/{recording_id}/recording"
    async with aiohttp.ClientSession(server.address) as http, asyncio.timeout(TIMEOUT_S):
        while True:
            async with http.get(path) as reply:
                if reply.status == 200:
                    return await reply.json()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/ws/streaming/mine", "/ws/streaming", "/api/streaming"])
async def test_one_socket_serves_many_turns(server: RunningOmni, path: str) -> None:
    async with connected(server.address, path) as client:
        await client.send("prefill", **asking("one two"))
        await client.until("queue_done")  # the slot may be on its way back from the test before
        prefilled = await client.expect("prefill_done")
        await client.send("generate")
        first = [await client.expect("chunk") for _ in range(2)]
        done = await client.expect("done")
        kinds, chunks, second = await turn(client, "three", generate_audio=False)
        await client.send("close")
        code = await client.closed()

    assert (prefilled["message_count"], prefilled["prompt_length"]) == (1, len("one two"))
    assert prefilled["cached_tokens"] == 0
    assert [chunk["chunk_index"] for chunk in first] == [0, 1]
    assert "".join(chunk["text_delta"] for chunk in first) == "one two"
    assert [chunk["is_final"] for chunk in first] == [False, True]
    assert all(chunk["audio_sample_rate"] == 24_000 and chunk["audio_data"] for chunk in first)
    assert first[0]["duration_ms"] == 1000
    assert done["stopped"] is False and done["elapsed_ms"] >= 0
    assert done["token_stats"] == {
        "cached_tokens": 0,
        "input_tokens": 2,
        "generated_tokens": 2,
        "total_tokens": 4,
    }
    assert done["session_id"] == ("mine" if path.endswith("mine") else done["session_id"])
    assert done["session_id"].startswith(("mine", "stm_"))
    assert kinds == ["prefill_done", "chunk", "done"]
    assert (chunks[0]["chunk_index"], chunks[0]["audio_data"]) == (0, None)
    assert second["token_stats"]["total_tokens"] == 2
    assert code == 1000


async def test_the_slot_is_held_from_prefill_to_done_alone(server: RunningOmni) -> None:
    async with connected(server.address, "/ws/streaming/holder") as client:
        await until_busy(server, 0)
        await client.send("prefill", **asking("x"))
        await client.until("prefill_done")
        await until_busy(server, 1)
        [task] = (await api(server, "GET", "/status"))["running_tasks"]
        [worker] = (await api(server, "GET", "/workers"))["workers"]
        await client.send("generate")
        await client.until("done")
        await until_busy(server, 0)
        eta = await api(server, "GET", "/api/config/eta")

    assert (task["request_type"], task["session_id"]) == ("streaming", "holder")
    assert eta["ema_streaming_samples"] > 0 and eta["ema_streaming_s"] > 0
    assert worker["status"] == "busy_chat"


async def test_both_may_be_sent_at_once(server: RunningOmni) -> None:
    async with connected(server.address, "/ws/streaming") as client:
        await client.send("prefill", **asking("now"))
        await client.send("generate", max_new_tokens=1)
        await client.until("queue_done")
        kinds = [(await client.receive())["type"] for _ in range(3)]

    assert kinds == ["prefill_done", "chunk", "done"]


async def test_a_turn_waits_in_the_queue_as_streaming(server: RunningOmni) -> None:
    async with connected(server.address, "/ws/duplex/adx_1") as holder:
        await holder.prepare()
        async with connected(server.address, "/ws/streaming/waiter") as client:
            await client.send("prefill", **asking("hello"))
            place = await client.expect("queued")
            [item] = (await api(server, "GET", "/api/queue"))["items"]
            await holder.send("stop")
            await client.until("queue_done")
            await client.expect("prefill_done")
            await client.send("generate")
            done = await client.until("done")

    assert (place["position"], place["ticket_id"]) == (1, item["ticket_id"])
    assert (item["request_type"], item["session_id"]) == ("streaming", "waiter")
    assert done["stopped"] is False


async def test_stop_ends_the_answer_and_leaves_the_socket(slow: RunningOmni) -> None:
    async with connected(slow.address, "/ws/streaming/s") as client:
        await client.send("prefill", **asking(LONG))
        await client.send("generate", generate_audio=False, max_new_tokens=4000)
        await client.until("chunk")
        await client.send("stop")
        done = await client.until("done")
        _, chunks, after = await turn(client, "again")

    assert done["stopped"] is True
    assert 0 < done["token_stats"]["generated_tokens"] < 4000
    assert (chunks[0]["text_delta"], after["stopped"]) == ("again", False)


@pytest.mark.parametrize("moment", ["queued", "prefill_done"])
async def test_stop_before_the_answer_ends_the_turn(server: RunningOmni, moment: str) -> None:
    async with connected(server.address, "/ws/duplex/adx_1") as holder:
        if moment == "queued":
            await holder.prepare()
        else:
            await holder.socket.close()
        async with connected(server.address, "/ws/streaming/s") as client:
            await client.send("prefill", **asking("x"))
            await client.until(moment)
            await client.send("stop")
            done = await client.until("done")
            queue = await api(server, "GET", "/api/queue")
            await holder.socket.close()
            _, _, after = await turn(client, "again")

    assert done["stopped"] is True and done["token_stats"]["total_tokens"] == 0
    assert queue["items"] == []
    assert after["stopped"] is False


async def test_stop_without_a_turn_is_nothing(server: RunningOmni) -> None:
    async with connected(server.address, "/ws/streaming") as client:
        await client.send("stop")
        kinds, _, _ = await turn(client, "x")

    assert kinds == ["prefill_done", "chunk", "done"]


async def test_the_route_stops_one_session_or_all(slow: RunningOmni) -> None:
    nobody = await api(slow, "POST", "/api/streaming/stop")
    async with connected(slow.address, "/ws/streaming/victim") as client:
        for body in ({"session_id": "victim"}, {}, None):
            await client.send("prefill", **asking(LONG))
            await client.send("generate", generate_audio=False, max_new_tokens=4000)
            await client.until("chunk")
            other = await api(slow, "POST", "/api/streaming/stop", json={"session_id": "else"})
            options = {} if body is None else {"json": body}
            stopped = await api(slow, "POST", "/api/streaming/stop", **options)
            done = await client.until("done")

            assert done["stopped"] is True
            assert other == nobody
            assert stopped["success"] is True
            assert [entry["worker_id"] for entry in stopped["stopped"]] == ["worker_1"]
    assert nobody == {"success": False, "message": "No streaming worker found"}


@pytest.mark.parametrize(
    ("kind", "fields", "word"),
    [
        ("generate", {}, "prefill first"),
        ("prefill", {}, "messages"),
        ("prefill", {"messages": [{"role": "king", "content": "x"}]}, "role"),
        ("prefill", asking("x", ref_audio_base64="%"), "ref_audio_base64"),
        ("prefill", asking("x", max_slice_nums=99), "max_slice_nums"),
        ("generate", {"max_new_tokens": "many"}, "max_new_tokens"),
        ("chat", {}, "Unknown type: chat"),
        ("", {}, "Missing type"),
    ],
)
async def test_a_wrong_message_is_named_and_ends_nothing(
    server: RunningOmni, kind: str, fields: dict[str, object], word: str
) -> None:
    async with connected(server.address, "/ws/streaming") as client:
        await client.send(kind, **fields)
        error = await client.expect("error")
        _, _, done = await turn(client, "still here")

    assert word in error["error"]
    assert done["stopped"] is False


async def test_a_second_turn_may_not_begin_beside_an_answer(slow: RunningOmni) -> None:
    async with connected(slow.address, "/ws/streaming") as client:
        await client.send("prefill", **asking(LONG))
        await client.send("generate", generate_audio=False, max_new_tokens=4000)
        await client.until("chunk")
        await client.send("prefill", **asking("x"))
        await client.send("generate")
        errors = [await client.until("error") for _ in range(2)]
        await client.send("stop")
        await client.until("done")

    assert all("is running" in error["error"] for error in errors)


async def test_a_prefill_may_be_replaced_before_it_is_asked(server: RunningOmni) -> None:
    async with connected(server.address, "/ws/streaming") as client:
        await client.send("prefill", **asking("wrong"))
        await client.until("prefill_done")
        _, chunks, _ = await turn(client, "right", generate_audio=False)

    assert [chunk["text_delta"] for chunk in chunks] == ["right"]


async def test_a_slot_that_nobody_uses_goes_back_and_the_socket_stays(
    start_omni: StartOmni,
) -> None:
    """On a server of its own: no other test may have to be done with its words so soon."""
    running = start_omni({"duplex.pause_timeout": 1})
    async with connected(running.address, "/ws/streaming") as client:
        await client.send("prefill", **asking("x"))
        await client.until("prefill_done")
        error = await client.expect("error")
        await until_busy(running, 0)
        await client.send("prefill", **asking("x"))
        await client.send("generate", generate_audio=False)
        done = await client.until("done")
    running.stop()

    assert error["error"] == "Generate timeout (1.0s)" and done["stopped"] is False


async def test_each_turn_is_recorded_by_itself(server: RunningOmni) -> None:
    sound = {"role": "user", "content": [{"type": "audio", "data": SPEECH}, "hello"]}
    ids = []
    async with connected(server.address, "/ws/streaming/rec") as client:
        for _ in range(2):
            await client.send("prefill", messages=[sound])
            prefilled = await client.until("prefill_done")
            await client.send("generate")
            ids.append((await client.until("done"))["recording_session_id"])
            assert prefilled["recording_session_id"] == ids[-1]
    recording = await until_finalised(server, ids[1])
    meta = await api(server, "GET", f"/api/sessions/{ids[1]}")

    assert ids == ["stm_rec", "stm_rec_2"]
    assert meta["app_type"] == recording["mode"] == "streaming"
    assert [turn["output"]["text"] for turn in recording["turns"]] == ["hello"]


async def test_a_client_that_leaves_frees_its_slot(slow: RunningOmni) -> None:
    for message in ("prefill", "generate"):
        async with connected(slow.address, "/ws/streaming") as client:
            await client.send("prefill", **asking(LONG))
            await client.until("prefill_done")
            if message == "generate":
                await client.send("generate", generate_audio=False, max_new_tokens=4000)
                await client.until("chunk")
        await until_busy(slow, 0)


async def test_a_disabled_chat_refuses_streaming_too(server: RunningOmni) -> None:
    path = "/api/admin/apps/turnbased"
    await api(server, "PUT", path, json={"enabled": False})
    try:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(server.address, "/ws/streaming"):
                pass
    finally:
        await api(server, "PUT", path, json={"enabled": True})

    assert refused.value.status == 403

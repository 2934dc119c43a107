"""Waiting: what a client is told and what it may say, on a server with one slot."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import orjson
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import SILENCE, Client, connected


@pytest.fixture(scope="module")
def address(start_omni: StartOmni) -> Iterator[str]:
    running: RunningOmni = start_omni({"fabric.slots": 1, "service.max_queue_size": 3})
    yield running.address
    running.stop()


@pytest.fixture
async def holder(address: str) -> AsyncIterator[Client]:
    """A session that has the only slot; it must be free before and is free after."""
    await _until_empty(address)
    async with connected(address, "/ws/duplex/adx_holder") as client:
        await client.prepare()
        yield client
    await _until_empty(address)


async def _get(address: str, path: str, method: str = "GET") -> Any:
    async with aiohttp.ClientSession() as http, http.request(method, address + path) as reply:
        return await reply.json()


async def _until_queue(address: str, length: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            items: list[dict[str, Any]] = (await _get(address, "/api/queue"))["items"]
            if len(items) == length:
                return items


async def _until_empty(address: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await _get(address, "/status"))["busy_slots"]:
            continue


async def test_a_waiting_client_is_told_its_place(address: str, holder: Client) -> None:
    async with connected(address, "/ws/duplex/adx_1") as first:
        one = await first.expect("queued")
        async with connected(address, "/ws/half_duplex/hdx_1") as second:
            two = await second.expect("queued")
            await first.send("stop")
            await first.until("stopped")
            await second.moved_up(1)

    assert (one["position"], two["position"]) == (1, 2)
    assert one["ticket_id"].startswith("q_") and one["estimated_wait_s"] > 0
    assert two["queue_length"] == 2


@pytest.mark.parametrize("moment", ["at open", "when queued", "when done"])
async def test_prepare_and_sound_sent_early_are_kept(
    address: str, holder: Client, moment: str
) -> None:
    """The demo's pages send `prepare` 100 ms after the open, once, whether they wait or not."""

    async def speak(client: Client) -> None:
        await client.send("prepare", config={"chunk_ms": 500})
        for _ in range(5):
            await client.send_chunk()

    async with connected(address, "/ws/duplex/adx_2") as client:
        if moment == "at open":
            await speak(client)
        await client.expect("queued")
        if moment == "when queued":
            await speak(client)
        await holder.send("stop")
        await client.until("queue_done")
        if moment == "when done":
            await speak(client)
        kinds = [(await client.receive())["type"] for _ in range(6)]
        await client.send("interrupt")
        last = await client.receive()

    assert kinds == ["prepared"] + ["result"] * 5
    assert last["type"] == "interrupted"


async def test_a_waiting_client_may_send_only_so_much(start_omni: StartOmni) -> None:
    running = start_omni({"fabric.slots": 1, "web.max_early_kb": 64})
    async with connected(running.address, "/ws/duplex/adx_holder") as holder:
        await holder.prepare()
        async with connected(running.address, "/ws/duplex/adx_3") as client:
            await client.expect("queued")
            await client.send("prepare")
            for _ in range(100):
                await client.send_chunk()  # 850 KB in all
            await client.send("no such type")
            await client.until("error")
            await holder.send("stop")
            await client.until("prepared")
            await client.expect("result")
            async with connected(running.address, "/ws/duplex/adx_4") as other:
                await other.expect("queued")
                await other.send("prepare", system_prompt="x" * 100_000)
                error = await other.until("error")

                assert await other.closed() == 1009
    running.stop()

    assert "64 KiB" in error["error"]


async def test_a_client_that_leaves_the_queue_takes_its_ticket_along(
    address: str, holder: Client
) -> None:
    async with connected(address, "/ws/duplex/adx_5") as client:
        await client.expect("queued")
        await _until_queue(address, 1)

    await _until_queue(address, 0)


async def test_a_client_that_is_cut_off_in_the_queue_leaves_no_ticket(
    address: str, holder: Client
) -> None:
    async with connected(address, "/ws/duplex/adx_6") as client:
        await client.expect("queued")
        client.socket.get_extra_info("socket").shutdown(2)

        await _until_queue(address, 0)


async def test_a_cancelled_ticket_is_told_to_its_client(address: str, holder: Client) -> None:
    """In the reference the socket simply ended."""
    async with connected(address, "/ws/duplex/adx_7") as client:
        ticket_id = (await client.expect("queued"))["ticket_id"]
        before = await _get(address, f"/api/queue/{ticket_id}")
        deleted = await _get(address, f"/api/queue/{ticket_id}", "DELETE")
        error = await client.until("error")

        assert await client.closed() == 1000
    after = await _get(address, f"/api/queue/{ticket_id}")
    again = await _get(address, f"/api/queue/{ticket_id}", "DELETE")
    assert before["found"] and before["ticket"]["session_id"] == "adx_7"
    assert (deleted, again) == ({"success": True}, {"success": False})
    assert error["error"] == "Cancelled"
    assert after["found"] is False and "Ticket not in queue" in after["message"]


async def test_a_full_queue_refuses_with_a_reason(address: str, holder: Client) -> None:
    async with (
        connected(address, "/ws/duplex/adx_8") as one,
        connected(address, "/ws/duplex/adx_9") as two,
        connected(address, "/ws/duplex/adx_10") as three,
    ):
        for client in (one, two, three):
            await client.expect("queued")
        async with connected(address, "/ws/duplex/adx_11") as refused:
            error = await refused.expect("error")

            assert await refused.closed() == 1013
        async with aiohttp.ClientSession() as http:
            body = {"messages": [{"role": "user", "content": "x"}]}
            async with http.post(f"{address}/api/chat", json=body) as reply:
                status, answer = reply.status, await reply.json()

    assert error["error"] == "Queue full (3 requests)"
    assert status == 503 and answer["detail"] == answer["error"] == "Queue full (3 requests)"


async def test_those_who_left_before_their_turn_keep_no_slot(
    address: str, holder: Client
) -> None:
    """In the reference the worker of such a client stayed busy for ever."""
    leavers = []
    for number in range(2):
        context = connected(address, f"/ws/duplex/adx_2{number}")
        client = await context.__aenter__()
        await client.expect("queued")
        leavers.append((context, client))
    await holder.send("stop")
    for _, client in leavers:
        client.socket.get_extra_info("socket").shutdown(2)

    async with connected(address, "/ws/duplex/adx_30") as client:
        await client.prepare()
    for context, _ in leavers:
        await context.__aexit__(None, None, None)


async def test_chat_waits_for_its_turn_on_both_ways_in(address: str, holder: Client) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}

    async def post() -> Any:
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{address}/api/chat", json=body) as reply:
                return await reply.json()

    async with connected(address, "/ws/chat") as client, asyncio.TaskGroup() as group:
        await client.socket.send_str(orjson.dumps(body).decode())
        await _until_queue(address, 1)
        posted = group.create_task(post())
        await _until_queue(address, 2)
        await holder.send("stop")
        done = await client.until("done")

    assert done["text"] == "hello"
    reply = posted.result()
    assert (reply["text"], reply["success"]) == ("hello", True)
    assert reply["queue_wait_ms"] > 0 and reply["estimated_queue_wait_s"] > 0


async def test_a_post_that_hangs_up_in_the_queue_leaves_no_ticket(
    address: str, holder: Client
) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with aiohttp.ClientSession() as http:
        request = asyncio.create_task(http.post(f"{address}/api/chat", json=body))
        await _until_queue(address, 1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

        await _until_queue(address, 0)


async def test_a_wrong_frame_in_the_queue_costs_nobody_its_place(
    address: str, holder: Client
) -> None:
    async with connected(address, "/ws/duplex/adx_40") as client:
        await client.expect("queued")
        await client.socket.send_str("{")
        await client.until("error")
        await client.send("prepare")
        await client.send_chunk(SILENCE)
        await holder.send("stop")
        await client.until("prepared")
        await client.expect("result")

"""What happens to chat requests while somebody else has the only slot."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime

import aiohttp
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import Client, connected

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot, and little patience."""
    running = start_omni({"fabric.slots": 1, "service.request_timeout": 1})
    yield running
    running.stop()


@pytest.fixture
async def holder(server: RunningOmni) -> AsyncIterator[Client]:
    """Whoever has the slot."""
    async with connected(server.websocket_address, "/ws/duplex/adx_holder") as client:
        await client.prepare()
        yield client


@pytest.mark.usefixtures("holder")
async def test_a_post_waits_no_longer_than_its_time(server: RunningOmni) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.address}/api/chat", json=HELLO) as reply:
            body = await reply.json()

    assert reply.status == 503 and "Request timeout" in body["detail"] == body["error"]
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.usefixtures("holder")
async def test_a_socket_is_told_its_place_and_waits_no_longer_than_its_time(
    server: RunningOmni,
) -> None:
    async with connected(server.websocket_address, "/ws/chat") as client:
        await client.socket.send_json(HELLO)
        place = await client.expect("queued")
        error = await client.until("error")

        assert await client.closed() == 1013
    assert (place["position"], place["queue_length"]) == (1, 1)
    assert "Request timeout" in error["error"]


@pytest.mark.usefixtures("holder")
async def test_a_worker_without_a_free_slot_is_not_idle(server: RunningOmni) -> None:
    """The demo's pages call a server without an idle worker offline; one with room looked so."""
    async with aiohttp.ClientSession(server.address) as http:
        async with http.get("/status") as reply:
            body = await reply.json()

    assert (body["busy_workers"], body["idle_workers"], body["free_slots"]) == (1, 0, 0)


@pytest.mark.usefixtures("holder")
async def test_the_line_shows_who_waits_and_who_runs(server: RunningOmni) -> None:
    async with connected(server.websocket_address, "/ws/duplex/adx_waiting") as client:
        ticket = await client.expect("queued")
        async with aiohttp.ClientSession(server.address) as http:
            async with http.get("/api/queue") as reply:
                line = await reply.json()
            async with http.get(f"/api/queue/{ticket['ticket_id']}") as reply:
                one = await reply.json()

    [item], [task] = line["items"], line["running_tasks"]
    assert (line["queue_length"], line["max_queue_size"]) == (1, 1000)
    assert (item["ticket_id"], item["session_id"]) == (ticket["ticket_id"], "adx_waiting")
    assert (item["request_type"], item["position"]) == ("audio_duplex", 1)
    assert item["wait_elapsed_s"] >= 0 and item["estimated_wait_s"] > 0
    assert (task["worker_id"], task["request_type"]) == ("worker_0", "audio_duplex")
    assert task["elapsed_s"] >= 0 and task["estimated_remaining_s"] > 0
    assert one["found"] and one["ticket"]["cancelled"] is False


@pytest.mark.usefixtures("holder")
async def test_times_are_local_and_name_no_zone(server: RunningOmni) -> None:
    """As the demo's clients parse them."""
    async with aiohttp.ClientSession(server.address) as http:
        async with http.get("/health") as reply:
            times = [(await reply.json())["timestamp"]]
        async with http.get("/workers") as reply:
            worker = (await reply.json())["workers"][0]
            times += [worker["last_heartbeat"], worker["task_started_at"]]

    assert [datetime.fromisoformat(time).tzinfo for time in times] == [None] * 3
    assert all(abs((datetime.now() - datetime.fromisoformat(t)).days) < 1 for t in times)

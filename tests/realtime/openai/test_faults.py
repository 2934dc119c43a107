"""What an OpenAI client is told when workers die, slots are scarce, time is over, servers stop."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import RunningOmni, StartOmni
from tests.fakes import until
from tests.realtime.openai.talk import LONG, TIMEOUT_S, Event, Talk, slot_held, talking

TEXT = ["text"]


@pytest.fixture(scope="module")
def scarce(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot, and nobody may wait for it long."""
    running = start_omni({"fabric.slots": 1, "realtime.max_wait_s": 0})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def single(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot, for which there is a line."""
    running = start_omni({"fabric.slots": 1, "realtime.max_wait_s": 1000})
    yield running
    running.stop()


async def closed(talk: Talk) -> int:
    """Return the code of the close, which must come next."""
    with pytest.raises(ConnectionClosed) as close:
        async with asyncio.timeout(TIMEOUT_S):
            await talk.receive()
    assert close.value.rcvd is not None
    return close.value.rcvd.code


async def last_error(talk: Talk) -> Event:
    """Return the error that comes, whatever comes before it."""
    while (event := await talk.receive())["type"] != "error":
        continue
    error: Event = event["error"]
    return error


async def begin_long(talk: Talk) -> None:
    """Have an answer made that lasts while its sound is not read, and see its beginning."""
    await talk.write(LONG)
    await talk.send("response.create")
    await talk.until("response.output_audio.delta")


async def test_who_would_wait_too_long_is_sent_away(scarce: RunningOmni) -> None:
    async with talking(scarce.address) as talk, slot_held(scarce.address):
        await talk.write("one")
        await talk.send("response.create")
        error = await last_error(talk)
        code = await closed(talk)

    failed = next(e["response"] for e in talk.events if e["type"] == "response.done")
    assert error["code"] == "server_busy" and code == 1013
    assert failed["status"] == "failed" and failed["output"] == []


async def test_waiting_is_silent(single: RunningOmni) -> None:
    async with talking(single.address) as talk:
        async with slot_held(single.address):
            await talk.write("one")
            await talk.send("response.create", response={"output_modalities": TEXT})
            await talk.until("response.created")
            num_events = len(talk.events)
        response = await talk.done()

    assert talk.events[num_events]["type"] == "response.output_item.added"
    assert response["status"] == "completed"


async def test_a_waiting_answer_can_be_cancelled(single: RunningOmni) -> None:
    async with talking(single.address) as talk:
        async with slot_held(single.address):
            await talk.write("one")
            await talk.send("response.create")
            await talk.until("response.created")
            await talk.send("response.cancel")
            cancelled = await talk.done()
        answered = await talk.ask("two", output_modalities=TEXT)

    assert cancelled["status"] == "cancelled" and cancelled["output"] == []
    assert answered["output"][0]["content"][0]["text"] == "one two"


async def test_a_lost_worker_costs_one_answer(start_omni: StartOmni) -> None:
    running = start_omni()
    async with talking(running.address) as talk:
        await begin_long(talk)
        pid = running.kill("worker-0")
        failed = await talk.done()
        await asyncio.to_thread(until, lambda: running.pid("worker-0") not in (0, pid), TIMEOUT_S)
        async with asyncio.timeout(TIMEOUT_S):
            while (answered := await talk.ask("two", output_modalities=TEXT))["status"] == "failed":
                assert answered["status_details"]["error"]["code"] == "no_worker"

    running.stop()
    assert failed["status"] == "failed"
    assert failed["status_details"]["error"]["code"] == "worker_lost"
    assert failed["output"][0]["status"] == "incomplete"
    assert answered["status"] == "completed"


async def test_a_call_without_a_broker_is_told_and_goes_on(start_omni: StartOmni) -> None:
    running = start_omni({"fabric.restart_backoff_s": 60, "fabric.restart_backoff_max_s": 60})
    async with talking(running.address) as talk:
        running.kill("broker")
        await talk.write("one")
        await talk.send("response.create", response={"output_modalities": TEXT})
        await talk.until("response.created")
        await talk.send("response.cancel")
        response = await talk.done()

    running.stop()
    assert response["status"] == "cancelled"


@pytest.mark.parametrize(
    ("limit", "code"), [("idle", "session_idle"), ("session", "session_expired")]
)
async def test_a_call_ends_when_its_time_is_over(
    start_omni: StartOmni, limit: str, code: str
) -> None:
    running = start_omni({f"realtime.{limit}_timeout_s": 1})
    async with talking(running.address) as talk:
        error = await last_error(talk)
        assert await closed(talk) == 1000
    running.stop()

    assert error["code"] == code


async def test_a_stopping_server_says_so(start_omni: StartOmni) -> None:
    running = start_omni()
    async with talking(running.address) as talk:
        await begin_long(talk)
        running.kill("web-0", signal.SIGTERM)
        error = await last_error(talk)
        code = await closed(talk)
    running.stop()

    assert "stops" in error["message"] and code == 1001


async def test_a_client_that_hangs_up_in_an_answer_frees_its_slot(single: RunningOmni) -> None:
    async with talking(single.address) as talk:
        await begin_long(talk)

    await single.until_idle()

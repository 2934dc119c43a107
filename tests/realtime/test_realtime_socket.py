"""`/v1/realtime` of a whole server: who speaks what, what is refused, and how sessions end."""

import base64
import signal
from collections.abc import Iterator

import aiohttp
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S, Client, Event, connected

SECOND = base64.b64encode(bytes(4 * 16_000)).decode()
TENTH = base64.b64encode(bytes(4 * 1_600)).decode()
PICTURE = base64.b64encode(b"\xff\xd8\xff" + bytes(2_000)).decode()
UPDATE = {"instructions": "Be brief."}
ASK = {"messages": [{"role": "user", "content": "hello you"}], "tts": {"enabled": True}}


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


@pytest.fixture(scope="module")
def narrow_server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with one slot, a short line and small frames."""
    running = start_omni(
        {"fabric.slots": 1, "service.max_queue_size": 1, "web.max_frame_mb": 1}
    )
    yield running
    running.stop()


@pytest.fixture
async def narrow(narrow_server: RunningOmni) -> RunningOmni:
    """That server, when nobody of the test before is left."""
    await narrow_server.until_idle()
    return narrow_server


@pytest.fixture(scope="module")
def hasty(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server whose sessions are short."""
    limits = ("audio_limit_s", "video_limit_s", "idle_timeout_s")
    running = start_omni({f"realtime.{name}": 1 for name in limits})
    yield running
    running.stop()


async def _created(client: Client, **session: object) -> Event:
    await client.send("session.update", session=UPDATE | session)
    return await client.until("session.created")


async def _init(client: Client, **payload: object) -> Event:
    await client.send("session.init", payload=payload)
    return await client.until("session.created")


# --- R1


async def test_an_r1_session_goes_from_queue_done_to_closed(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=video") as client:
        assert await client.expect("session.queue_done") == {"type": "session.queue_done"}
        created = await _created(client)
        for _ in range(4):
            await client.send("input_audio_buffer.append", audio=SECOND, video_frames=[PICTURE])
        units = [await client.receive() for _ in range(4)]
        await client.send("session.close", reason="user_stop")
        closed = await client.receive()

        assert await client.closed() == 1000
    assert created.keys() == {"type", "session_id", "prompt_length"}
    assert created["session_id"].startswith("rt_")
    assert [unit["type"] for unit in units[:3]] == ["response.listen"] * 3
    spoken = units[3]
    assert spoken.keys() == {"type", "text", "audio", "end_of_turn", "kv_cache_length"}
    assert len(base64.b64decode(spoken["audio"])) == 4 * 24_000
    assert closed == {"type": "session.closed", "reason": "stopped"}


async def test_many_r1_sessions_of_one_moment_have_ids_of_their_own(address: str) -> None:
    async with (
        connected(address, "/v1/realtime?dialect=r1") as one,
        connected(address, "/v1/realtime?dialect=r1") as two,
        connected(address, "/v1/realtime?dialect=r1") as three,
    ):
        ids = {(await _created(client))["session_id"] for client in (one, two, three)}

    assert len(ids) == 3


async def test_wrong_r1_events_are_named_and_the_session_goes_on(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=audio") as client:
        await client.send("input_audio_buffer.append", audio=SECOND)
        early = await client.until("error")
        await client.send("session.update", session={})
        missing = await client.until("error")  # the slot may come before it
        await _created(client)
        await client.send("input_audio_buffer.append", audio=TENTH)
        short = await client.expect("error")
        await client.send("response.cancel")
        unknown = await client.expect("error")
        await client.socket.send_bytes(b"S16L" + bytes(100))
        binary = await client.expect("error")
        await client.send("session.update", session=UPDATE)
        again = await client.expect("error")
        await client.send("input_audio_buffer.append", audio=SECOND)
        await client.expect("response.listen")

    errors = [event["error"] for event in (early, missing, short, unknown, binary, again)]
    assert [error["code"] for error in errors] == [
        "not_ready",
        "missing_field",
        "invalid_payload",
        "unknown_event",
        "invalid_payload",
        "invalid_payload",
    ]
    assert all(error.keys() == {"code", "message", "type"} for error in errors)
    assert {error["type"] for error in errors} == {"client_error"}


async def test_an_r1_frame_that_is_no_json_closes_1003(address: str) -> None:
    async with connected(address, "/v1/realtime") as client:
        await client.socket.send_str("{")
        error = await client.until("error")

        assert await client.closed() == 1003
    assert error["error"]["code"] == "invalid_payload"


@pytest.mark.parametrize("mode", ["audio", "video"])
async def test_an_r1_session_ends_when_its_time_is_over(hasty: RunningOmni, mode: str) -> None:
    async with connected(hasty.address, f"/v1/realtime?mode={mode}") as client:
        await _created(client)
        closed = await client.until("session.closed")

        assert await client.closed() == 1000
    assert closed["reason"] == "timeout"


async def test_a_frame_above_the_limit_is_told_in_the_words_of_r1(narrow: RunningOmni) -> None:
    async with connected(narrow.address, "/v1/realtime?dialect=r1") as client:
        await client.until("session.queue_done")
        await client.socket.send_bytes(bytes(2 * 2**20))
        error = await client.expect("error")

        assert await client.closed() == 1009
    assert error["error"]["code"] == "invalid_payload"


# --- the queue


async def test_who_waits_is_told_in_words_that_both_dialects_know(narrow: RunningOmni) -> None:
    async with connected(narrow.address, "/v1/realtime?mode=audio") as holder:
        await holder.until("session.queue_done")
        async with connected(narrow.address, "/v1/realtime?mode=audio") as waiting:
            queued = await waiting.expect("session.queued")
            await waiting.send("session.init", payload={})  # kept, and decides
            async with connected(narrow.address, "/v1/realtime?mode=audio") as third:
                error = await third.expect("error")
                assert await third.closed() == 1013
            await holder.send("session.close")
            await waiting.until("session.queue_done")
            created = await waiting.expect("session.created")

    assert queued.keys() == {
        "type",
        "position",
        "estimated_wait_s",
        "ticket_id",
        "queue_length",
    }
    assert created["mode"] == "full_duplex"
    assert error["error"]["code"] == "queue_full" and error["error"]["type"] == "server_error"


async def test_an_update_sent_while_waiting_is_kept(narrow: RunningOmni) -> None:
    """The page sends `session.update` 100 ms after the open, once, whether it waits or not."""
    async with connected(narrow.address, "/v1/realtime?mode=audio") as holder:
        await holder.until("session.queue_done")
        async with connected(narrow.address, "/v1/realtime?mode=audio") as client:
            await client.expect("session.queued")
            await client.send("session.update", session=UPDATE)
            await holder.send("session.close")
            created = await client.until("session.created")

    assert created["session_id"].startswith("rt_")


async def test_a_cancelled_ticket_is_told(narrow: RunningOmni) -> None:
    async with connected(narrow.address, "/v1/realtime?mode=audio") as holder:
        await holder.until("session.queue_done")
        async with (
            connected(narrow.address, "/v1/realtime?mode=audio") as client,
            aiohttp.ClientSession() as http,
        ):
            ticket = (await client.expect("session.queued"))["ticket_id"]
            async with http.delete(f"{narrow.address}/api/queue/{ticket}") as reply:
                assert reply.status == 200
            error = await client.until("error")

            assert await client.closed() == 1000
    assert error["error"]["message"]


# --- who speaks what


@pytest.mark.parametrize("query", ["", "?mode=audio", "?mode=video", "?model=m&mode=audio"])
async def test_the_first_event_decides_between_r1_and_r2(address: str, query: str) -> None:
    async with connected(address, f"/v1/realtime{query}") as client:
        r1 = await _created(client)
    async with connected(address, f"/v1/realtime{query}") as client:
        r2 = await _init(client)

    assert "prompt_length" in r1 and "mode" in r2


async def test_the_subprotocol_of_the_sdk_means_r2_and_is_echoed(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=audio", protocols=["map.realtime"]) as client:
        await client.expect("session.queue_done")
        await client.send("session.update", session=UPDATE)
        warning = await client.expect("session.warning")
        created = await _init(client)

        assert client.socket.protocol == "map.realtime"
    assert warning["code"] == "unknown_event"
    assert created["session_id"].startswith("sess_")


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("?model=m", {}),
        ("", {"headers": {"User-Agent": "OpenAI/Python 3.54.0"}}),
        ("?mode=audio", {"protocols": ["realtime", "openai-insecure-api-key.none"]}),
        ("?dialect=openai", {"protocols": ["map.realtime"]}),
    ],
)
async def test_an_openai_client_hears_its_session_first(
    address: str, query: str, options: dict[str, object]
) -> None:
    async with connected(address, f"/v1/realtime{query}", **options) as client:
        created = await client.expect("session.created")

    assert created["session"]["object"] == "realtime.session"


async def test_a_key_among_the_subprotocols_is_not_sent_back(address: str) -> None:
    offered = ["realtime", "openai-insecure-api-key.none"]
    async with connected(address, "/v1/realtime", protocols=offered) as client:
        assert client.socket.protocol == "realtime"


async def test_an_openai_update_hands_an_undecided_connection_over(narrow: RunningOmni) -> None:
    """Its slot is given back at once: it waits for speech as any other client of that dialect."""
    async with connected(narrow.address, "/v1/realtime") as client:
        await client.until("session.queue_done")
        await client.send("session.update", session={"type": "realtime", "instructions": "x"})
        created = await client.expect("session.created")
        updated = await client.until("session.updated")
        async with connected(narrow.address, "/v1/realtime?mode=audio") as other:
            await other.until("session.queue_done")

    assert created["session"]["object"] == "realtime.session"
    assert updated["session"]["instructions"] == "x"


@pytest.mark.parametrize(
    ("query", "status"),
    [("?mode=smell", 400), ("?dialect=r3", 400), ("?dialect=r1&mode=chat", 400)],
)
async def test_what_there_is_not_is_refused_before_the_upgrade(
    address: str, query: str, status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(address, f"/v1/realtime{query}"):
            pass

    assert refused.value.status == status


async def test_a_page_of_another_site_is_refused(address: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(address, "/v1/realtime", origin="https://elsewhere.example"):
            pass

    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("app", "mode"), [("omni", "video"), ("audio_duplex", "audio"), ("turnbased", "chat")]
)
async def test_a_disabled_app_is_refused(narrow: RunningOmni, app: str, mode: str) -> None:
    url = f"{narrow.address}/api/admin/apps/{app}"
    async with aiohttp.ClientSession() as http:
        await http.put(url, json={"enabled": False})
        try:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with connected(narrow.address, f"/v1/realtime?mode={mode}"):
                    pass
        finally:
            await http.put(url, json={"enabled": True})

    assert refused.value.status == 403


# --- R2


async def test_r2_sound_of_any_length_is_answered_by_units(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=video") as client:
        await _init(client)
        await client.send("input.append", input={"frames": [PICTURE]})
        for number in range(25):  # 2.5 s
            await client.send("input.append", input={"audio": TENTH, "input_id": f"in_{number}"})
        first = [await client.expect("response.output.delta") for _ in range(2)]
        three_and_a_half = base64.b64encode(bytes(4 * 16_000 * 7 // 2)).decode()
        await client.send("input.append", input={"audio": three_and_a_half, "input_id": "long"})
        await client.send("session.close")
        rest = []
        while (event := await client.receive())["type"] != "session.closed":
            rest.append(event)

        assert await client.closed() == 1000
    assert [event["input_id"] for event in first] == ["in_9", "in_19"]
    assert {event["input_id"] for event in rest} <= {"long"}
    assert event["usage"]["input_token_details"]["image_tokens"] == 64
    assert event["reason"] == "user_stop"


@pytest.mark.parametrize(("mode", "word"), [("audio", "Silence"), ("chat", "Idle")])
async def test_an_r2_session_ends_after_a_long_silence(
    hasty: RunningOmni, mode: str, word: str
) -> None:
    async with connected(hasty.address, f"/v1/realtime?mode={mode}") as client:
        await _init(client)
        closed = await client.until("session.closed")

        assert await client.closed() == 1000
    assert closed["reason"] == "timeout" and word in closed["diagnostic"]["message"]


async def test_turns_follow_each_other_on_one_socket(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=chat") as client:
        assert await client.expect("session.queue_done") == {"type": "session.queue_done"}
        created = await _init(client, system_prompt="Be kind.")
        for number in range(3):
            await client.send("input.append", input=ASK | {"input_id": f"in_{number}"})
        events = []
        while len([e for e in events if e["type"] == "response.done"]) < 3:
            events.append(await client.receive())
        await client.send("session.close")
        closed = await client.expect("session.closed")

        assert await client.closed() == 1000
    done = [event for event in events if event["type"] == "response.done"]
    assert created["mode"] == "turn_based"
    assert [event["input_id"] for event in done] == ["in_0", "in_1", "in_2"]
    assert {event["text"] for event in done} == {"hello you"}
    first = [event for event in events if event["response_id"] == done[0]["response_id"]]
    kinds = [event["kind"] for event in first[:-1]]
    assert first[-1] == done[0] and kinds == ["text", "audio"] * 2
    assert closed["usage"] == done[-1]["usage"]


async def test_a_turn_that_must_wait_is_told_and_holds_nothing_before(narrow: RunningOmni) -> None:
    async with connected(narrow.address, "/v1/realtime?mode=chat") as client:
        await _init(client)
        async with connected(narrow.address, "/v1/realtime?mode=audio") as holder:
            await holder.until("session.queue_done")
            await client.send("input.append", input=ASK)
            await client.expect("session.queued")
            await holder.send("session.close")
            await client.until("session.queue_done")
            done = await client.until("response.done")
            await client.send("session.close")
            await client.expect("session.closed")

    assert done["text"] == "hello you"


async def test_a_wrong_turn_is_a_warning(address: str) -> None:
    async with connected(address, "/v1/realtime?mode=chat") as client:
        await client.send("input.append", input=ASK)
        early = await client.until("session.warning")
        await _init(client)
        await client.send("input.append", input={"messages": [{"role": "cat", "content": "x"}]})
        wrong = await client.expect("session.warning")
        await client.socket.send_str("{")
        broken = await client.expect("session.warning")
        await client.send("input.append", input=ASK)
        await client.until("response.done")

    codes = [event["code"] for event in (early, wrong, broken)]
    assert codes == ["not_ready", "invalid_payload", "invalid_payload"]


# --- faults


async def test_a_stopping_server_says_so_in_each_dialect(start_omni: StartOmni) -> None:
    running = start_omni()
    async with (
        connected(running.address, "/v1/realtime?dialect=r1") as r1,
        connected(running.address, "/v1/realtime?dialect=r2") as r2,
        connected(running.address, "/v1/realtime?mode=chat") as turns,
    ):
        await _created(r1)
        await _init(r2)
        await _init(turns)
        running.kill("web-0", signal.SIGTERM)
        for client in (r1, r2, turns):
            assert (await client.expect("session.closed"))["reason"] == "server_shutdown"
            assert await client.closed() == 1001
    running.stop()


async def test_a_lost_worker_is_told_in_each_dialect(start_omni: StartOmni) -> None:
    running = start_omni()
    async with (
        connected(running.address, "/v1/realtime?dialect=r1") as r1,
        connected(running.address, "/v1/realtime?dialect=r1") as early,
        connected(running.address, "/v1/realtime?dialect=r2") as r2,
        connected(running.address, "/v1/realtime?mode=chat") as turns,
    ):
        await _created(r1)
        await early.until("session.queue_done")
        await _init(r2)
        await _init(turns)
        running.kill("worker-0")
        told = [(await client.expect("error"))["error"]["code"] for client in (r1, early, r2)]
        reasons = [(await client.expect("session.closed"))["reason"] for client in (r1, r2)]
        codes = [await client.closed() for client in (r1, early, r2)]
        await turns.send("input.append", input=ASK)  # held nothing: the next worker answers
        done = await turns.until("response.done")
    running.stop()

    assert told == ["inference_error", "worker_connect_failed", "worker_lost"]
    assert reasons == ["error", "backend_error"]
    assert codes == [1011, 1013, 1011]
    assert done["text"] == "hello you"


async def test_a_client_that_vanishes_in_mid_turn_frees_its_slot(narrow: RunningOmni) -> None:
    async with connected(narrow.address, "/v1/realtime?mode=chat") as client:
        await _init(client)
        words = " ".join(["word"] * 2000)
        await client.send("input.append", input={"messages": [{"role": "user", "content": words}]})
        await client.until("response.output.delta")
    async with connected(narrow.address, "/v1/realtime?mode=audio") as other:
        assert (await other.socket.receive(TIMEOUT_S)).type is aiohttp.WSMsgType.TEXT
        await other.send("session.init", payload={})
        await other.until("session.created")

"""The demo's protocol, section 2, row by row, against a server with one slot.

What is expected stands here by hand, and not in `/openapi.json`: that says what we do.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import numpy as np
import pytest

from omni.engine import Arrival, Emission
from omni.engine.null import NullEngine
from omni.messages import Heartbeat, PeerExited
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, StartOmni
from tests.fabric import HostedWorker, RawPeer
from tests.realtime.client import SPEECH, Client, connected

TIMEOUT_S = 30.0
NAIVE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")
#: Section 3.4.
STATES = {
    "offline",
    "loading",
    "idle",
    "busy_chat",
    "busy_half_duplex",
    "duplex_active",
    "duplex_paused",
    "error",
}
TASK = {"worker_id", "request_type", "started_at", "elapsed_s", "estimated_remaining_s"}
ITEM = {
    "ticket_id",
    "request_type",
    "session_id",
    "position",
    "estimated_wait_s",
    "enqueued_at",
    "wait_elapsed_s",
}
WORKER = {
    "worker_id",
    "host",
    "port",
    "gpu_id",
    "status",
    "current_session_id",
    "total_requests",
    "avg_inference_time_ms",
    "last_heartbeat",
    "current_request_type",
    "task_started_at",
}
#: Where the page of section 14.13 comes from, which is told a server by `?api=`.
ELSEWHERE = "https://pages.example"
ETA_TYPES = ("chat", "half_duplex", "audio_duplex", "omni_duplex")


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni(
        {
            "fabric.slots": 1,
            "web.lang": "zh",
            "service.eta_ema_min_samples": 1000,
            "security.allowed_origins": ELSEWHERE,
        }
    )
    yield running
    running.stop()


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session


@pytest.fixture
async def holder(server: RunningOmni) -> AsyncIterator[Client]:
    """Whoever has the only slot."""
    async with connected(server.address, "/ws/duplex/adx_holder") as client:
        await client.prepare()
        yield client


async def ask(http: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
    async with http.request(method, path, **options) as reply:
        assert reply.content_type == "application/json"
        return await reply.json()


async def waiting(http: aiohttp.ClientSession, number: int) -> list[dict[str, Any]]:
    """Return the tickets once there are so many."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            items: list[dict[str, Any]] = (await ask(http, "GET", "/api/queue"))["items"]
            if len(items) == number:
                return items


# --- 2.1 ---------------------------------------------------------------------------------------


async def test_health_is_healthy_at_a_naive_local_time(http: aiohttp.ClientSession) -> None:
    body = await ask(http, "GET", "/health")

    assert body["status"] == "healthy" and NAIVE_TIME.fullmatch(body["timestamp"])


@pytest.mark.usefixtures("holder")
async def test_status_has_every_field_and_busy_counts_duplex_too(
    http: aiohttp.ClientSession,
) -> None:
    body = await ask(http, "GET", "/status")

    counts = "total idle busy duplex loading error offline".split()
    assert [body[f"{name}_workers"] for name in counts] == [1, 0, 1, 1, 0, 0, 0]
    assert (body["gateway_healthy"], body["queue_length"], body["max_queue_size"]) == (
        True,
        0,
        1000,
    )
    [task] = body["running_tasks"]
    assert TASK <= task.keys() and NAIVE_TIME.fullmatch(task["started_at"])


@pytest.mark.usefixtures("holder")
async def test_workers_have_every_field(http: aiohttp.ClientSession) -> None:
    body = await ask(http, "GET", "/workers")

    [worker] = body["workers"]
    assert body["total"] == 1 and WORKER <= worker.keys()
    assert re.fullmatch(r"worker_\d+", worker["worker_id"]) and worker["status"] in STATES
    assert NAIVE_TIME.fullmatch(worker["last_heartbeat"])


@pytest.mark.parametrize("path", ["/cache", "/api/cache"])
async def test_the_cache_has_both_names(http: aiohttp.ClientSession, path: str) -> None:
    body = await ask(http, "GET", path)

    [worker] = body["workers"]
    assert worker.keys() == {"worker_id", "status"} and worker["status"] in STATES


async def test_the_cache_knows_a_pause_as_the_list_of_workers_does(
    http: aiohttp.ClientSession, holder: Client
) -> None:
    await holder.send("pause")
    await holder.until("paused")
    lists = [await ask(http, "GET", path) for path in ("/workers", "/cache")]

    assert [body["workers"][0]["status"] for body in lists] == ["duplex_paused"] * 2


async def test_a_worker_counts_its_requests_and_how_long_they_take(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    await server.until_idle()
    message = {"role": "user", "content": "hello"}
    [before] = (await ask(http, "GET", "/workers"))["workers"]
    await ask(http, "POST", "/api/chat", json={"messages": [message]})
    async with asyncio.timeout(TIMEOUT_S):
        after = before
        while after["total_requests"] == before["total_requests"]:
            [after] = (await ask(http, "GET", "/workers"))["workers"]

    assert after["total_requests"] == before["total_requests"] + 1
    assert after["avg_inference_time_ms"] > 0


# --- 2.2, 3.1, 3.2 -------------------------------------------------------------------------------


async def test_the_line_is_one_for_all_types_and_served_in_order(
    server: RunningOmni, http: aiohttp.ClientSession, holder: Client
) -> None:
    paths = ["/ws/half_duplex/hdx_a", "/ws/duplex/omni_b", "/ws/duplex/adx_c"]
    async with AsyncExitStack() as stack:
        clients, places = [], []
        for path in paths:
            clients.append(await stack.enter_async_context(connected(server.address, path)))
            places.append(await clients[-1].expect("queued"))
        first, second, third = clients
        body = await ask(http, "GET", "/api/queue")
        await holder.send("stop")
        await first.until("queue_done")
        moved = [await second.moved_up(1), await third.moved_up(2)]
        await first.socket.close()
        await second.until("queue_done")
        await second.socket.close()
        await third.until("queue_done")

    assert body["queue_length"] == 3 and len(body["running_tasks"]) == 1
    assert all(item.keys() == ITEM for item in body["items"])
    assert [(i["request_type"], i["position"]) for i in body["items"]] == [
        ("half_duplex_audio", 1),
        ("omni_duplex", 2),
        ("audio_duplex", 3),
    ]
    assert [place["ticket_id"] for place in places] == [i["ticket_id"] for i in body["items"]]
    assert all(re.fullmatch(r"q_[0-9a-f]{12}", place["ticket_id"]) for place in places)
    queued = {"type", "position", "estimated_wait_s", "ticket_id", "queue_length"}
    assert all(place.keys() == queued for place in places)
    assert all(queued - {"ticket_id"} <= update.keys() for update in moved)


@pytest.mark.usefixtures("holder")
async def test_a_ticket_is_found_until_it_is_deleted_and_its_socket_is_told(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    for path, opening in (("/ws/duplex/adx_1", None), ("/ws/chat", "hello"), ("/ws/streaming", "")):
        async with connected(server.address, path) as client:
            if opening is not None:
                message = {"role": "user", "content": "hello"}
                await client.send("prefill", messages=[message])
            ticket_id = (await client.expect("queued"))["ticket_id"]
            found = await ask(http, "GET", f"/api/queue/{ticket_id}")
            deleted = await ask(http, "DELETE", f"/api/queue/{ticket_id}")
            error = await client.until("error")
            code = await client.closed()
        gone = await ask(http, "GET", f"/api/queue/{ticket_id}")
        again = await ask(http, "DELETE", f"/api/queue/{ticket_id}")

        assert found["found"] is True
        assert found["ticket"].keys() == ITEM - {"wait_elapsed_s"} | {"cancelled"}
        assert (deleted, error["error"], code) == ({"success": True}, "Cancelled", 1000)
        text = "Ticket not in queue (may have been assigned or cancelled)"
        assert (gone, again) == ({"found": False, "message": text}, {"success": False})


@pytest.mark.parametrize("path", ["/ws/half_duplex/hdx_early", "/ws/duplex/adx_early"])
async def test_who_prepares_while_waiting_is_prepared_once_and_hears_nothing_unknown_before(
    server: RunningOmni, holder: Client, path: str
) -> None:
    """The demo's pages say it once, as soon as their socket is open, and know few words by then."""
    async with connected(server.address, path) as client:
        await client.send("prepare")
        kinds = [(await client.receive())["type"]]
        await holder.send("stop")
        while kinds[-1] != "prepared":
            kinds.append((await client.receive())["type"])
        await client.send("stop")
        after = await client.receive()

    once = [kind for kind in kinds if kind != "queue_update"]
    assert once == ["queued", "queue_done", "prepared"]
    assert after["type"] == "stopped"


# --- 2.3, 3.3 ------------------------------------------------------------------------------------


async def test_eta_has_every_field_and_the_aliases_of_older_servers(
    http: aiohttp.ClientSession,
) -> None:
    body = await ask(http, "GET", "/api/config/eta")

    names = (*ETA_TYPES, "streaming", "duplex")
    assert body["config"].keys() == {f"eta_{name}_s" for name in names} | {"ema_alpha"}
    assert body.keys() == {
        "config",
        "ema_alpha",
        *(f"ema_{name}_s" for name in names),
        *(f"ema_{name}_samples" for name in names),
    }
    assert (body["ema_alpha"], body["config"]["ema_alpha"]) == (0.3, None)


async def test_a_put_of_eta_returns_what_it_leaves_out_to_its_default(
    http: aiohttp.ClientSession,
) -> None:
    both = await ask(http, "PUT", "/api/config/eta", json={"eta_duplex_s": 7, "stranger": [1]})
    plain = await ask(http, "PUT", "/api/config/eta", json={"eta_streaming_s": None})

    config = {name: both["config"][f"eta_{name}_s"] for name in ETA_TYPES}
    assert config == {"chat": 15, "half_duplex": 180, "audio_duplex": 7, "omni_duplex": 7}
    config = {name: plain["config"][f"eta_{name}_s"] for name in ETA_TYPES}
    assert config == {"chat": 15, "half_duplex": 180, "audio_duplex": 120, "omni_duplex": 90}


@pytest.mark.parametrize("is_overdue", [False, True])
@pytest.mark.usefixtures("holder")
async def test_waits_are_those_of_the_formula_and_follow_a_new_config_at_once(
    server: RunningOmni, http: aiohttp.ClientSession, is_overdue: bool
) -> None:
    """The running session below and above its expected time; four types behind it.

    Hours of expected time, so that the seconds of this test do not show.
    """
    held_s = 0 if is_overdue else 36_000
    config = {"eta_audio_duplex_s": held_s, "eta_chat_s": 100, "eta_half_duplex_s": 2_000}
    config |= {"eta_omni_duplex_s": 30_000, "eta_streaming_s": 400_000}
    message = {"role": "user", "content": "hello"}
    async with (
        connected(server.address, "/ws/half_duplex/hdx_1") as half,
        connected(server.address, "/ws/streaming") as streaming,
        connected(server.address, "/ws/chat") as chat,
        connected(server.address, "/ws/duplex/omni_1") as omni,
        connected(server.address, "/ws/chat") as last,
    ):
        await half.expect("queued")
        for client in (streaming, chat):
            await client.send("prefill", messages=[message])
            await client.expect("queued")
        await waiting(http, 4)
        await last.send("", messages=[message])
        await last.expect("queued")
        await ask(http, "PUT", "/api/config/eta", json=config)
        items = await waiting(http, 5)
        await ask(http, "PUT", "/api/config/eta", json={})
    assert omni.socket.closed

    order = [item["request_type"] for item in items]
    duration_s = {"half_duplex_audio": 2_000, "streaming": 400_000, "chat": 100}
    duration_s["omni_duplex"] = 30_000
    waits = [item["estimated_wait_s"] for item in items]
    assert sorted(order) == sorted([*duration_s, "chat"])
    assert waits[0] == 15.0 if is_overdue else 36_000 - 300 < waits[0] <= 36_000
    for index, (before, after) in enumerate(zip(waits, waits[1:])):
        assert after - before == pytest.approx(duration_s[order[index]], abs=0.11)


# --- 2.4, 2.5, 2.7 -------------------------------------------------------------------------------


async def test_frontend_defaults_have_the_language_of_the_server(
    http: aiohttp.ClientSession,
) -> None:
    body = await ask(http, "GET", "/api/frontend_defaults")

    assert (body["playback_delay_ms"], body["default_lang"]) == (200, "zh")


async def test_the_default_voice_has_every_field(http: aiohttp.ClientSession) -> None:
    body = await ask(http, "GET", "/api/default_ref_audio")

    assert body.keys() == {"name", "duration", "sample_rate", "samples", "base64"}
    assert body["sample_rate"] == 16_000 and body["duration"] == round(body["duration"], 1)


async def test_apps_have_three_fields_and_the_operators_one_more(
    http: aiohttp.ClientSession,
) -> None:
    apps, all_apps = await ask(http, "GET", "/api/apps"), await ask(http, "GET", "/api/admin/apps")
    off = {"enabled": False}
    changed = await ask(http, "PUT", "/api/admin/apps/omni", json=off)
    again = await ask(http, "PUT", "/api/admin/apps", json={"app_id": "omni", "enabled": True})

    assert all(app.keys() == {"app_id", "name", "route"} for app in apps["apps"])
    assert all(app.keys() == {"app_id", "name", "route", "enabled"} for app in all_apps["apps"])
    expected = {"app_id": "omni", "name": "Omni Full-Duplex", "route": "/omni"}
    assert changed == {"success": True, "app": {**expected, **off}}
    assert again == {"success": True, "app": {**expected, "enabled": True}}


async def test_the_apps_are_those_of_the_table(http: aiohttp.ClientSession) -> None:
    body = await ask(http, "GET", "/api/apps")

    assert [tuple(app.values()) for app in body["apps"]] == [
        ("turnbased", "Turn-based Chat", "/turnbased"),
        ("half_duplex_audio", "Half-Duplex Audio", "/half_duplex"),
        ("omni", "Omni Full-Duplex", "/omni"),
        ("audio_duplex", "Audio Full-Duplex", "/audio_duplex"),
        ("realtime", "Realtime API", "/realtime"),
    ]


@pytest.mark.parametrize(
    ("app_id", "route"),
    [
        ("turnbased", "/turnbased"),
        ("half_duplex_audio", "/half_duplex"),
        ("omni", "/omni"),
        ("omni", "/mobile-omni/"),
        ("audio_duplex", "/audio_duplex"),
    ],
)
async def test_a_page_leads_home_while_its_app_is_off(
    http: aiohttp.ClientSession, app_id: str, route: str
) -> None:
    async with http.get(route) as reply:
        shown = (reply.status, reply.content_type)
    await ask(http, "PUT", f"/api/admin/apps/{app_id}", json={"enabled": False})
    try:
        async with http.get(route, allow_redirects=False) as reply:
            off = (reply.status, reply.headers.get("Location"))
    finally:
        await ask(http, "PUT", f"/api/admin/apps/{app_id}", json={"enabled": True})

    assert shown == (200, "text/html")
    assert off == (302, "/")


@pytest.mark.parametrize("path", ["/", "/mobile/", "/mobile-omni/", "/omni"])
async def test_a_page_is_there_for_get_and_head(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as got, http.head(path) as headed:
        text = await got.text()
        statuses = (got.status, headed.status)

    assert statuses == (200, 200)
    assert "<html" in text


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/mobile", "/mobile/"),
        ("/mobile-omni", "/mobile-omni/"),
        ("/mobile-omni?lang=zh", "/mobile-omni/?lang=zh"),
        ("/half_duplex_omni", "/omni"),
    ],
)
async def test_other_names_of_pages_lead_to_them(
    http: aiohttp.ClientSession, path: str, target: str
) -> None:
    async with http.get(path, allow_redirects=False) as got:
        led = (got.status, got.headers["Location"])
    async with http.head(path, allow_redirects=False) as headed:
        assert (headed.status, headed.headers["Location"]) == led

    assert led == (302, target)


# --- 14.2 ----------------------------------------------------------------------------------------


async def test_the_calls_of_the_demos_own_api_tests_are_answered(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    """Health, status, workers, sessions, a chat, a streaming turn, and its stop."""
    message = {"role": "user", "content": "Say something"}
    for path in ("/health", "/status", "/workers"):
        async with http.get(path) as reply:
            assert reply.status == 200
    sessions = await ask(http, "GET", "/sessions")
    answer = await ask(http, "POST", "/api/chat", json={"messages": [message]})
    async with connected(server.address, "/ws/streaming/test_session") as client:
        fields = {"session_id": "test_session", "is_last_chunk": True}
        await client.send("prefill", messages=[message], **fields)
        await client.until("prefill_done")
        await client.send("generate", session_id="test_session", generate_audio=False)
        done = await client.until("done")
    stopped = await ask(http, "POST", "/api/streaming/stop")

    assert sessions.keys() == {"total", "sessions"}
    assert answer["success"] is True and answer["text"] == "Say something"
    assert done["token_stats"]["generated_tokens"] == 2
    assert stopped == {"success": False, "message": "No streaming worker found"}


# --- 14.13 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["raw", "WAV"])
async def test_a_page_from_elsewhere_that_may_opens_r1_with_a_voice_in_either_form(
    server: RunningOmni, form: str
) -> None:
    sound = np.full(16_000, 0.1, "<f4")
    voice = sound.tobytes() if form == "raw" else wav_from_waveform(sound, 24_000)
    session = {"instructions": "Be kind.", "ref_audio": base64.b64encode(voice).decode()}
    path = "/v1/realtime?mode=audio"

    async with connected(server.address, path, origin=ELSEWHERE) as client:
        await client.until("session.queue_done")
        await client.send("session.update", session=session)
        created = await client.expect("session.created")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(server.address, path, origin="https://others.example"):
            pass

    assert created["session_id"].startswith("rt_") and refused.value.status == 403


# --- 2.1 again, with further workers: they stay in the list ---------------------------------------


async def counts(http: aiohttp.ClientSession, expected: tuple[int, int, int]) -> None:
    """Return once so many workers are loading, lost and given up."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            body = await ask(http, "GET", "/status")
            names = ("loading_workers", "offline_workers", "error_workers")
            if tuple(body[name] for name in names) == expected:
                break
    assert body["total_workers"] == 1 + sum(expected)


async def test_a_worker_that_loads_or_is_lost_or_given_up_is_counted_as_that(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    newcomer = await asyncio.to_thread(RawPeer, server.fabric, "worker", "worker-7")
    launcher = await asyncio.to_thread(RawPeer, server.fabric, "launcher", "launcher-7")
    try:
        await asyncio.to_thread(newcomer.hello)
        newcomer.say(Heartbeat(state="loading"))
        await counts(http, (1, 0, 0))
        newcomer.close()
        await counts(http, (0, 1, 0))
        await asyncio.to_thread(launcher.hello)
        launcher.say(PeerExited(name="worker-7", pid=1, given_up=True))
        await counts(http, (0, 0, 1))
    finally:
        newcomer.close()
        launcher.close()


# --- 6.3, with a worker of its own ----------------------------------------------------------------


class StandingStill(NullEngine):
    """Says a word when something arrives, and none before the next: it has to be stopped."""

    @property
    def busy(self) -> bool:
        """Never."""
        return False

    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Answer *arrivals*."""
        return super().step(arrivals) if arrivals else []


@pytest.mark.usefixtures("holder")
async def test_an_answer_is_stopped_by_its_session_s_id_and_its_turn_has_the_text_so_far(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    worker = await asyncio.to_thread(HostedWorker, server.fabric, StandingStill(1), "worker-8")
    try:
        async with connected(server.address, "/ws/half_duplex/hdx_stopped") as client:
            await client.prepare()
            await client.send_chunk(SPEECH)
            await client.send_chunk()
            said = await client.until("chunk")
            body = {"session_id": "hdx_stopped"}
            stopped = await ask(http, "POST", "/api/half_duplex/stop", json=body)
            done = await client.until("turn_done")
    finally:
        await asyncio.to_thread(worker.stop)

    assert stopped["success"] is True
    assert (said["text_delta"], done["text"]) == ("you ", "you")

"""The HTTP routes of a whole server with the null engine."""

import asyncio
import base64
import gzip
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from omni.wav import waveform_from_wav
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S, connected

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"web.max_body_mb": 2})
    yield running
    running.stop()


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session


async def _json(response: Any) -> tuple[int, Any]:
    async with response as reply:
        assert reply.content_type == "application/json"
        return reply.status, await reply.json()


async def _until_idle(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await _json(http.get("/status")))[1]["busy_slots"]:
            await asyncio.sleep(0.02)


async def test_health_says_healthy(http: aiohttp.ClientSession) -> None:
    status, body = await _json(http.get("/health"))

    assert (status, body["status"], body["broker"]) == (200, "healthy", True)
    assert body["timestamp"]


async def test_status_has_the_counts_that_pages_read(http: aiohttp.ClientSession) -> None:
    _, body = await _json(http.get("/status"))

    names = "total idle busy duplex loading error offline".split()
    assert [body[f"{name}_workers"] for name in names] == [1, 1, 0, 0, 0, 0, 0]
    assert body["gateway_healthy"] is True
    assert (body["queue_length"], body["max_queue_size"]) == (0, 1000)
    assert body["running_tasks"] == []


async def test_a_session_shows_as_a_busy_worker(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with connected(server.address, "/ws/duplex/adx_1") as client:
        await client.prepare()
        _, body = await _json(http.get("/status"))
        _, workers = await _json(http.get("/workers"))

    (task,) = body["running_tasks"]
    (worker,) = workers["workers"]
    assert (body["busy_workers"], body["duplex_workers"], body["busy_slots"]) == (1, 1, 1)
    assert body["idle_workers"] == 1  # another session could begin on it
    assert (task["worker_id"], task["request_type"]) == ("worker_0", "audio_duplex")
    assert 110 <= task["estimated_remaining_s"] <= 120
    assert (worker["status"], worker["current_session_id"]) == ("duplex_active", "adx_1")
    assert (worker["current_request_type"], worker["port"]) == ("audio_duplex", 0)


async def test_both_cache_routes_list_the_workers(http: aiohttp.ClientSession) -> None:
    await _until_idle(http)  # the last test's session may still be on its way out
    expected = (200, {"workers": [{"worker_id": "worker_0", "status": "idle"}]})

    assert await _json(http.get("/cache")) == expected
    assert await _json(http.get("/api/cache")) == expected


async def test_an_empty_queue_is_empty(http: aiohttp.ClientSession) -> None:
    _, body = await _json(http.get("/api/queue"))

    assert body == {"queue_length": 0, "max_queue_size": 1000, "items": [], "running_tasks": []}


async def test_eta_is_replaced_as_a_whole(http: aiohttp.ClientSession) -> None:
    _, before = await _json(http.get("/api/config/eta"))
    config = {"eta_chat_s": 3, "ema_alpha": 0.5, "eta_streaming_s": None, "unknown": 1}
    _, changed = await _json(http.put("/api/config/eta", json=config))
    _, after = await _json(http.put("/api/config/eta", json={"ema_alpha": None}))

    assert before["config"]["eta_chat_s"] == 15 and before["config"]["ema_alpha"] is None
    assert (changed["config"]["eta_chat_s"], changed["ema_alpha"]) == (3, 0.5)
    assert changed["config"]["eta_half_duplex_s"] == 180
    assert (after["config"]["eta_chat_s"], after["ema_alpha"]) == (15, 0.5)
    for name in ("half_duplex", "omni_duplex"):  # of which there was none yet in this module
        assert before[f"ema_{name}_s"] is None and before[f"ema_{name}_samples"] == 0


@pytest.mark.parametrize(
    "config", [{"eta_chat_s": -1}, {"ema_alpha": 0}, {"ema_alpha": 1.5}, {"eta_chat_s": "long"}]
)
async def test_a_wrong_eta_is_named_with_422(
    http: aiohttp.ClientSession, config: dict[str, object]
) -> None:
    status, body = await _json(http.put("/api/config/eta", json=config))

    (problem,) = body["detail"]
    assert status == 422
    assert problem["loc"] == ["body", *config] and problem["msg"] and problem["type"]
    assert problem["input"] in (*config.values(), None)  # a text may be anything: it is not told
    assert body["error"]


async def test_pages_learn_what_answers(http: aiohttp.ClientSession) -> None:
    _, body = await _json(http.get("/api/frontend_defaults"))

    assert (body["playback_delay_ms"], body["engine"]) == (200, "null")
    assert body["notice"] and body["model_name"]
    assert set(body["modes"]) == {"chat", "half_duplex", "audio_duplex", "omni_duplex"}
    assert "default_lang" not in body


async def test_the_default_voice_is_a_real_voice(http: aiohttp.ClientSession) -> None:
    status, body = await _json(http.get("/api/default_ref_audio"))

    samples = np.frombuffer(base64.b64decode(body["base64"]), "<f4")
    assert (status, body["sample_rate"], body["samples"]) == (200, 16_000, samples.size)
    assert body["duration"] == round(samples.size / 16_000, 1) > 2
    assert 0.01 < float(np.sqrt(np.mean(samples**2))) < 0.5


async def test_chat_is_answered_with_all_fields(http: aiohttp.ClientSession) -> None:
    request = {**HELLO, "tts": {"enabled": True}, "unknown": [1]}

    status, body = await _json(http.post("/api/chat", json=request))

    samples, rate_hz = waveform_from_wav(base64.b64decode(body["audio_data"]))
    assert status == 200
    assert (body["text"], body["success"], body["error"]) == ("hello there", True, None)
    assert (rate_hz, samples.size, body["audio_sample_rate"]) == (24_000, 48_000, 24_000)
    assert body["token_stats"] == {
        "cached_tokens": 0,
        "input_tokens": 2,
        "generated_tokens": 2,
        "total_tokens": 4,
    }
    assert body["tokens_generated"] == 2 and body["duration_ms"] >= 0
    assert isinstance(body["queue_wait_ms"], int) and body["estimated_queue_wait_s"] == 0
    assert body["audio_path"] is None and body["prompt"] is None


async def test_chat_without_sound_has_none(http: aiohttp.ClientSession) -> None:
    _, body = await _json(http.post("/api/chat", json=HELLO))

    assert body["audio_data"] is None


@pytest.mark.parametrize(
    ("request_body", "loc"),
    [
        ({}, ["body", "messages"]),
        ({"messages": [{"role": "king", "content": "x"}]}, ["body", "messages", 0, "role"]),
        ({**HELLO, "generation": {"temperature": 9}}, ["body", "generation", "temperature"]),
    ],
)
async def test_a_wrong_chat_request_is_422_with_both_words(
    http: aiohttp.ClientSession, request_body: dict[str, object], loc: list[object]
) -> None:
    status, body = await _json(http.post("/api/chat", json=request_body))

    assert (status, body["detail"][0]["loc"]) == (422, loc)
    assert isinstance(body["error"], str)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_json_object_is_400(
    http: aiohttp.ClientSession, data: bytes
) -> None:
    status, body = await _json(http.post("/api/chat", data=data))

    assert status == 400
    assert body["detail"] == body["error"] and body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/api/chat", {"data": b"{"}, 400),
        ("POST", "/api/chat", {"json": HELLO, "headers": {"Origin": "https://a.example"}}, 403),
        ("GET", "/api/sessions/nobody", {}, 404),
        ("DELETE", "/api/assets/ref_audio/nobody", {}, 404),
        ("PUT", "/api/config/eta", {"data": io.BytesIO(bytes(2**20 + 1))}, 413),
    ],
)
async def test_each_refusal_says_why_under_both_names(
    http: aiohttp.ClientSession, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """The demo's scripts read `detail`, its phone page `error`."""
    told, body = await _json(http.request(method, path, **options))

    assert told == status and body.keys() == {"detail", "error"}
    assert isinstance(body["detail"], str) and body["detail"] == body["error"] != ""


async def test_a_packed_body_is_400_whole_or_broken(http: aiohttp.ClientSession) -> None:
    """Unpacking is what a bomb of 300 KB needs to stop the server; no known client packs."""
    good = gzip.compress(b'{"messages": [{"role": "user", "content": "zip"}]}')
    headers = {"Content-Encoding": "gzip"}

    whole, error = await _json(http.post("/api/chat", data=good, headers=headers))
    broken, _ = await _json(http.post("/api/chat", data=b"no gzip at all", headers=headers))

    assert (whole, broken) == (400, 400)
    assert "Content-Encoding" in error["detail"]


async def test_a_body_above_the_limit_is_413(http: aiohttp.ClientSession) -> None:
    status, body = await _json(http.post("/api/chat", data=io.BytesIO(bytes(3 * 2**20))))

    assert status == 413 and body["detail"]


async def test_unknown_paths_and_methods_have_the_usual_shape(http: aiohttp.ClientSession) -> None:
    missing, no_path = await _json(http.get("/no/such/path"))
    async with http.delete("/health") as reply:
        wrong, no_method, allow = reply.status, await reply.json(), reply.headers["Allow"]

    assert (missing, no_path["detail"]) == (404, "Not Found")
    assert (wrong, no_method["detail"]) == (405, "Method Not Allowed")
    assert "GET" in allow


async def test_a_socket_path_without_upgrade_is_400(http: aiohttp.ClientSession) -> None:
    status, body = await _json(http.get("/ws/chat"))

    assert status == 400 and body["detail"]


async def test_a_disabled_app_is_closed_on_every_way_in(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    cases = [
        ("turnbased", "/ws/chat", "/turnbased"),
        ("half_duplex_audio", "/ws/half_duplex/hdx_1", "/half_duplex"),
        ("audio_duplex", "/ws/duplex/adx_1", "/audio_duplex"),
        ("omni", "/ws/duplex/omni_1", "/omni"),
        ("realtime", "/v1/realtime", "/realtime"),
        ("realtime", "/v1/realtime?model=any&dialect=openai", "/realtime"),
    ]
    for app_id, socket_path, page in cases:
        _, off = await _json(http.put(f"/api/admin/apps/{app_id}", json={"enabled": False}))
        _, listed = await _json(http.get("/api/apps"))
        _, everything = await _json(http.get("/api/admin/apps"))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(server.address, socket_path):
                pass
        async with http.get(page, allow_redirects=False) as redirect:
            location = redirect.headers.get("Location")
            assert (redirect.status, location) == (302, "/")
        posted, _ = await _json(http.post("/api/chat", json=HELLO))
        body = {"app_id": app_id, "enabled": True}
        _, on = await _json(http.put("/api/admin/apps", json=body))

        assert off["success"] and off["app"]["enabled"] is False
        assert app_id not in [app["app_id"] for app in listed["apps"]]
        assert {a["app_id"]: a["enabled"] for a in everything["apps"]}[app_id] is False
        assert refused.value.status == 403
        assert posted == (403 if app_id == "turnbased" else 200)
        assert on["app"]["enabled"] is True


async def test_an_unknown_app_is_404(http: aiohttp.ClientSession) -> None:
    status, _ = await _json(http.put("/api/admin/apps/chess", json={"enabled": True}))

    assert status == 404


async def test_apps_have_the_ids_and_routes_of_the_protocol(http: aiohttp.ClientSession) -> None:
    _, body = await _json(http.get("/api/apps"))

    assert {app["app_id"]: app["route"] for app in body["apps"]} == {
        "turnbased": "/turnbased",
        "half_duplex_audio": "/half_duplex",
        "omni": "/omni",
        "audio_duplex": "/audio_duplex",
        "realtime": "/realtime",
    }
    assert all(app["name"] for app in body["apps"])


async def test_the_operator_ends_a_session_and_its_client_is_told(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with connected(server.address, "/ws/duplex/adx_ended") as client:
        await client.prepare()
        _, ended = await _json(http.delete("/api/admin/live/adx_ended"))
        told = await client.until("error")
        closed = await client.socket.receive(TIMEOUT_S)
    await _until_idle(http)
    _, again = await _json(http.delete("/api/admin/live/adx_ended"))

    assert (ended, again) == ({"success": True}, {"success": False})
    assert told["error"] == "Cancelled" and "operator" in told["message"]
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1000)


async def test_where_no_key_is_needed_everybody_is_the_operator(
    http: aiohttp.ClientSession,
) -> None:
    _, body = await _json(http.get("/api/visitor"))

    assert body == {"needs_key": False, "is_admin": True, "key": None}

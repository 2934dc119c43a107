"""A locked server lets in who has a key, and nobody else; a page of another site never gets in."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from attrs import define
from multidict import CIMultiDict
from yarl import URL

from omni.security.key_book import KeyBook
from omni.settings import SecuritySettings
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S, connected


@define
class Locked:
    """A server where everybody needs a key, and two keys."""

    omni: RunningOmni
    api_key: str
    admin_key: str

    def headers(self, is_admin: bool = False) -> dict[str, str]:
        """Return what shows a key."""
        return {"Authorization": f"Bearer {self.admin_key if is_admin else self.api_key}"}


@pytest.fixture(scope="module")
def locked(start_omni: StartOmni) -> Iterator[Locked]:
    """A locked server with one slot."""
    omni = start_omni(
        {
            "security.require_keys": "always",
            "security.sign_ins_per_minute": 0,
            "fabric.slots": 1,
        }
    )
    book = KeyBook(omni.data_dir, SecuritySettings())
    yield Locked(omni, book.make("api", "test")[1], book.make("admin", "test")[1])
    omni.stop()


async def status_of(
    omni: RunningOmni,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    **options: Any,  # of aiohttp's `request`
) -> int:
    """Return the status of one request."""
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.request(
            method, path, headers=headers, allow_redirects=False, **options
        ) as reply:
            return reply.status


async def known(locked: Locked, key: str) -> dict[str, str]:
    """Return what shows a new *key*, once the server has heard of it."""
    headers = {"Authorization": f"Bearer {key}"}
    async with asyncio.timeout(TIMEOUT_S):
        while await status_of(locked.omni, "GET", "/status", headers) == 401:
            continue
    return headers


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/signin", "/static/css/base.css"])
async def test_what_leads_to_the_sign_in_is_open(locked: Locked, path: str) -> None:
    assert await status_of(locked.omni, "GET", path) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/status",
        "/api/sessions",
        "/api/admin/apps",
        "/api/%61dmin/apps",
        "/v1/models",
        "/openapi.json",
        "/no/such/route",
        "/",
    ],
)
async def test_everything_else_needs_a_key(locked: Locked, path: str) -> None:
    assert await status_of(locked.omni, "GET", path) == 401
    wrong = {"Authorization": "Bearer omni_api_wrong"}
    assert await status_of(locked.omni, "GET", path, wrong) == 401


async def test_the_refusal_says_what_to_do_in_the_shape_of_each_api(locked: Locked) -> None:
    async with aiohttp.ClientSession(locked.omni.address) as http:
        async with http.get("/status") as reply:
            demo, asks = await reply.json(), reply.headers["WWW-Authenticate"]
        async with http.get("/v1/models") as reply:
            openai = await reply.json()

    assert "A key is needed" in demo["detail"] and asks.startswith("Bearer")
    assert openai["error"]["type"] == "authentication_error"
    assert openai["error"]["code"] == "invalid_api_key"


async def test_an_api_key_opens_all_but_the_admins_routes(locked: Locked) -> None:
    for path in ("/status", "/v1/models", "/openapi.json"):
        assert await status_of(locked.omni, "GET", path, locked.headers()) == 200
    for method, path in (
        ("GET", "/api/admin/apps"),
        ("GET", "/api/%61dmin/apps"),
        ("GET", "/api/sessions"),
        ("PUT", "/api/config/eta"),
        ("DELETE", "/api/sessions/s_1"),
        ("DELETE", "/api/admin/live/adx_1"),
    ):
        assert await status_of(locked.omni, method, path, locked.headers()) == 403


async def test_a_page_learns_what_its_key_may_do(locked: Locked) -> None:
    told = []
    for is_admin in (False, True):
        headers = locked.headers(is_admin)
        async with aiohttp.ClientSession(locked.omni.address, headers=headers) as http:
            async with http.get("/api/visitor") as reply:
                body = await reply.json()
        key = body["key"]
        told.append((body["needs_key"], body["is_admin"], key["kind"], key["name"]))

    assert told == [(True, False, "api", "test"), (True, True, "admin", "test")]
    assert await status_of(locked.omni, "GET", "/api/visitor") == 401


async def test_the_admin_key_opens_those_too(locked: Locked) -> None:
    headers = locked.headers(is_admin=True)

    assert await status_of(locked.omni, "GET", "/api/admin/apps", headers) == 200
    assert await status_of(locked.omni, "GET", "/api/sessions", headers) == 200
    assert await status_of(locked.omni, "PUT", "/api/config/eta", headers, json={}) == 200


async def test_a_socket_without_a_key_is_refused_at_the_handshake(locked: Locked) -> None:
    for path in ("/ws/chat", "/ws/duplex/adx_1", "/v1/realtime?model=x"):
        with pytest.raises(WSServerHandshakeError) as caught:
            async with connected(locked.omni.address, path):
                pass
        assert caught.value.status == 401


async def test_a_socket_takes_its_key_as_header_or_as_subprotocol(locked: Locked) -> None:
    shown: list[dict[str, object]] = [
        {"headers": locked.headers()},
        {"protocols": ["omni", f"omni-key.{locked.api_key}"]},
        {"protocols": ["omni", f"openai-insecure-api-key.{locked.api_key}"]},
    ]
    for options in shown:
        async with connected(locked.omni.address, "/ws/duplex/adx_1", **options) as client:
            await client.prepare()


async def test_a_browsers_socket_is_answered_with_the_protocol_that_it_may_see(
    locked: Locked,
) -> None:
    """A browser drops a connection that answers none of its protocols; the key must not return."""
    offered = ["omni", f"omni-key.{locked.api_key}"]
    async with connected(locked.omni.address, "/ws/chat", protocols=offered) as client:
        assert client.socket.protocol == "omni"


async def test_an_openai_client_secret_opens_realtime_alone(locked: Locked) -> None:
    async with aiohttp.ClientSession(locked.omni.address, headers=locked.headers()) as http:
        async with http.post("/v1/realtime/client_secrets", json={}) as reply:
            secret = (await reply.json())["value"]
    headers = {"Authorization": f"Bearer {secret}"}

    async with connected(locked.omni.address, "/v1/realtime?model=x", headers=headers) as client:
        assert (await client.receive())["type"] == "session.created"
    assert await status_of(locked.omni, "GET", "/v1/models", headers) == 401


async def test_a_removed_key_opens_nothing_and_its_client_secrets_neither(locked: Locked) -> None:
    book = KeyBook(locked.omni.data_dir, SecuritySettings())
    key, text = book.make("api")
    headers = await known(locked, text)
    async with aiohttp.ClientSession(locked.omni.address, headers=headers) as http:
        async with http.post("/v1/realtime/client_secrets", json={}) as reply:
            secret = {"Authorization": f"Bearer {(await reply.json())['value']}"}
    assert await status_of(locked.omni, "GET", "/v1/realtime", secret) != 401
    async with asyncio.timeout(TIMEOUT_S):
        book.remove(key.id)

        while await status_of(locked.omni, "GET", "/status", headers) != 401:
            continue
    assert await status_of(locked.omni, "GET", "/v1/realtime", secret) == 401


# --- sign-in -----------------------------------------------------------------------------------


async def test_a_browser_is_led_to_the_sign_in_and_gets_in_with_its_cookie(locked: Locked) -> None:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address, as a browser keeps them
    page = {"Accept": "text/html,*/*"}
    async with aiohttp.ClientSession(locked.omni.address, cookie_jar=jar) as http:
        async with http.get("/audio_duplex?a=1&b=2", headers=page, allow_redirects=False) as reply:
            assert reply.status == 302
            place = URL(reply.headers["Location"])
            assert (place.path, place.query["next"]) == ("/signin", "/audio_duplex?a=1&b=2")
        async with http.post("/api/signin", json={"key": locked.api_key}) as reply:
            assert await reply.json() == {"success": True, "is_admin": False}
            cookie = reply.headers["Set-Cookie"]
        async with http.get("/audio_duplex", headers=page, allow_redirects=False) as reply:
            assert reply.status == 200
        async with http.ws_connect("/ws/duplex/adx_2") as socket:
            await socket.send_json({"type": "prepare"})
            # the one slot may be on its way back from the test before
            while (await socket.receive_json(timeout=TIMEOUT_S))["type"] != "queue_done":
                continue
        async with http.get("/api/admin/apps") as reply:
            assert reply.status == 403
        async with http.post("/api/signout") as reply:
            assert reply.status == 200
        async with http.get("/status") as reply:
            assert reply.status == 401

    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    assert locked.api_key not in cookie


@pytest.mark.parametrize(
    "cookie", ["x", "api-1.99999999999.AAAA", "admin-1..", "%00", '"', "ключ.1.1"]
)
async def test_a_forged_cookie_gets_nobody_in(locked: Locked, cookie: str) -> None:
    headers = {"Cookie": f"omni_signin={cookie}"}

    assert await status_of(locked.omni, "GET", "/status", headers) == 401


async def test_a_wrong_key_signs_nobody_in(locked: Locked) -> None:
    for body in ({"key": "wrong"}, {"key": ""}, {"key": "\x00"}):
        assert await status_of(locked.omni, "POST", "/api/signin", json=body) == 401


# --- tickets of others -------------------------------------------------------------------------


async def test_a_ticket_is_ended_by_its_own_key_or_the_admin_alone(locked: Locked) -> None:
    other_key = KeyBook(locked.omni.data_dir, SecuritySettings()).make("api", "other")[1]
    others = await known(locked, other_key)
    async with connected(
        locked.omni.address, "/ws/duplex/adx_holds", headers=locked.headers()
    ) as holder:
        await holder.prepare()
        for ending, statuses in ((locked.headers(), (200,)), (locked.headers(True), (200,))):
            async with connected(
                locked.omni.address, "/ws/duplex/adx_waits", headers=locked.headers()
            ) as waiting:
                await waiting.send("prepare")
                path = f"/api/queue/{(await waiting.until('queued'))['ticket_id']}"
                assert await status_of(locked.omni, "DELETE", path, others) == 403
                assert await status_of(locked.omni, "DELETE", path, ending) in statuses
                assert (await waiting.until("error"))["code"] == "cancelled"


async def test_a_socket_with_the_id_of_anothers_session_gives_no_right_to_it(
    locked: Locked,
) -> None:
    others = await known(
        locked, KeyBook(locked.omni.data_dir, SecuritySettings()).make("api", "other")[1]
    )
    path, address = "/ws/half_duplex/hdx_hers", locked.omni.address
    async with connected(address, path, headers=locked.headers()) as hers:
        await hers.prepare()
        async with connected(address, path, headers=others) as stranger:
            status = await status_of(
                locked.omni,
                "POST",
                "/api/half_duplex/stop",
                others,
                json={"session_id": "hdx_hers"},
            )
            refused = await stranger.until("error")
        await hers.send("stop")
        stopped = await hers.until("stopped")

    assert status == 403
    assert "already connected" in refused["error"] and stopped["type"] == "stopped"


async def test_whose_sessions_run_and_wait_is_shown_to_their_key_and_the_admin_alone(
    locked: Locked,
) -> None:
    """With the id of a session its recording is found."""
    others = await known(
        locked, KeyBook(locked.omni.data_dir, SecuritySettings()).make("api", "other")[1]
    )
    address, hers = locked.omni.address, locked.headers()
    seen: dict[str, list[bool]] = {}
    async with connected(address, "/ws/duplex/adx_secret_1", headers=hers) as holder:
        await holder.prepare()
        async with (
            connected(address, "/ws/duplex/adx_secret_2", headers=hers) as waiting,
            aiohttp.ClientSession(address) as http,
        ):
            await waiting.send("prepare")
            ticket = (await waiting.until("queued"))["ticket_id"]
            for path in ("/status", "/workers", "/api/queue", f"/api/queue/{ticket}"):
                for headers in (others, hers, locked.headers(is_admin=True)):
                    async with http.get(path, headers=headers) as reply:
                        assert reply.status == 200
                        seen.setdefault(path, []).append("adx_secret" in await reply.text())

    assert seen == dict.fromkeys(seen, [False, True, True]) and len(seen) == 4


# --- logs --------------------------------------------------------------------------------------


async def test_no_key_stands_in_any_log(locked: Locked) -> None:
    for headers in (locked.headers(), locked.headers(True), {"Authorization": "Bearer wrongwrong"}):
        await status_of(locked.omni, "GET", "/status", headers)
        await status_of(locked.omni, "POST", "/api/chat", headers, data=b"{")
    async with connected(
        locked.omni.address, "/ws/chat", protocols=["omni", f"omni-key.{locked.api_key}"]
    ) as client:
        await client.socket.send_str("{")
        await client.expect("error")

    written = [path for path in locked.omni.folder.rglob("*") if path.is_file()]
    assert [path for path in written if path.suffix == ".log"]
    for key in (locked.api_key, locked.admin_key, "wrongwrong"):
        assert [path for path in written if key.encode() in _content(path)] == []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- origins and hosts -------------------------------------------------------------------------


def foreign_origins(address: str) -> list[str]:
    """Return origins that are not the server's, however near they look."""
    host = address.removeprefix("http://")
    return [
        "null",
        "http://evil.example",
        f"http://evil.example:{host.split(':')[1]}",
        "http://127.0.0.1",
        f"http://{host}@evil.example",
        f"http://user@{host}",
        f"http://{host}.evil.example",
        f"file://{host}",
        f"http://[::1]:{host.split(':')[1]}",
        f"http://{host}/",
    ]


async def test_no_page_of_another_site_opens_a_socket(omni: RunningOmni) -> None:
    for path in ("/ws/chat", "/ws/duplex/adx_1", "/ws/half_duplex/hdx_1", "/v1/realtime?model=x"):
        for origin in foreign_origins(omni.address):
            with pytest.raises(WSServerHandshakeError) as caught:
                async with connected(omni.address, path, headers={"Origin": origin}):
                    pass
            assert caught.value.status == 403, origin


async def test_no_page_of_another_site_changes_anything(omni: RunningOmni) -> None:
    for origin in foreign_origins(omni.address):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        for method, path in (
            ("PUT", "/api/config/eta"),
            ("POST", "/api/chat"),
            ("DELETE", "/api/queue/q_1"),
            ("PUT", "/api/admin/apps/omni"),
            ("POST", "/v1/chat/completions"),
        ):
            status = await status_of(omni, method, path, headers, data=b"{}")
            assert status == 403, (origin, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
    ],
)
async def test_a_browser_that_tells_of_another_site_is_believed(
    omni: RunningOmni, headers: dict[str, str]
) -> None:
    """As one that sends no Origin, for a form without a referrer."""
    assert await status_of(omni, "PUT", "/api/config/eta", headers, json={}) == 403


async def test_the_servers_own_pages_and_programs_may(omni: RunningOmni) -> None:
    own: list[dict[str, str]] = [
        {},
        {"Origin": omni.address},
        {"Origin": omni.address.upper()},
        {"Origin": omni.address, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ]
    for headers in own:
        assert await status_of(omni, "PUT", "/api/config/eta", headers, json={}) == 200
        async with connected(omni.address, "/ws/chat", headers=headers):
            pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example"]
)
async def test_a_name_that_was_pointed_here_is_refused(omni: RunningOmni, host: str) -> None:
    """DNS rebinding: to its browser, the page of evil.example and this server are one site."""
    headers = {"Host": host, "Origin": f"http://{host}"}

    assert await status_of(omni, "GET", "/status", headers) == 403
    assert await status_of(omni, "PUT", "/api/config/eta", headers, json={}) == 403


async def test_a_server_on_loopback_takes_any_key_and_needs_none(omni: RunningOmni) -> None:
    assert await status_of(omni, "GET", "/v1/models") == 200
    any_key = {"Authorization": "Bearer anything"}
    assert await status_of(omni, "GET", "/v1/models", any_key) == 200
    assert await status_of(omni, "GET", "/api/admin/apps", any_key) == 200


# --- limits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with narrow limits, where the client's address is what a proxy says."""
    omni = start_omni(
        {
            "security.trusted_proxies": "127.0.0.1",
            "security.requests_per_minute_per_address": 20,
            "security.max_sessions_per_address": 2,
            "security.require_keys": "never",
            "security.api_keys": "sesame",
            "security.sign_ins_per_minute": 3,
        }
    )
    yield omni
    omni.stop()


async def statuses_until_429(
    limited: RunningOmni, headers_of: Callable[[int], Mapping[str, str]]
) -> list[int]:
    """Return the statuses of requests up to the first that is too much.

    Every 3 s one more is let in: a slow machine asks longer.
    """
    statuses = [0]
    async with asyncio.timeout(TIMEOUT_S):
        while statuses[-1] != 429:
            headers = headers_of(len(statuses))
            statuses.append(await status_of(limited, "GET", "/status", headers))
    return statuses[1:]


async def test_an_address_that_asks_too_much_waits_and_others_do_not(limited: RunningOmni) -> None:
    busy, other = {"X-Forwarded-For": "203.0.113.1"}, {"X-Forwarded-For": "203.0.113.2"}
    statuses = await statuses_until_429(limited, lambda _: busy)

    assert set(statuses[:-1]) == {200} and len(statuses) > 20
    assert await status_of(limited, "GET", "/status", other) == 200
    assert await status_of(limited, "GET", "/static/css/base.css", busy) == 200


async def test_an_invented_forwarded_address_hides_nobody(limited: RunningOmni) -> None:
    """A proxy may add a header of its own behind the client's, as HAProxy does: its word counts."""

    def invented(number: int) -> Mapping[str, str]:
        headers = CIMultiDict[str]()
        headers.add("X-Forwarded-For", f"198.51.100.{number % 256}")
        headers.add("X-Forwarded-For", "203.0.113.10")
        return headers

    assert len(await statuses_until_429(limited, invented)) > 20


async def test_who_must_wait_is_told_how_long_in_the_shape_of_each_api(
    limited: RunningOmni,
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.3"}
    told = []
    async with (
        aiohttp.ClientSession(limited.address, headers=headers) as http,
        asyncio.timeout(TIMEOUT_S),
    ):
        for path in ("/status", "/v1/models"):
            status = 0
            while status != 429:
                async with http.get(path) as reply:
                    status, body = reply.status, await reply.json()
            told.append(body)
            assert int(reply.headers["Retry-After"]) >= 1

    demo, openai = told
    assert "20 requests a minute" in demo["detail"]
    assert openai["error"]["code"] == "rate_limit_exceeded"


async def test_a_text_to_be_read_out_counts_as_a_session(limited: RunningOmni) -> None:
    headers = {"X-Forwarded-For": "203.0.113.5", "Authorization": "Bearer sesame"}
    body = {"input": "word " * 500, "response_format": "pcm"}  # minutes, if nobody reads them
    async with aiohttp.ClientSession(limited.address, headers=headers) as http:
        async with (
            http.post("/v1/audio/speech", json=body) as first,
            http.post("/v1/audio/speech", json=body) as second,
            http.post("/v1/audio/speech", json=body) as third,
        ):
            error = await third.json()

    assert (first.status, second.status, third.status) == (200, 200, 429)
    assert error["error"]["code"] == "rate_limit_exceeded"


async def test_a_socket_that_must_wait_is_told_and_closed_with_1013(limited: RunningOmni) -> None:
    headers = {"X-Forwarded-For": "203.0.113.4"}
    async with (
        connected(limited.address, "/ws/duplex/adx_1", headers=headers) as first,
        connected(limited.address, "/ws/duplex/adx_2", headers=headers),
    ):
        await first.prepare()
        async with connected(limited.address, "/ws/duplex/adx_3", headers=headers) as third:
            error = await third.expect("error")
            assert await third.closed() == 1013
        await first.send_chunk()
        assert (await first.until("result"))["type"] == "result"

    assert error["code"] == "rate_limited" and "2 sessions at once" in error["error"]
    async with asyncio.timeout(TIMEOUT_S):
        told = "error"
        while told == "error":  # who closes a session is told of it before the server is done
            async with connected(limited.address, "/ws/duplex/adx_4", headers=headers) as again:
                told = (await again.receive())["type"]
    assert told == "queue_done"


async def test_openais_realtime_clients_are_told_in_their_shape(limited: RunningOmni) -> None:
    headers = {"X-Forwarded-For": "203.0.113.5", "Authorization": "Bearer sesame"}
    async with (
        connected(limited.address, "/ws/duplex/adx_1", headers=headers),
        connected(limited.address, "/ws/duplex/adx_2", headers=headers),
        connected(
            limited.address, "/v1/realtime?model=x", headers=headers, protocols=["realtime"]
        ) as third,
    ):
        event = orjson.loads((await third.socket.receive(TIMEOUT_S)).data)
        closed = await third.socket.receive(TIMEOUT_S)

    assert event["error"]["code"] == "rate_limit_exceeded"
    assert closed.type is WSMsgType.CLOSE and closed.data == 1013


async def test_keys_cannot_be_guessed_fast(limited: RunningOmni) -> None:
    headers = {"X-Forwarded-For": "203.0.113.6"}
    wrong = headers | {"Authorization": "Bearer guess"}
    right = headers | {"Authorization": "Bearer sesame"}
    statuses = [await status_of(limited, "GET", "/v1/models", wrong) for _ in range(5)]

    assert statuses == [401, 401, 401, 429, 429]
    assert await status_of(limited, "GET", "/v1/models", right) == 429
    away = right | {"X-Forwarded-For": "203.0.113.7"}
    assert await status_of(limited, "GET", "/v1/models", away) == 200


async def test_v1_needs_the_keys_of_the_settings_also_where_nothing_else_does(
    limited: RunningOmni,
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.8"}

    assert await status_of(limited, "GET", "/v1/models", headers) == 401
    assert await status_of(limited, "GET", "/api/admin/apps", headers) == 200


async def test_a_cookie_is_kept_to_tls_where_the_proxy_says_so(limited: RunningOmni) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    async with aiohttp.ClientSession(limited.address, headers=headers) as http:
        async with http.post("/api/signin", json={"key": "sesame"}) as reply:
            cookie = reply.headers["Set-Cookie"]

    assert "Secure" in cookie

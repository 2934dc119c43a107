"""Every route of the table, on a server that listens beyond loopback: who is let in with what.

The table is the server's own, so a new route is asked here too; who may do more than an ordinary
key, or less, stands here by hand.
"""

import re
from collections.abc import Iterator

import aiohttp
import pytest
from attrs import define

from omni.settings import Settings
from omni.web import make_app
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S

OPEN = {"/health", "/signin", "/api/signin", "/api/signout", "/static", "/favicon.ico"}
ADMIN = {
    ("GET", "/sessions"),
    ("GET", "/api/sessions"),
    ("DELETE", "/sessions/{session_id}"),
    ("DELETE", "/api/sessions/{session_id}"),
    ("PUT", "/api/config/eta"),
}
ADMIN_PATHS = "/api/admin/"
SOCKETS = ("/ws/", "/api/streaming", "/v1/realtime")
#: What stands for the parameters of a path; nothing is there under that name.
NOTHING = "nothing-there"
REFUSED = {401, 403}


@define
class Beyond:
    """A server for other machines too, and what opens it."""

    omni: RunningOmni
    address: str
    api_key: str
    admin_key: str


@pytest.fixture(scope="module")
def beyond(start_omni: StartOmni) -> Iterator[Beyond]:
    omni = start_omni(
        {
            "web.host": "0.0.0.0",
            "security.sign_ins_per_minute": 0,
            "security.requests_per_minute_per_key": 0,
            "service.request_timeout": 10,
        }
    )
    keys = {}
    for kind in ("api", "admin"):
        shown = re.search(rf"omni_{kind}_\S+", omni.output())
        assert shown
        keys[kind] = shown.group()
    address = f"http://127.0.0.1:{omni.address.rsplit(':', 1)[1]}"
    yield Beyond(omni, address, keys["api"], keys["admin"])
    omni.stop()


def routes() -> list[tuple[str, str]]:
    """Return (method, pattern) of every route that the server has."""
    table = make_app(Settings()).router.routes()
    return sorted({(each.method, each.resource.canonical) for each in table if each.resource})


def path_of(pattern: str) -> str:
    path = "/static/css/base.css" if pattern == "/static" else pattern
    return re.sub(r"\{[^}]*\}", NOTHING, path)


def is_socket(method: str, pattern: str) -> bool:
    return method == "GET" and pattern.startswith(SOCKETS)


async def status(
    beyond: Beyond, method: str, pattern: str, key: str | None, upgrade: bool = False
) -> int:
    """Return what one request is answered with."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    path = path_of(pattern)
    async with aiohttp.ClientSession(beyond.address, headers=headers) as http:
        if upgrade:
            try:
                async with http.ws_connect(path, timeout=aiohttp.ClientWSTimeout(TIMEOUT_S)):
                    return 101
            except aiohttp.WSServerHandshakeError as exc:
                return exc.status
        async with http.request(method, path, allow_redirects=False) as reply:
            return reply.status


@pytest.mark.parametrize("method, pattern", routes())
async def test_a_route_lets_in_who_may_and_nobody_else(
    beyond: Beyond, method: str, pattern: str
) -> None:
    asked = "GET" if method == "HEAD" else method
    is_admins = (asked, pattern) in ADMIN or pattern.startswith(ADMIN_PATHS)
    keys = (None, "omni_api_wrong", beyond.api_key, beyond.admin_key)

    none, wrong, ordinary, admin = [await status(beyond, method, pattern, key) for key in keys]

    if pattern in OPEN:  # the sign-in itself answers a missing key with 401
        assert 403 not in (none, wrong, ordinary, admin)
        assert asked != "GET" or 401 not in (none, wrong)
        return
    assert (none, wrong) == (401, 401)
    assert ordinary == 403 if is_admins else ordinary not in REFUSED
    assert admin not in REFUSED


@pytest.mark.parametrize("pattern", [p for m, p in routes() if is_socket(m, p)])
async def test_a_socket_opens_with_a_key_alone(beyond: Beyond, pattern: str) -> None:
    for key, expected in ((None, 401), ("omni_api_wrong", 401), (beyond.api_key, 101)):
        assert await status(beyond, "GET", pattern, key, upgrade=True) == expected


async def test_a_start_beyond_loopback_says_who_needs_a_key(beyond: Beyond) -> None:
    assert "Everybody needs a key" in beyond.omni.output()

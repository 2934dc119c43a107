"""Pages and their files as browsers get them."""

import aiohttp
import pytest
from yarl import URL

from omni.routes.pages import WEBROOT
from tests.conftest import RunningOmni

PATHS = ["/", "/audio_duplex", "/turnbased", "/half_duplex", "/realtime", "/admin"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_has_the_headers_that_browsers_need(omni: RunningOmni, path: str) -> None:
    async with aiohttp.ClientSession(omni.address) as http, http.get(path) as reply:
        text, headers = await reply.text(), reply.headers

    assert reply.status == 200 and "<html" in text
    assert headers["Cache-Control"] == "no-cache" and headers["ETag"]
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "microphone=(self)" in headers["Permissions-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_file_that_has_not_changed_is_not_sent_again(omni: RunningOmni) -> None:
    path = "/static/lib/protocol.js"
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.get(path) as first:
            tag, kind, text = first.headers["ETag"], first.content_type, await first.text()
        async with http.get(path, headers={"If-None-Match": tag}) as again:
            status, cache = again.status, again.headers["Cache-Control"]

    assert kind.endswith("/javascript")
    assert text == (WEBROOT / "lib/protocol.js").read_text("utf-8")
    assert (status, cache) == (304, "no-cache")


@pytest.mark.parametrize("path", ["/static/lib/nothing.js", "/nothing"])
async def test_a_file_that_is_not_there_is_told_as_any_path(omni: RunningOmni, path: str) -> None:
    async with aiohttp.ClientSession(omni.address) as http, http.get(path) as reply:
        answer = (reply.status, reply.content_type, (await reply.json())["detail"])

    assert answer == (404, "application/json", "Not Found")


@pytest.mark.parametrize(
    "path",
    ["/static/../omni/web.py", "/static/%2e%2e/omni/web.py", "/static//etc/hosts", "/static/"],
)
async def test_nothing_outside_of_the_webroot_is_served(omni: RunningOmni, path: str) -> None:
    url = URL(omni.address + path, encoded=True)
    async with aiohttp.ClientSession() as http, http.get(url) as reply:
        assert reply.status in (403, 404)


@pytest.mark.parametrize(
    ("accept", "kind"), [("text/html", "text/html"), ("*/*", "application/json")]
)
async def test_a_session_that_is_not_there_is_told_as_a_page_to_browsers_alone(
    omni: RunningOmni, accept: str, kind: str
) -> None:
    async with aiohttp.ClientSession(omni.address, headers={"Accept": accept}) as http:
        async with http.get("/s/nope") as reply:
            assert (reply.status, reply.content_type) == (404, kind)


async def test_the_icon_is_there_for_answers_that_are_no_page(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession(omni.address) as http, http.get("/favicon.ico") as reply:
        assert (reply.status, reply.content_type) == (200, "image/svg+xml")

"""The lines for nginx in `docs/demo-pages.md` serve the demo's pages and pass the rest to omni."""

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from omni.process import ROOT
from tests.conftest import RunningOmni
from tests.fakes import TIMEOUT_S, until
from tests.realtime.client import Client

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
ORIGIN = "http://localhost:8080"  # where the browser believes to be; nginx listens on a file
TEXT = (ROOT / "docs" / "demo-pages.md").read_text("utf-8")
PAGES = {
    "/": "index.html",
    "/turnbased": "turnbased.html",
    "/half_duplex": "half-duplex/half_duplex.html",
    "/audio_duplex": "audio-duplex/audio_duplex.html",
    "/omni": "omni/omni.html",
    "/admin": "admin.html",
    "/s/adx_1": "session-viewer.html",
    "/mobile/": "mobile/index.html",
    "/mobile/assets/index.js": "mobile/assets/index.js",
    "/mobile-omni/": "mobile-omni/index.html",
    "/static/lib/msgpack.mjs": "lib/msgpack.mjs",
}

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")


@pytest.fixture(scope="module")
def socket_path(omni: RunningOmni) -> Iterator[Path]:
    """Where nginx listens, with the document's lines, a demo of small files and omni behind."""
    folder = Path(tempfile.mkdtemp(prefix="nginx-"))  # the path of a Unix socket is short
    for name in PAGES.values():
        file = folder / "demo" / "static" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"the demo's {name}", "utf-8")
    (folder / "nginx.conf").write_text(_configuration(folder, omni.address), "utf-8")
    command = [str(NGINX), "-p", str(folder), "-c", "nginx.conf", "-g", "error_log stderr;"]
    with open(folder / "nginx.log", "wb") as log:
        nginx = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: _listens(folder / "socket") or nginx.poll() is not None, TIMEOUT_S)
        assert nginx.poll() is None, (folder / "nginx.log").read_text("utf-8")
        yield folder / "socket"
    finally:
        nginx.terminate()
        nginx.wait(TIMEOUT_S)
        shutil.rmtree(folder)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _configuration(folder: Path, address: str) -> str:
    """Return the document's lines, without TLS and with the paths and address of here."""
    (block,) = re.findall(r"^```nginx\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for line in block.splitlines() if "ssl_certificate" not in line]
    server = "\n".join(lines).replace("listen 443 ssl;", f"listen unix:{folder}/socket;")
    server = server.replace("/srv/MiniCPM-o-Demo", f"{folder}/demo")
    server = server.replace("http://127.0.0.1:8006", address)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    http = [f"{kind}_temp_path {folder}/{kind};" for kind in kinds]
    http += ["access_log off;", "types { text/html html; text/javascript js; }"]
    here = f"daemon off; master_process off; pid {folder}/pid; events {{ }}"
    return f"{here}\nhttp {{ {' '.join(http)}\n{server}\n}}\n"


@pytest.fixture
async def http(socket_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(socket_path))
    async with aiohttp.ClientSession(ORIGIN, connector=connector) as session:
        yield session


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_the_demo_s_own(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as reply:
        assert (reply.status, await reply.text()) == (200, f"the demo's {PAGES[path]}")
        module = path.endswith(("js", ".mjs"))
        assert reply.content_type == ("text/javascript" if module else "text/html")


async def test_what_the_pages_call_is_omni_s(http: aiohttp.ClientSession) -> None:
    async with http.get("/status") as reply:
        assert (await reply.json())["gateway_healthy"] is True
    async with http.get("/mobile", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (302, "/mobile/")
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with http.post("/api/chat", json=body, headers={"Origin": ORIGIN}) as reply:
        assert (await reply.json())["success"] is True


async def test_files_that_the_demo_lacks_are_omni_s(http: aiohttp.ClientSession) -> None:
    for path in ("/signin", "/static/pages/signin.js"):
        async with http.get(path) as reply:
            assert reply.status == 200 and "the demo's" not in await reply.text()
    async with http.get("/static/none.js") as reply:
        assert reply.status == 404


async def test_a_page_s_call_passes_with_its_origin_and_port(http: aiohttp.ClientSession) -> None:
    """A proxy that passes nginx's `$host` on loses the port, and every call was refused."""
    async with http.ws_connect("/ws/duplex/adx_1", headers={"Origin": ORIGIN}) as socket:
        client = Client(socket)
        await client.prepare(system_prompt="")
        await client.send_chunk()

        assert (await client.until("result"))["is_listen"] is True

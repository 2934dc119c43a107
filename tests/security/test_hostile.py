"""What hostile clients send is refused with the documented error, and disturbs nobody else."""

import asyncio
import base64
import io
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
import pytest
import soundfile
from attrs import define
from PIL import Image
from yarl import URL

from omni.settings import Settings
from omni.web import make_app
from tests.conftest import RunningOmni
from tests.realtime.client import TIMEOUT_S, connected

#: Spellings of a way out of a directory, as they stand in a path.
TRAVERSALS = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%2f%2e%2e%2fsettings.toml",
    "..%5c..%5csettings.toml",
    "....//....//settings.toml",
    "%252e%252e%252fsettings.toml",
    "..%c0%afsettings.toml",
    "%00",
    "a%00.wav",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..",
    "%2e%2e",
    "x" * 4000,
)
#: What must not be in any answer.
SECRETS = (b"root:", b"[security]", b"Traceback", b"/omni/")


@asynccontextmanager
async def undisturbed(omni: RunningOmni, client_id: str) -> AsyncIterator[None]:
    """Hold a conversation meanwhile, and fail when it is not answered as before."""
    async with connected(omni.address, f"/ws/duplex/{client_id}") as client:
        await client.prepare()
        yield
        await client.send_chunk()
        assert (await client.until("result"))["type"] == "result"


def path_parameters() -> list[tuple[str, str]]:
    """Return (method, pattern) of every route with a parameter in its path, and of the files."""
    found = set()
    for route in make_app(Settings()).router.routes():
        pattern = route.resource.canonical if route.resource else ""
        if "{" in pattern:
            found.add((route.method, pattern))
    return sorted(found | {("GET", "/static/{path}")})


@pytest.mark.parametrize("method, pattern", path_parameters())
async def test_no_path_leads_out_of_its_directory(
    omni: RunningOmni, method: str, pattern: str
) -> None:
    before = sorted(str(path) for path in omni.folder.rglob("*") if "sessions" not in str(path))
    async with (
        undisturbed(omni, "adx_paths"),
        aiohttp.ClientSession() as http,
    ):
        for trick in TRAVERSALS:
            path = pattern
            while "{" in path:
                start, end = path.index("{"), path.index("}")
                path = path[:start] + trick + path[end + 1 :]
            url = URL(omni.address + path, encoded=True)
            async with http.request(method, url, allow_redirects=False) as reply:
                content = await reply.read()

            assert reply.status < 500, (path, reply.status)
            assert not [secret for secret in SECRETS if secret in content], path
    after = sorted(str(path) for path in omni.folder.rglob("*") if "sessions" not in str(path))
    assert [path for path in before if path not in after] == []


# --- bodies ------------------------------------------------------------------------------------


async def send(
    omni: RunningOmni, method: str, path: str, data: Any = None, **headers: str
) -> tuple[int, Any]:
    """Return status and JSON of a request with a body of any kind."""
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.request(method, path, data=data, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None)


SMALL = (
    ("PUT", "/api/config/eta"),
    ("PUT", "/api/admin/apps"),
    ("POST", "/api/signin"),
    ("POST", "/api/half_duplex/stop"),
    ("POST", "/api/_debug/record_trace"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/audio/speech"),
)


@pytest.mark.parametrize("method, path", SMALL)
async def test_a_large_body_is_refused_where_small_ones_belong(
    omni: RunningOmni, method: str, path: str
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(65_536)

    async with undisturbed(omni, "adx_large"):
        told = await send(omni, method, path, bytes(2**21))
        untold = await send(omni, method, path, endless())

    assert (told[0], untold[0]) == (413, 413)
    assert "error" in told[1] and "error" in untold[1]


@cache
def packed_zeros() -> bytes:
    """Return 300 MiB in 300 KB."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


@pytest.mark.parametrize(
    "path, coding",
    [
        ("/api/chat", "gzip"),
        ("/api/signin", "gzip"),
        ("/v1/chat/completions", "gzip, gzip"),
        ("/v1/audio/transcriptions", "deflate"),
        ("/api/sessions/x/upload-recording", "br"),
        ("/api/chat", "zstd"),
    ],
)
async def test_a_small_body_that_unfolds_to_a_large_one_is_refused_unread(
    omni: RunningOmni, path: str, coding: str
) -> None:
    """300 MiB in 300 KB, sent as gzip, stopped the whole server for seconds."""
    headers = {"Content-Encoding": coding}

    async with undisturbed(omni, "adx_bomb"):
        status, answer = await send(omni, "POST", path, packed_zeros(), **headers)

    assert status == 400 and "Content-Encoding" in str(answer["error"])


@pytest.mark.parametrize("body", [b"\x1f\x8b\x08\x00garbage", b"", b"plain"])
async def test_a_body_that_is_not_what_it_says_is_a_400(omni: RunningOmni, body: bytes) -> None:
    for path in ("/api/chat", "/v1/chat/completions"):
        status, answer = await send(omni, "POST", path, body, **{"Content-Encoding": "gzip"})

        assert status == 400 and "error" in answer


# --- media -------------------------------------------------------------------------------------


def png_bomb() -> str:
    """Return a picture of 900 million pixels in 110 KB, as base64."""
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def flac_bomb() -> bytes:
    """Return eight hours of silence in a small file."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8 * 3600 * 1000, np.int16), 1000, format="FLAC")
    return file.getvalue()


def chat(kind: str, data: str) -> dict[str, object]:
    """Return a chat request with one medium."""
    content = [{"type": kind, "data": data}, {"type": "text", "text": "look"}]
    return {"messages": [{"role": "user", "content": content}]}


async def test_a_picture_bomb_is_refused_on_every_way_in(omni: RunningOmni) -> None:
    bomb = png_bomb()
    data_url = f"data:image/png;base64,{bomb}"
    parts = [{"type": "image_url", "image_url": {"url": data_url}}]
    openai = {"model": "x", "messages": [{"role": "user", "content": parts}]}

    async with undisturbed(omni, "adx_picture"):
        status, answer = await send(omni, "POST", "/api/chat", orjson.dumps(chat("image", bomb)))
        assert status == 422 and "pixels" in answer["error"]
        status, answer = await send(omni, "POST", "/v1/chat/completions", orjson.dumps(openai))
        assert status == 400 and "pixels" in answer["error"]["message"]
        async with connected(omni.address, "/ws/chat") as client:
            await client.socket.send_str(orjson.dumps(chat("image", bomb)).decode())
            assert "pixels" in (await client.expect("error"))["message"]
        async with connected(omni.address, "/ws/duplex/omni_bomb") as client:
            await client.prepare()
            await client.send_chunk(frame_base64_list=[bomb])
            assert "pixels" in (await client.until("error"))["message"]
            await client.send_chunk()
            assert (await client.until("result"))["type"] == "result"


async def test_a_sound_bomb_is_refused_on_every_way_in(omni: RunningOmni) -> None:
    bomb = flac_bomb()
    assert len(bomb) < 2**20
    encoded = base64.b64encode(bomb).decode()

    async with undisturbed(omni, "adx_sound"):
        voice = orjson.dumps({"name": "v", "audio_base64": encoded})
        status, _ = await send(omni, "POST", "/api/assets/ref_audio", voice)
        assert status in (400, 413, 422)
        form = aiohttp.FormData()
        form.add_field("model", "x")
        form.add_field("file", bomb, filename="a.flac")
        status, _ = await send(omni, "POST", "/v1/audio/transcriptions", form)
        assert status in (400, 413)


async def test_json_that_nests_deep_is_refused(omni: RunningOmni) -> None:
    deep = b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}"

    async with undisturbed(omni, "adx_deep"):
        for path in ("/api/chat", "/v1/chat/completions"):
            assert (await send(omni, "POST", path, deep))[0] in (400, 422)
        async with connected(omni.address, "/ws/chat") as client:
            await client.socket.send_str(deep.decode())
            await client.expect("error")


# --- frames ------------------------------------------------------------------------------------


async def test_a_frame_above_the_limit_ends_its_own_session_alone(omni: RunningOmni) -> None:
    async with (
        undisturbed(omni, "adx_frames"),
        connected(omni.address, "/ws/duplex/adx_huge") as client,
    ):
        await client.prepare()
        try:
            await client.socket.send_bytes(bytes(129 * 2**20))
        except ConnectionError:
            pass  # it was cut while it sent
        kinds = []
        while (message := await client.socket.receive(TIMEOUT_S)).type is aiohttp.WSMsgType.TEXT:
            kinds.append(orjson.loads(message.data)["type"])

    assert client.socket.close_code in (1009, 1006)
    assert kinds in (["error"], [])


# --- headers -----------------------------------------------------------------------------------


@define
class Raw:
    """What a server answers to bytes."""

    status: int
    body: bytes


async def raw(omni: RunningOmni, request: bytes) -> Raw:
    """Send bytes as they are, and return the answer; status 0 for a connection that is cut."""
    host, port = str(urlsplit(omni.address).hostname), int(urlsplit(omni.address).port or 0)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            head = await reader.readline()
            body = await reader.read(65_536) if head else b""
        return Raw(int(head.split()[1]) if head else 0, body)
    except ConnectionError:
        return Raw(0, b"")
    finally:
        writer.close()


HEADERS = {
    "two hosts": (b"Host: localhost\r\nHost: evil.example\r\n", {400}),
    "two equal hosts": (b"Host: localhost\r\nHost: localhost\r\n", {400}),
    "no host": (b"", {400, 403}),
    "an empty host": (b"Host:\r\n", {400, 403}),
    "a foreign host": (b"Host: evil.example\r\n", {403}),
    "a host with a user": (b"Host: localhost@evil.example\r\n", {400, 403}),
    "a forwarded host": (b"Host: evil.example\r\nX-Forwarded-Host: localhost\r\n", {403}),
    "a long header": (b"Host: localhost\r\nX-Long: " + b"x" * 70_000 + b"\r\n", {0, 400, 431}),
    "many headers": (b"Host: localhost\r\n" + b"X-A: b\r\n" * 20_000, {0, 400, 431}),
    "a folded header": (b"Host: localhost\r\nX-A: b\r\n c\r\n", {200, 400}),
    "a space in a name": (b"Host: localhost\r\nX A: b\r\n", {400}),
    "a null": (b"Host: localhost\r\nX-A: b\x00c\r\n", {400}),
    "two lengths": (b"Host: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n", {400}),
    "length and chunks": (
        b"Host: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        {400},
    ),
    "a negative length": (b"Host: localhost\r\nContent-Length: -1\r\n", {400}),
    "a wrong coding": (b"Host: localhost\r\nTransfer-Encoding: chunked, identity\r\n", {400}),
}


@pytest.mark.parametrize("name", HEADERS)
async def test_tricks_with_headers_are_refused(omni: RunningOmni, name: str) -> None:
    headers, expected = HEADERS[name]
    request = b"GET /status HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n"

    async with undisturbed(omni, "adx_headers"):
        answer = await raw(omni, request)

    assert answer.status in expected
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("value", ["websocket\xa0", "\xa0websocket", "websocket\x85"])
async def test_no_spelling_of_upgrade_slips_past_the_check_of_origins(
    omni: RunningOmni, value: str
) -> None:
    """aiohttp strips more from the value than HTTP does, and would open the socket."""
    request = (
        "GET /ws/duplex/adx_spelt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        f"Upgrade: {value}\r\nOrigin: http://evil.example\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )

    assert (await raw(omni, request.encode())).status in (400, 403)


async def test_what_is_no_http_is_refused_and_its_content_not_logged(omni: RunningOmni) -> None:
    """It may be a key with a slip of the pen, or what somebody said."""
    start = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
    broken = (
        start + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello, my secret is marker7\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\nmarker7\r\n",
        start + b"X-Api-Key: marker7\x01\r\n\r\n",
        b"marker7\r\n\r\n",
    )

    assert [(await raw(omni, request)).status for request in broken] == [400] * len(broken)

    assert "Error handling request" in omni.log("web-0")
    assert "marker7" not in omni.log("web-0")


@pytest.mark.parametrize(
    "path", ["/status", "/metrics", "/openapi.json", "/v1/models", "/nothing", "/redoc"]
)
async def test_browsers_guess_no_types_and_keep_nothing(omni: RunningOmni, path: str) -> None:
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.get(path, allow_redirects=False) as reply:
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Cache-Control"] == "no-store"


async def test_an_address_in_the_request_line_is_no_way_round_the_host(omni: RunningOmni) -> None:
    request = b"GET http://evil.example/status HTTP/1.1\r\nHost: evil.example\r\n\r\n"

    assert (await raw(omni, request)).status in (400, 403, 404)


async def test_a_long_request_line_is_refused(omni: RunningOmni) -> None:
    request = b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"

    assert (await raw(omni, request)).status in (0, 400, 414)


async def test_no_header_splits_an_answer(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession() as http:
        url = URL(f"{omni.address}/nothing%0d%0aSet-Cookie:%20a=b", encoded=True)
        async with http.get(url, allow_redirects=False) as reply:
            assert "Set-Cookie" not in reply.headers


async def test_many_small_sounds_are_no_way_round_the_bound_of_one(omni: RunningOmni) -> None:
    """18 MiB of WAV files at 1 kHz became 878 MiB of sound; FLAC of silence is far smaller."""
    quiet = np.zeros(950 * 1000, np.int16)
    files = {}
    for form in ("WAV", "FLAC"):
        file = io.BytesIO()
        soundfile.write(file, quiet, 1000, format=form, subtype="PCM_U8" if form == "WAV" else None)
        files[form] = base64.b64encode(file.getvalue()).decode()
    wav = [{"type": "audio", "data": files["WAV"]}]
    demo = {"messages": [{"role": "user", "content": wav}, {"role": "user", "content": wav}]}
    flac = [{"type": "input_audio", "input_audio": {"data": files["FLAC"]}}] * 2
    openai = {"model": "x", "messages": [{"role": "user", "content": flac}]}

    async with undisturbed(omni, "adx_sounds"):
        status, answer = await send(omni, "POST", "/api/chat", orjson.dumps(demo))
        assert status == 422 and "of sound are above 850 s" in answer["error"]
        status, answer = await send(omni, "POST", "/v1/chat/completions", orjson.dumps(openai))
        assert status == 400 and "messages[0].content[1]" in answer["error"]["message"]

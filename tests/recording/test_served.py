"""A whole server that records: what its clients are told, what it serves, row by row."""

import asyncio
import base64
import io
import re
import resource
import socket
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import SPEECH, Client, connected
from tests.recording.stage import TIMEOUT_S, Document, picture

HELLO = {"messages": [{"role": "user", "content": "hello there"}], "tts": {"enabled": True}}
UPLOAD_LIMIT = 200 * 2**20


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"recording.enabled": "true"})
    yield running
    running.stop()


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session


async def converse(
    server: RunningOmni, client_id: str, num_chunks: int = 4, **chunk: object
) -> str:
    """Have a full-duplex call, and return its recording's id."""
    async with connected(server.address, f"/ws/duplex/{client_id}") as client:
        prepared = await client.prepare()
        for _ in range(num_chunks):
            await client.send_chunk(**chunk)
            await client.expect("result")
        await client.send("stop")
        await client.until("stopped")
    return str(prepared["recording_session_id"])


async def recorded(http: aiohttp.ClientSession, session_id: str, whole: bool = True) -> Document:
    """Return recording.json as soon as it is there. whole: with the replay, if it gets one."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with http.get(f"/api/sessions/{session_id}/recording") as reply:
                if reply.status == 200:
                    document: Document = await reply.json()
                    if not (whole and document.get("chunks")) or "merged_replay" in document:
                        return document
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def call(server: RunningOmni) -> str:
    """A finished call of ten chunks, with two answers of 1 s."""

    async def make() -> str:
        session_id = await converse(server, "adx_call", 10)
        async with aiohttp.ClientSession(server.address) as http, asyncio.timeout(TIMEOUT_S):
            await recorded(http, session_id)
            while (await listed(http, session_id))["live"]:  # its journal goes last
                await asyncio.sleep(0.02)
        return session_id

    return asyncio.run(make())


async def listed(http: aiohttp.ClientSession, session_id: str) -> Document:
    """Return what the list says of a session; {} where it is not there."""
    async with http.get("/api/sessions") as reply:
        sessions = (await reply.json())["sessions"]
    return next((one for one in sessions if one["session_id"] == session_id), {})


async def get(http: aiohttp.ClientSession, path: str, **options: Any) -> tuple[int, bytes]:
    async with http.get(path, **options) as reply:
        return reply.status, await reply.read()


async def known(http: aiohttp.ClientSession, session_id: str) -> Document:
    """Return meta.json as soon as it is there: another thread makes a session's folder."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with http.get(f"/api/sessions/{session_id}") as reply:
                if reply.status == 200:
                    meta: Document = await reply.json()
                    return meta
            await asyncio.sleep(0.02)


# --- what a session says of its recording --------------------------------------------------------


async def test_a_call_is_recorded_chunk_by_chunk(
    http: aiohttp.ClientSession, call: str
) -> None:
    recording = await recorded(http, call)

    assert re.fullmatch(r"\d{8}_\d{6}_adx_call", call)
    assert (recording["session_id"], recording["mode"]) == (call, "duplex")
    modes = [chunk["result"]["mode"] for chunk in recording["chunks"]]
    assert modes == ["SPEAK" if n in (3, 7) else "LISTEN" for n in range(10)]
    assert recording["chunks"][7]["result"]["ai_audio"] == "ai_audio/turn_1_chunk_007.wav"
    assert recording["merged_replay"] == "merged_replay.wav"
    status, wav = await get(http, f"/api/sessions/{call}/assets/merged_replay.wav")
    assert (status, len(wav)) == (200, 44 + 10 * 16_000 * 4)


async def test_pictures_of_a_call_become_a_film(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    frame = base64.b64encode(picture()).decode()
    session_id = await converse(server, "omni_film", 4, frame_base64_list=[frame])

    recording = await recorded(http, session_id)

    assert recording["merged_replay_video"] == "merged_replay.mp4"
    url = f"/api/sessions/{session_id}/assets/"
    async with http.get(url + "merged_replay.mp4") as film:
        assert (film.status, film.content_type) == (200, "video/mp4")
        assert (await film.read())[4:8] == b"ftyp"
    assert (await get(http, url + "user_frames/003.jpg"))[1] == picture()


async def test_a_hands_free_session_is_recorded_under_its_own_id(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    ids = []
    for _ in range(2):
        async with connected(server.address, "/ws/half_duplex/hdx_1") as client:
            prepared = await client.prepare()
            ids.append(prepared["recording_session_id"])
            await speak_once(client)
            await client.send("stop")
            await client.until("stopped")

    assert ids == ["hdx_1", "hdx_1_2"]
    recording = await recorded(http, "hdx_1_2")
    assert recording["mode"] == "half_duplex_audio"
    assert recording["turns"][0]["output"]["text"].startswith("you spoke for")
    assert recording["turns"][0]["input"]["audio"] == "user_audio/000.wav"


async def speak_once(client: Client) -> None:
    for sound in (SPEECH, SPEECH):
        await client.send_chunk(sound)
    await client.send_chunk()
    await client.until("turn_done")


async def test_a_chat_tells_its_recording(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with http.post("/api/chat", json=HELLO) as reply:
        posted = (await reply.json())["recording_session_id"]
    async with connected(server.address, "/ws/chat") as client:
        await client.socket.send_json(HELLO)
        done = await client.until("done")

    assert posted.startswith("chat_") and done["recording_session_id"].startswith("chat_")
    for session_id in (posted, done["recording_session_id"]):
        (turn,) = (await recorded(http, session_id))["turns"]
        assert turn["input"]["text"] == "hello there"
        assert turn["output"]["text"] == "hello there"
        assert turn["output"]["audio"] == "ai_audio/turn_0.wav"


@pytest.mark.parametrize("way", ["it vanishes", "it stops and closes at once"])
async def test_a_call_whose_client_just_leaves_is_recorded_to_its_end(
    server: RunningOmni, http: aiohttp.ClientSession, way: str
) -> None:
    """The demo's pages say `stop` and close in one go; a phone in a tunnel says nothing."""
    async with connected(server.address, "/ws/duplex/adx_left") as client:
        session_id = (await client.prepare())["recording_session_id"]
        for _ in range(4):
            await client.send_chunk(SPEECH)
            await client.expect("result")
        if way == "it vanishes":
            client.socket.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        else:
            await client.send("stop")
            await client.socket.close()
        recording = await recorded(http, session_id)
    meta = await known(http, session_id)

    assert len(recording["chunks"]) == 4 and "complete" not in recording
    assert meta["ended_at"] is not None and meta["duration_s"] is not None


async def test_without_recording_no_id_is_told(start_omni: StartOmni) -> None:
    running = start_omni({"recording.enabled": "false"})
    async with connected(running.address, "/ws/duplex/adx_1") as client:
        prepared = await client.prepare()
    async with aiohttp.ClientSession(running.address) as http:
        async with http.get("/api/sessions") as reply:
            listed = await reply.json()
    running.stop()

    assert "recording_session_id" not in prepared
    assert listed == {"total": 0, "sessions": []}


# --- the routes of 2.6, row by row ---------------------------------------------------------------


async def test_meta_is_served_while_the_session_runs(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with connected(server.address, "/ws/duplex/adx_live") as client:
        session_id = (await client.prepare())["recording_session_id"]
        await client.send_chunk()
        await client.expect("result")
        async with asyncio.timeout(TIMEOUT_S):  # its first words are on their way to the disk
            while not (await listed(http, session_id)).get("live"):
                await asyncio.sleep(0.02)
        meta = await known(http, session_id)
        status, _ = await get(http, f"/api/sessions/{session_id}/recording")
        async with http.get("/api/sessions?limit=1") as reply:
            (newest,) = (await reply.json())["sessions"]
        async with http.delete(f"/api/sessions/{session_id}") as reply:
            deleted = reply.status

    assert status == 404 and deleted == 403
    assert (meta["session_id"], meta["app_type"]) == (session_id, "audio_duplex")
    assert (meta["ended_at"], meta["duration_s"], meta["worker_id"]) == (None, None, 0)
    assert (newest["session_id"], newest["live"]) == (session_id, True)


@pytest.mark.parametrize("path", ["/sessions", "/api/sessions"])
async def test_the_list_has_the_old_keys_and_the_new(
    http: aiohttp.ClientSession, call: str, path: str
) -> None:
    async with http.get(path) as reply:
        body = await reply.json()
    entry = next(one for one in body["sessions"] if one["session_id"] == call)

    assert body["total"] == len(body["sessions"])
    assert {"session_id", "worker_id", "last_active"} <= entry.keys()
    assert entry["messages_hash"] == ""  # written out by the demo's admin page
    assert {"app_type", "title", "created_at", "duration_s", "size_bytes"} <= entry.keys()
    assert entry["size_bytes"] > 10 * 32_000 and entry["live"] is False
    times = [one["created_at"] for one in body["sessions"]]
    assert times == sorted(times, reverse=True)


async def test_the_list_is_paged(http: aiohttp.ClientSession, call: str) -> None:
    async with http.get("/sessions") as reply:
        everything = (await reply.json())["sessions"]
    async with http.get("/sessions?limit=1&offset=1") as reply:
        page = await reply.json()

    assert [one["session_id"] for one in page["sessions"]] == [everything[1]["session_id"]]
    assert page["total"] == len(everything)
    for wrong in ("limit=-1", "limit=x", "offset=1.5", "limit=99999999999"):
        assert (await get(http, f"/sessions?{wrong}"))[0] == 400


async def test_what_is_not_there_is_404_everywhere(http: aiohttp.ClientSession) -> None:
    paths = ["", "/recording", "/comment", "/download", "/assets/meta.json"]

    for session_id in ("nope", "a%00b", "a%2Fb", "x" * 300, "journal.omni", "é"):
        for path in paths:
            assert (await get(http, f"/api/sessions/{session_id}{path}"))[0] == 404, path
        assert (await get(http, f"/s/{session_id}"))[0] == 404
        async with http.delete(f"/sessions/{session_id}") as reply:
            assert reply.status == 404
        async with http.post(f"/api/sessions/{session_id}/comment", json={"comment": ""}) as reply:
            assert reply.status == 404


@pytest.mark.parametrize(
    ("asset", "kind"),
    [
        ("user_audio/000.wav", "audio/wav"),
        ("merged_replay.wav", "audio/wav"),
        ("merged_replay.vtt", "text/vtt"),
        ("recording.json", "application/json"),
    ],
)
async def test_a_file_is_served_as_what_it_is(
    http: aiohttp.ClientSession, call: str, asset: str, kind: str
) -> None:
    url = f"/api/sessions/{call}/assets/{asset}"
    async with http.get(url) as whole, http.head(url) as head:
        body = await whole.read()

    assert (whole.status, whole.content_type, head.status) == (200, kind, 200)
    assert head.headers["Content-Length"] == str(len(body))
    assert head.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("wav", "audio/wav"),
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("png", "image/png"),
        ("webm", "video/webm"),
        ("mp4", "video/mp4"),
        ("mp3", "audio/mpeg"),
    ],
)
async def test_every_kind_of_file_has_the_type_of_the_protocol(
    server: RunningOmni, http: aiohttp.ClientSession, call: str, suffix: str, kind: str
) -> None:
    file = server.data_dir / "sessions" / call / "user_images" / f"probe.{suffix}"
    file.write_bytes(b"any bytes")
    async with http.get(f"/api/sessions/{call}/assets/user_images/{file.name}") as reply:
        served = (reply.status, reply.content_type)
    file.unlink()

    assert served == (200, kind)


async def test_a_part_of_a_file_is_served(http: aiohttp.ClientSession, call: str) -> None:
    url = f"/api/sessions/{call}/assets/user_audio/000.wav"
    _, whole = await get(http, url)

    async with http.get(url, headers={"Range": "bytes=0-1"}) as first:
        assert (first.status, await first.read()) == (206, b"RI")
        assert first.headers["Content-Range"] == f"bytes 0-1/{len(whole)}"
    assert await get(http, url, headers={"Range": "bytes=100-"}) == (206, whole[100:])
    assert await get(http, url, headers={"Range": "bytes=-5"}) == (206, whole[-5:])
    assert (await get(http, url, headers={"Range": f"bytes={len(whole)}-"}))[0] == 416


async def test_probes_for_a_replay_that_nobody_uploaded_are_cheap(
    http: aiohttp.ClientSession, call: str
) -> None:
    for suffix in ("webm", "mp4", "wav"):
        async with http.head(f"/api/sessions/{call}/assets/frontend_replay.{suffix}") as reply:
            assert reply.status == 404


async def raw_get(server: RunningOmni, target: str) -> bytes:
    """Return the status line for a request that no library would send."""
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("latin-1"))
        async with asyncio.timeout(TIMEOUT_S):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "path",
    [
        "../meta.json",
        "..%2f..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/settings.toml",
        "user_audio/../../x/meta.json",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "..%5c..%5csecret",
        "meta.json%00.wav",
        "%c0%ae%c0%ae/meta.json",
        "x" * 4000,
    ],
)
async def test_no_path_leaves_the_session(server: RunningOmni, call: str, path: str) -> None:
    answer = await raw_get(server, f"/api/sessions/{call}/assets/{path}")

    assert re.match(rb"HTTP/1.1 (400|404) ", answer), answer[:200]
    assert b"root:" not in answer


@pytest.mark.parametrize("path", ["..%2fmeta.json", "ai_audio%2f..%2fmeta.json", "..%5cmeta.json"])
async def test_a_path_with_two_dots_is_a_400(server: RunningOmni, call: str, path: str) -> None:
    answer = await raw_get(server, f"/api/sessions/{call}/assets/{path}")

    assert answer.startswith(b"HTTP/1.1 400 ") and b'"detail"' in answer


@pytest.mark.parametrize("session_id", ["..", "%2e%2e", "..%2f..", ".", "%2e", "..%00", "..%5c"])
async def test_no_id_leaves_the_sessions(server: RunningOmni, session_id: str) -> None:
    for path in ("", "/download", "/assets/settings.toml"):
        answer = await raw_get(server, f"/api/sessions/{session_id}{path}")

        assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]


async def test_a_download_is_a_zip_of_everything(
    http: aiohttp.ClientSession, call: str
) -> None:
    async with http.get(f"/api/sessions/{call}/download") as reply:
        disposition = reply.headers["Content-Disposition"]
        body = await reply.read()
    async with http.head(f"/api/sessions/{call}/download") as head:
        assert head.status == 200

    assert (reply.status, reply.content_type) == (200, "application/zip")
    assert disposition == f"attachment; filename={call}.zip"
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert {f"{call}/{name}" for name in ("meta.json", "recording.json")} <= names
    assert f"{call}/user_audio/009.wav" in names and f"{call}/merged_replay.wav" in names


async def test_comments(http: aiohttp.ClientSession, call: str) -> None:
    url = f"/api/sessions/{call}/comment"

    async def post(**options: Any) -> int:
        async with http.post(url, **options) as reply:
            return reply.status

    assert await get(http, url) == (200, b'{"comment":""}')
    async with http.post(url, json={"comment": "很好"}) as reply:
        assert await reply.json() == {"status": "ok", "len": 2}
    assert (await get(http, url))[1].decode() == '{"comment":"很好"}'
    assert await post(json={"comment": "x" * 2001}) == 413
    assert await post(json={"comment": 5}) == 400
    assert await post(data=b"no json") == 400
    assert await post(json={}) == 400  # it had deleted the comment
    assert (await get(http, url))[1].decode() == '{"comment":"很好"}'
    assert await post(json={"comment": ""}) == 200
    assert await get(http, url) == (200, b'{"comment":""}')


def form(content: Any, kind: str, field: str = "file") -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("note", "before the file")
    data.add_field(field, content, filename="replay", content_type=kind)
    return data


@pytest.mark.parametrize(
    ("kind", "name", "served"),
    [
        ("video/webm;codecs=vp9,opus", "frontend_replay.webm", "video/webm"),
        ("video/mp4", "frontend_replay.mp4", "video/mp4"),
        ("audio/wav", "frontend_replay.wav", "audio/wav"),
        ("audio/webm; codecs=opus", "frontend_replay.webm", "video/webm"),
    ],
)
async def test_a_client_adds_its_own_recording(
    http: aiohttp.ClientSession, call: str, kind: str, name: str, served: str
) -> None:
    content = kind.encode() * 1000
    url = f"/api/sessions/{call}"
    async with http.post(f"{url}/upload-recording", data=form(content, kind)) as reply:
        body = await reply.json()

    assert body == {"status": "ok", "path": name, "size_bytes": len(content)}
    async with http.get(f"{url}/assets/{name}") as asset:
        assert (asset.content_type, await asset.read()) == (served, content)


async def test_an_upload_may_come_before_the_session_has_ended(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    async with connected(server.address, "/ws/duplex/adx_early") as client:
        session_id = (await client.prepare())["recording_session_id"]
        await client.send_chunk()
        await client.expect("result")
        await known(http, session_id)
        url = f"/api/sessions/{session_id}"
        data = form(b"a film", "video/webm")
        async with http.post(f"{url}/upload-recording", data=data) as reply:
            uploaded = reply.status
    await recorded(http, session_id)

    assert uploaded == 200
    assert await get(http, f"{url}/assets/frontend_replay.webm") == (200, b"a film")


async def test_an_upload_that_does_not_fit_is_refused(
    server: RunningOmni, http: aiohttp.ClientSession, call: str
) -> None:
    async def post(session_id: str, data: Any, **options: Any) -> int:
        url = f"/api/sessions/{session_id}/upload-recording"
        async with http.post(url, data=data, **options) as reply:
            return reply.status

    assert await post("nope", form(b"x", "video/webm")) == 404
    assert await post(call, form(b"x", "text/html")) == 400
    assert await post(call, form(b"", "video/webm")) == 400
    assert await post(call, form(b"x", "video/webm", "other")) == 422
    assert await post(call, b"no form") == 400
    broken = {"Content-Type": "multipart/form-data; boundary=b"}
    assert await post(call, b"--b\r\nno form at all", headers=broken) in (400, 422)
    assert not list((server.data_dir / "sessions" / call).glob(".upload-*"))


async def pieces(num_bytes: int) -> AsyncIterator[bytes]:
    piece = bytes(2**20)
    for _ in range(num_bytes >> 20):
        yield piece


async def stream_upload(server: RunningOmni, session_id: str, mebibytes: int) -> int:
    """Send a file of that size in pieces, and return the status; nobody holds it whole."""
    head = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="r.webm"\r\n'
        b"Content-Type: video/webm\r\n\r\n"
    )

    async def body() -> AsyncIterator[bytes]:
        yield head
        async for piece in pieces(mebibytes << 20):
            yield piece
        yield b"\r\n--b--\r\n"

    url = f"{server.address}/api/sessions/{session_id}/upload-recording"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with aiohttp.ClientSession() as http:
        async with http.post(url, data=body(), headers=headers) as reply:
            return reply.status


async def test_200_mib_are_taken_and_201_are_not(server: RunningOmni, call: str) -> None:
    pid = server.pid("web-0")
    before = peak_mib(pid)

    taken = await stream_upload(server, call, 200)
    refused = await stream_upload(server, call, 201)

    folder = server.data_dir / "sessions" / call
    assert (taken, refused) == (200, 413)
    assert (folder / "frontend_replay.webm").stat().st_size == UPLOAD_LIMIT
    assert not list(folder.glob(".upload-*"))
    assert peak_mib(pid) - before < 64
    (folder / "frontend_replay.webm").unlink()


def peak_mib(pid: int) -> float:
    """Return the most memory that a process ever held."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) / 1024


async def test_a_session_is_deleted(server: RunningOmni, http: aiohttp.ClientSession) -> None:
    for number, path in enumerate(("/sessions", "/api/sessions")):
        session_id = await converse(server, f"adx_gone{number}", 1)
        await recorded(http, session_id)
        async with asyncio.timeout(TIMEOUT_S):
            while True:  # its last words may still be written
                async with http.delete(f"{path}/{session_id}") as reply:
                    status, body = reply.status, await reply.json()
                if status != 403:
                    break
                await asyncio.sleep(0.02)

        assert (status, body) == (200, {"success": True})
        assert (await get(http, f"/api/sessions/{session_id}"))[0] == 404
        assert not (server.data_dir / "sessions" / session_id).exists()


async def test_the_viewer_is_a_page_of_its_own(http: aiohttp.ClientSession, call: str) -> None:
    async with http.get(f"/s/{call}") as reply:
        body = await reply.text()

    assert (reply.status, reply.content_type) == (200, "text/html")
    assert "/static/pages/viewer.js" in body and "default-src 'self'" in str(reply.headers)


# --- trouble -------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_the_call_goes_on(start_omni: StartOmni) -> None:
    """The web process may write no file above 300 KB; a server of its own, whose children may."""
    server = start_omni({"recording.enabled": "true"})
    pid = server.pid("web-0")
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (300_000, old[1]))
    kinds: list[str] = []
    stopped: Document = {}
    num_sent = 0
    async with connected(server.address, "/ws/duplex/adx_full") as client:
        try:
            session_id = (await client.prepare())["recording_session_id"]
            async with asyncio.timeout(TIMEOUT_S):
                while "recording_stopped" not in kinds or kinds[-20:] != ["result"] * 20:
                    if num_sent == kinds.count("result"):
                        await client.send_chunk(SPEECH)
                        num_sent += 1
                    event = await client.receive()
                    kinds.append(event["type"])
                    stopped = event if event["type"] == "recording_stopped" else stopped
        finally:  # before the call ends: its files need room
            resource.prlimit(pid, resource.RLIMIT_FSIZE, old)

    assert kinds.count("recording_stopped") == 1 and set(kinds) == {"recording_stopped", "result"}
    assert stopped["recording_session_id"] == session_id and "disk is full" in stopped["reason"]
    async with aiohttp.ClientSession(server.address) as http:
        recording = await recorded(http, session_id)
    server.stop()
    assert recording["complete"] is False and 5 < len(recording["chunks"]) < num_sent

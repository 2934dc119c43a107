"""No address and no path in a request is followed: what lies behind the server stays there."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from tests.conftest import RunningOmni
from tests.realtime.client import connected
from tests.security.test_hostile import chat, send


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[int, list[str]]]:
    """Listen on this machine, as a service that only it can reach; note who connects."""
    callers: list[str] = []

    def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(str(writer.get_extra_info("peername")))
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], callers


def spellings(port: int) -> list[str]:
    """Return ways to write the listener's address, and files of this machine."""
    return [
        f"http://127.0.0.1:{port}/a.png",
        f"HTTP://localhost:{port}/a.png",
        f"https://127.0.0.1:{port}/a.png",
        f"http://2130706433:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"//127.0.0.1:{port}/a.png",
        f"ftp://127.0.0.1:{port}/a.png",
        f"tcp://127.0.0.1:{port}",
        f"concat:http://127.0.0.1:{port}/",
        f" data:http://127.0.0.1:{port}/",
        f"data:image/png,http://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "/etc/passwd",
    ]


def playlist(port: int) -> bytes:
    return f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n".encode()


def asked_of_openai(part: dict[str, object]) -> bytes:
    return orjson.dumps({"model": "x", "messages": [{"role": "user", "content": [part]}]})


async def test_no_address_in_a_request_is_fetched(omni: RunningOmni) -> None:
    """SSRF: whatever names an address, nobody connects to it."""
    async with listener() as (port, callers):
        for text in spellings(port):
            for kind in ("image_url", "video_url"):
                body = asked_of_openai({"type": kind, kind: {"url": text}})
                status, answer = await send(omni, "POST", "/v1/chat/completions", body)
                assert status == 400 and "error" in answer, (text, answer)
            sound = asked_of_openai({"type": "input_audio", "input_audio": {"data": text}})
            assert (await send(omni, "POST", "/v1/chat/completions", sound))[0] == 400
            for kind in ("image", "audio", "video"):
                request = orjson.dumps(chat(kind, text))
                assert (await send(omni, "POST", "/api/chat", request))[0] in (400, 422)
            voice = orjson.dumps({"name": "v", "audio_base64": text})
            assert (await send(omni, "POST", "/api/assets/ref_audio", voice))[0] in (400, 422)
            async with connected(omni.address, "/v1/realtime?model=x") as client:
                await client.until("session.created")
                content = [{"type": "input_image", "image_url": text}]
                item = {"type": "message", "role": "user", "content": content}
                await client.send("conversation.item.create", item=item)
                assert (await client.until("error"))["error"]["type"] == "invalid_request_error"

    assert callers == []


async def test_no_file_leads_to_an_address(omni: RunningOmni) -> None:
    """A playlist is a film to FFmpeg, which opens what it names."""
    async with listener() as (port, callers):
        data = base64.b64encode(playlist(port)).decode()
        for kind in ("video/mp4", "application/x-mpegURL"):
            url = {"url": f"data:{kind};base64,{data}"}
            body = asked_of_openai({"type": "video_url", "video_url": url})
            assert (await send(omni, "POST", "/v1/chat/completions", body))[0] in (200, 400)
        voice = orjson.dumps({"name": "v", "audio_base64": data})
        assert (await send(omni, "POST", "/api/assets/ref_audio", voice))[0] == 400
        form = aiohttp.FormData()
        form.add_field("model", "x")
        form.add_field("file", playlist(port), filename="a.m3u8")
        assert (await send(omni, "POST", "/v1/audio/transcriptions", form))[0] == 400

    assert callers == []


async def test_paths_of_files_in_a_chat_are_ignored(omni: RunningOmni, tmp_path: Path) -> None:
    written = tmp_path / "written"
    tts = {"enabled": True, "ref_audio_path": "/etc/passwd", "output_path": str(written)}
    request = {"messages": [{"role": "user", "content": "hello"}], "tts": tts}

    status, answer = await send(omni, "POST", "/api/chat", orjson.dumps(request))

    assert status == 200 and answer["audio_path"] is None
    assert not written.exists()

"""Voices over HTTP: any sound file in, a WAV file out."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from omni.wav import wav_from_waveform, waveform_from_wav
from tests.conftest import RunningOmni, StartOmni
from tests.sounds import sound_file, tone

PATH = "/api/assets/ref_audio"


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"audio.max_voices": 4, "audio.max_voices_s": 100})
    yield running
    running.stop()


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.address) as session:
        yield session
        for voice in (await ask(session, "GET"))[1]["ref_audios"]:
            await ask(session, "DELETE", voice["id"])


async def ask(
    http: aiohttp.ClientSession, method: str, voice_id: str = "", **options: Any
) -> tuple[int, Any]:
    path = f"{PATH}/{voice_id}" if voice_id else PATH
    async with http.request(method, path, **options) as reply:
        return reply.status, await reply.json()


async def upload(http: aiohttp.ClientSession, name: str, file: bytes) -> tuple[int, Any]:
    body = {"name": name, "audio_base64": base64.b64encode(file).decode()}
    return await ask(http, "POST", json=body)


async def test_a_voice_is_uploaded_listed_heard_and_deleted(
    server: RunningOmni, http: aiohttp.ClientSession
) -> None:
    status, added = await upload(http, "Anna", sound_file("mp3", "libmp3lame", tone(1.5)))
    _, listed = await ask(http, "GET")
    [entry] = listed["ref_audios"]
    async with http.get(f"{PATH}/{added['id']}") as reply:
        kind, nosniff = reply.content_type, reply.headers["X-Content-Type-Options"]
        samples, rate_hz = waveform_from_wav(await reply.read())
    deleted = await ask(http, "DELETE", added["id"])
    gone = await ask(http, "DELETE", added["id"])
    unheard = await ask(http, "GET", added["id"])

    assert (status, added["success"], added["name"]) == (200, True, "Anna")
    assert added["message"] == f"Uploaded successfully, duration={entry['duration_ms']}ms"
    assert listed["total"] == 1
    assert entry.keys() == {
        "id",
        "name",
        "filename",
        "source_type",
        "duration_ms",
        "sample_rate",
        "created_at",
    }
    assert (entry["filename"], entry["source_type"]) == (f"{added['id']}.wav", "upload")
    assert 1400 <= entry["duration_ms"] <= 1600 and entry["sample_rate"] == 16_000
    assert (kind, nosniff, rate_hz) == ("audio/wav", "nosniff", 16_000)
    assert round(1000 * samples.size / 16_000) == entry["duration_ms"]
    assert deleted == (
        200,
        {"success": True, "id": added["id"], "name": None, "message": "Deleted"},
    )
    assert gone[0] == unheard[0] == 404


async def test_nothing_is_served_back_as_it_was_sent(http: aiohttp.ClientSession) -> None:
    """What hides behind the sound, as a script in a comment of the file, is not kept."""
    wav = wav_from_waveform(tone(1.0), 24_000)
    comment = b"INFOICMT" + b"<script>alert(1)</script>".ljust(32)
    hidden = wav + b"LIST" + len(comment).to_bytes(4, "little") + comment

    _, added = await upload(http, "<b>x</b>", hidden)
    async with http.get(f"{PATH}/{added['id']}") as reply:
        served = await reply.read()

    assert b"<script>" in hidden and b"<script>" not in served
    assert len(served) == 44 + 2 * 16_000


@pytest.mark.parametrize(
    ("file", "status"),
    [
        (b"", 422),
        (b"no sound at all", 400),
        (wav_from_waveform(np.zeros(0, np.float32), 16_000), 400),
        (wav_from_waveform(np.zeros(100, np.float32), 16_000), 400),
        (sound_file("flac", "flac", np.zeros(121 * 8_000, np.float32), 8_000), 413),
    ],
    ids=["empty", "no sound", "no samples", "too short", "too long"],
)
async def test_what_is_no_voice_is_refused(
    http: aiohttp.ClientSession, file: bytes, status: int
) -> None:
    refused, body = await upload(http, "x", file)

    assert refused == status and body["detail"] and body["error"]
    assert (await ask(http, "GET"))[1]["total"] == 0


@pytest.mark.parametrize(
    "body",
    [{}, {"audio_base64": "%"}, {"audio_base64": 7}, {"name": "x" * 201, "audio_base64": "AAAA"}],
)
async def test_a_wrong_upload_is_422(http: aiohttp.ClientSession, body: dict[str, object]) -> None:
    status, reply = await ask(http, "POST", json=body)

    assert status == 422 and reply["detail"][0]["loc"][0] == "body"


async def test_a_full_registry_is_413_and_says_what_to_do(http: aiohttp.ClientSession) -> None:
    file = sound_file("flac", "flac", tone(1.0))
    statuses = [(await upload(http, str(number), file))[0] for number in range(4)]
    status, body = await upload(http, "one more", file)

    assert statuses == [200] * 4
    assert status == 413 and "delete one first" in body["detail"]


async def test_voices_may_last_only_so_long_all_together(http: aiohttp.ClientSession) -> None:
    long = sound_file("flac", "flac", tone(60.0, 8_000), 8_000)
    first = (await upload(http, "first", long))[0]
    second, body = await upload(http, "second", long)

    assert (first, second) == (200, 413)
    assert "100 s" in body["detail"]


@pytest.mark.parametrize("voice_id", ["nobody", "..%2f..%2fsecret", "registry.json", "%00"])
async def test_no_path_leads_out_of_the_registry(
    server: RunningOmni, http: aiohttp.ClientSession, voice_id: str
) -> None:
    Path(server.data_dir / "secret").write_text("secret")

    for method in ("GET", "DELETE"):
        assert (await ask(http, method, voice_id))[0] == 404


async def test_the_demo_s_hole_is_not_there(http: aiohttp.ClientSession) -> None:
    """Its admin page asks the server to read any file of its own."""
    path, body = f"{PATH}/external", {"name": "x", "path": "/etc/passwd"}
    async with http.post(path, json=body) as reply:
        assert reply.status in (404, 405)

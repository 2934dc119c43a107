"""Traces and diagnostics behind a whole server, which records nothing."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.conftest import RunningOmni
from tests.fakes import TIMEOUT_S
from tests.realtime.client import connected


async def lines_of(path: Path, number: int) -> list[Any]:
    """Return the lines of *path* once there are so many."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            lines = path.read_bytes().splitlines() if path.exists() else []
            if len(lines) >= number:
                return [orjson.loads(line) for line in lines]
            await asyncio.sleep(0.02)


async def post(omni: RunningOmni, data: bytes) -> tuple[int, Any]:
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.post("/api/_debug/record_trace", data=data) as reply:
            return reply.status, await reply.json()


async def test_a_trace_is_appended_with_the_servers_time(omni: RunningOmni) -> None:
    trace = {"session_id": "x", "outcome": "sent", "events": [{"t": 1, "tag": "down", "info": ""}]}

    answers = [await post(omni, orjson.dumps({**trace, "extra": n})) for n in range(2)]

    path = Path(omni.fabric.run_dir) / "mobile-record-trace.jsonl"
    entries = await lines_of(path, 2)
    assert answers == [(200, {"ok": True})] * 2
    assert [{**entry, "ts": None} for entry in entries] == [
        {"ts": None, **trace, "extra": number} for number in range(2)
    ]


@pytest.mark.parametrize(
    ("data", "status"), [(b"[]", 400), (b"{", 400), (b'{"a":"' + b"x" * 70_000 + b'"}', 413)]
)
async def test_a_trace_that_is_none_or_too_long_is_refused(
    omni: RunningOmni, data: bytes, status: int
) -> None:
    assert (await post(omni, data))[0] == status


async def test_diagnostics_are_kept_under_the_cleaned_id(omni: RunningOmni) -> None:
    path = Path(omni.fabric.run_dir) / "diag_omni_a____etc.jsonl"
    async with connected(omni.address, "/ws/duplex/omni_a%2F..%2Fetc") as client:
        await client.send("client_diagnostic", event="gap", gap_idx=1)  # also while it waits
        await client.prepare()
        await client.send("client_diagnostic", event="session_summary", total_gaps=1)
        await client.send_chunk()
        result = await client.receive()
        entries = await lines_of(path, 2)

    assert result["type"] == "result"  # nothing else was answered
    assert [entry["event"] for entry in entries] == ["gap", "session_summary"]
    assert entries[0]["type"] == "client_diagnostic" and entries[0]["gap_idx"] == 1
    assert all(entry["_server_recv_ts"] > 1e9 for entry in entries)


async def test_a_diagnostic_that_is_too_long_is_refused(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/duplex/adx_long") as client:
        await client.prepare()
        await client.send("client_diagnostic", event="x" * 70_000)
        error = await client.expect("error")
        await client.send_chunk()
        await client.expect("result")

    assert error["error"] == "client_diagnostic is above 64 KiB"

"""`omni drain` and `omni down --drain`: nobody new, and those who talk may finish."""

import asyncio
import subprocess
import sys

import aiohttp
import pytest

from omni.process import ROOT
from tests.conftest import RunningOmni, StartOmni, clean_environment
from tests.fakes import TIMEOUT_S
from tests.realtime.client import connected


async def omni(running: RunningOmni, *words: str) -> asyncio.subprocess.Process:
    """Run a command against *running*, as in another terminal."""
    place = ("--set", f"fabric.run_dir={running.fabric.run_dir}")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "omni.cli", *words, *place),
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def said(process: asyncio.subprocess.Process) -> str:
    """Return all that *process* says until its end."""
    async with asyncio.timeout(TIMEOUT_S):
        output, _ = await process.communicate()
    return output.decode()


@pytest.mark.parametrize("words", [("drain",), ("down", "--drain")], ids=" ".join)
async def test_draining_lets_those_who_talk_finish_and_nobody_in(
    start_omni: StartOmni, words: tuple[str, ...]
) -> None:
    running = start_omni()
    async with connected(running.websocket_address, "/ws/duplex/adx_talking") as client:
        await client.prepare()
        draining = await omni(running, *words)
        async with asyncio.timeout(TIMEOUT_S):
            while (await running.worker("worker-0")).state != "draining":
                await asyncio.sleep(0.02)
        async with connected(running.websocket_address, "/ws/duplex/adx_new") as newcomer:
            refused = await newcomer.expect("error")
            code = await newcomer.closed()
        async with aiohttp.ClientSession(running.address) as http:
            hello = {"messages": [{"role": "user", "content": "hello"}]}
            async with http.post("/api/chat", json=hello) as reply:
                posted = (reply.status, await reply.json())
        await client.send_chunk()
        result = await client.until("result")
        await client.send("stop")
        await client.until("stopped")
    printed = await said(draining)

    text = "No worker available"
    assert (refused["error"], refused["code"], code) == (text, "no_worker", 1013)
    assert posted == (503, {"detail": text, "error": text})
    assert result["current_time"] == 1
    assert draining.returncode == 0 and "drained: all workers" in printed
    assert ("stopped: launcher" in printed) == (words[0] == "down")
    running.stop()

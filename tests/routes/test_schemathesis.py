"""What `/openapi.json` says is what the server does: Schemathesis asks every operation."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import connected

TIMEOUT_S = 300.0
NUM_EXAMPLES = 3
#: What a schema cannot say: unknown keys and null pass, as the protocol has it, and a file that is
#: sent as base64 must also be one.
NOT_CHECKED = "positive_data_acceptance,negative_data_rejection"
#: Ends sessions, also those whose ids were found in other answers: asked when nobody talks.
ENDING = "/api/admin/live/{session_id}"


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"service.request_timeout": 20})
    yield running
    running.stop()


def ask(address: str, folder: Path, *which: str) -> subprocess.CompletedProcess[str]:
    options = {
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": str(NUM_EXAMPLES),
        "--exclude-checks": NOT_CHECKED,
        "--request-timeout": "60",
        "--warnings": "off",
    }
    flags = [word for option in options.items() for word in option]
    command = ["schemathesis.cli", "run", f"{address}/openapi.json", *flags, *which]
    return subprocess.run(
        [sys.executable, "-m", *command, "--generation-deterministic", "--no-color"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


async def test_every_operation_answers_as_its_document_says(
    server: RunningOmni, tmp_path: Path
) -> None:
    """Statuses, content types and bodies; nothing is a fault of the server.

    A neighbour's call on the same server goes on meanwhile, and no worker is lost.
    """
    pid = server.pid("worker-0")
    async with connected(server.address, "/ws/duplex/adx_neighbour") as neighbour:
        await neighbour.prepare()
        others = asyncio.to_thread(ask, server.address, tmp_path, "--exclude-path", ENDING)
        asking = asyncio.create_task(others)
        num_answered = 0
        while not asking.done():
            await neighbour.send_chunk()
            assert (await neighbour.expect("result"))["current_time"] == num_answered + 1
            num_answered += 1
            await asyncio.wait([asking], timeout=0.2)
        runs = [await asking]
        await neighbour.send("stop")
        await neighbour.expect("stopped")
    runs += [await asyncio.to_thread(ask, server.address, tmp_path, "--include-path", ENDING)]
    async with aiohttp.ClientSession(server.address) as http:
        async with http.get("/workers") as reply:
            [worker] = (await reply.json())["workers"]

    for run in runs:
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert "No issues found" in run.stdout
    assert num_answered > 3
    assert server.pid("worker-0") == pid and worker["restarts"] == 0
    assert "omni.routes.errors" not in server.log("web-0")  # which logs faults of our own

"""`kill -9` in mid-recording: what was said is readable, and becomes files at the next start."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from omni.engine import AudioChunk, UnitResult
from omni.process import ROOT
from omni.recording.journal import MAGIC, is_live, read_journal
from omni.recording.layout import JOURNAL
from omni.running import left_over
from tests.conftest import RunningOmni, StartOmni, clean_environment
from tests.fakes import until
from tests.realtime.client import SPEECH, connected
from tests.recording.stage import TIMEOUT_S, read

NUM_CHUNKS = 6


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"recording.enabled": "true"})
    yield running
    running.stop()


def num_answers(journal: Path) -> int:
    """Return how many units a journal holds that were answered."""
    if not journal.exists() or journal.stat().st_size < len(MAGIC):
        return 0
    return sum(isinstance(record.item, UnitResult) for record in read_journal(journal))


async def killed_in_mid_call(server: RunningOmni, client_id: str, name: str) -> Path:
    """Kill process *name* with SIGKILL in mid-call; return the session's folder."""
    async with connected(server.address, f"/ws/duplex/{client_id}") as client:
        session_id = (await client.prepare())["recording_session_id"]
        folder = server.data_dir / "sessions" / str(session_id)
        for _ in range(NUM_CHUNKS):
            await client.send_chunk(SPEECH)
            await client.expect("result")
        # written within a moment of having been said: never asked to, never closed
        await asyncio.to_thread(until, lambda: num_answers(folder / JOURNAL) == NUM_CHUNKS)
        if name == "launcher":
            server.launcher.kill()
        else:
            server.kill(name)
    return folder


async def test_a_killed_web_leaves_a_recording_that_is_finalised_at_its_next_start(
    server: RunningOmni,
) -> None:
    old = server.pid("web-0")

    folder = await killed_in_mid_call(server, "adx_killed", "web-0")

    until(lambda: (folder / "recording.json").exists(), TIMEOUT_S)
    until(lambda: not (folder / JOURNAL).exists(), TIMEOUT_S)
    assert server.pid("web-0") != old
    recording, meta = read(folder / "recording.json"), read(folder / "meta.json")
    assert recording["complete"] is False
    assert [chunk["result"]["mode"] for chunk in recording["chunks"]] == [
        "LISTEN", "LISTEN", "LISTEN", "SPEAK", "LISTEN", "LISTEN"
    ]  # fmt: skip
    assert meta["ended_at"] and meta["duration_s"] is not None
    assert (folder / "merged_replay.wav").stat().st_size == 44 + NUM_CHUNKS * 64_000


@pytest.mark.parametrize("name", ["worker-0", "broker"])
async def test_a_recording_outlives_the_other_processes(server: RunningOmni, name: str) -> None:
    until(lambda: server.pid("web-0") > 0 and is_serving(server), TIMEOUT_S)
    old = server.pid(name)

    folder = await killed_in_mid_call(server, f"adx_{name.replace('-', '_')}", name)

    until(lambda: (folder / "recording.json").exists(), TIMEOUT_S)
    recording = read(folder / "recording.json")
    assert len(recording["chunks"]) == NUM_CHUNKS and "complete" not in recording
    until(lambda: server.pid(name) not in (0, old), TIMEOUT_S)
    until(lambda: is_serving(server), TIMEOUT_S)


async def test_a_killed_launcher_leaves_a_recording_that_the_next_start_finalises(
    start_omni: StartOmni,
) -> None:
    """With it go all its processes, each as it can; nobody restarts the web process."""
    first = start_omni({"recording.enabled": "true"})

    folder = await killed_in_mid_call(first, "adx_launcher", "launcher")

    first.launcher.wait(TIMEOUT_S)
    until(lambda: left_over(first.fabric.run_dir) == {}, TIMEOUT_S)
    assert not is_live(folder / JOURNAL)
    again = start_omni({"recording.enabled": "true", "service.data_dir": first.data_dir})
    until(lambda: not (folder / JOURNAL).exists(), TIMEOUT_S)
    assert len(read(folder / "recording.json")["chunks"]) == NUM_CHUNKS
    again.stop()


def is_serving(server: RunningOmni) -> bool:
    """Say whether a session could begin now, on the worker that runs now."""

    async def ask() -> bool:
        try:
            async with aiohttp.ClientSession(server.address) as http:
                async with http.get("/workers") as reply:
                    if reply.status != 200:
                        return False
                    (worker,) = (await reply.json())["workers"]
        except (aiohttp.ClientError, ValueError):
            return False
        return bool(worker["status"] == "idle" and worker["pid"] == server.pid("worker-0"))

    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(asyncio.run(ask())))
    thread.start()
    thread.join(TIMEOUT_S)
    return done == [True]


def test_a_killed_recorder_loses_nothing_that_it_had_written(tmp_path: Path) -> None:
    """A process records as fast as it can, and is killed in its midst."""
    script = """
import asyncio, sys
from pathlib import Path
from omni.process import die_with_parent
from omni.recording.disk import DiskRecordings
from tests.recording.test_disk import speak

async def main():
    recordings = DiskRecordings(Path(sys.argv[1]))
    await recordings.open()
    recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
    while True:
        speak(recorder, 1)
        await asyncio.sleep(0)
        while recordings.waiting_bytes > 1_000_000:
            await asyncio.sleep(0.001)

die_with_parent(int(sys.argv[2]))
asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path), str(os.getpid())]
    sessions = tmp_path / "sessions"
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment()) as process:
        try:
            journals = partial(sessions.glob, f"*/{JOURNAL}")
            until(lambda: any(path.stat().st_size > 5_000_000 for path in journals()))
            (journal,) = journals()
            live = is_live(journal)
        finally:
            process.kill()

    items = [record.item for record in read_journal(journal)]
    assert live and not is_live(journal)
    assert sum(isinstance(item, AudioChunk) for item in items) > 100

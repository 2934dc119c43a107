"""The recorder: it never blocks, holds little, loses nothing silently, and outlives a full disk."""

import asyncio
import os
import re
import resource
import subprocess
import sys
import threading
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import pytest

from omni.engine import (
    AudioChunk,
    Buffer,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    SessionEvent,
    UnitResult,
    UserTranscript,
)
from omni.process import ROOT
from omni.recording.disk import DiskRecordings
from omni.recording.finaliser import Finaliser, unfinalised
from omni.recording.journal import Gap, read_journal
from omni.recording.layout import JOURNAL
from omni.recording.recorder import NoRecording, Recorder, RecordingCounters
from omni.recording.session_file import SessionFile
from tests.conftest import clean_environment
from tests.fakes import until
from tests.recording.stage import (
    TIMEOUT_S,
    answer,
    picture,
    read,
    recording,
    tone,
    until_finalised,
    until_written,
    write_session,
)

LISTEN = UnitResult(is_listen=True)
CHUNK = AudioChunk(pcm=tone(1.0))


def speak(recorder: Recorder, num_chunks: int, event: SessionEvent = LISTEN) -> None:
    """Say so many chunks, each answered by *event*."""
    for _ in range(num_chunks):
        recorder.heard(CHUNK)
        recorder.said(event)


def folders(data_dir: Path) -> list[str]:
    """Return the names of all sessions."""
    try:
        return sorted(path.name for path in (data_dir / "sessions").iterdir())
    except FileNotFoundError:
        return []


async def test_a_session_is_kept_from_its_first_word_to_its_close(tmp_path: Path) -> None:
    async with recording(tmp_path) as recordings:
        recorder = recordings.start("omni_7", "omni_duplex", "worker-2")
        assert folders(tmp_path) == []  # nothing was said yet
        recorder.heard(PrepareDuplex(mode="omni_duplex"))
        recorder.said(Prepared())
        speak(recorder, 3)
        recorder.close()
        await until_finalised(recordings)

    folder = tmp_path / "sessions" / recorder.recording_id
    assert re.fullmatch(r"\d{8}_\d{6}_omni_7", recorder.recording_id)
    assert len(read(folder / "recording.json")["chunks"]) == 3
    assert read(folder / "meta.json")["worker_id"] == 2
    counters = recordings.counters
    assert (counters.started, counters.active, counters.finished) == (1, 0, 1)
    assert counters.written_bytes > 3 * 32_000 and counters.failed == 0


async def test_a_live_session_has_its_folders_and_its_meta(tmp_path: Path) -> None:
    async with recording(tmp_path) as recordings:
        recorder = recordings.start("hdx_7", "half_duplex_audio", "worker-0")
        recorder.opened(120.0)
        recorder.heard(PrepareHalfDuplex())
        await until_written(recordings)

        folder = tmp_path / "sessions" / "hdx_7"
        meta = read(folder / "meta.json")
        names = {path.name for path in folder.iterdir() if path.is_dir()}
        recorder.close()

    assert (meta["ended_at"], meta["duration_s"]) == (None, None)
    assert meta["config"]["timeout_s"] == 120.0
    assert names == {"user_audio", "user_frames", "user_images", "user_videos", "ai_audio"}


async def test_a_session_in_which_nothing_was_said_leaves_nothing(tmp_path: Path) -> None:
    async with recording(tmp_path) as recordings:
        recordings.start("adx_1", "audio_duplex", "worker-0").close()

    assert folders(tmp_path) == []
    assert recordings.counters == RecordingCounters()


async def test_no_name_is_given_twice(tmp_path: Path) -> None:
    write_session(tmp_path / "sessions" / "hdx_1", "half_duplex_audio", [])
    async with recording(tmp_path) as recordings:
        names = [
            recordings.start("hdx_1", "half_duplex_audio", "worker-0").recording_id
            for _ in range(3)
        ]
        same_second = {
            recordings.start("adx", "audio_duplex", "worker-0").recording_id for _ in range(20)
        }

    assert names == ["hdx_1_2", "hdx_1_3", "hdx_1_4"]
    assert len(same_second) == 20


async def test_an_id_that_is_no_file_name_becomes_one(tmp_path: Path) -> None:
    async with recording(tmp_path) as recordings:
        recorder = recordings.start("../../etc/x y", "chat", "worker-0")

    assert recorder.recording_id == "______etc_x_y"


async def test_what_waits_for_the_disk_is_bounded_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still; the recorder goes on, and the recording says what is missing."""
    disk = threading.Event()
    write = SessionFile.write
    monkeypatch.setattr(
        SessionFile, "write", lambda *words: disk.wait(TIMEOUT_S) and write(*words)
    )
    async with recording(tmp_path, max_waiting_bytes=500_000) as recordings:
        recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
        speak(recorder, 50)
        held, dropped = recordings.waiting_bytes, recordings.counters.dropped_records
        disk.set()
        await until_written(recordings)
        speak(recorder, 2)
        recorder.close()
        await until_finalised(recordings)

    assert held < 500_000 + 2 * 64_000
    assert 50 < dropped < 100
    kept = read(tmp_path / "sessions" / recorder.recording_id / "recording.json")
    assert kept["dropped_records"] == dropped
    assert [chunk["index"] for chunk in kept["chunks"]][-2:] == [50, 51]


async def test_ten_minutes_of_sound_and_pictures_are_held_for_a_moment_only(
    tmp_path: Path,
) -> None:
    """600 s as fast as the disk takes them: 10 times what may be held passes through."""
    frame = picture("JPEG", (320, 240))
    result = UnitResult(is_listen=False, pcm=answer(1.0), text="word ", token_ids=(1, 2, 3))
    held = 0
    async with recording(tmp_path, max_waiting_bytes=4 * 2**20) as recordings:
        recorder = recordings.start("omni_1", "omni_duplex", "worker-0")
        tracemalloc.start()
        for _ in range(600):
            recorder.heard(AudioChunk(pcm=tone(1.0), frames=(frame,)))
            recorder.said(result)
            while recordings.waiting_bytes > 2**20:
                await asyncio.sleep(0.001)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        counters = recordings.counters
        recorder.close()

    assert (counters.dropped_records, counters.failed) == (0, 0)
    assert counters.written_bytes > 600 * 80_000
    assert held < 3 * 2**20


def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path: Path) -> None:
    done = run_limited(tmp_path, 300_000)

    assert "The disk is full" in done and "no longer recorded" in done
    (folder,) = unfinalised(tmp_path / "sessions")
    records = list(read_journal(folder / JOURNAL))
    assert 4 < len(records) and (folder / JOURNAL).stat().st_size <= 300_000


def run_limited(data_dir: Path, max_bytes: int) -> str:
    """Record 30 s in a process that may write no file above *max_bytes*; return what it told."""
    script = """
import asyncio, sys
from pathlib import Path
from tests.recording.test_disk import speak
from omni.recording.disk import DiskRecordings

async def main():
    recordings = DiskRecordings(Path(sys.argv[1]))
    await recordings.open()
    recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
    while not recorder.trouble:
        speak(recorder, 1)
        await asyncio.sleep(0.001)
    speak(recorder, 100)
    print(recorder.trouble, recordings.counters.failed)
    recordings.finaliser.close()
    recorder.close()
    await recordings.close()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(data_dir)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes)),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_file_system_without_room_is_survived_and_finalised_later(tmp_path: Path) -> None:
    """A real one of 1 MiB, where mounting is allowed."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        async with recording(tmp_path) as recordings:
            recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
            async with asyncio.timeout(TIMEOUT_S):
                while not recorder.trouble:
                    speak(recorder, 1)
                    await asyncio.sleep(0.001)
                speak(recorder, 10)
                recorder.close()
                while not recordings.counters.unfinalised:  # there is no room for the files either
                    await asyncio.sleep(0.02)
        assert recordings.counters.failed == 1
        subprocess.run(["mount", "-o", "remount,size=16m", str(tmp_path)], check=True)
        async with recording(tmp_path) as recordings:
            await until_finalised(recordings)
        kept = read(tmp_path / "sessions" / recorder.recording_id / "recording.json")
        assert kept["complete"] is False and len(kept["chunks"]) > 20
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


async def test_a_data_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    async with recording(tmp_path) as recordings:
        recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
        speak(recorder, 1)
        await until_written(recordings)
        recorder.close()

    assert "cannot be written" in recorder.trouble
    assert recordings.counters.failed == 1


async def test_sessions_of_a_killed_process_are_finalised_at_the_next_start(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        items = [(0.1, 0, UserTranscript(text=name))]
        write_session(tmp_path / "sessions" / name, "audio_duplex", items, ended=False)
    (tmp_path / "sessions" / "b" / JOURNAL).write_bytes(b"no journal at all")

    async with recording(tmp_path) as recordings:
        await asyncio.to_thread(until_counted, recordings, 3)

    assert (recordings.counters.finalised, recordings.counters.unfinalised) == (2, 1)
    assert [path.name for path in unfinalised(tmp_path / "sessions")] == ["b"]
    assert read(tmp_path / "sessions" / "c" / "recording.json")["complete"] is False


def until_counted(recordings: DiskRecordings, count: int) -> None:
    counters = recordings.counters
    until(lambda: counters.finalised + counters.unfinalised == count, TIMEOUT_S)


def test_the_finaliser_ends_its_process_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "a", "audio_duplex", [(0.1, 0, CHUNK)])
    finaliser = Finaliser(RecordingCounters(), idle_s=0.1)
    finaliser.start(tmp_path / "nothing")
    finaliser.add(folder)
    until(lambda: finaliser.counters.finalised == 1, TIMEOUT_S)
    until(lambda: not finaliser.is_running, TIMEOUT_S)

    write_session(tmp_path / "b", "audio_duplex", [(0.1, 0, CHUNK)])
    finaliser.add(tmp_path / "b")
    until(lambda: finaliser.counters.finalised == 2, TIMEOUT_S)
    finaliser.close()

    assert not finaliser.is_running


def test_sessions_are_finalised_while_thousands_of_connections_are_open(tmp_path: Path) -> None:
    """`select` takes no file of a number above 1023, and the thread ended of it for good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = 1200 if hard == resource.RLIM_INFINITY else min(1200, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (many, hard))
    folder = write_session(tmp_path / "a", "audio_duplex", [(0.1, 0, CHUNK)])
    finaliser = Finaliser(RecordingCounters())
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        stack.callback(finaliser.close)
        finaliser.start(tmp_path / "nothing")
        finaliser.add(folder)

        until(lambda: finaliser.counters.finalised == 1, TIMEOUT_S)


def test_a_session_that_was_finalised_already_counts_as_no_failure(tmp_path: Path) -> None:
    """A look at the disk may find a session just before its recorder hands it on as well."""
    first, second = (
        write_session(tmp_path / name, "audio_duplex", [(0.1, 0, CHUNK)]) for name in ("a", "b")
    )
    finaliser = Finaliser(RecordingCounters())
    for folder in (first, first, second):
        finaliser.add(folder)
    finaliser.start(tmp_path / "nothing")

    until(lambda: finaliser.counters.finalised == 2, TIMEOUT_S)
    finaliser.close()

    assert finaliser.counters.unfinalised == 0


def test_what_failed_is_finalised_when_there_is_room_again(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "a", "audio_duplex", [(0.1, 0, CHUNK)])
    (folder / "user_audio").write_bytes(b"in the way")
    finaliser = Finaliser(RecordingCounters(), idle_s=0.1, retry_s=0.0)
    finaliser.start(tmp_path)
    until(lambda: finaliser.counters.unfinalised > 0, TIMEOUT_S)

    (folder / "user_audio").unlink()

    until(lambda: finaliser.counters.finalised == 1, TIMEOUT_S)
    finaliser.close()


def test_no_recording_keeps_nothing_and_has_no_name() -> None:
    recordings = NoRecording()

    recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
    speak(recorder, 1)
    recorder.diagnosed({})
    recorder.opened(1.0)
    recorder.close()

    assert (recorder.recording_id, recorder.trouble) == ("", "")
    assert recordings.counters == RecordingCounters()


async def test_what_no_journal_can_hold_costs_its_own_record_alone(tmp_path: Path) -> None:
    """A chat of 70,000 little recordings ended the thread that writes for all sessions."""
    vast = AudioChunk(pcm=CHUNK.pcm, frames=(Buffer(b"x"),) * 70_000)
    async with recording(tmp_path) as recordings:
        recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
        recorder.heard(vast)
        speak(recorder, 1)
        await until_written(recordings)
        recorder.close()
        await until_finalised(recordings)

    assert recorder.trouble == ""
    chunks = read(tmp_path / "sessions" / recorder.recording_id / "recording.json")["chunks"]
    assert [chunk["index"] for chunk in chunks if "user_audio" in chunk] == [1]


async def test_a_gap_stands_where_records_are_missing(tmp_path: Path) -> None:
    async with recording(tmp_path, max_waiting_bytes=0) as recordings:
        recorder = recordings.start("adx_1", "audio_duplex", "worker-0")
        speak(recorder, 2)
        recordings.max_waiting_bytes = 10**9
        recordings.finaliser.close()
        speak(recorder, 1)
        recorder.close()
        await until_written(recordings)

    path = tmp_path / "sessions" / recorder.recording_id / JOURNAL
    items = [record.item for record in read_journal(path)]
    assert items[1] == Gap(num_records=4, num_bytes=2 * (64_000 + 2 * 512))
    assert isinstance(items[2], AudioChunk)

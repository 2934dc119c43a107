"""`omni sessions`, as people type it, with no server running."""

import io
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import orjson
import pytest

from omni.engine import (
    AudioChunk,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Part,
    UnitResult,
    UserTranscript,
)
from omni.process import ROOT
from omni.recording.finalise import finalise
from omni.recording.journal import JournalWriter
from omni.recording.layout import JOURNAL
from tests.conftest import clean_environment
from tests.recording.stage import TIMEOUT_S, answer, tone, write_session


def omni_sessions(data_dir: Path, *words: str, code: int = 0, cwd: Path = ROOT) -> bytes:
    """Return what the command prints; on standard error too where it fails."""
    command = [sys.executable, "-m", "omni.cli", "sessions", *words]
    done = subprocess.run(
        [*command, "--set", f"service.data_dir={data_dir}"],
        cwd=cwd,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout + (done.stderr if code else b"")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A call, a chat an hour younger, and a session that was cut."""
    now, folder = time.time(), tmp_path / "data" / "sessions"
    said = UnitResult(is_listen=False, text="Good morning.", pcm=answer(1.0), end_of_turn=True)
    call = write_session(
        folder / "20261101_090000_adx_1",
        "audio_duplex",
        [(0.5, 0, AudioChunk(pcm=tone(1.0))), (0.6, 0, UserTranscript(text="hi")), (0.9, 0, said)],
        started_at=now - 40 * 86_400,
    )
    hello = ChatMessage(role="user", parts=(Part(kind="text", text="What is it?"),))
    chat = write_session(
        folder / "chat_1",
        "chat",
        [
            (0.0, 0, ChatRequest(messages=(hello,))),
            (1.0, 0, ChatDone(text="A test.", input_tokens=1, generated_tokens=2)),
        ],
        started_at=now - 3600,
    )
    finalise(call)
    finalise(chat)
    items = [(0.5, 0, AudioChunk(pcm=tone(1.0)))]
    write_session(folder / "cut", "audio_duplex", items, ended=False, started_at=now)
    return tmp_path / "data"


def test_list_shows_the_newest_first(data_dir: Path) -> None:
    lines = omni_sessions(data_dir, "list").decode().splitlines()

    assert [line.split()[0] for line in lines] == [
        "session", "cut", "chat_1", "20261101_090000_adx_1"
    ]  # fmt: skip
    assert "more: --limit 0" in omni_sessions(data_dir, "list", "--limit", "1").decode()
    first = orjson.loads(omni_sessions(data_dir, "list", "--json").splitlines()[1])
    assert (first["session_id"], first["live"]) == ("chat_1", False)


def test_list_says_when_there_is_nothing(tmp_path: Path) -> None:
    assert omni_sessions(tmp_path, "list") == b"nothing is recorded\n"


def test_show_tells_what_was_said(data_dir: Path) -> None:
    call = omni_sessions(data_dir, "show", "20261101_090000_adx_1").decode()
    chat = omni_sessions(data_dir, "show", "chat_1").decode()

    assert "0.6 s  user:  hi" in call and "0.5 s  omni:  Good morning." in call
    assert "user:  What is it?" in chat and "omni:  A test." in chat
    assert orjson.loads(omni_sessions(data_dir, "show", "chat_1", "--json"))["mode"] == "chat"


def test_show_finishes_a_session_that_was_cut(data_dir: Path) -> None:
    recording = orjson.loads(omni_sessions(data_dir, "show", "cut", "--json"))

    assert recording["complete"] is False and len(recording["chunks"]) == 1
    assert not (data_dir / "sessions" / "cut" / JOURNAL).exists()


def test_export_writes_a_zip_file(data_dir: Path, tmp_path: Path) -> None:
    here = omni_sessions(data_dir, "export", "chat_1", cwd=tmp_path)
    there = omni_sessions(data_dir, "export", "chat_1", "--to", "-")

    assert here.startswith(b"chat_1.zip: ")
    for content in ((tmp_path / "chat_1.zip").read_bytes(), there):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert "chat_1/recording.json" in archive.namelist()


def test_clean_keeps_a_month_unless_told_otherwise(data_dir: Path) -> None:
    first = orjson.loads(omni_sessions(data_dir, "clean"))
    second = orjson.loads(omni_sessions(data_dir, "clean", "--days", "3650"))
    third = orjson.loads(omni_sessions(data_dir, "clean", "--max-gb", "0.000000001"))

    assert (first["deleted_expired"], first["remaining"]) == (1, 2)
    assert (second["deleted"], third["deleted_capacity"]) == (0, 2)


def test_a_session_that_runs_is_neither_exported_nor_cleaned(data_dir: Path) -> None:
    folder = data_dir / "sessions" / "cut"
    (folder / JOURNAL).unlink()
    journal = JournalWriter.create(folder / JOURNAL)

    told = omni_sessions(data_dir, "export", "cut", code=1)
    report = orjson.loads(omni_sessions(data_dir, "clean", "--max-gb", "0.000000001"))
    listed = omni_sessions(data_dir, "list").decode()
    journal.close()

    assert b"is being recorded" in told and folder.exists() and report["deleted"] == 2
    assert "live" in listed


@pytest.mark.parametrize("words", [("show", "nope"), ("export", "../x")])
def test_a_session_that_is_not_there_is_told_in_a_line(data_dir: Path, words: tuple[str]) -> None:
    assert omni_sessions(data_dir, *words, code=1) == b"omni: Session not found\n"


@pytest.mark.parametrize("words", [("--days", "0"), ("--max-gb", "0"), ("--days", "-1")])
def test_a_limit_of_nothing_deletes_nothing_and_says_so(
    data_dir: Path, words: tuple[str, ...]
) -> None:
    """It had been answered with the settings that are off, as if none had been given."""
    told = omni_sessions(data_dir, "clean", *words, code=1)

    assert told == b"omni: --days and --max-gb are above 0\n"
    assert len(list((data_dir / "sessions").iterdir())) == 3

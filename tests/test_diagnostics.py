"""Diagnostics are written beside the event loop, and never without bound."""

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from omni import diagnostics
from omni.diagnostics import MAX_SESSION_BYTES, MAX_WAITING, TRACE, Diagnostics


def lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_each_session_has_its_file_with_the_time_of_receipt(tmp_path: Path) -> None:
    kept = Diagnostics(tmp_path / "run")
    kept.start()
    for number in range(3):
        kept.note("omni_1", {"event": "gap", "n": number}, 100.5 + number)
    kept.note("adx_2", {"event": "session_summary"}, 7.0)
    kept.close()

    assert lines(tmp_path / "run" / "diag_omni_1.jsonl") == [
        {"event": "gap", "n": number, "_server_recv_ts": 100.5 + number} for number in range(3)
    ]
    assert lines(tmp_path / "run" / "diag_adx_2.jsonl")[0]["event"] == "session_summary"


def test_a_session_may_fill_one_mebibyte(tmp_path: Path) -> None:
    kept = Diagnostics(tmp_path)
    kept.start()
    for _ in range(20):
        kept.note("omni_1", {"text": "x" * 100_000}, 0.0)
    kept.note("omni_1", {"text": "a short one still fits"}, 0.0)
    kept.close()

    path = tmp_path / "diag_omni_1.jsonl"
    assert 900_000 < path.stat().st_size <= MAX_SESSION_BYTES
    assert lines(path)[-1]["text"] == "a short one still fits"
    assert kept.num_dropped == 10


def test_the_oldest_sessions_make_place_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "MAX_SESSION_FILES", 3)
    for number in range(5):
        path = tmp_path / f"diag_old{number}.jsonl"
        path.write_text("{}\n")
        os.utime(path, (number, number))
    kept = Diagnostics(tmp_path)
    kept.start()
    kept.note("new", {}, 0.0)
    kept.close()

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"diag_old3.jsonl", "diag_old4.jsonl", "diag_new.jsonl"}


def test_the_trace_is_set_aside_when_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "MAX_TRACE_BYTES", 1000)
    kept = Diagnostics(tmp_path)
    kept.start()
    for number in range(8):
        kept.trace({"session_id": f"s{number}", "extra": "x" * 200, "ts": "the client's own"})
    kept.close()

    now, before = lines(tmp_path / TRACE), lines(tmp_path / f"{TRACE}.1")
    assert [entry["session_id"] for entry in before + now][-1] == "s7"
    assert all(list(entry)[0] == "ts" and entry["ts"].count(":") == 2 for entry in now)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TRACE, f"{TRACE}.1"]


def test_the_trace_may_fill_five_mebibytes(tmp_path: Path) -> None:
    kept = Diagnostics(tmp_path)
    kept.start()
    for number in range(90):
        kept.trace({"session_id": f"s{number}", "extra": "x" * 60_000})
    kept.close()

    now, before = tmp_path / TRACE, tmp_path / f"{TRACE}.1"
    assert 5 * 2**20 - 120_000 < before.stat().st_size < 5 * 2**20 + 120_000
    assert len(lines(before) + lines(now)) == 90


def test_what_comes_too_fast_is_dropped_and_counted(tmp_path: Path) -> None:
    kept = Diagnostics(tmp_path)
    for _ in range(MAX_WAITING + 5):  # its thread does not run yet
        kept.note("omni_1", {}, 0.0)
    kept.start()
    kept.close()

    assert kept.num_dropped == 5
    assert len(lines(tmp_path / "diag_omni_1.jsonl")) == MAX_WAITING


def test_a_folder_that_cannot_be_written_costs_records_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Diagnostics(tmp_path / "file")
    kept.start()
    kept.note("omni_1", {}, 0.0)
    kept.close()

    assert kept.num_dropped == 1

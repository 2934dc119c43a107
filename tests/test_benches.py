"""Each bench runs, in its shortest form, prints a table and writes its figures as JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from omni.process import ROOT
from tests.conftest import RunningOmni, clean_environment

TIMEOUT_S = 300


def run(name: str, folder: Path, *words: str) -> tuple[str, Any]:
    """Return what bench *name* printed, and its figures."""
    figures = folder / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *words, "--json", str(figures)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout, json.loads(figures.read_text("utf-8"))


def test_the_fabric_bench_tells_each_hop(tmp_path: Path) -> None:
    printed, figures = run("fabric", tmp_path, "--quick", "--seconds", "0.4")

    assert [row for row in figures["rows"] if row["errors"]] == []
    for hop in ("client > web", "web > broker", "broker > worker", "web > client"):
        assert hop in printed


def test_the_meter_bench_tells_what_an_observation_costs(tmp_path: Path) -> None:
    printed, figures = run("meter", tmp_path, "--count", "10")

    assert "one observation" in printed
    assert all(row["best ns"] > 0 for row in figures["rows"])


def test_the_queue_bench_counts_its_waiters(tmp_path: Path) -> None:
    printed, figures = run("queue", tmp_path, "--waiters", "4")

    assert "told p50 ms" in printed and figures


def test_the_bench_of_binary_audio_compares_every_form(tmp_path: Path) -> None:
    printed, figures = run("binary_audio", tmp_path, "--rounds", "1")

    told = {row["form"]: row["out bytes/s"] for row in figures["rows"]}
    assert told["opus"] < told["pcm16"] < told["float32"] < told["base64"]
    assert "read p99 ms" in printed and "tell p99 ms" in printed


def test_the_talk_bench_compares_two_servers(omni: RunningOmni, tmp_path: Path) -> None:
    words = ("--engine", "null", "--mode", "chat", "--sessions", "1", "--against", omni.address)
    printed, figures = run("talk", tmp_path, *words)

    assert [row["server"] for row in figures["rows"]] == ["omni", "against"]
    assert all((row["answers"], row["failed"]) == (8, 0) for row in figures["rows"])
    assert "sound p50" in printed


def test_the_recording_bench_watches_the_memory(tmp_path: Path) -> None:
    printed, figures = run("recording", tmp_path, "--quick")

    assert [row["sessions"] for row in figures["listing"]] == [50, 50, 50]
    assert figures["finalise"][0]["files_mib"] > 1 and "rss_mib" in printed

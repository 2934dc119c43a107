"""The bench of chats and hands-free turns, in small."""

import json
from pathlib import Path

import pytest

from bench import engine_turns


def test_it_measures_how_soon_an_answer_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"

    status = engine_turns.main(["--tiny", "--turns", "1", "--json", str(path)])

    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert status == 0
    assert [(row["turn"], row["ms to"]) for row in rows] == [
        ("chat", "prefilled"),
        ("chat", "first text"),
        ("chat", "first sound"),
        ("chat", "done"),
        ("half duplex", "speech to sound"),
        ("half duplex", "silence to sound"),
    ]
    prefilled, text, sound, done = (row["p50"] for row in rows[:4])
    assert 0 < prefilled <= text < sound < done
    assert "silence to sound" in capsys.readouterr().out

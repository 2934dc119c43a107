"""The bench of the engine's steps, in small."""

import json
from pathlib import Path

import pytest

from bench import engine_step


def test_it_measures_every_kind_of_unit_and_every_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"

    status = engine_step.main(["--tiny", "--units", "1", "--steps", "1", "--json", str(path)])

    document = json.loads(path.read_text("utf-8"))
    assert status == 0
    assert [(row["unit"], row["kv"]) for row in document["units"]] == [
        (unit, kv)
        for kv in (150, 400)
        for unit in ("audio listen", "audio speak", "omni listen", "omni speak")
    ]
    assert [row["batch"] for row in document["steps"]] == [1, 4]
    assert all(row["latency p50"] > 0 for row in document["units"])
    assert {"cpu", "commit", "device"} <= document["machine"].keys()
    assert "A step, ms" in capsys.readouterr().out

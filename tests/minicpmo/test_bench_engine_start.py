"""The bench of starts, in small: fresh processes, with and without recording."""

import json
from pathlib import Path

import pytest

from bench import engine_start


def test_it_tells_where_the_time_of_a_start_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"

    words = ["--tiny", "--rounds", "1", "--slots", "2"]
    status = engine_start.main([*words, "--folder", str(tmp_path), "--json", str(path)])

    document = json.loads(path.read_text("utf-8"))
    assert status == 0
    assert [row["capture"] for row in document["rows"]] == [False, True]
    for row in document["rows"]:
        assert {"imports", "weights", "tokenizer", "flow", "HiFT", "caches", "warm-up"} < set(row)
        assert row["process"] > row["imports"] > 0
    assert document["slots"] == 2 and document["files"]["GB"] > 0.01
    assert "default voice" in capfd.readouterr().out

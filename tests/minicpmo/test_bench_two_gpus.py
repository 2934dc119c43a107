"""The bench of two workers, in small: one is killed, and the other's calls lose nothing."""

import json
from pathlib import Path

import pytest

from bench import engine_two_gpus


def test_it_tells_what_a_killed_worker_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    words = ["--tiny", "--sessions", "2", "--slots", "2", "--seconds", "2", "--json", str(path)]

    status = engine_two_gpus.main([*words, "--logs", str(tmp_path / "logs")])

    document = json.loads(path.read_text("utf-8"))
    assert status == 0
    assert document["calls by worker"] == {"worker-0": 1, "worker-1": 1}
    assert document["told"] == {"worker_lost": 1}
    assert document["others: units unanswered"] == 0
    assert sum(document["calls afterwards"].values()) == 2
    assert (tmp_path / "logs" / "worker-1.log").is_file()
    assert "others, after" in capsys.readouterr().out

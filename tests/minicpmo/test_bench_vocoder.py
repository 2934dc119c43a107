"""The vocoder bench runs where there is no GPU."""

import json
from pathlib import Path

import pytest

from bench.engine_vocoder import main


def test_the_bench_tries_every_stage_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "bench.json"

    main(["--tiny", "--device", "cpu", "--batch", "2", "--repeats", "1", "--json", str(path)])

    report = json.loads(path.read_text())
    stages = [each["stage"] for each in report["timings"]]
    assert stages == [
        "flow encoder",
        "DiT, one Euler step",
        "flow, whole",
        "vocoder, mid-turn",
        "vocoder, any row",
        "whole step, host included",
    ]
    assert all(each["batch"] == 2 for each in report["timings"])
    assert {"torch", "device", "commit"} <= report["machine"].keys()
    assert "DiT, one Euler step" in capsys.readouterr().out

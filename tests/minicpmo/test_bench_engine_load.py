"""The benches of paced sessions: their pure parts, and a run in small."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch

from bench import engine_capacity, engine_load
from bench.paced_engine import (
    LISTEN_UNITS,
    SPEAK_UNITS,
    Answer,
    Load,
    Measured,
    TurnScript,
    turns,
)
from omni.engine import StageCosts
from omni.minicpmo.sampling import DUPLEX_SAMPLING
from omni.minicpmo.tiny_tokenizer import train_tokenizer, write_tokenizer
from omni.minicpmo.tokenizer import Tokenizer
from omni.minicpmo.work import Draw, Drawn

LOAD = Load(mode="audio", num_sessions=2, duration_s=5.0)


def answered(latency_s: float, **fields: object) -> Answer:
    given = {"is_listen": True, "is_first_sound": False, "kv_tokens": 100} | fields
    costs = StageCosts(all_ms=5.0)
    return Answer(latency_s=latency_s, costs=costs, **given)  # type: ignore[arg-type]  # mixed


def test_four_units_of_ten_speak() -> None:
    speaks = [
        unit != "listen" for seed in range(200) for unit in islice(turns(Random(seed)), 60)
    ]

    assert 0.38 < sum(speaks) / len(speaks) < 0.42


@pytest.mark.parametrize("seed", range(5))
def test_turns_and_pauses_are_as_long_as_said(seed: int) -> None:
    units = list(islice(turns(Random(seed)), 300))

    first = units.index("end") + 1  # the first turn may have begun before
    while len(units) - first > SPEAK_UNITS[1] + LISTEN_UNITS[1]:
        speaks_at = first + next(n for n, unit in enumerate(units[first:]) if unit != "listen")
        ends_at = speaks_at + units[speaks_at:].index("end")
        assert LISTEN_UNITS[0] <= speaks_at - first <= LISTEN_UNITS[1]
        assert SPEAK_UNITS[0] <= ends_at - speaks_at + 1 <= SPEAK_UNITS[1]
        first = ends_at + 1


def test_each_slot_is_given_the_tokens_of_its_own_turns(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, train_tokenizer())
    control = Tokenizer.from_directory(tmp_path).control
    script, drawn = TurnScript(), Drawn(token=7, is_recorded=True)
    draw = Draw(logits=torch.zeros(1, 10), sampling=DUPLEX_SAMPLING)
    script.use(control, word=9)
    for slot in (0, 3):
        script.begin(slot, Random(slot))

    given = {slot: [script(slot, draw, drawn).token for _ in range(400)] for slot in (0, 3)}

    assert given[0] != given[3]
    for slot, tokens in given.items():
        units = islice(turns(Random(slot)), 400)
        assert tokens == [token for unit in units for token in script.tokens[unit]][:400]
    assert script(5, draw, drawn) == drawn  # the engine's own call


def test_an_answer_after_the_next_second_and_a_missing_one_are_late() -> None:
    measured = Measured(LOAD, num_units=4, answers=[answered(0.1), answered(1.0), answered(1.01)])

    assert measured.num_late == 2
    assert measured.miss_rate == 0.5
    assert engine_load.unit_row(measured)["late %"] == 50.0


def test_first_sound_is_told_apart_from_the_other_units_that_speak() -> None:
    speaks = [
        answered(0.2, is_listen=False, is_first_sound=True),
        answered(0.4, is_listen=False),
    ]

    row = engine_load.unit_row(Measured(LOAD, num_units=2, answers=speaks))

    assert (row["first sound p50"], row["speak max"], row["speak %"]) == (200.0, 400.0, 100)


def test_the_most_sessions_without_misses_are_held() -> None:
    def of(num_sessions: int, num_late: int) -> Measured:
        load = Load(mode="audio", num_sessions=num_sessions, duration_s=1.0)
        late = [answered(2.0)] * num_late
        return Measured(load, num_units=200, answers=[answered(0.1)] * (200 - num_late) + late)

    assert engine_capacity.held([of(8, 0), of(16, 2), of(24, 3)]) == 16
    assert engine_capacity.held([of(8, 100)]) == 0


def test_paced_calls_are_measured_by_listen_and_speak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    words = ["--tiny", "--sessions", "3", "--seconds", "2", "--mode", "audio", "--json", str(path)]

    status = engine_load.main(words)

    document = json.loads(path.read_text("utf-8"))
    (row,) = document["units"]
    assert (status, row["sessions"], row["units"], row["failed"]) == (0, 3, 6, 0)
    assert row["speak %"] > 0  # of these seeds
    assert {"late", "listen p50", "speak p50"} <= row.keys()
    assert [stage["unit"] for stage in document["stages"]] == ["listen", "speak"]
    assert {"cpu", "commit", "device"} <= document["machine"].keys()
    assert "Units, ms" in capsys.readouterr().out


def test_capacity_tells_memory_and_readiness_and_ramps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    words = ["--tiny", "--sessions", "1,2", "--seconds", "1", "--omni", "1", "--json", str(path)]

    status = engine_capacity.main(words)

    document = json.loads(path.read_text("utf-8"))
    assert status == 0
    assert [row["sessions"] for row in document["units"]][0] == 1
    assert document["units"][-1]["mode"] == "omni"
    assert [row["cache"] for row in document["caches"]] == [
        "language model", "audio encoder", "speech codes", "vocoder and voices", "all"
    ]
    assert all(row["MB a session"] > 0 for row in document["caches"])
    assert document["ready"]["sessions that fit"] == 2
    assert "held with at most 1 % late" in capsys.readouterr().out

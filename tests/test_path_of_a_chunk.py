"""The table of docs/architecture.md, walked with a broker, a worker and a web of their own."""

import ast
import re

import pytest
from attrs import frozen

from omni.process import ROOT
from tests.conftest import RunningOmni
from tests.realtime.client import Event, connected

TABLE = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## The way of one chunk")[1]
NUM_STEPS = 17


@frozen
class Step:
    """A row of the table. functions: named right behind a Python file, in that file."""

    number: int
    files: tuple[str, ...]
    functions: tuple[tuple[str, str], ...]
    stamp: str


def steps() -> list[Step]:
    """Return the rows."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .+ \| ?(.*?) ?\|$", TABLE, re.MULTILINE)
    return [
        Step(
            int(number),
            tuple(re.findall(r"`([\w/]+\.\w+)`", where)),
            tuple(re.findall(r"`([\w/]+\.py)`\)? `(\w+)`", where)),
            stamp,
        )
        for number, where, stamp in rows
    ]


STEPS = steps()


def test_the_table_is_read_whole() -> None:
    assert [step.number for step in STEPS] == list(range(1, NUM_STEPS + 1))
    assert all(step.files for step in STEPS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"step {step.number}")
def test_a_step_names_files_and_functions_that_are_there(step: Step) -> None:
    assert [name for name in step.files if not (ROOT / name).is_file()] == []

    for name, function in step.functions:
        tree = ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert function in {node.name for node in tree if isinstance(node, kinds)}, name


async def results_of(omni: RunningOmni, count: int) -> list[Event]:
    """Send *count* chunks through the whole of *omni*, each when the last is answered."""
    async with connected(omni.websocket_address, "/ws/duplex/adx_path") as client:
        await client.prepare(trace=True, config={"force_listen_count": 0})
        results = []
        for _ in range(count):
            await client.send_chunk()
            results.append(await client.expect("result"))
        return results


async def test_every_chunk_passes_the_hops_of_the_table_in_order(omni: RunningOmni) -> None:
    results = await results_of(omni, 5)

    expected = [step.stamp for step in STEPS if step.stamp]
    assert [[hop for hop, _ in result["trace"]] for result in results] == [expected] * 5
    assert any(result["audio_data"] for result in results), "no answer came back the whole way"


async def test_times_grow_along_the_way_and_from_chunk_to_chunk(omni: RunningOmni) -> None:
    """All processes stamp with one clock, so the stamps of the whole conversation are in order."""
    results = await results_of(omni, 3)

    times = [at_ns for result in results for _, at_ns in result["trace"]]
    assert times == sorted(times)

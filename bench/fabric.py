"""What the fabric costs: the null engine behind the real web, broker and worker.

    python -m bench.fabric [--against URL] [--json FILE] [--minutes N] [--record] [--quick]

paced: sessions with a chunk of 1 s (85 KB of JSON) each second; held: no chunk was answered after
the next one was due. closed: the next chunk as soon as the last is answered. added: above the
percentile of a server of one process that only parses and answers. cpu: ms a chunk. A whole run
takes 5 minutes and wants a quiet machine; others: the CPU that was not the bench's, in percent of
one core. A row with much of it is worth little.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import define

from bench import floor, report
from bench.duplex_load import Figures, chunk_frame, closed_loop, paced
from bench.server import Server, running
from omni.recording.layout import JOURNAL
from omni.web import loop_factory

PACED_SESSIONS = (1, 8, 32, 400)
CLOSED_SESSIONS = (1, 8, 32)
_FINALISED_S = 600
_QUICK = ((32,), (8,))


@define
class Run:
    """One server under test. server: None for a foreign one, whose processes are not known.

    data_dir: of one that records.
    """

    name: str
    address: str
    server: Server | None = None
    data_dir: Path | None = None

    def wait_finalised(self) -> None:
        """Wait until the files of all recordings are made: the next load has the machine alone."""
        end_s = time.monotonic() + _FINALISED_S
        while self.data_dir is not None and any(self.data_dir.glob(f"sessions/*/{JOURNAL}")):
            if time.monotonic() > end_s:
                raise TimeoutError(f"recordings are not finalised after {_FINALISED_S} s")
            time.sleep(0.1)

    def measure(self, kind: str, sessions: int, duration_s: float, jpeg: bool) -> "Outcome":
        """Return what one load did."""
        frame = chunk_frame(jpeg)
        before = self.server.cpu_s() if self.server else {}
        others = report.OtherLoad.begin()
        load = paced if kind == "paced" else closed_loop
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            figures = runner.run(load(self.address, sessions, duration_s, frame))
        after = self.server.cpu_s() if self.server else {}
        row: dict[str, object] = {
            "server": self.name,
            "load": kind,
            "sessions": sessions,
            "jpeg": "50 KB" if jpeg else "",
            "chunks": len(figures.rtt_ms),
            **{f"rtt {k}": v for k, v in report.percentiles(figures.rtt_ms).items()},
            "chunks/s": round(len(figures.rtt_ms) / figures.duration_s, 1),
            "late": figures.num_late,
            "errors": figures.num_errors,
            "held": ("yes" if figures.was_held else "no") if kind == "paced" else "",
            "others %": others.percent(),
        }
        for name in sorted(before):
            used_ms = (after[name] - before[name]) * 1000 / max(1, len(figures.rtt_ms))
            row[f"cpu {name}"] = round(used_ms, 3)
        return Outcome(row, figures)


@define
class Outcome:
    """A row of the table, and the figures behind it."""

    row: dict[str, object]
    figures: Figures


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    rows: list[dict[str, object]] = []
    hops: list[dict[str, object]] = []
    settings = {"model.engine": "null", "fabric.slots": 1024}
    machine = report.machine()
    with ExitStack() as stack:
        server = stack.enter_context(running(settings))
        floor_address = stack.enter_context(floor.running())
        runs = [Run("floor", floor_address), Run("omni", server.address, server)]
        if args.record:
            runs.append(_recording_run(stack, settings))
        if args.against:
            runs.append(Run("against", args.against))
        for kind, sessions, jpeg in _loads(args.quick):
            for run in runs:
                outcome = run.measure(kind, sessions, args.seconds, jpeg)
                run.wait_finalised()
                rows.append(outcome.row)
                _add_above_floor(rows)
                hops += _hop_rows(outcome) if run.server else []
                print(report.table(rows[-1:]), flush=True)
        memory = _memory(runs[1], args.minutes)
    print(f"\n{machine}\nsettings: {settings}, {args.seconds:g} s each load")
    print(f"\n{report.table(rows)}\n\nhop by hop, ms\n{report.table(hops)}")
    print(f"\nmemory, MiB\n{report.table(memory)}")
    document = {"machine": machine, "settings": settings, "seconds": args.seconds}
    document |= {"rows": rows, "hops": hops, "memory": memory}
    report.write_json(args.json, document)


def _recording_run(stack: ExitStack, settings: Mapping[str, object]) -> Run:
    """Return one more omni, which records what is said to it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omni-")))
    recording = {**settings, "recording.enabled": "true", "service.data_dir": folder}
    server = stack.enter_context(running(recording))
    return Run("omni, recording", server.address, server, folder)


def _loads(quick: bool) -> list[tuple[str, int, bool]]:
    paced_sessions, closed_sessions = _QUICK if quick else (PACED_SESSIONS, CLOSED_SESSIONS)
    loads = [("paced", n, False) for n in paced_sessions]
    loads += [("paced", n, True) for n in paced_sessions if n <= 32]
    loads += [("closed", n, jpeg) for jpeg in (False, True) for n in closed_sessions]
    return loads


def _add_above_floor(rows: list[dict[str, object]]) -> None:
    row = rows[-1]
    same = ("load", "sessions", "jpeg")
    for other in rows[:-1]:
        is_floor = other["server"] == "floor" and all(other[k] == row[k] for k in same)
        if is_floor and row["load"] == "paced" and row["chunks"] and other["chunks"]:
            for name in ("p50", "p95", "p99"):
                above = float(str(row[f"rtt {name}"])) - float(str(other[f"rtt {name}"]))
                row[f"added {name}"] = round(above, 2)


def _hop_rows(outcome: Outcome) -> list[dict[str, object]]:
    same = {name: outcome.row[name] for name in ("load", "sessions", "jpeg")}
    return [
        {**same, "hop": hop, **report.percentiles(values, 3)}
        for hop, values in outcome.figures.hops_ms.items()
        if same["load"] == "paced"
    ]


def _memory(run: Run, minutes: float) -> Sequence[dict[str, object]]:
    """Return the memory of each process before and after 32 paced sessions of that many minutes."""
    if not minutes or run.server is None:
        return []
    run.measure("paced", 32, 5, False)
    rows: list[dict[str, object]] = [{"after_minutes": 0, **run.server.rss_mib()}]
    for number in range(2):
        run.measure("paced", 32, minutes * 30, False)
        rows.append({"after_minutes": minutes * (number + 1) / 2, **run.server.rss_mib()})
    return rows


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="", metavar="URL", help="drive this server as well")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--minutes", type=float, default=0.0, help="watch the memory for so long")
    parser.add_argument("--record", action="store_true", help="measure a server that records, too")
    parser.add_argument("--quick", action="store_true", help="one load of each kind")
    return parser


if __name__ == "__main__":
    main()

"""Figures of a bench: percentiles, the machine they were taken on, tables for people, JSON."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent

Row = Mapping[str, object]
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


@frozen
class OtherLoad:
    """What else the machine does during a measurement: all but this process and its descendants."""

    begun_s: float
    used_s: float

    @classmethod
    def begin(cls) -> "OtherLoad":
        """Begin to watch."""
        return cls(time.monotonic(), _others_cpu_s())

    def percent(self) -> int:
        """Return the CPU that others have used since then, in percent of one core."""
        passed_s = time.monotonic() - self.begun_s
        return round(100 * (_others_cpu_s() - self.used_s) / max(passed_s, 0.001))


def percentiles(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum of *values*."""
    if not values:
        return {}
    found = np.percentile(np.asarray(values), [50, 95, 99, 100])
    return {
        name: round(float(value), digits)
        for name, value in zip(("p50", "p95", "p99", "max"), found, strict=True)
    }


def machine() -> dict[str, object]:
    """Return what a figure must be read with: the machine, its load and the commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "none",
    }


def table(rows: Sequence[Row]) -> str:
    """Return *rows* as a table; the columns are those of all rows, in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[_shown(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    text = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join(text)


def write_json(path: str, document: Mapping[str, object]) -> None:
    """Write *document* to *path*; nothing when that is empty."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _others_cpu_s() -> float:
    """Return the CPU time of the whole machine less that of this process and its descendants."""
    fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()
    busy = sum(int(fields[place]) for place in (1, 2, 3, 6, 7))  # user nice system irq softirq
    return (busy - _own_ticks()) / _TICKS_HZ


def _own_ticks() -> int:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8", "replace").rsplit(")", 1)[1].split()
        except (OSError, IndexError):  # it is gone meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= found
    return sum(ticks.get(pid, 0) for pid in own)


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()

"""Figures of a bench: percentiles, the machine they were taken on, tables for people, JSON."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson

ROOT = Path(__file__).resolve().parent.parent

Row = Mapping[str, object]


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

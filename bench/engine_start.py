"""How soon the MiniCPM-o engine is ready, and where that time goes: fresh processes, files cached.

    python -m bench.engine_start                       random weights at the published size, a GPU
    python -m bench.engine_start --model DIR           a checkpoint that is there
    python -m bench.engine_start --tiny --rounds 1     a dry run on a CPU

Reads the checkpoint once, so that it lies in the page cache, then starts an engine in process after
process: in turn without and with recording its steps (`capture`). The first start with them builds
kernels that the later ones find. Stages of loading overlap: they don't add up. The two ONNX files
of a random checkpoint are small stand-ins. Prints a table, and JSON with --json.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from bench import report
from omni.settings import load_settings

_TIMEOUT_S = 900.0  # a first start builds every kernel
_READ_BYTES = 1 << 24


def warm(directory: Path) -> dict[str, float]:
    """Read every file of *directory* twice; return the gigabytes, and how long the second took."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    num_bytes, begun_s = 0, 0.0
    for _ in range(2):
        num_bytes, begun_s = 0, time.monotonic()
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(_READ_BYTES):
                    num_bytes += len(piece)
    took_s = time.monotonic() - begun_s
    return {"GB": round(num_bytes / 1e9, 3), "cached read s, one thread": round(took_s, 2)}


def started(options: argparse.Namespace, directory: Path, captures: bool) -> report.Row:
    """Return the times of a start in a process of its own, in seconds."""
    words = ["--child", "--model", str(directory), "--slots", str(options.slots)]
    words += ["--capture"] * captures
    command = [sys.executable, "-m", "bench.engine_start", *words]
    begun_s = time.monotonic()
    done = subprocess.run(
        command, cwd=report.ROOT, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S
    )
    all_s = time.monotonic() - begun_s
    row: report.Row = orjson.loads(done.stdout.splitlines()[-1])
    return {"capture": captures, **row, "process": round(all_s, 2)}


def start_here(options: argparse.Namespace) -> report.Row:
    """Load an engine in this process, which has imported nothing of it; return its times."""
    # Late: the import is a part of what is measured.
    from omni.minicpmo.engine import MiniCPMOEngine
    from omni.minicpmo.setup import EngineOptions

    overrides = [f"model.model_path={options.model}", f"fabric.slots={options.slots}"]
    chosen = EngineOptions() if options.capture else EngineOptions(batch_sizes=())
    engine = MiniCPMOEngine(load_settings(overrides=overrides), chosen)
    capabilities = engine.load(lambda: None)
    times, device = engine.load_times, engine.loaded.runner.device
    engine.close()
    from bench.random_engine import describe_device  # later still: it imports torch by itself

    stages = sorted(times.stages, key=lambda stage: stage.begun_s)
    return {
        "ready": round(times.ready_s, 2),
        "less capture": round(times.ready_s - times.capture_s, 2),
        "imports": round(times.imports_s, 2),
        "load": round(times.load_s, 2),
        **{stage.name: round(stage.took_s, 2) for stage in stages},
        "recorded": round(times.capture_s, 2),
        "warm-up": round(times.warm_up_s, 2),
        "slots": capabilities.num_slots,
        **describe_device(device),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--model", default="", metavar="DIR", help="a checkpoint; else random")
    parser.add_argument("--folder", default="", metavar="DIR", help="where a random one is made")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    parser.add_argument("--slots", type=int, default=0, help="sessions; 0: as many as fit")
    parser.add_argument("--no-capture", action="store_true", help="only starts without it")
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--capture", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Start engines, print, write."""
    options = parse(argv)
    if options.child:
        print(orjson.dumps(start_here(options)).decode())
        return 0
    from bench.engine_two_gpus import checkpoint  # late: a child must not have imported torch

    kinds = [False] if options.no_capture else [False, True]
    rows: list[report.Row] = []
    with checkpoint(options) as directory:
        files = warm(directory)
        for _ in range(options.rounds):
            for captures in kinds:
                rows.append(started(options, directory, captures))
                print(orjson.dumps(rows[-1]).decode(), flush=True)  # in case time runs out
    fixed = ("slots", "device", "torch")
    about = {name: rows[0][name] for name in fixed}
    shown = [{name: value for name, value in row.items() if name not in fixed} for row in rows]
    print(f"\n{files}\n{about}\n{report.table(shown)}")
    document = {
        "bench": "engine_start",
        "machine": report.machine(),
        "settings": vars(options),
        "files": files,
        **about,
        "rows": shown,
    }
    report.write_json(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())

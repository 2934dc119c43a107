"""What recording costs: memory of a long session, listing a thousand, making the files.

    python -m bench.recording [--json FILE] [--minutes N] [--sessions N] [--quick]

session: an omni session (each second 1 s of sound, a picture, 1 s of answer), fed as fast as the
disk takes it, in a process of its own; RSS meanwhile. finalise: its journal becomes files, in
another process. listing: the index of so many recorded sessions, read cold, then again. What
recording adds to each chunk of a call is told by `python -m bench.fabric --record`.
"""

import argparse
import asyncio
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from PIL import Image

from bench import report
from bench.usage import Usage
from omni.engine import AudioChunk, Buffer, PrepareDuplex, UnitResult
from omni.recording.disk import DiskRecordings
from omni.recording.finalise import finalise
from omni.recording.layout import JOURNAL, META, SUBFOLDERS, size_of, utc_iso, write_json
from omni.recording.store import SessionStore

_ROWS = 6
_HIGH_WATER_BYTES = 4 * 2**20


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    if args.part:
        rows = asyncio.run(_record(args)) if args.part == "record" else _finalise(args)
        print(orjson.dumps(rows).decode())
        return
    minutes, sessions = (0.5, 50) if args.quick else (args.minutes, args.sessions)
    with tempfile.TemporaryDirectory(prefix="omni-") as folder:
        session = _apart("record", folder, minutes)
        files = _apart("finalise", folder, minutes)
        listing = _listing(Path(folder) / "many", sessions)
    machine = report.machine()
    print(machine)
    for name, rows in (("session", session), ("finalise", files), ("listing", listing)):
        print(f"\n{name}\n{report.table(rows)}")
    document = {"machine": machine, "session": session, "finalise": files, "listing": listing}
    report.write_json(args.json, document)


def _apart(part: str, folder: str, minutes: float) -> list[report.Row]:
    """Measure one part in a process that does nothing else."""
    words = ["--part", part, "--folder", folder, "--minutes", str(minutes)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.recording", *words],
        cwd=report.ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    rows: list[report.Row] = orjson.loads(done.stdout)
    return rows


async def _record(args: argparse.Namespace) -> list[report.Row]:
    recordings = DiskRecordings(Path(args.folder))
    await recordings.open()
    recorder = recordings.start("omni_bench", "omni_duplex", "worker-0")
    recorder.heard(PrepareDuplex(mode="omni_duplex"))
    chunk, result = _unit()
    rows: list[report.Row] = []
    units = round(args.minutes * 60)
    calls_s, begun_s = 0.0, time.monotonic()
    for number in range(units + 1):
        if number % max(1, units // (_ROWS - 1)) == 0:
            row = {"recorded_s": number, "rss_mib": Usage.of(os.getpid()).rss_mib}
            rows.append({**row, "waiting_kib": recordings.waiting_bytes >> 10})
        before_s = time.perf_counter()
        recorder.heard(chunk)
        recorder.said(result)
        calls_s += time.perf_counter() - before_s
        while recordings.waiting_bytes > _HIGH_WATER_BYTES:
            await asyncio.sleep(0.001)
    passed_s = time.monotonic() - begun_s
    cost = {"x real time": round(units / passed_s), "us a unit on the loop": 1e6 * calls_s / units}
    rows.append({"recorded_s": units, **{name: round(value, 1) for name, value in cost.items()}})
    recordings.finaliser.close()  # the next part does that
    recorder.close()
    await recordings.close()
    return rows


def _finalise(args: argparse.Namespace) -> list[report.Row]:
    (journal,) = Path(args.folder).glob(f"sessions/*/{JOURNAL}")
    journal_mib = journal.stat().st_size / 2**20
    before_mib, begun_s = Usage.of(os.getpid()).rss_mib, time.monotonic()
    finalise(journal.parent)
    passed_s = time.monotonic() - begun_s
    row: report.Row = {
        "recorded_s": round(args.minutes * 60),
        "journal_mib": round(journal_mib, 1),
        "files_mib": round(size_of(journal.parent) / 2**20, 1),
        "seconds": round(passed_s, 1),
        "rss_mib before": before_mib,
        "peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    return [row]


def _listing(folder: Path, count: int) -> list[report.Row]:
    now = time.time()
    for number in range(count):
        session = folder / "sessions" / f"20261101_{number:06d}_adx_{number}"
        for name in SUBFOLDERS:
            (session / name).mkdir(parents=True)
        meta: dict[str, object] = {"session_id": session.name, "app_type": "audio_duplex"}
        meta |= {"created_at": utc_iso(now - number), "ended_at": utc_iso(now), "duration_s": 1.0}
        write_json(session / META, {**meta, "size_bytes": 1000, "config": {"temperature": 0.7}})
    store = SessionStore.of(folder)
    rows: list[report.Row] = []
    for name in ("cold", "again", "after one changed"):
        begun_s = time.perf_counter()
        found = len(store.entries())
        ms = round((time.perf_counter() - begun_s) * 1000, 1)
        rows.append({"sessions": found, "read": name, "ms": ms})
        newest = next(iter(sorted(store.names())))
        meta_path = folder / "sessions" / newest / META
        write_json(meta_path, {**orjson.loads(meta_path.read_bytes()), "title": name})
    return rows


def _unit() -> tuple[AudioChunk, UnitResult]:
    draw = np.random.default_rng(1)
    picture = io.BytesIO()
    pixels = draw.integers(0, 255, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).resize((160, 120)).resize((640, 480)).save(picture, "JPEG")
    heard = draw.uniform(-0.5, 0.5, 16_000).astype("<f4").tobytes()
    said = draw.uniform(-0.5, 0.5, 24_000).astype("<f4").tobytes()
    chunk = AudioChunk(pcm=Buffer(heard), frames=(Buffer(picture.getvalue()),))
    result = UnitResult(
        is_listen=False, text="你好 word ", pcm=Buffer(said), token_ids=tuple(range(12))
    )
    return chunk, result


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the session")
    parser.add_argument("--sessions", type=int, default=1000, help="how many are listed")
    parser.add_argument("--quick", action="store_true", help="half a minute, 50 sessions")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()

"""Duplex calls held by the engine over minutes: how many units are late, and how soon one hears.

    python -m bench.engine_load                        random weights at the published size, a GPU
    python -m bench.engine_load --tiny --seconds 3     a dry run in small, on a CPU
    python -m bench.engine_load --sessions 16,64 --mode audio,omni --seconds 600

Open loop: each session sends a second of sound (omni: and a picture) each second at a phase of its
own, whatever has been answered. Four units of ten speak, in turns of 2 to 10 s; what is said is
given, the work is that of real calls. The engine runs in the worker's own loop, with no network. A
unit is late when it is answered after the next one is complete, or never. Prints tables, and JSON
with --json.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench import report
from bench.paced_engine import Load, Measured, PacedEngine, TurnScript
from bench.random_engine import describe_device, numbers, random_load
from omni.minicpmo.engine import MiniCPMOEngine
from omni.minicpmo.setup import EngineOptions, load_model
from omni.settings import Settings, load_settings

STAGES = ("prefill_ms", "llm_ms", "tts_ms", "token2wav_ms", "all_ms")
MODES = ("audio", "omni")
_SAMPLES_A_TOKEN = 1600  # of the reference voice
_MARKUP_TOKENS = 8  # of the system prompt


@contextmanager
def paced_engine(options: argparse.Namespace, num_slots: int) -> Iterator[
    tuple[PacedEngine, MiniCPMOEngine]
]:
    """Load an engine of *num_slots* slots (0: as many as fit) for the time of the block."""
    script = TurnScript()
    engine_options = EngineOptions(choose=script)
    settings = load_settings(overrides=[f"fabric.slots={num_slots}", *_settings_of(options)])
    with tempfile.TemporaryDirectory() as folder:
        load = random_load(Path(folder), options.tiny, torch.device(options.device))
        engine = MiniCPMOEngine(settings, engine_options, load_model if options.model else load)
        paced = PacedEngine(lambda: engine, script)
        paced.start()
        try:
            tokenizer = engine.loaded.around.tokenizer
            script.use(tokenizer.control, tokenizer.encode(" a")[0])
            yield paced, engine
        finally:
            paced.stop()


def _settings_of(options: argparse.Namespace) -> list[str]:
    chosen = {"model.model_path": options.model, "service.compile": options.compile and "true"}
    return [f"{path}={value}" for path, value in chosen.items() if value]


def filler(engine: MiniCPMOEngine, num_tokens: int) -> str:
    """Return a system prompt with which a session begins at about *num_tokens*."""
    voice_tokens = len(engine.loaded.around.default_voice) // _SAMPLES_A_TOKEN
    return " a" * max(1, num_tokens - voice_tokens - _MARKUP_TOKENS)


def unit_row(measured: Measured) -> report.Row:
    """Return one load's row: what was late, and the latencies in ms by listen and speak."""
    load, answers = measured.load, measured.answers
    listens = [answer for answer in answers if answer.is_listen]
    speaks = [answer for answer in answers if not answer.is_listen]
    firsts = [answer for answer in answers if answer.is_first_sound]
    row: dict[str, object] = {
        "mode": load.mode,
        "sessions": load.num_sessions,
        "units": measured.num_units,
        "late": measured.num_late,
        "late %": round(100 * measured.miss_rate, 2),
        "failed": len(measured.failures),
        "speak %": round(100 * len(speaks) / max(1, len(answers))),
        "kv max": max((answer.kv_tokens for answer in answers), default=0),
    }
    for name, group in (("listen", listens), ("speak", speaks), ("first sound", firsts)):
        found = report.percentiles([1000 * answer.latency_s for answer in group], digits=0)
        row |= {f"{name} {key}": value for key, value in found.items()}
    return row


def stage_rows(measured: Measured) -> list[report.Row]:
    """Return the compute time of each stage in ms, by listen and speak."""
    rows: list[report.Row] = []
    for doing, is_listen in (("listen", True), ("speak", False)):
        costs = [answer.costs for answer in measured.answers if answer.is_listen is is_listen]
        row: dict[str, object] = {
            "mode": measured.load.mode, "sessions": measured.load.num_sessions, "unit": doing
        }
        for name in STAGES:
            values = [value for each in costs if (value := getattr(each, name)) is not None]
            found = report.percentiles(values, digits=1)
            short = name.removesuffix("_ms")
            row |= {f"{short} {key}": found[key] for key in ("p50", "p95") if key in found}
        rows.append(row)
    return rows


def gpu_memory(device: torch.device) -> dict[str, object]:
    """Return the device's memory in GB; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "gpu total GB": round(total / 1e9, 1),
        "gpu used GB": round((total - free) / 1e9, 1),
        "torch peak GB": round(torch.cuda.max_memory_allocated(device) / 1e9, 1),
    }


def document(
    name: str, options: argparse.Namespace, loads: Iterable[Measured], **more: object
) -> dict[str, object]:
    """Return the report as JSON has it."""
    loads = list(loads)
    device = torch.device(options.device)
    return {
        "bench": name,
        "machine": report.machine() | describe_device(device),
        "settings": vars(options) | _attention(load_settings(overrides=_settings_of(options))),
        **more,
        "memory": gpu_memory(device),
        "units": [unit_row(measured) for measured in loads],
        "stages": [row for measured in loads for row in stage_rows(measured)],
        "failures": sorted({text for measured in loads for text in measured.failures}),
    }


def _attention(settings: Settings) -> dict[str, object]:
    return {"attn_implementation": settings.model.attn_implementation}


def show(loads: Sequence[Measured]) -> None:
    """Print the tables of *loads*."""
    stages = [row for measured in loads for row in stage_rows(measured)]
    print(f"\nUnits, ms\n{report.table([unit_row(measured) for measured in loads])}")
    print(f"\nStages, ms of compute and waiting\n{report.table(stages)}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the benches of paced sessions share."""
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--model", default="", metavar="DIR", help="a checkpoint; else random")
    parser.add_argument("--compile", action="store_true", help="with service.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--kv", type=int, default=2000, help="tokens of a session at its start")
    parser.add_argument("--json", default="", metavar="FILE")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; --tiny makes everything small."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--sessions", type=numbers, default=[1, 16, 32, 48, 64])
    parser.add_argument("--mode", default="audio", help="audio, omni or audio,omni")
    options = parser.parse_args(argv)
    options.mode = options.mode.split(",")
    if not set(options.mode) <= set(MODES):
        parser.error(f"--mode {','.join(options.mode)}: audio, omni or audio,omni")
    if options.tiny:
        options.kv = min(options.kv, 200)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(argv)
    loads: list[Measured] = []
    with paced_engine(options, max(options.sessions)) as (paced, engine):
        num_slots = engine.loaded.runner.sizes.num_slots
        print(f"loaded in {paced.load_s:.1f} s; {num_slots} sessions fit", flush=True)
        prompt = filler(engine, options.kv)
        for mode in options.mode:
            for count in options.sessions:
                if count > num_slots:
                    print(f"{count} sessions do not fit")
                    continue
                load = Load(
                    mode=mode, num_sessions=count, duration_s=options.seconds, kv_tokens=options.kv
                )
                loads.append(paced.run(load, prompt))
                show(loads[-1:])
                told = document("engine_load", options, loads, load_s=round(paced.load_s, 1))
                report.write_json(options.json, told | {"num_slots": num_slots})
    print("\nAll of them")
    show(loads)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many duplex calls one engine holds, what each takes of the memory, and how soon it is ready.

    python -m bench.engine_capacity                     random weights at the published size, a GPU
    python -m bench.engine_capacity --model DIR         and how long that checkpoint takes to load
    python -m bench.engine_capacity --tiny --seconds 3 --sessions 1,2   a dry run on a CPU

Ramps the number of paced sessions (as `engine_load`: open loop, 40 % speaking) until more than 1 %
of the units are late. Memory is counted in the caches as they were allocated. Prints tables, and
JSON with --json.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from bench import report
from bench.engine_load import add_arguments, document, filler, gpu_memory, paced_engine, show
from bench.paced_engine import Load, Measured
from bench.random_engine import numbers
from omni.minicpmo.runner import Runner
from omni.minicpmo.token2wav import Token2Wav
from omni.minicpmo.vocoding import Vocoder

MAX_MISS_RATE = 0.01


def memory_rows(runner: Runner) -> list[report.Row]:
    """Return what each cache takes of the memory, and a session of it, in MB."""
    caches = {
        "language model": runner.kv.pool.nbytes,
        "audio encoder": runner.hearing.cache.pool.nbytes,
        "speech codes": runner.speech.cache.pool.nbytes,
        "vocoder and voices": _state_bytes(runner.token2wav),
    }
    num_slots = runner.sizes.num_slots
    return [
        {
            "cache": name,
            "MB": round(num_bytes / 1e6, 1),
            "MB a session": round(num_bytes / num_slots / 1e6, 1),
        }
        for name, num_bytes in (caches | {"all": sum(caches.values())}).items()
    ]


def _state_bytes(vocoder: Vocoder) -> int:
    """Return what our vocoder keeps; the package's is its own affair."""
    return vocoder.calls.num_state_bytes() if isinstance(vocoder, Token2Wav) else 0


def held(loads: Sequence[Measured]) -> int:
    """Return the most sessions of a load of which at most 1 % of the units were late."""
    return max(
        (load.load.num_sessions for load in loads if load.miss_rate <= MAX_MISS_RATE), default=0
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; --tiny makes everything small."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--sessions", type=numbers, default=[8, 16, 24, 32, 40, 48, 56, 64])
    parser.add_argument("--mode", choices=("audio", "omni"), default="audio")
    parser.add_argument("--omni", type=int, default=0, metavar="N", help="also N omni sessions")
    options = parser.parse_args(argv)
    if options.tiny:
        options.kv = min(options.kv, 200)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(argv)
    with paced_engine(options, max(options.sessions)) as (paced, engine):
        runner, capture_s = engine.loaded.runner, engine.loaded.capture_s
        memory = memory_rows(runner)
        ready: dict[str, object] = {
            "ready s": round(paced.load_s, 1),
            "of it capture s": round(capture_s, 1),
            "without capture s": round(paced.load_s - capture_s, 1),
            "sessions that fit": runner.sizes.num_slots,
            "tokens of all": runner.sizes.kv_tokens,
        }
        about = ready | gpu_memory(torch.device(options.device))
        print(f"{report.table([about])}\n\n{report.table(memory)}", flush=True)
        prompt = filler(engine, options.kv)
        ramp: list[Measured] = []
        others: list[Measured] = []

        def write() -> None:
            told = document("engine_capacity", options, [*ramp, *others], ready=ready)
            report.write_json(
                options.json, told | {"caches": memory, "sessions_held": held(ramp)}
            )

        for count in options.sessions:
            if count > runner.sizes.num_slots:
                break
            load = Load(
                mode=options.mode,
                num_sessions=count,
                duration_s=options.seconds,
                kv_tokens=options.kv,
            )
            ramp.append(paced.run(load, prompt))
            show(ramp[-1:])
            write()
            if ramp[-1].miss_rate > MAX_MISS_RATE:
                break
        if options.omni:
            load = Load(
                mode="omni",
                num_sessions=min(options.omni, runner.sizes.num_slots),
                duration_s=options.seconds,
                kv_tokens=options.kv,
            )
            others.append(paced.run(load, prompt))
            write()
    print("\nAll of them")
    show([*ramp, *others])
    print(f"\nheld with at most 1 % late: {held(ramp)} sessions")
    return 0


if __name__ == "__main__":
    sys.exit(main())

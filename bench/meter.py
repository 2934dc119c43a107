"""What counting costs: ns for each observation, and us for all that is counted of one duplex chunk.

    python -m bench.meter [--json FILE]

A chunk's share of the fabric's time is to stay small beside the 1 ms that the whole way may take.
"""

import argparse
import time
from collections.abc import Callable

from bench import report
from omni.engine import StageCosts, UnitResult
from omni.exposition import Exposition, Snapshot
from omni.messages import Stamp
from omni.meter import FAST_S, Answered, Meter, Tally

_ROUNDS = 7
_COSTS = StageCosts(
    prefill_ms=10.0, llm_ms=60.0, tts_prep_ms=1.0, tts_ms=40.0, token2wav_ms=30.0, all_ms=141.0
)
_HOPS = ("web", "broker", "worker", "worker queue", "engine", "worker", "broker", "web")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    parser.add_argument("--count", type=int, default=20_000, help="calls in each of the rounds")
    args = parser.parse_args()
    rows = [
        {"what": what, "best ns": round(best_ns(call, args.count))}
        for what, call in calls().items()
    ]
    machine = report.machine()
    print(machine)
    print(report.table(rows))
    report.write_json(args.json, {"machine": machine, "rows": rows})


def calls() -> dict[str, Callable[[], object]]:
    """Return what is measured."""
    meter, tally = Meter(), Tally(FAST_S)
    result = UnitResult(is_listen=False, costs=_COSTS)
    stamps = [Stamp(hop, number * 900_000) for number, hop in enumerate(_HOPS)]
    answered = Answered("GET", "/status", 200)
    snapshot = Snapshot(meter=meter, sessions={}, status=None, recordings=None, callers=0)
    exposition = Exposition()

    def chunk() -> None:
        meter.sent(64_000)
        meter.received("audio_duplex", 1.0, result, stamps, 96_000)

    return {
        "one observation": lambda: tally.add(0.004),
        "one duplex chunk: bytes, unit, 6 stages, 7 hops": chunk,
        "one HTTP request": lambda: meter.replied(answered, 0.002),
        "one scrape": lambda: exposition.text(snapshot),
    }


def best_ns(call: Callable[[], object], count: int) -> float:
    """Return the time of one call in the best of a few rounds; a scrape is called fewer times."""
    call()
    begun_ns = time.perf_counter_ns()
    call()
    count = max(1, min(count, 200_000_000 // max(1, time.perf_counter_ns() - begun_ns)))
    rounds = []
    for _ in range(_ROUNDS):
        begun_ns = time.perf_counter_ns()
        for _ in range(count):
            call()
        rounds.append((time.perf_counter_ns() - begun_ns) / count)
    return min(rounds)


if __name__ == "__main__":
    main()

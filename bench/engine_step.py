"""What a unit of a duplex call costs, stage by stage, and each kind of step by batch size.

    python -m bench.engine_step                     random weights at the published size, on a GPU
    python -m bench.engine_step --tiny              a dry run in small, on a CPU
    python -m bench.engine_step --sessions 1,16,64  also for many sessions whose units coincide

The work is fixed: tokens are drawn as always, and then given ones are taken, so that a listening
unit is silence and a speaking one has 10 words and 25 codes. Units of all sessions arrive at once;
a unit's latency runs from there to its result. Prints tables, and JSON with --json.
"""

import argparse
import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from attrs import asdict, define, evolve, field, frozen

from bench import report
from bench.random_engine import describe_device, numbers, picture, random_load, second_of_noise
from omni.audio import INPUT_HZ
from omni.engine import (
    Arrival,
    AudioChunk,
    Close,
    Prepared,
    PrepareDuplex,
    SessionEvent,
    Slot,
    UnitResult,
)
from omni.minicpmo.code_buffer import CHUNK_CODES, CodeChunk
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.engine import MiniCPMOEngine
from omni.minicpmo.images import PATCH, Patches
from omni.minicpmo.mel import FIRST_UNIT_SAMPLES
from omni.minicpmo.runner import Runner
from omni.minicpmo.sampling import DUPLEX_SAMPLING
from omni.minicpmo.session import Session, WindowOptions
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.speech_codes import SpeechMode
from omni.minicpmo.thinking import FeedShare
from omni.minicpmo.vocoding import Sounding
from omni.minicpmo.work import Draw, Drawn, Feed, Ids, Speak, Vocode
from omni.process import spare_the_loaded
from omni.settings import load_settings

T = TypeVar("T", bound=SessionEvent)

NUM_WORDS = 10
WARM_UP_UNITS = 3  # the first speaking unit of a turn may have fewer codes
STAGES = ("prefill_ms", "llm_ms", "tts_ms", "token2wav_ms", "all_ms")
TIMEOUT_S = 120.0
_WARM_UP_STEPS = 5
_FILL_TOKENS = 1024
_PATCH_GRID = (32, 32)  # a picture of 448 x 448
_TOKEN = 5  # any text token
_SAMPLES_A_TOKEN = 1600  # of the reference voice
_MARKUP_TOKENS = 8  # of the system prompt


@frozen(kw_only=True)
class Case:
    """One kind of unit."""

    mode: str
    speaks: bool
    kv_tokens: int
    num_sessions: int

    def row(self) -> dict[str, object]:
        """Return the columns that name it."""
        doing = "speak" if self.speaks else "listen"
        return {
            "unit": f"{self.mode} {doing}", "kv": self.kv_tokens, "sessions": self.num_sessions
        }


@define
class Script:
    """Takes given tokens in place of the drawn ones, for each slot on its own."""

    speaks: bool = False
    words: tuple[int, ...] = ()
    listen: int = 0
    positions: dict[int, int] = field(factory=dict)

    def __call__(self, slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        if not self.speaks:
            return evolve(drawn, token=self.listen)
        position = self.positions.get(slot, 0)
        self.positions[slot] = (position + 1) % len(self.words)
        return evolve(drawn, token=self.words[position])


class Bench:
    """An engine with random weights, and the clock around it."""

    def __init__(self, is_tiny: bool, device: torch.device, num_slots: int) -> None:
        self.script = Script()
        self._device = device
        self._woken = threading.Event()
        self._folder = tempfile.TemporaryDirectory()
        options = EngineOptions(window=WindowOptions(mode="off"), choose=self.script)
        settings = load_settings(overrides=[f"fabric.slots={num_slots}"])
        load = random_load(Path(self._folder.name), is_tiny, device)
        self.engine = MiniCPMOEngine(settings, options, load)
        self.capabilities = self.engine.load(self._woken.set)
        spare_the_loaded()  # as a worker does
        tokenizer = self.engine.loaded.around.tokenizer
        control, word = tokenizer.control, tokenizer.encode(" a")[0]
        self.script.words = (control.speak, *[word] * NUM_WORDS, control.chunk_eos)
        self.script.listen = control.listen

    def close(self) -> None:
        """Free everything."""
        self.engine.close()
        gc.unfreeze()
        self._folder.cleanup()

    def wait(self, timeout_s: float) -> None:
        """Wait until background work is done, or for so long."""
        self._woken.wait(timeout_s)
        self._woken.clear()

    def units(self, case: Case, count: int) -> dict[str, list[float]]:
        """Run *count* units of each session; return the figures of each stage in ms."""
        slots = [Slot(index=index, generation=1) for index in range(case.num_sessions)]
        self.script.speaks, self.script.positions = case.speaks, {}
        prepare = PrepareDuplex(
            mode="omni_duplex" if case.mode == "omni" else "audio_duplex",
            system_prompt=self._prompt(case.kv_tokens),
            force_listen_count=0,
            tts_temperature=0.0,
        )
        for slot in slots:
            self._ask([Arrival(slot, prepare)], Prepared)
        figures: dict[str, list[float]] = {name: [] for name in ("latency_ms", *STAGES)}
        for number in range(WARM_UP_UNITS + count):
            for latency_ms, unit in self._ask(self._chunks(slots, case, number), UnitResult):
                if number < WARM_UP_UNITS:
                    continue
                assert unit.is_listen is not case.speaks, "the script was not followed"
                figures["latency_ms"].append(latency_ms)
                figures["kv"] = [unit.kv_cache_length]
                for name in STAGES:
                    if (value := getattr(unit.costs, name)) is not None:
                        figures[name].append(value)
        self.engine.step([Arrival(slot, Close()) for slot in slots])
        return figures

    def _prompt(self, num_tokens: int) -> str:
        voice_tokens = len(self.engine.loaded.around.default_voice) // _SAMPLES_A_TOKEN
        return " a" * max(0, num_tokens - voice_tokens - _MARKUP_TOKENS)

    def _chunks(self, slots: Sequence[Slot], case: Case, number: int) -> list[Arrival]:
        sound = second_of_noise(number)
        frames = (picture(number),) if case.mode == "omni" else ()
        return [Arrival(slot, AudioChunk(pcm=sound, frames=frames)) for slot in slots]

    def _ask(
        self, arrivals: Sequence[Arrival], kind: type[T]
    ) -> list[tuple[float, T]]:
        """Give *arrivals*; return each slot's next event and after how many ms it came."""
        started_s = time.perf_counter()
        answers: list[tuple[float, T]] = []
        given: Sequence[Arrival] = arrivals
        while len(answers) < len(arrivals):
            assert time.perf_counter() - started_s < TIMEOUT_S, "the engine does not answer"
            for emission in self.engine.step(given):
                assert isinstance(emission.event, kind), emission.event
                answers.append((1000 * (time.perf_counter() - started_s), emission.event))
            given = ()
            if not self.engine.busy and len(answers) < len(arrivals):
                self.wait(0.1)
        return answers

    # --- steps alone

    def steps(self, batch_sizes: Sequence[int], kv_tokens: int, count: int) -> list[report.Row]:
        """Return decode, draw and speech-code steps in ms, by batch size."""
        self.script.speaks = True
        return [self._steps(size, kv_tokens, count) for size in batch_sizes]

    @torch.inference_mode()
    def _steps(self, size: int, kv_tokens: int, count: int) -> report.Row:
        runner, around = self.engine.loaded.runner, self.engine.loaded.around
        slots = list(range(size))
        for slot in slots:
            _fill(runner, slot, kv_tokens)
        weight = runner.model.llm.lm_head.weight
        logits = weight.new_zeros((1, len(weight)), dtype=torch.float32)
        works = [Draw(logits=logits, sampling=DUPLEX_SAMPLING) for _ in slots]
        sessions = [Session(Slot(index=n, generation=1), around, runner) for n in slots]
        _begin_speech(runner, slots, count + _WARM_UP_STEPS)
        voice = around.voices.analyse(around.default_voice, INPUT_HZ)
        runner.vocoding.vocode(slots, [Vocode(chunks=(), voice=voice)] * size)
        chunk = Vocode(chunks=[CodeChunk(tuple(range(CHUNK_CODES)), is_last=False)])
        timings = {
            "hear": self._timed(count, lambda: _hear(runner, slots)),
            "see": self._timed(count, lambda: _see(runner, size)),
            "decode": self._timed(count, lambda: runner.thinking.decode(slots, [_TOKEN] * size)),
            "draw": self._timed(count, lambda: runner.thinking.draw(works, sessions)),
            "code": self._timed(count, lambda: runner.speak(slots)),
            "vocode": self._timed(count, lambda: _vocode(runner, slots, chunk)),
        }
        for slot in slots:
            runner.release(slot)
        row: dict[str, object] = {"batch": size, "kv": kv_tokens}
        for name, values in timings.items():
            found = report.percentiles(values)
            row |= {f"{name} {key}": found[key] for key in ("p50", "p99")}
        return row

    def _timed(self, count: int, step: Callable[[], object]) -> list[float]:
        """Return how long each of *count* steps took, in ms, the device's work included."""
        values = []
        for _ in range(_WARM_UP_STEPS + count):
            started_s = time.perf_counter()
            step()
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            values.append(1000 * (time.perf_counter() - started_s))
        return values[_WARM_UP_STEPS:]


def _fill(runner: Runner, slot: int, num_tokens: int) -> None:
    """Put *num_tokens* into the KV cache of *slot*."""
    feed = Feed(parts=[Ids([_TOKEN] * num_tokens)])
    for start in range(0, num_tokens, _FILL_TOKENS):
        count = min(_FILL_TOKENS, num_tokens - start)
        runner.thinking.prefill([FeedShare(slot, feed, start, count)])


def _hear(runner: Runner, slots: Sequence[int]) -> None:
    """Have each of *slots* hear a second."""
    second = np.zeros(FIRST_UNIT_SAMPLES, dtype=np.float32)
    for slot in slots:
        if not runner.has_unit(slot):
            runner.push_sound(slot, second)
    runner.hear(slots)


def _see(runner: Runner, count: int) -> None:
    """Look at *count* pictures."""
    rows, columns = _PATCH_GRID
    patches: Patches = np.full((rows * columns, 3 * PATCH**2), 99, dtype=np.uint8)
    runner.see([patches] * count, [_PATCH_GRID] * count)


def _vocode(runner: Runner, slots: Sequence[int], chunk: Vocode) -> None:
    """Make a second of sound for each of *slots*, and wait for it."""
    for sounding in runner.vocoding.vocode(slots, [chunk] * len(slots)):
        assert isinstance(sounding, Sounding)
        sounding.take()


def _begin_speech(runner: Runner, slots: Sequence[int], num_codes: int) -> None:
    """Begin calls that go on for *num_codes* further codes and longer."""
    most = num_codes + 2
    call = Speak(
        text_ids=[_TOKEN] * NUM_WORDS,
        hidden=runner.no_hidden().new_zeros((NUM_WORDS, runner.no_hidden().shape[1])),
        is_turn_end=False,
        min_codes=most,
        max_codes=most,
    )
    for slot in slots:
        runner.open_speech(slot, SpeechMode.DUPLEX, CodeSampling(), lambda: 0.5)
    runner.begin_speech(slots, [call] * len(slots))


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for num_sessions in options.sessions:
        for kv_tokens in options.kv:
            for mode in ("audio", "omni"):
                for speaks in (False, True):
                    yield Case(
                        mode=mode, speaks=speaks, kv_tokens=kv_tokens, num_sessions=num_sessions
                    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; --tiny makes everything small."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kv", type=numbers, default=[500, 6000], help="tokens before a unit")
    parser.add_argument("--sessions", type=numbers, default=[1], help="units that coincide")
    parser.add_argument("--units", type=int, default=30, help="of each session and case")
    parser.add_argument("--batch", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--step-kv", type=numbers, default=[500, 2000], help="tokens a row")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(argv)
    if options.tiny:
        options.kv, options.units = [150, 400], min(options.units, 2)
        options.batch, options.step_kv = [1, 4], [100]
        options.steps = min(options.steps, 5)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(argv)
    device = torch.device(options.device)
    num_slots = max(*options.sessions, *options.batch)
    bench = Bench(options.tiny, device, num_slots)
    try:
        num_slots = bench.capabilities.num_slots
        print(f"{bench.engine.load_times} (drawing weights included)", flush=True)
        print(f"{num_slots} sessions fit", flush=True)
        units: list[report.Row] = []
        for case in _cases(options):
            if case.num_sessions > num_slots:
                continue
            figures = bench.units(case, options.units)
            units.append(case.row() | _stages(figures))
            print(report.table(units[-1:]), flush=True)
        steps: list[report.Row] = []
        for kv_tokens in options.step_kv:
            sizes = [size for size in options.batch if size <= num_slots]
            steps += bench.steps(sizes, kv_tokens, options.steps)
    finally:
        bench.close()
    print(f"\nA unit, ms\n{report.table(units)}\n\nA step, ms\n{report.table(steps)}")
    document = {
        "bench": "engine_step",
        "machine": report.machine() | describe_device(device),
        "settings": vars(options),
        "load": asdict(bench.engine.load_times),
        "num_slots": num_slots,
        "units": units,
        "steps": steps,
    }
    report.write_json(options.json, document)
    return 0


def _stages(figures: dict[str, list[float]]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, values in figures.items():
        if name == "kv":
            row["kv at end"] = int(values[0])
            continue
        found = report.percentiles(values)
        keys = ("p50", "p95", "p99") if name == "latency_ms" else ("p50",)
        short = name.removesuffix("_ms")
        row |= {f"{short} {key}": found[key] for key in keys if found}
    return row


if __name__ == "__main__":
    sys.exit(main())

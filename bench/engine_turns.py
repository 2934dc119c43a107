"""How soon an answer is heard: chat, and hands-free turns in real time.

    python -m bench.engine_turns                     random weights at the published size, on a GPU
    python -m bench.engine_turns --tiny              a dry run in small, on a CPU
    python -m bench.engine_turns --sessions 1,16     also for chats that come at once

chat: from the request (one sentence, the default voice, its system prompt) to `PrefillDone`, the
first text and the first sound. half duplex: from the end of the user's speech, and of the silence
that the VAD waits for, to the first sound; its sound is sent at the speed of a microphone. The
words are given ones in place of those drawn. Prints tables, and JSON with --json.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from attrs import define

from bench import report
from bench.engine_step import NUM_WORDS, Bench
from bench.random_engine import describe_device, numbers
from omni.audio import INPUT_HZ, Waveform, resample
from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Failed,
    Generating,
    Part,
    PrefillDone,
    Prepared,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    Slot,
    TurnDone,
    VadParams,
)
from omni.wav import waveform_from_wav

WARM_UP_TURNS = 2
TIMEOUT_S = 120.0
_NUM_ANSWER_WORDS = 2 * NUM_WORDS
_SPEECH = report.ROOT / "omni" / "assets" / "default_voice.wav"
_WORD_SAMPLES = 9_600  # of it: a word; a pause follows
_CHUNK_SAMPLES = 1_600  # 0.1 s
_QUESTION = "What is the capital of France, and how many people live there today?"


@define
class Turns:
    """Turns on a bench's engine, with the time at which each event came, by slot."""

    bench: Bench
    events: dict[Slot, list[tuple[float, SessionEvent]]]

    def give(self, arrivals: Sequence[Arrival]) -> None:
        """Give *arrivals* and make one step."""
        for emission in self.bench.engine.step(arrivals):
            assert not isinstance(emission.event, Failed), emission.event
            self.events.setdefault(emission.slot, []).append((time.perf_counter(), emission.event))
        if not arrivals and not self.bench.engine.busy:
            self.bench.wait(0.002)

    def until(self, slots: Sequence[Slot], is_last: Callable[[SessionEvent], bool]) -> None:
        """Step until each of *slots* has such an event."""
        limit_s = time.perf_counter() + TIMEOUT_S
        while not all(self.first(slot, is_last) for slot in slots):
            assert time.perf_counter() < limit_s, "the engine does not answer"
            self.give(())

    def first(self, slot: Slot, holds: Callable[[SessionEvent], bool]) -> float | None:
        """Return when the first such event of *slot* came."""
        return next((at_s for at_s, event in self.events.get(slot, ()) if holds(event)), None)

    def chats(self, count: int, num_sessions: int) -> dict[str, list[float]]:
        """Return the figures of *count* rounds of as many chats at once, in ms."""
        figures: dict[str, list[float]] = {}
        for number in range(WARM_UP_TURNS + count):
            slots = [Slot(index=n, generation=number + 1) for n in range(num_sessions)]
            self.events.clear()
            self.bench.script.positions = {}
            started_s = time.perf_counter()
            self.give([Arrival(slot, _request()) for slot in slots])
            self.until(slots, lambda event: isinstance(event, ChatDone))
            if number < WARM_UP_TURNS:
                continue
            for slot in slots:
                for name, holds in (
                    ("prefilled", lambda event: isinstance(event, PrefillDone)),
                    ("first text", _has_text),
                    ("first sound", _has_sound),
                    ("done", lambda event: isinstance(event, ChatDone)),
                ):
                    at_s = self.first(slot, holds)
                    assert at_s is not None, f"there was no {name}"
                    figures.setdefault(name, []).append(1000 * (at_s - started_s))
        return figures

    def hands_free(self, count: int, silence_ms: int) -> dict[str, list[float]]:
        """Return the figures of *count* turns of one session, in ms."""
        slot = Slot(index=0, generation=10_000)
        self.events.clear()
        options = PrepareHalfDuplex(
            vad=VadParams(min_silence_duration_ms=silence_ms), max_new_tokens=_NUM_ANSWER_WORDS
        )
        self.give([Arrival(slot, options)])
        self.until([slot], lambda event: isinstance(event, Prepared))
        word = _word()
        self._send(slot, np.zeros(INPUT_HZ // 2, dtype=np.float32))
        figures: dict[str, list[float]] = {}
        for number in range(WARM_UP_TURNS + count):
            self.events.clear()
            self.bench.script.positions = {}
            self._send(slot, word)
            spoken_s = time.perf_counter()
            while self.first(slot, lambda event: isinstance(event, Generating)) is None:
                assert time.perf_counter() < spoken_s + TIMEOUT_S, "nothing was heard"
                self._send(slot, np.zeros(_CHUNK_SAMPLES, dtype=np.float32))
            self.until([slot], lambda event: isinstance(event, TurnDone))
            if number >= WARM_UP_TURNS:
                complete_s = self.first(slot, lambda event: isinstance(event, Generating))
                sound_s = self.first(slot, _has_sound)
                assert complete_s is not None and sound_s is not None
                figures.setdefault("speech to sound", []).append(1000 * (sound_s - spoken_s))
                figures.setdefault("silence to sound", []).append(1000 * (sound_s - complete_s))
        self.give([Arrival(slot, Close())])
        return figures

    def _send(self, slot: Slot, waveform: Waveform) -> None:
        """Send sound as a microphone does: a chunk when it is over."""
        for start in range(0, len(waveform), _CHUNK_SAMPLES):
            due_s = time.perf_counter() + _CHUNK_SAMPLES / INPUT_HZ
            while time.perf_counter() < due_s:
                self.give(())
            pcm = Buffer(waveform[start : start + _CHUNK_SAMPLES].astype("<f4").tobytes())
            self.give([Arrival(slot, AudioChunk(pcm=pcm))])


def _word() -> Waveform:
    samples, rate_hz = waveform_from_wav(_SPEECH.read_bytes())
    return resample(samples, rate_hz, INPUT_HZ)[:_WORD_SAMPLES]


def _request() -> ChatRequest:
    part = Part(kind="text", text=_QUESTION)
    message = ChatMessage(role="user", parts=(part,))
    return ChatRequest(messages=(message,), speak=True, max_new_tokens=_NUM_ANSWER_WORDS)


def _has_text(event: SessionEvent) -> bool:
    return isinstance(event, ReplyChunk) and bool(event.text)


def _has_sound(event: SessionEvent) -> bool:
    return isinstance(event, ReplyChunk) and len(event.pcm) > 0


def _rows(figures: dict[str, list[float]], **about: object) -> list[report.Row]:
    return [
        {**about, "ms to": name, **report.percentiles(values)} for name, values in figures.items()
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a dry run on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sessions", type=numbers, default=[1], help="chats that come at once")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--silence-ms", type=int, default=600, help="that the VAD waits for")
    parser.add_argument("--json", default="", metavar="FILE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(argv)
    device = torch.device(options.device)
    bench = Bench(options.tiny, device, max(options.sessions))
    word = bench.script.words[1]
    bench.script.speaks, bench.script.words = True, (word,) * _NUM_ANSWER_WORDS
    turns = Turns(bench, {})
    rows: list[report.Row] = []
    try:
        for count in options.sessions:
            rows += _rows(turns.chats(options.turns, count), turn="chat", sessions=count)
        found = turns.hands_free(options.turns, options.silence_ms)
        rows += _rows(found, turn="half duplex", sessions=1)
    finally:
        bench.close()
    print(report.table(rows))
    document = {
        "bench": "engine_turns",
        "machine": report.machine() | describe_device(device),
        "settings": vars(options),
        "rows": rows,
    }
    report.write_json(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())

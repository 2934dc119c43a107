"""Paced duplex sessions on an engine in the worker's own loop: open loop, a unit each second.

Each session has a phase and turns of its own; what it says is given, so that the speak share and
the lengths of turns are those of a conversation whatever the weights are.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import Literal

from attrs import define, evolve, field, frozen

from bench.random_engine import picture, second_of_noise
from omni.engine import (
    Arrival,
    AudioChunk,
    Capabilities,
    Close,
    Engine,
    Failed,
    Prepared,
    PrepareDuplex,
    SessionInput,
    Slot,
    StageCosts,
    UnitResult,
)
from omni.engine.inbox import Inbox, Waiting
from omni.engine.thread import Closed, Died, EngineThread, Output, Ready, Spoken
from omni.minicpmo.tokenizer import ControlTokens
from omni.minicpmo.work import Draw, Drawn
from omni.process import spare_the_loaded
from omni.settings import FabricSettings

UnitKind = Literal["listen", "speak", "end"]
CallMode = Literal["audio", "omni"]

UNIT_S = 1.0  # a unit is due when the next one is complete
#: A conversation: the model speaks for 2 to 10 s and is then silent for 3 to 15: 40 % speaking.
SPEAK_UNITS, LISTEN_UNITS = (2, 10), (3, 15)
_LONG_SINCE = 100  # units: some turns have passed
NUM_WORDS = 10  # of a unit that speaks
OUTBOX_SIZE = 1024  # as in the worker
_WARM_UP_S = 3.0
DRAIN_S = 5.0  # what is not answered by then counts as late
START_TIMEOUT_S = 600.0
_NUM_SOUNDS = _NUM_PICTURES = 16


def turns(random: Random) -> Iterator[UnitKind]:
    """Yield what each unit of a conversation does, from somewhere in its middle on."""
    return islice(_conversation(random), random.randrange(_LONG_SINCE), None)


def _conversation(random: Random) -> Iterator[UnitKind]:
    while True:
        for _ in range(random.randint(*SPEAK_UNITS) - 1):
            yield "speak"
        yield "end"
        for _ in range(random.randint(*LISTEN_UNITS)):
            yield "listen"


@define
class TurnScript:
    """Takes given tokens in place of the drawn ones; each slot has turns of its own.

    tokens: of each kind of unit; the bench fills them in once the tokenizer is there.
    """

    tokens: dict[UnitKind, tuple[int, ...]] = field(factory=dict)
    _plans: dict[int, Iterator[UnitKind]] = field(factory=dict)
    _left: dict[int, deque[int]] = field(factory=dict)

    def use(self, control: ControlTokens, word: int) -> None:
        """Have units speak *word*."""
        words = (word,) * NUM_WORDS
        self.tokens = {
            "listen": (control.listen,),
            "speak": (control.speak, *words, control.chunk_eos),
            "end": (control.speak, *words, control.turn_eos, control.listen),
        }

    def begin(self, slot: int, random: Random) -> None:
        """Begin a conversation in *slot*."""
        self._plans[slot], self._left[slot] = turns(random), deque()

    def __call__(self, slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        if slot not in self._plans:  # the engine's own warm-up call
            return drawn
        left = self._left[slot]
        if not left:
            left.extend(self.tokens[next(self._plans[slot])])
        return evolve(drawn, token=left.popleft())


@frozen(kw_only=True)
class Load:
    """What is asked of the engine."""

    mode: CallMode
    num_sessions: int
    duration_s: float
    kv_tokens: int = 500
    seed: int = 0

    @property
    def warm_up_s(self) -> float:
        """Time at the start that is not counted."""
        return min(_WARM_UP_S, self.duration_s)


@frozen(kw_only=True)
class Answer:
    """A unit's answer. latency_s: from the moment when its second of sound was complete."""

    latency_s: float
    is_listen: bool
    is_first_sound: bool
    kv_tokens: int
    costs: StageCosts


@define
class Measured:
    """What came of a load. num_units: that were sent and counted, answered or not."""

    load: Load
    num_units: int = 0
    answers: list[Answer] = field(factory=list)
    failures: list[str] = field(factory=list)

    @property
    def num_late(self) -> int:
        """Units that were answered after the next one was complete, or not at all."""
        in_time = sum(answer.latency_s <= UNIT_S for answer in self.answers)
        return self.num_units - in_time

    @property
    def miss_rate(self) -> float:
        """The part of the units that was late."""
        return self.num_late / max(1, self.num_units)


@define
class _Call:
    """A session while it is paced. due_s: when its next second is complete."""

    slot: Slot
    due_s: float = 0.0
    was_listening: bool = True
    is_prepared: bool = False
    is_over: bool = False


@frozen
class _Sent:
    """Stands beside a chunk on its way."""

    due_s: float
    is_counted: bool


class PacedEngine:
    """An engine between the worker's inbox and outbox, and the clock of many microphones."""

    def __init__(self, make: Callable[[], Engine], script: TurnScript) -> None:
        self._script = script
        self._changed = threading.Event()
        self._inbox = Inbox(FabricSettings().inbox_size)
        self._thread = EngineThread(
            make,
            inbox=self._inbox,
            outbox_size=OUTBOX_SIZE,
            round_s=FabricSettings().heartbeat_interval_s / 2,
            on_output=self._changed.set,
        )
        self._generation = 0
        self.load_s = 0.0

    def start(self) -> Capabilities:
        """Load; return what the engine says of itself."""
        self._thread.start()
        ready: list[Ready] = []

        def note(output: Output) -> None:
            if isinstance(output, Ready):
                ready.append(output)

        self._until(lambda: bool(ready), note, START_TIMEOUT_S)
        spare_the_loaded()
        self.load_s = ready[0].load_s
        return ready[0].capabilities

    def stop(self) -> None:
        """End the loop and free everything."""
        self._thread.stop(60.0)

    def run(self, load: Load, prompt: str) -> Measured:
        """Hold *load*; *prompt* is every session's system prompt."""
        self._generation += 1
        random = Random(load.seed)
        calls = {
            index: _Call(Slot(index=index, generation=self._generation))
            for index in range(load.num_sessions)
        }
        for index, call in calls.items():
            self._script.begin(index, Random(random.random()))
            self._put(call.slot, _opening(load, prompt))
        measured = Measured(load)

        def take(output: Output) -> None:
            _take(output, calls, measured)

        self._until(
            lambda: all(call.is_prepared for call in calls.values()), take, START_TIMEOUT_S
        )
        self._pace(load, calls, measured, random, take)
        for call in calls.values():
            self._put(call.slot, Close())
        self._until(lambda: all(call.is_over for call in calls.values()), take, START_TIMEOUT_S)
        return measured

    def _pace(
        self,
        load: Load,
        calls: Mapping[int, _Call],
        measured: Measured,
        random: Random,
        take: Callable[[Output], None],
    ) -> None:
        chunks = _chunks(load.mode)
        begin_s = time.monotonic()
        end_s = begin_s + load.warm_up_s + load.duration_s
        due = [(begin_s + random.uniform(0, UNIT_S), index) for index in calls]
        heapq.heapify(due)
        while due[0][0] < end_s:
            due_s, index = due[0]
            self._hear_until(due_s, take)
            is_counted = due_s >= begin_s + load.warm_up_s
            measured.num_units += is_counted
            self._put(calls[index].slot, random.choice(chunks), _Sent(due_s, is_counted))
            heapq.heapreplace(due, (due_s + UNIT_S, index))
        self._until(lambda: len(measured.answers) >= measured.num_units, take, DRAIN_S, False)

    def _put(self, slot: Slot, message: SessionInput, sent: _Sent | None = None) -> None:
        self._inbox.put(Waiting(Arrival(slot, message), sent))

    def _hear_until(self, at_s: float, take: Callable[[Output], None]) -> None:
        while (left_s := at_s - time.monotonic()) > 0:
            self._changed.wait(left_s)
            self._drain(take)

    def _until(
        self,
        holds: Callable[[], bool],
        take: Callable[[Output], None],
        timeout_s: float,
        must_hold: bool = True,
    ) -> None:
        end_s = time.monotonic() + timeout_s
        self._drain(take)
        while not holds() and time.monotonic() < end_s:
            self._changed.wait(0.1)
            self._drain(take)
        if must_hold and not holds():
            raise TimeoutError(f"the engine does not answer within {timeout_s:.0f} s")

    def _drain(self, take: Callable[[Output], None]) -> None:
        self._changed.clear()
        for output in self._thread.outputs():
            if isinstance(output, Died):
                raise RuntimeError(f"the engine died: {output.reason}")
            take(output)


def _take(output: Output, calls: Mapping[int, _Call], measured: Measured) -> None:
    """Note what *output* says of its call; what is of an earlier load is passed over."""
    if isinstance(output, Closed):
        call = calls.get(output.slot.index)
        if call is not None and call.slot == output.slot:
            call.is_over = True
        return
    if not isinstance(output, Spoken):
        return
    call, event = calls.get(output.emission.slot.index), output.emission.event
    if call is None or call.slot != output.emission.slot:
        return
    match event:
        case Prepared():
            call.is_prepared = True
        case Failed():
            measured.failures.append(f"{event.code}: {event.message}")
            if event.fatal:
                raise RuntimeError(f"a session ended: {event.message}")
        case UnitResult():
            is_first = call.was_listening and not event.is_listen and len(event.pcm) > 0
            call.was_listening = event.is_listen
            sent = output.context
            if isinstance(sent, _Sent) and sent.is_counted:
                answer = Answer(
                    latency_s=output.made_ns / 1e9 - sent.due_s,
                    is_listen=event.is_listen,
                    is_first_sound=is_first,
                    kv_tokens=event.kv_cache_length,
                    costs=event.costs,
                )
                measured.answers.append(answer)


def _opening(load: Load, prompt: str) -> PrepareDuplex:
    return PrepareDuplex(
        mode="omni_duplex" if load.mode == "omni" else "audio_duplex",
        system_prompt=prompt,
        force_listen_count=0,
        tts_temperature=0.0,
        seed=load.seed,
    )


def _chunks(mode: CallMode) -> list[AudioChunk]:
    sounds = [second_of_noise(number) for number in range(_NUM_SOUNDS)]
    if mode == "audio":
        return [AudioChunk(pcm=sound) for sound in sounds]
    pictures = [picture(number) for number in range(_NUM_PICTURES)]
    return [
        AudioChunk(pcm=sound, frames=(shown,))
        for sound, shown in zip(sounds, pictures, strict=True)
    ]

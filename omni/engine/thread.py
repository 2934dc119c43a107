"""The engine thread: loads the engine and moves it, between a bounded inbox and outbox.

The only place that calls an engine in a worker. Each round takes what waits, steps, and hands on
what came; an idle loop makes rounds, too, so that `steps` proves that the engine lives.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from attrs import define, field, frozen

from omni.engine import (
    AudioChunk,
    Capabilities,
    Close,
    Emission,
    Engine,
    Failed,
    Prepared,
    PrepareDuplex,
    Slot,
    UnitResult,
)
from omni.engine.inbox import Inbox, Taken
from omni.errors import CheckpointError, EngineDead, SettingsError

log = logging.getLogger(__name__)


@frozen
class Ready:
    """The engine is loaded and warm. load_s: how long that took."""

    capabilities: Capabilities
    load_s: float


@frozen
class Spoken:
    """An event of the engine. context: of the chunk that it answers, or None.

    taken_ns, made_ns: when that chunk left the inbox, and when its answer was there.
    """

    emission: Emission
    context: object
    taken_ns: int
    made_ns: int


@frozen
class Closed:
    """The engine has freed *slot*."""

    slot: Slot


@frozen
class Died:
    """The loop has ended. can_restart: False where the same settings would fail again."""

    reason: str
    can_restart: bool


Output = Ready | Spoken | Closed | Died


@frozen
class _Unanswered:
    context: object
    taken_ns: int


_SKIPPED = _Unanswered(None, 0)


@define
class _Duplex:
    """A duplex slot: what it owes answers for, in order, and its last answer's counter."""

    unanswered: deque[_Unanswered] = field(factory=deque)
    current_time: int = 0


class EngineThread:
    """Runs *make* and then its engine's `step` in a thread of its own.

    on_output: called from that thread when `outputs()` has something after it was empty. round_s:
    the longest idle wait. Outbox full (`outbox_size`): the engine waits until the I/O thread took
    it, for nothing that was computed may be lost; its heartbeats stop meanwhile.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        inbox: Inbox,
        outbox_size: int,
        round_s: float,
        on_output: Callable[[], None],
    ) -> None:
        self._make = make
        self._inbox = inbox
        self._outbox: deque[Output] = deque()
        self._outbox_size = outbox_size
        self._outbox_changed = threading.Condition()
        self._round_s = round_s
        self._on_output = on_output
        self._stopping = False
        self._duplex: dict[Slot, _Duplex] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.steps = 0

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the loop to end, and return whether it did within *timeout_s*."""
        self._stopping = True
        self._inbox.wake()
        with self._outbox_changed:
            self._outbox_changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def outputs(self) -> list[Output]:
        """Return what the engine gave since the last call; never waits."""
        if not self._outbox:
            return []
        with self._outbox_changed:
            outputs = list(self._outbox)
            self._outbox.clear()
            self._outbox_changed.notify_all()
        return outputs

    def _run(self) -> None:
        try:
            self._load_and_step()
        except (CheckpointError, SettingsError) as exc:
            log.error("the engine cannot be loaded: %s", exc)
            self._put([Died(str(exc), can_restart=False)])
        except EngineDead as exc:
            log.error("the engine is dead: %s", exc)
            self._put([Died(str(exc), can_restart=True)])
        except Exception as exc:
            log.exception("the engine failed where it must not")
            self._put([Died(f"{type(exc).__name__}: {exc}", can_restart=True)])

    def _load_and_step(self) -> None:
        started_s = time.monotonic()
        engine = self._make()
        try:
            capabilities = engine.load(self._inbox.wake)
            self._put([Ready(capabilities, time.monotonic() - started_s)])
            while not self._stopping:
                self._round(engine)
                self.steps += 1
        finally:
            engine.close()

    def _round(self, engine: Engine) -> None:
        taken = self._inbox.take(0.0 if engine.busy else self._round_s)
        self._note(taken)
        emissions = engine.step([waiting.arrival for waiting in taken.inputs])
        made_ns = time.monotonic_ns()
        outputs: list[Output] = []
        for emission in emissions:
            outputs += self._pair(emission, made_ns)
        for slot in taken.skipped:
            outputs += self._answer_skipped(slot, made_ns)
        for waiting in taken.inputs:
            if isinstance(waiting.arrival.input, Close):
                self._duplex.pop(waiting.arrival.slot, None)
                outputs.append(Closed(waiting.arrival.slot))
        if outputs:
            self._put(outputs)

    def _note(self, taken: Taken) -> None:
        """Remember what duplex slots wait for: `Prepared`, then one `UnitResult` a chunk."""
        now_ns = time.monotonic_ns()
        skipped = dict(taken.skipped)
        for waiting in taken.inputs:
            slot, message = waiting.arrival.slot, waiting.arrival.input
            if isinstance(message, PrepareDuplex):
                self._duplex[slot] = _Duplex(deque([_Unanswered(waiting.context, now_ns)]))
            if (duplex := self._duplex.get(slot)) is not None:
                duplex.unanswered.extend([_SKIPPED] * skipped.pop(slot, 0))
                if isinstance(message, AudioChunk):
                    duplex.unanswered.append(_Unanswered(waiting.context, now_ns))
        for slot, count in skipped.items():
            if (duplex := self._duplex.get(slot)) is not None:
                duplex.unanswered.extend([_SKIPPED] * count)

    def _pair(self, emission: Emission, made_ns: int) -> list[Output]:
        """Return *emission* with the context of its chunk, and the skipped ones around it."""
        slot, event = emission.slot, emission.event
        duplex = self._duplex.get(slot)
        if isinstance(event, Failed) and event.fatal:
            self._duplex.pop(slot, None)
        elif isinstance(event, UnitResult | Prepared) and duplex and duplex.unanswered:
            before = self._answer_skipped(slot, made_ns)
            chunk = duplex.unanswered.popleft() if duplex.unanswered else _SKIPPED
            if isinstance(event, UnitResult):
                duplex.current_time = event.current_time
            spoken = Spoken(emission, chunk.context, chunk.taken_ns, made_ns)
            return [*before, spoken, *self._answer_skipped(slot, made_ns)]
        return [Spoken(emission, None, 0, made_ns)]

    def _answer_skipped(self, slot: Slot, made_ns: int) -> list[Output]:
        """Return a listen for each skipped chunk that is next in line, so that counts match."""
        outputs: list[Output] = []
        duplex = self._duplex.get(slot)
        while duplex and duplex.unanswered and duplex.unanswered[0] is _SKIPPED:
            duplex.unanswered.popleft()
            listen = UnitResult(is_listen=True, current_time=duplex.current_time)
            outputs.append(Spoken(Emission(slot, listen), None, 0, made_ns))
        return outputs

    def _put(self, outputs: list[Output]) -> None:
        for output in outputs:
            with self._outbox_changed:
                while len(self._outbox) >= self._outbox_size and not self._stopping:
                    self._outbox_changed.wait(self._round_s)
                was_empty = not self._outbox
                self._outbox.append(output)
            if was_empty:
                self._on_output()

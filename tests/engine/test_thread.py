"""The engine thread pairs answers with what they answer, and its life shows in its steps."""

import threading
from collections.abc import Callable, Iterator

import pytest

from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    Close,
    Emission,
    Failed,
    Prepared,
    PrepareDuplex,
    Slot,
    UnitResult,
)
from omni.engine.inbox import Inbox, Waiting
from omni.engine.thread import Closed, Died, EngineThread, Output, Ready, Spoken
from omni.errors import CheckpointError, EngineDead
from tests.fakes import TIMEOUT_S, FakeEngine, until

SLOT = Slot(index=0, generation=1)


class Driver:
    """An engine thread whose outputs a test waits for."""

    def __init__(self, engine: FakeEngine, inbox_size: int = 64) -> None:
        self.engine = engine
        self.inbox = Inbox(inbox_size)
        self.has_output = threading.Event()
        self.got: list[Output] = []
        self.thread = EngineThread(
            lambda: engine,
            inbox=self.inbox,
            outbox_size=16,
            round_s=0.01,
            on_output=self.has_output.set,
        )

    def put(self, message: PrepareDuplex | AudioChunk | Close, context: object = None) -> None:
        self.inbox.put(Waiting(Arrival(SLOT, message), context))

    def wait_for(self, is_there: Callable[[list[Output]], bool]) -> list[Output]:
        """Collect outputs until *is_there* likes them."""
        while not is_there(self.got):
            assert self.has_output.wait(TIMEOUT_S), f"nothing came after {self.got}"
            self.has_output.clear()
            self.got += self.thread.outputs()
        return self.got

    def wait_events(self, count: int) -> list[Spoken]:
        outputs = self.wait_for(lambda got: sum(isinstance(o, Spoken) for o in got) >= count)
        return [output for output in outputs if isinstance(output, Spoken)]


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver(FakeEngine(), inbox_size=2)
    driver.thread.start()
    driver.wait_for(lambda got: bool(got))
    yield driver
    driver.engine.gate.set()
    assert driver.thread.stop(TIMEOUT_S)


def chunk(number: int) -> AudioChunk:
    return AudioChunk(pcm=Buffer(bytes([number])))


def test_loading_ends_with_the_capabilities(driver: Driver) -> None:
    [ready] = driver.got

    assert isinstance(ready, Ready) and ready.capabilities.engine == "fake"


def test_an_idle_loop_makes_rounds(driver: Driver) -> None:
    before = driver.thread.steps

    until(lambda: driver.thread.steps >= before + 3)

    assert not driver.engine.seen


def test_a_stuck_step_makes_no_rounds(driver: Driver) -> None:
    driver.engine.gate.clear()
    until(lambda: driver.engine.is_stuck)
    stuck = driver.thread.steps

    driver.put(Close())

    assert driver.thread.steps == stuck and not driver.engine.seen
    driver.engine.gate.set()
    until(lambda: driver.thread.steps > stuck)


def test_an_answer_comes_with_the_context_of_its_chunk(driver: Driver) -> None:
    driver.engine.answer = lambda arrival: [
        Emission(
            arrival.slot,
            Prepared()
            if isinstance(arrival.input, PrepareDuplex)
            else UnitResult(is_listen=True),
        )
    ]
    driver.put(PrepareDuplex(mode="audio_duplex"), "opening")
    driver.put(chunk(1), "first")

    spoken = driver.wait_events(2)

    assert [item.context for item in spoken] == ["opening", "first"]
    assert all(item.taken_ns <= item.made_ns for item in spoken)


def test_dropped_chunks_are_answered_in_their_turn(driver: Driver) -> None:
    """Seven chunks, of which the engine has one and the inbox holds two: seven results."""
    driver.put(PrepareDuplex(mode="audio_duplex"))
    driver.put(chunk(0), 0)
    until(lambda: len(driver.engine.seen) == 2)
    driver.engine.gate.clear()
    until(lambda: driver.engine.is_stuck)
    for number in range(1, 7):
        driver.put(chunk(number), number)
    late = [UnitResult(is_listen=False, text=str(n), current_time=n) for n in range(1, 8)]
    driver.engine.later.extend([Emission(SLOT, Prepared()), Emission(SLOT, late[0])])
    driver.engine.answer = lambda arrival: [Emission(SLOT, late[len(driver.engine.seen)])]
    driver.engine.gate.set()

    spoken = driver.wait_events(8)

    contexts = [item.context for item in spoken[1:]]
    assert len(contexts) == 7
    assert contexts[0] == 0 and contexts[-1] == 6
    answered = [context for context in contexts if context is not None]
    assert answered == sorted(answered)  # type: ignore[type-var]  # all are numbers here
    skipped = [item.emission.event for item in spoken[1:] if item.context is None]
    assert skipped and all(isinstance(event, UnitResult) and event.is_listen for event in skipped)


def test_a_chunk_that_could_not_be_read_is_still_answered(driver: Driver) -> None:
    driver.engine.answer = lambda arrival: [Emission(arrival.slot, Prepared())]
    driver.put(PrepareDuplex(mode="audio_duplex"))
    driver.wait_events(1)

    driver.inbox.skip(SLOT)

    event = driver.wait_events(2)[1].emission.event
    assert isinstance(event, UnitResult) and event.is_listen


def test_after_a_fatal_failure_nothing_is_owed(driver: Driver) -> None:
    driver.put(PrepareDuplex(mode="audio_duplex"))
    driver.put(chunk(1))
    driver.engine.later.append(Emission(SLOT, Failed(code="x", message="", fatal=True)))
    driver.inbox.wake()
    driver.wait_events(1)

    driver.inbox.skip(SLOT)
    driver.put(Close())

    outputs = driver.wait_for(lambda got: isinstance(got[-1], Closed))
    assert len([output for output in outputs if isinstance(output, Spoken)]) == 1


def test_a_close_is_confirmed_after_the_engine_took_it(driver: Driver) -> None:
    driver.put(Close())

    driver.wait_for(lambda got: Closed(SLOT) in got)

    assert driver.engine.seen == [Arrival(SLOT, Close())]


@pytest.mark.parametrize(
    ("error", "can_restart"),
    [(EngineDead("device lost"), True), (ZeroDivisionError("a mistake"), True)],
)
def test_an_engine_that_fails_ends_the_loop_with_the_reason(
    driver: Driver, error: Exception, can_restart: bool
) -> None:
    driver.engine.fail_with = error

    outputs = driver.wait_for(lambda got: isinstance(got[-1], Died))

    died = outputs[-1]
    assert isinstance(died, Died) and str(error) in died.reason
    assert died.can_restart is can_restart
    assert driver.thread.stop(TIMEOUT_S) and driver.engine.is_closed


def test_an_engine_that_cannot_be_loaded_is_not_worth_a_restart() -> None:
    engine = FakeEngine()
    engine.fail_load_with = CheckpointError("no such directory")
    driver = Driver(engine)
    driver.thread.start()

    [died] = driver.wait_for(lambda got: bool(got))

    assert died == Died("no such directory", can_restart=False)
    assert driver.thread.stop(TIMEOUT_S)

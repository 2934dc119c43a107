"""The engine on the tiny checkpoint, through its contract: many sessions, faults, freed slots."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from attrs import evolve
from numpy.typing import NDArray

from omni.engine import (
    AudioChunk,
    Buffer,
    Close,
    Failed,
    Prepared,
    PrepareDuplex,
    SessionEvent,
    Slot,
    StopAnswer,
    UnitResult,
)
from omni.errors import CapacityError
from omni.minicpmo.scheduler import Phase
from omni.minicpmo.session import MAX_WAITING_CHUNKS
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.thinking import FeedShare
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.minicpmo.warm_up import warm_up
from omni.minicpmo.work import Draw, Drawn, Fed
from tests.minicpmo.driver import Driver, heard, pcm, silence_source, slots
from tests.minicpmo.pictures import golden_picture

PREPARE = PrepareDuplex(
    mode="omni_duplex", decode_mode="greedy", tts_temperature=0.0, force_listen_count=0
)
NUM_UNITS = 5
# The same sums in another order; the pitch of the vocoder adds up what they differ by.
REORDERED = 5e-3


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    return directory


@pytest.fixture(scope="module")
def driver(tiny_dir: Path) -> Iterator[Driver]:
    made = Driver(tiny_dir)
    silence_source(made)
    yield made
    made.engine.close()


@pytest.fixture
def start(tiny_dir: Path) -> Iterator[Callable[..., Driver]]:
    """Return a function that loads an engine with options; all are closed."""
    drivers: list[Driver] = []

    def make(options: EngineOptions, *overrides: str) -> Driver:
        drivers.append(Driver(tiny_dir, options, *overrides))
        return drivers[-1]

    yield make
    for made in drivers:
        made.engine.close()


@pytest.fixture(autouse=True)
def closed(driver: Driver) -> Iterator[None]:
    """Close every slot behind a test, and see that nothing stays."""
    yield
    for slot in slots(driver.capabilities.num_slots, generation=1000):
        driver.step(slot, Close())
        assert driver.is_clean(slot.index)
    driver.runner.kv.table.check_integrity()
    driver.runner.speech.cache.table.check_integrity()
    driver.events.clear()


def sound(seed: int, second: int) -> NDArray[np.float32]:
    """Return a second of somebody who talks for two seconds and is quiet for two."""
    random = np.random.default_rng((seed, second))
    loudness = 0.3 if (second + seed) % 4 < 2 else 0.002
    samples: NDArray[np.float32] = random.normal(0, loudness, 16_000).astype(np.float32)
    return samples


def jpeg(number: int) -> Buffer:
    file = io.BytesIO()
    golden_picture(320, 240, number).save(file, "JPEG")
    return Buffer(file.getvalue())


def chunk(seed: int, second: int) -> AudioChunk:
    """Return a second of session *seed*; every other session shows pictures."""
    frames = (jpeg(seed + second),) if seed % 2 else ()
    return AudioChunk(pcm=pcm(sound(seed, second)), frames=frames)


def told(unit: UnitResult) -> UnitResult:
    """Return what a unit tells but for its sound and times."""
    return evolve(unit, pcm=Buffer(b""), costs=UnitResult(is_listen=True).costs)


def run_alone(driver: Driver, slot: Slot, seed: int) -> list[UnitResult]:
    driver.ask(slot, PREPARE, Prepared)
    units = [
        driver.ask(slot, chunk(seed, second), UnitResult) for second in range(NUM_UNITS)
    ]
    driver.step(slot, Close())
    return units


def test_it_says_what_it_can(driver: Driver) -> None:
    capabilities = driver.capabilities

    assert capabilities.engine == "minicpmo"
    assert capabilities.vision
    assert {"audio_duplex", "omni_duplex"} <= set(capabilities.modes)
    assert capabilities.num_slots == 8


def test_a_session_listens_and_speaks(driver: Driver) -> None:
    units = run_alone(driver, slots(1)[0], seed=1)

    assert {unit.is_listen for unit in units} == {True, False}
    assert [unit.current_time for unit in units] == [1, 2, 3, 4, 5]
    for unit in units:
        assert len(heard(unit.pcm)) == 0 if unit.is_listen else len(heard(unit.pcm)) > 0
        assert unit.costs.all_ms is not None and unit.costs.prefill_ms is not None
        assert (unit.costs.tts_ms is None) == unit.is_listen


def test_a_session_is_the_same_alone_and_among_seven_others(driver: Driver) -> None:
    """All eight go on at once, joining one after another, so batches are mixed in every phase."""
    seats = slots(8)
    alone = [run_alone(driver, seat, seed) for seed, seat in enumerate(seats)]
    again = slots(8, generation=2)
    for seed, seat in enumerate(again):
        driver.step(seat, PREPARE, *(chunk(seed, second) for second in range(NUM_UNITS)))
    together: dict[Slot, list[SessionEvent]] = driver.events

    driver.until(lambda: all(len(together[seat]) == NUM_UNITS + 1 for seat in again))

    for seat, expected in zip(again, alone, strict=True):
        units = [event for event in together[seat] if isinstance(event, UnitResult)]
        assert [told(unit) for unit in units] == [told(unit) for unit in expected]
        for unit, wanted in zip(units, expected, strict=True):
            np.testing.assert_allclose(heard(unit.pcm), heard(wanted.pcm), atol=REORDERED, rtol=0)


def test_a_freed_slot_leaves_nothing_behind(driver: Driver) -> None:
    """The second session of a slot goes as the first went, also when one broke off before it."""
    first = run_alone(driver, Slot(index=2, generation=1), seed=3)
    assert driver.is_clean(2)
    broken = Slot(index=2, generation=2)
    driver.ask(broken, evolve(PREPARE, temperature=1.3, decode_mode="sampling"), Prepared)
    driver.step(broken, chunk(5, 0), chunk(5, 1))
    driver.step(broken)

    second = run_alone(driver, Slot(index=2, generation=3), seed=3)

    assert [told(unit) for unit in second] == [told(unit) for unit in first]


def test_a_seed_decides_what_is_drawn(driver: Driver) -> None:
    prepare = evolve(PREPARE, decode_mode="sampling", temperature=1.0, tts_temperature=0.8)
    spoken = []
    for generation, seed in enumerate((11, 11, 12), start=1):
        seat = Slot(index=0, generation=generation)
        driver.ask(seat, evolve(prepare, seed=seed), Prepared)
        units = [driver.ask(seat, chunk(2, second), UnitResult) for second in range(NUM_UNITS)]
        spoken.append([unit.token_ids for unit in units])

    assert spoken[0] == spoken[1] != spoken[2]


@pytest.mark.parametrize(
    "broken",
    [
        AudioChunk(pcm=Buffer(b"\0" * 64_003)),
        AudioChunk(pcm=pcm(sound(0, 0)), frames=(Buffer(b"no picture"),)),
        AudioChunk(pcm=pcm(sound(0, 0)), frames=(jpeg(1)[:200],)),
        AudioChunk(pcm=pcm(np.zeros(31 * 16_000, dtype=np.float32))),
        AudioChunk(pcm=pcm(sound(0, 0)), frames=(jpeg(1),) * 33),
    ],
    ids=["odd bytes", "no picture", "half a picture", "too long", "too many pictures"],
)
def test_malformed_media_fail_in_their_own_session_alone(
    driver: Driver, broken: AudioChunk
) -> None:
    victim, other = slots(2)
    expected = run_alone(driver, Slot(index=7, generation=1), seed=1)
    for seat in (victim, other):
        driver.ask(seat, PREPARE, Prepared)
    driver.ask(victim, chunk(1, 0), UnitResult)
    driver.ask(other, chunk(1, 0), UnitResult)

    failed = driver.refusal(victim, broken)
    answered = driver.wait(victim, UnitResult)
    driver.step(other, chunk(1, 1))

    assert (failed.code in ("invalid_request", "protocol_error"), failed.fatal) == (True, False)
    assert answered.is_listen and answered.current_time == 1
    assert told(driver.wait(other, UnitResult)) == told(expected[1])
    assert told(driver.ask(victim, chunk(1, 1), UnitResult)) == told(expected[1])


def test_sound_that_is_no_number_counts_as_silence(driver: Driver) -> None:
    seat = slots(1)[0]
    driver.ask(seat, PREPARE, Prepared)
    samples = sound(0, 0)
    samples[100:200] = np.nan

    unit = driver.ask(seat, AudioChunk(pcm=pcm(samples)), UnitResult)

    assert unit.current_time == 1


def test_a_chunk_of_nothing_is_a_listen(driver: Driver) -> None:
    seat = slots(1)[0]
    prompt = driver.ask(seat, PREPARE, Prepared).prompt_length

    unit = driver.ask(seat, AudioChunk(pcm=Buffer(b"")), UnitResult)

    assert unit == UnitResult(is_listen=True, kv_cache_length=prompt)


def test_chunks_beyond_the_bound_are_answered_unheard(driver: Driver) -> None:
    seat = slots(1)[0]
    driver.ask(seat, PREPARE, Prepared)
    count = MAX_WAITING_CHUNKS + 4

    driver.step(seat, *(chunk(2, second) for second in range(count)))
    driver.until(lambda: len(driver.events[seat]) == count)

    units = [event for event in driver.events[seat] if isinstance(event, UnitResult)]
    assert len(units) == count
    assert units[-1].current_time == MAX_WAITING_CHUNKS


def test_a_slot_that_is_not_there_is_refused(driver: Driver) -> None:
    failed = driver.refusal(Slot(index=8, generation=1), PREPARE)

    assert (failed.code, failed.fatal) == ("no_capacity", True)


@pytest.mark.parametrize("message", [chunk(0, 0), StopAnswer()], ids=["chunk", "stop"])
def test_what_comes_without_a_session_is_refused(
    driver: Driver, message: AudioChunk | StopAnswer
) -> None:
    assert driver.refusal(slots(1)[0], message).code == "invalid_request"


def test_what_is_for_an_older_tenant_is_dropped(driver: Driver) -> None:
    new, old = Slot(index=0, generation=5), Slot(index=0, generation=4)
    driver.ask(new, PREPARE, Prepared)

    driver.step(old, chunk(0, 0))
    driver.step(old, Close())

    assert not driver.events[old]
    assert driver.ask(new, chunk(0, 0), UnitResult).current_time == 1


@pytest.mark.parametrize(
    "prepare",
    [
        evolve(PREPARE, temperature=-1.0),
        evolve(PREPARE, tts_temperature=-1.0),
        evolve(PREPARE, voice=Buffer(b"\0" * 400)),
        evolve(PREPARE, tts_voice=Buffer(b"\0" * 401)),
    ],
    ids=["temperature", "temperature of the sound", "short voice", "odd voice"],
)
def test_an_opening_that_cannot_be_is_refused(driver: Driver, prepare: PrepareDuplex) -> None:
    seat = slots(1)[0]

    failed = driver.refusal(seat, prepare)

    assert failed.fatal
    assert failed.code in ("invalid_request", "protocol_error")
    assert driver.is_clean(0)


def test_a_prompt_that_finds_no_pages_is_refused_and_others_go_on(
    start: Callable[..., Driver],
) -> None:
    driver = start(EngineOptions(kv_tokens=640), "fabric.slots=3")
    first, second, third = slots(3)
    quiet = evolve(PREPARE, generate_audio=False)
    driver.ask(first, quiet, Prepared)

    long = evolve(quiet, system_prompt="word " * 600)
    failed = driver.refusal(second, long)

    assert (failed.code in ("no_capacity", "context_exhausted"), failed.fatal) == (True, True)
    assert driver.is_clean(1)
    assert driver.ask(first, chunk(2, 0), UnitResult).current_time == 1
    assert driver.ask(third, quiet, Prepared).prompt_length < 100


def test_a_call_makes_room_in_a_short_pool_by_forgetting_its_oldest_units(
    start: Callable[..., Driver],
) -> None:
    driver = start(EngineOptions(kv_tokens=320), "fabric.slots=1")
    seat = slots(1)[0]
    driver.ask(seat, evolve(PREPARE, generate_audio=False), Prepared)

    units = [driver.ask(seat, chunk(2, second), UnitResult) for second in range(40)]

    assert units[-1].current_time == 40
    assert max(unit.kv_cache_length for unit in units) <= 320


def test_an_engine_fault_ends_the_session_that_it_met_alone(
    start: Callable[..., Driver],
) -> None:
    def choose(slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        if slot == 1:
            raise ZeroDivisionError("a fault of the engine's own")
        return drawn

    driver = start(EngineOptions(choose=choose), "fabric.slots=2")
    healthy, ill = slots(2)
    for seat in (healthy, ill):
        driver.ask(seat, PREPARE, Prepared)

    driver.step(healthy, chunk(2, 0))
    failed = driver.refusal(ill, chunk(2, 0))

    assert (failed.code, failed.fatal) == ("generation_failed", True)
    assert "ZeroDivision" not in failed.message
    assert driver.is_clean(1)
    driver.wait(healthy, UnitResult)


def test_memory_that_is_short_for_one_session_refuses_it_and_others_go_on(
    start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device itself has no room left: the batch fails, then each job is tried alone."""
    driver = start(EngineOptions(), "fabric.slots=2")
    first, second = slots(2)
    thinking = driver.runner.thinking
    prefill = thinking.prefill

    def short_for_the_second(shares: Sequence[FeedShare]) -> list[Fed]:
        if any(share.slot == second.index for share in shares):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prefill(shares)

    driver.ask(first, PREPARE, Prepared)
    monkeypatch.setattr(thinking, "prefill", short_for_the_second)
    driver.step(first, chunk(2, 0))
    failed = driver.refusal(second, PREPARE)

    assert (failed.code, failed.fatal) == ("no_capacity", True)
    assert "fabric.slots" in failed.message and "CUDA" not in failed.message
    assert driver.is_clean(1)
    assert driver.wait(first, UnitResult).current_time == 1


@pytest.mark.parametrize("is_deferred", [True, False])
def test_a_call_outlives_a_moment_without_pages(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, is_deferred: bool
) -> None:
    """First for a chunk of three seconds, of which nothing is left to pile up, then for the end of
    a unit, which is fed with the next one.
    """
    seat = slots(1)[0]
    prepare = evolve(PREPARE, generate_audio=False, force_listen_count=9)
    driver.ask(seat, evolve(prepare, deferred_finalize=is_deferred), Prepared)
    long = AudioChunk(pcm=pcm(np.concatenate([sound(2, second) for second in range(3)])))
    thinking = driver.runner.thinking
    prefill = thinking.prefill

    def short(shares: Sequence[FeedShare]) -> list[Fed]:
        if any(len(share.work) in shortages for share in shares):
            raise CapacityError("no page is free")
        return prefill(shares)

    monkeypatch.setattr(thinking, "prefill", short)
    shortages = range(3, 1000)
    failed = driver.refusal(seat, long)
    unheard = driver.wait(seat, UnitResult)
    shortages = range(2, 3)
    units = [driver.ask(seat, chunk(2, second), UnitResult) for second in range(2)]

    assert (failed.code, failed.fatal) == ("no_capacity", False)
    assert unheard.is_listen and unheard.current_time == 0
    assert [unit.current_time for unit in units] == [1, 2]
    assert units[1].kv_cache_length - units[0].kv_cache_length == 13


def test_a_call_outlives_a_moment_in_which_nothing_can_be_heard(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = slots(1)[0]
    driver.ask(seat, evolve(PREPARE, generate_audio=False, force_listen_count=9), Prepared)

    def short(slots: Sequence[int]) -> torch.Tensor:
        raise CapacityError("no page is free")

    with monkeypatch.context() as patch:
        patch.setattr(driver.runner.hearing, "step", short)
        failed = driver.refusal(seat, chunk(2, 0))
        unheard = driver.wait(seat, UnitResult)
    late = driver.ask(seat, chunk(2, 1), UnitResult)

    assert (failed.code, failed.fatal) == ("no_capacity", False)
    assert unheard.is_listen and unheard.current_time == 0
    assert late.current_time == 2  # with what could not be heard before


def test_closing_the_engine_ends_running_sessions(start: Callable[..., Driver]) -> None:
    driver = start(EngineOptions(), "fabric.slots=2")
    seat = slots(1)[0]
    driver.ask(seat, PREPARE, Prepared)
    driver.step(seat, chunk(2, 0))

    driver.engine.close()

    assert not driver.engine.busy


def test_recorded_batch_sizes_change_nothing(
    start: Callable[..., Driver], driver: Driver
) -> None:
    """Steps on fixed buffers, batches filled up with idle rows: the same conversation. On a GPU
    these steps are graphs, here they are called.
    """
    expected = run_alone(driver, slots(1)[0], seed=2)
    recorded = start(EngineOptions(batch_sizes=(2, 4)), "fabric.slots=4")
    seats = slots(3)
    for seat in seats:
        recorded.ask(seat, PREPARE, Prepared)
    for seat in seats:
        recorded.step(seat, *(chunk(2, second) for second in range(NUM_UNITS)))

    recorded.until(lambda: all(len(recorded.events[seat]) == NUM_UNITS for seat in seats))

    for seat in seats:
        units = [event for event in recorded.events[seat] if isinstance(event, UnitResult)]
        assert [told(unit) for unit in units] == [told(unit) for unit in expected]
    for seat in seats:
        recorded.step(seat, Close())
        assert recorded.is_clean(seat.index)


def test_a_warm_up_call_leaves_nothing(driver: Driver) -> None:
    assert warm_up(driver.engine)

    assert driver.is_clean(0)


def test_small_steps_change_nothing(start: Callable[..., Driver], driver: Driver) -> None:
    """Prompts in pieces of 16 tokens, two rows a batch, one picture at a time."""
    expected = run_alone(driver, slots(1)[0], seed=3)
    limits = {phase: 2 for phase in Phase} | {Phase.PREFILL: 16, Phase.SEE: 1, Phase.LISTEN: 1}
    small = start(EngineOptions(limits=limits), "fabric.slots=3")
    seats = slots(3)
    for seat in seats:
        small.step(seat, PREPARE, *(chunk(3, second) for second in range(NUM_UNITS)))

    small.until(lambda: all(len(small.events[seat]) == NUM_UNITS + 1 for seat in seats))

    for seat in seats:
        units = [event for event in small.events[seat] if isinstance(event, UnitResult)]
        assert [told(unit) for unit in units] == [told(unit) for unit in expected]


def test_a_prompt_that_cannot_be_fed_to_its_end_is_not_begun(
    start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes the pages of all others before it fails, and they forget what was said."""
    limits = {phase: 64 for phase in Phase}
    driver = start(EngineOptions(kv_tokens=320, limits=limits), "fabric.slots=2")
    computed: list[int] = []
    prefill = driver.runner.thinking.prefill

    def counted(shares: Sequence[FeedShare]) -> list[Fed]:
        computed.append(len(shares))
        return prefill(shares)

    monkeypatch.setattr(driver.runner.thinking, "prefill", counted)
    long = evolve(PREPARE, generate_audio=False, system_prompt="word " * 400)

    failed = driver.refusal(slots(1)[0], long)

    assert failed.fatal
    assert not computed
    assert driver.is_clean(0)


def test_prompts_that_run_out_of_pages_halfway_leave_nothing(
    start: Callable[..., Driver],
) -> None:
    """There is room for each, but not for both."""
    limits = {phase: 64 for phase in Phase}
    driver = start(EngineOptions(kv_tokens=640, limits=limits), "fabric.slots=2")
    long = evolve(PREPARE, generate_audio=False, system_prompt="word " * 440)
    seats = slots(2)
    for seat in seats:
        driver.step(seat, long)

    driver.until(lambda: all(driver.events[seat] for seat in seats))

    events = [driver.events[seat][0] for seat in seats]
    refused = [number for number, event in enumerate(events) if isinstance(event, Failed)]
    assert len(refused) == 1, events
    assert driver.is_clean(refused[0])
    assert not driver.engine.busy
    driver.runner.kv.table.check_integrity()


@pytest.mark.parametrize("seed", range(4))
def test_sessions_that_come_and_go_at_any_moment_leave_nothing(driver: Driver, seed: int) -> None:
    """Openings, chunks, broken chunks, interruptions and closes in any order, between any steps."""
    random = Random(seed)
    generations = [0] * 8
    for _ in range(120):
        index = random.randrange(8)
        slot = Slot(index=index, generation=generations[index])
        match random.choice(["open", "chunk", "chunk", "chunk", "force", "broken", "close"]):
            case "open":
                generations[index] += 1
                audio = random.random() < 0.7
                prepare = evolve(PREPARE, generate_audio=audio, decode_mode="sampling", seed=seed)
                driver.step(Slot(index=index, generation=generations[index]), prepare)
            case "chunk":
                driver.step(slot, chunk(index, random.randrange(4)))
            case "force":
                driver.step(slot, evolve(chunk(index, 2), force_listen=True))
            case "broken":
                driver.step(slot, AudioChunk(pcm=Buffer(b"\0" * 5), frames=(Buffer(b"?"),)))
            case "close":
                driver.step(slot, Close())
        for _ in range(random.randrange(6)):
            driver.step()

    driver.until(lambda: not driver.engine.busy)

    for slot, events in driver.events.items():
        assert not [e for e in events if isinstance(e, Failed) and e.code == "generation_failed"]

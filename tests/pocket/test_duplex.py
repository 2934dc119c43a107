"""A call: every chunk is answered, speech goes both ways at once, and breaking in stops it."""

import numpy as np
import pytest

from omni import audio
from omni.engine import (
    AudioChunk,
    Buffer,
    Close,
    Failed,
    Prepared,
    PrepareDuplex,
    Slot,
    StopAnswer,
    UnitResult,
    UserTranscript,
)
from omni.pocket.hearing import Hearing
from omni.pocket.speaking import Voice
from tests.pocket.conftest import said_at_16_khz, silence, word_error_rate, words
from tests.pocket.driver import Driver, chunks, joined

FRANCE = "What is the capital of France?"
JAPAN = "What is the capital of Japan?"
STORY = "Tell me a story about a dog."
MAX_QUIET_CHUNKS = 2000


def opened(driver: Driver, index: int = 0, **opening: object) -> Slot:
    slot = driver.new_slot(index)
    prepare = PrepareDuplex(mode="audio_duplex", **opening)  # type: ignore[arg-type]
    prepared = driver.send(slot, prepare)
    assert isinstance(prepared[0], Prepared)
    return slot


def quiet_chunks(chunk_ms: int) -> list[AudioChunk]:
    """Return so much silence that only an engine that hangs is not done with it."""
    return chunks(silence(chunk_ms / 1000), chunk_ms) * MAX_QUIET_CHUNKS


def ask(driver: Driver, slot: Slot, question: audio.Waveform, chunk_ms: int) -> list[UnitResult]:
    """Say *question*, then be quiet until the answer begins; return all results."""
    results = []
    for chunk in [*chunks(question, chunk_ms), *quiet_chunks(chunk_ms)]:
        result, _ = driver.unit(slot, chunk)
        results.append(result)
        if not result.is_listen:
            return results
        driver.pass_time()
    raise AssertionError("no answer")


def rest_of_answer(driver: Driver, slot: Slot, chunk_ms: int) -> list[UnitResult]:
    """Be quiet until the answer has ended; return its results."""
    results = []
    for chunk in quiet_chunks(chunk_ms):
        result, _ = driver.unit(slot, chunk)
        results.append(result)
        if result.end_of_turn:
            return results
        driver.pass_time()
    raise AssertionError("the answer does not end")


def text_of(results: list[UnitResult]) -> str:
    return "".join(result.text for result in results)


@pytest.fixture(scope="module")
def france(voice: Voice) -> audio.Waveform:
    return np.concatenate([silence(0.4), said_at_16_khz(voice, FRANCE)])


@pytest.mark.parametrize("chunk_ms", [100, 330, 1000])
def test_a_spoken_question_is_answered_in_speech(
    driver: Driver, hearing: Hearing, france: audio.Waveform, chunk_ms: int
) -> None:
    slot = opened(driver, chunk_ms=chunk_ms)

    results = ask(driver, slot, france, chunk_ms)
    results += rest_of_answer(driver, slot, chunk_ms) if not results[-1].end_of_turn else []

    spoken = [result for result in results if not result.is_listen]
    heard = hearing.transcribe(joined([bytes(result.pcm) for result in spoken]))
    assert "paris" in words(text_of(spoken))
    assert word_error_rate(text_of(spoken), heard) < 0.4, heard
    assert [result.current_time for result in results] == list(range(1, len(results) + 1))
    most = audio.OUTPUT_HZ * chunk_ms // 1000 * 4
    assert all(len(result.pcm) <= most for result in results)
    assert all(not result.pcm for result in results if result.is_listen)


def test_the_user_s_words_are_known(driver: Driver, france: audio.Waveform) -> None:
    slot = opened(driver)

    ask(driver, slot, france, 200)

    said = [e.event.text for e in driver.emissions if isinstance(e.event, UserTranscript)]
    assert [words(text) for text in said] == [words(FRANCE)]


@pytest.mark.parametrize("chunk_ms", [100, 200])
def test_breaking_in_stops_the_answer_within_300_ms(
    driver: Driver, voice: Voice, chunk_ms: int
) -> None:
    slot = opened(driver, chunk_ms=chunk_ms)
    ask(driver, slot, said_at_16_khz(voice, STORY), chunk_ms)
    for chunk in chunks(silence(0.4), chunk_ms):
        result, _ = driver.unit(slot, chunk)
        assert not result.is_listen

    said = said_at_16_khz(voice, "Stop that. What is the capital of Japan?")
    onset = int(np.argmax(np.abs(said) > 0.05))
    results = [driver.unit(slot, chunk)[0] for chunk in chunks(said[onset:], chunk_ms)]

    first = next(n for n, result in enumerate(results) if result.interrupted)
    assert (first + 1) * chunk_ms <= 300
    assert results[first].is_listen and not results[first].pcm
    assert all(result.is_listen for result in results[first:])
    assert sum(result.interrupted for result in results) == 1


def test_force_listen_stops_the_answer(driver: Driver, voice: Voice) -> None:
    slot = opened(driver)
    ask(driver, slot, said_at_16_khz(voice, STORY), 200)

    quiet = Buffer(audio.float32_from_waveform(silence(0.2)))
    forced, _ = driver.unit(slot, AudioChunk(pcm=quiet, force_listen=True))
    after, _ = driver.unit(slot, AudioChunk(pcm=quiet))

    assert forced.is_listen and forced.interrupted
    assert after.is_listen and not after.interrupted


def test_a_stop_ends_the_answer(driver: Driver, voice: Voice) -> None:
    slot = opened(driver)
    ask(driver, slot, said_at_16_khz(voice, STORY), 200)

    driver.send(slot, StopAnswer())
    result, _ = driver.unit(slot, chunks(silence(0.2), 200)[0])

    assert result.is_listen and result.interrupted


def test_two_calls_at_once_never_hear_each_other(driver: Driver, voice: Voice) -> None:
    slots = {FRANCE: opened(driver, 0), JAPAN: opened(driver, 1)}
    sounds = {
        question: chunks(said_at_16_khz(voice, question), 200) + quiet_chunks(200)
        for question in slots
    }

    answers = {question: "" for question in slots}
    done: set[str] = set()
    for pair in zip(*sounds.values()):
        for question, chunk in zip(slots, pair):
            result, _ = driver.unit(slots[question], chunk)
            answers[question] += result.text
            if result.end_of_turn:
                done.add(question)
        if len(done) == len(slots):
            break
        driver.pass_time()

    assert "Paris" in answers[FRANCE] and "Tokyo" not in answers[FRANCE]
    assert "Tokyo" in answers[JAPAN] and "Paris" not in answers[JAPAN]


def test_a_slot_keeps_nothing_of_its_last_tenant(driver: Driver, voice: Voice) -> None:
    old = opened(driver)
    ask(driver, old, said_at_16_khz(voice, STORY), 200)  # and is speaking now

    driver.send(old, Close())
    new = opened(driver)
    before = len(driver.emissions)
    results = [driver.unit(new, chunk)[0] for chunk in chunks(silence(2.0), 200)]
    answer = ask(driver, new, said_at_16_khz(voice, FRANCE), 200)
    answer += rest_of_answer(driver, new, 200) if not answer[-1].end_of_turn else []

    assert all(result.is_listen for result in results)
    assert {emission.slot for emission in driver.emissions[before:]} == {new}
    assert "Paris" in text_of(answer)
    assert "dog" not in text_of(answer)


def test_an_old_tenant_is_not_heard_any_more(driver: Driver) -> None:
    old = opened(driver)
    new = opened(driver)

    assert driver.send(old, chunks(silence(0.2), 200)[0]) == []
    assert driver.unit(new, chunks(silence(0.2), 200)[0])[0].current_time == 1


def test_a_broken_chunk_fails_and_is_answered_all_the_same(driver: Driver) -> None:
    slot = opened(driver)

    result, others = driver.unit(slot, AudioChunk(pcm=Buffer(b"xyz")))

    assert result.is_listen and result.current_time == 1
    assert [event.code for event in others if isinstance(event, Failed)] == ["protocol_error"]


def test_chunks_that_come_in_a_heap_are_all_answered_in_order(driver: Driver) -> None:
    slot = opened(driver)

    events = driver.send(slot, *chunks(silence(8.0), 200))
    while len(events) < 40:
        events += driver.until(slot, lambda event: True)

    assert [event.current_time for event in events if isinstance(event, UnitResult)] == list(
        range(1, 41)
    )


def test_no_sound_is_made_where_none_is_wanted(driver: Driver, france: audio.Waveform) -> None:
    slot = opened(driver, generate_audio=False)

    results = ask(driver, slot, france, 200)
    results += rest_of_answer(driver, slot, 200) if not results[-1].end_of_turn else []

    told = [result for result in results if result.n_tokens is not None]
    assert "Paris" in text_of(results)
    assert len(told) == 1 and told[0].text_tokens > 0, "what the answer took is told once"
    assert not any(result.pcm for result in results)


def test_video_calls_are_refused(driver: Driver) -> None:
    (failed,) = driver.send(driver.new_slot(0), PrepareDuplex(mode="omni_duplex"))

    assert isinstance(failed, Failed) and failed.fatal


def test_a_chunk_for_a_slot_that_is_not_open_is_refused(driver: Driver) -> None:
    (failed,) = driver.send(driver.new_slot(3), chunks(silence(0.2), 200)[0])

    assert isinstance(failed, Failed) and failed.fatal

"""Hands-free turns come in the order that the protocol gives."""

import numpy as np
import pytest

from omni import audio
from omni.engine import (
    Generating,
    Part,
    Prepared,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    Slot,
    StopAnswer,
    TurnDone,
    UserTranscript,
    VadParams,
    VadState,
)
from omni.pocket.hearing import Hearing
from omni.pocket.speaking import Voice
from tests.pocket.conftest import said_at_16_khz, silence, word_error_rate, words
from tests.pocket.driver import Driver, chunks, joined

VAD = VadParams(threshold=0.8, min_silence_duration_ms=800)


def opened(driver: Driver, **opening: object) -> Slot:
    slot = driver.new_slot(0)
    prepared = driver.send(slot, PrepareHalfDuplex(vad=VAD, **opening))  # type: ignore[arg-type]
    assert isinstance(prepared[0], Prepared)
    return slot


def said(driver: Driver, slot: Slot, *sounds: audio.Waveform) -> list[SessionEvent]:
    """Give *sounds* in half seconds, and return the events until the turn is done."""
    events = driver.send(slot, *chunks(np.concatenate(sounds), 500))
    if any(isinstance(event, TurnDone) for event in events):
        return events
    return events + driver.until(slot, lambda event: isinstance(event, TurnDone))


@pytest.fixture(scope="module")
def france(voice: Voice) -> audio.Waveform:
    question = said_at_16_khz(voice, "What is the capital of France?")
    return np.concatenate([silence(0.7), question, silence(1.2)])


def test_a_turn_has_its_order(driver: Driver, hearing: Hearing, france: audio.Waveform) -> None:
    slot = opened(driver)

    events = said(driver, slot, france)

    kinds = [type(event) for event in events]
    replies = [event for event in events if isinstance(event, ReplyChunk)]
    heard = hearing.transcribe(joined([bytes(reply.pcm) for reply in replies]))
    done = events[-1]
    assert kinds[:4] == [VadState, VadState, Generating, UserTranscript]
    assert kinds[4:] == [ReplyChunk] * len(replies) + [TurnDone]
    assert [reply.is_final for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert isinstance(done, TurnDone) and (done.turn_index, "Paris" in done.text) == (1, True)
    assert "".join(reply.text for reply in replies).strip() == done.text
    assert word_error_rate(done.text, heard) < 0.4


def test_turns_are_counted_and_follow_each_other(driver: Driver, france: audio.Waveform) -> None:
    slot = opened(driver)

    turns = [said(driver, slot, france)[-1] for _ in range(2)]

    assert [turn.turn_index for turn in turns if isinstance(turn, TurnDone)] == [1, 2]


def test_sound_during_an_answer_is_not_heard(
    driver: Driver, voice: Voice, france: audio.Waveform
) -> None:
    joke = said_at_16_khz(voice, "Tell me a joke.")
    slot = opened(driver)
    events = driver.send(slot, *chunks(france, 500))
    if not any(isinstance(event, Generating) for event in events):
        events += driver.until(slot, lambda event: isinstance(event, Generating))

    events += said(driver, slot, joke)
    later = driver.send(slot, *chunks(silence(0.5), 500))

    assert sum(isinstance(event, Generating) for event in events) == 1
    assert later == []


def test_a_stop_ends_the_turn_with_what_there_is(driver: Driver, voice: Voice) -> None:
    slot = opened(driver)
    story = said_at_16_khz(voice, "Tell me a long story about a dog and a cat.")
    driver.send(slot, *chunks(np.concatenate([silence(0.7), story, silence(1.2)]), 500))
    events = driver.until(slot, lambda event: isinstance(event, ReplyChunk))

    events += driver.send(slot, StopAnswer())

    replies = [event for event in events if isinstance(event, ReplyChunk)]
    done = events[-1]
    assert isinstance(done, TurnDone)
    assert done.text == "".join(reply.text for reply in replies).strip() != ""
    assert replies[-1].is_final


def test_a_stop_without_an_answer_is_nothing(driver: Driver) -> None:
    assert driver.send(opened(driver), StopAnswer()) == []


def test_the_first_half_second_is_not_heard(driver: Driver, voice: Voice) -> None:
    slot = opened(driver)
    pop = said_at_16_khz(voice, "Hello.")[: audio.samples(0.45, audio.INPUT_HZ)]

    events = driver.send(slot, *chunks(np.concatenate([pop, silence(1.5)]), 500))
    while driver.is_busy:
        events += driver.send(slot)

    assert events == []


def test_a_cough_is_no_turn(driver: Driver, voice: Voice) -> None:
    slot = driver.new_slot(0)
    vad = VadParams(threshold=0.8, min_silence_duration_ms=300, min_speech_duration_ms=2000)
    driver.send(slot, PrepareHalfDuplex(vad=vad))
    word = said_at_16_khz(voice, "Hello.")

    events = driver.send(slot, *chunks(np.concatenate([silence(0.7), word, silence(1)]), 500))
    while driver.is_busy:
        events += driver.send(slot)

    assert events == [VadState(speaking=True), VadState(speaking=False)]


def test_instructions_are_followed_and_sound_can_be_left_out(
    driver: Driver, voice: Voice
) -> None:
    prompt = Part(kind="text", text="You are Captain Ahab, a sailor on a ship.")
    slot = opened(driver, system=(prompt,), speak=False)
    question = said_at_16_khz(voice, "What is your name?")

    events = said(driver, slot, silence(0.7), question, silence(1.2))

    done = events[-1]
    assert isinstance(done, TurnDone)
    assert "captain" in words(done.text) and "pocket" not in words(done.text)
    assert not any(event.pcm for event in events if isinstance(event, ReplyChunk))

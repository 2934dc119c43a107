"""Hands-free turns on the engine, with real speech: events, early answers, stops and failures."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from numpy.typing import NDArray

from omni.audio import INPUT_HZ, resample
from omni.engine import (
    AudioChunk,
    Buffer,
    ChatMessage,
    ChatRequest,
    Close,
    Failed,
    Generating,
    Part,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    Slot,
    StopAnswer,
    TurnDone,
    VadParams,
    VadState,
)
from omni.minicpmo.half_duplex import _recording
from omni.minicpmo.setup import EngineOptions
from omni.wav import waveform_from_wav
from tests.minicpmo.driver import Driver, heard, pcm, slots
from tests.minicpmo.pictures import golden_picture
from tests.minicpmo.script import Script

#: Somebody says a word for 0.6 s, and more from 0.8 s on.
SPEECH = Path(__file__).parents[2] / "omni" / "assets" / "default_voice.wav"
CHUNK_SAMPLES = 3200  # 0.2 s; the engine keeps 16 chunks, so 3 s can be sent at once
PREPARE = PrepareHalfDuplex(
    vad=VadParams(min_silence_duration_ms=600), temperature=0.0, max_new_tokens=30
)


@pytest.fixture(scope="module")
def driver(checkpoint_dir: Path, script: Script) -> Iterator[Driver]:
    made = Driver(checkpoint_dir, EngineOptions(choose=script))
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    samples, rate_hz = waveform_from_wav(SPEECH.read_bytes())
    return resample(samples, rate_hz, INPUT_HZ)


@pytest.fixture(scope="module")
def word(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """0.6 s of speech between silences: 0.2 s before it."""
    return np.concatenate((quiet(0.2), speech[:9600]))


def quiet(duration_s: float) -> NDArray[np.float32]:
    return np.zeros(round(duration_s * INPUT_HZ), dtype=np.float32)


def prepare(driver: Driver, slot: Slot, options: PrepareHalfDuplex = PREPARE) -> Prepared:
    """Open a session and let the first half second pass, in which it hears nothing."""
    prepared = driver.ask(slot, options, Prepared)
    say(driver, slot, quiet(0.5))
    return prepared


def say(
    driver: Driver, slot: Slot, *sounds: NDArray[np.float32], chunk: int = CHUNK_SAMPLES
) -> None:
    """Send sound in chunks, all at once."""
    whole = np.concatenate(sounds)
    for start in range(0, len(whole), chunk):
        driver.step(slot, AudioChunk(pcm=pcm(whole[start : start + chunk])))


def events_of_turn(driver: Driver, slot: Slot) -> list[SessionEvent]:
    """Return the events of *slot* up to `TurnDone`."""
    driver.until(lambda: any(isinstance(event, TurnDone) for event in driver.events[slot]))
    events = driver.events.pop(slot)
    assert isinstance(events[-1], TurnDone)
    return events


def replies(events: list[SessionEvent]) -> list[ReplyChunk]:
    return [event for event in events if isinstance(event, ReplyChunk)]


def tokens_of(driver: Driver, text: str) -> list[int]:
    return driver.engine.loaded.around.tokenizer.encode(text)


def script_answer(driver: Driver, script: Script, text: str) -> None:
    control = driver.engine.loaded.around.tokenizer.control
    script.tokens[0] = [*tokens_of(driver, text), control.tts_eos]


def test_a_turn_has_its_order(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)
    script_answer(driver, script, "one two three four five " * 3)

    say(driver, slot, word, quiet(1.0))
    events = events_of_turn(driver, slot)

    kinds = [type(event) for event in events]
    num_chunks = kinds.count(ReplyChunk)
    assert kinds == [VadState, VadState, Generating, *[ReplyChunk] * num_chunks, TurnDone]
    assert events[:2] == [VadState(speaking=True), VadState(speaking=False)]
    assert [chunk.is_final for chunk in replies(events)] == [False] * (num_chunks - 1) + [True]
    done = events[-1]
    assert isinstance(done, TurnDone)
    assert (done.turn_index, done.text) == (1, "one two three four five " * 3)
    assert "".join(chunk.text for chunk in replies(events)) == done.text
    assert sum(len(heard(chunk.pcm)) for chunk in replies(events)) > 0
    generating = events[2]
    assert isinstance(generating, Generating)
    assert 800 <= generating.speech_duration_ms <= 1500  # with its silence


def test_turns_follow_each_other(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    length = prepare(driver, slot).prompt_length
    lengths = []
    for text in ("one two", "three four"):
        script_answer(driver, script, text)
        say(driver, slot, word, quiet(1.0))
        done = events_of_turn(driver, slot)[-1]
        assert isinstance(done, TurnDone)
        assert (done.turn_index, done.text) == (len(lengths) + 1, text)
        lengths.append(driver.runner.kv_length(0) - length)
        length = driver.runner.kv_length(0)

    # The second turn also closes the first answer: two control tokens and a line break.
    assert lengths[1] - lengths[0] == 3 + len(tokens_of(driver, "three four")) - len(
        tokens_of(driver, "one two")
    )


def test_text_alone_is_answered_where_no_sound_is_wanted(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot, PrepareHalfDuplex(speak=False, vad=PREPARE.vad))
    script_answer(driver, script, "one two three")

    say(driver, slot, word, quiet(1.0))
    events = events_of_turn(driver, slot)

    assert "".join(chunk.text for chunk in replies(events)) == "one two three"
    assert not any(len(chunk.pcm) for chunk in replies(events))


def test_the_answer_begins_in_the_pause_and_leaves_with_its_end(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    length = prepare(driver, slot).prompt_length
    script_answer(driver, script, "one two three")

    say(driver, slot, word, quiet(0.4))
    driver.until(lambda: not script.tokens[0] and not driver.engine.busy)

    assert driver.events.pop(slot) == [VadState(speaking=True)]
    assert driver.runner.kv_length(0) > length

    say(driver, slot, quiet(0.6))
    done = events_of_turn(driver, slot)[-1]

    assert isinstance(done, TurnDone)
    assert done.text == "one two three"


def test_an_answer_begun_too_early_never_was(
    driver: Driver, slot: Slot, word: NDArray[np.float32], speech: NDArray[np.float32]
) -> None:
    begun, rest = (word, quiet(0.4)), speech[12800:25600]
    results = []
    for sees_pause in (True, False):
        length = prepare(driver, slot).prompt_length
        if sees_pause:
            say(driver, slot, *begun)
            driver.until(lambda: driver.runner.kv_length(0) > length and not driver.engine.busy)
            say(driver, slot, rest)
        else:
            say(driver, slot, *begun, rest, chunk=80_000)
        say(driver, slot, quiet(1.0))
        events = events_of_turn(driver, slot)
        assert [type(event) for event in events[:3]] == [VadState, VadState, Generating]
        assert isinstance(events[-1], TurnDone)
        results.append((events[2], events[-1].text, driver.runner.kv_length(0)))

    assert results[0] == results[1]


def test_a_turn_is_the_same_beside_other_modes(
    driver: Driver, slot: Slot, word: NDArray[np.float32]
) -> None:
    """A chat, a duplex call and another hands-free session compute in the same batches."""
    chatting, calling, talking = slots(4)[1:]
    question = ChatMessage(role="user", parts=(Part(kind="text", text="Hello"),))
    texts = []
    for has_company in (False, True):
        if has_company:
            driver.step(chatting, ChatRequest(messages=(question,), speak=True))
            driver.step(calling, PrepareDuplex(mode="audio_duplex", force_listen_count=0))
            driver.step(talking, PREPARE)
        prepare(driver, slot)
        say(driver, slot, word, quiet(1.0))
        if has_company:
            say(driver, talking, quiet(0.5), word, quiet(1.0))
            say(driver, calling, *[word] * 4, chunk=16_000)
        done = events_of_turn(driver, slot)[-1]
        assert isinstance(done, TurnDone)
        texts.append(done.text)
        driver.step(slot, Close())
    events_of_turn(driver, talking)
    for other in (chatting, calling, talking):
        driver.step(other, Close())

    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("silence_s", [0.4, 1.0])
def test_closing_leaves_nothing_behind(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32], silence_s: float
) -> None:
    """0.4: while an answer is held back. 1.0: while it is on its way."""
    length = prepare(driver, slot).prompt_length
    script.tokens[0] = tokens_of(driver, "one two three four five " * 9)[:30]

    say(driver, slot, word, quiet(silence_s))
    driver.until(lambda: driver.runner.kv_length(0) > length)

    driver.step(slot, Close())

    assert driver.is_clean(0)


def test_a_stop_ends_the_turn_with_what_there_is(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)
    script.tokens[0] = tokens_of(driver, "one two three four five " * 9)[:30]
    say(driver, slot, word, quiet(1.0))
    driver.until(lambda: any(isinstance(event, ReplyChunk) for event in driver.events[slot]))

    driver.step(slot, StopAnswer())
    stopped = events_of_turn(driver, slot)[-1]
    script_answer(driver, script, "six")
    say(driver, slot, word, quiet(1.0))
    following = events_of_turn(driver, slot)[-1]

    assert isinstance(stopped, TurnDone) and isinstance(following, TurnDone)
    assert 0 < len(stopped.text) < len("one two three four five " * 9)
    assert (following.turn_index, following.text) == (2, "six")


def test_a_stop_between_turns_stops_nothing(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)
    driver.step(slot, StopAnswer())
    script_answer(driver, script, "one two")

    say(driver, slot, word, quiet(1.0))
    done = events_of_turn(driver, slot)[-1]

    assert isinstance(done, TurnDone)
    assert done.text == "one two"


def test_sound_during_an_answer_is_not_heard(
    driver: Driver, slot: Slot, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)
    say(driver, slot, word, quiet(1.0))
    driver.until(lambda: any(isinstance(event, Generating) for event in driver.events[slot]))

    say(driver, slot, word)
    events_of_turn(driver, slot)
    say(driver, slot, quiet(1.6))
    driver.until(lambda: not driver.engine.busy)

    assert driver.events[slot] == []


def test_the_first_recording_of_the_instructions_is_the_voice_of_the_answers() -> None:
    default, first, second = (np.full(1600, level, np.float32) for level in (0.1, 0.2, 0.3))
    text = Part(kind="text", text="Speak like this.")
    recordings = [Part(kind="audio", data=pcm(sound)) for sound in (first, second)]

    assert np.array_equal(_recording((text, *recordings), default), first)
    assert np.array_equal(_recording((text,), default), default)


def test_the_first_half_second_is_not_heard(
    driver: Driver, slot: Slot, speech: NDArray[np.float32], word: NDArray[np.float32]
) -> None:
    driver.ask(slot, PREPARE, Prepared)

    say(driver, slot, speech[:8000], quiet(1.0), word)
    driver.until(lambda: bool(driver.events[slot]))
    say(driver, slot, quiet(1.0))
    events = events_of_turn(driver, slot)

    assert [event for event in events if isinstance(event, VadState)] == [
        VadState(speaking=True),
        VadState(speaking=False),
    ]


def test_a_noise_that_is_too_short_is_no_turn(
    driver: Driver, slot: Slot, word: NDArray[np.float32]
) -> None:
    vad = VadParams(min_speech_duration_ms=3000, min_silence_duration_ms=300)
    prepare(driver, slot, PrepareHalfDuplex(vad=vad))

    say(driver, slot, word, quiet(0.8))
    driver.until(lambda: len(driver.events[slot]) == 2)

    assert driver.events[slot] == [VadState(speaking=True), VadState(speaking=False)]


def test_a_failed_turn_ends_like_any_other_and_the_next_is_answered(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    length = prepare(driver, slot).prompt_length
    table = driver.runner.kv.table
    table.max_tokens, longest = length + 5, table.max_tokens
    try:
        say(driver, slot, word, quiet(1.0))
        events = events_of_turn(driver, slot)
    finally:
        table.max_tokens = longest
    script_answer(driver, script, "one two")
    say(driver, slot, word, quiet(1.0))
    following = events_of_turn(driver, slot)[-1]

    assert [type(event) for event in events[2:]] == [Generating, Failed, ReplyChunk, TurnDone]
    failed = events[3]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.fatal) == ("context_exhausted", False)
    assert isinstance(following, TurnDone)
    assert (following.turn_index, following.text) == (2, "one two")


def test_a_broken_chunk_fails_alone(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)

    failed = driver.refusal(slot, AudioChunk(pcm=Buffer(b"123")))
    script_answer(driver, script, "one two")
    say(driver, slot, word, quiet(1.0))
    done = events_of_turn(driver, slot)[-1]

    assert not failed.fatal
    assert isinstance(done, TurnDone)
    assert done.text == "one two"


def jpeg(number: int) -> Buffer:
    file = io.BytesIO()
    golden_picture(320, 240, number).save(file, "JPEG")
    return Buffer(file.getvalue())


def tokens_of_turn(
    driver: Driver, word: NDArray[np.float32], generation: int, before: int, during: int
) -> int:
    """Return how many tokens a turn took that was begun and accompanied by so many pictures."""
    seat = Slot(index=1, generation=generation)
    prepare(driver, seat, evolve(PREPARE, speak=False, max_new_tokens=1))
    length = driver.runner.kv_length(1)
    for number in range(before):
        driver.step(seat, AudioChunk(pcm=pcm(quiet(0.1)), frames=(jpeg(number),)))
    say(driver, seat, quiet(0.3 - 0.1 * before), word)
    driver.until(lambda: any(isinstance(event, VadState) for event in driver.events[seat]))
    for number in range(2):
        frames = (jpeg(number),) if number < during else ()
        driver.step(seat, AudioChunk(pcm=pcm(word[6400:9600]), frames=frames))
    say(driver, seat, quiet(1.0))
    events_of_turn(driver, seat)
    grown = driver.runner.kv_length(1) - length
    driver.step(seat, Close())
    return grown


def test_pictures_shown_while_speaking_and_the_last_before_are_part_of_the_turn(
    driver: Driver, word: NDArray[np.float32]
) -> None:
    none = tokens_of_turn(driver, word, 1, before=0, during=0)
    last = tokens_of_turn(driver, word, 2, before=3, during=0)
    all_seen = tokens_of_turn(driver, word, 3, before=3, during=2)

    of_picture = 64 + 2  # and its two delimiters
    assert last - none == of_picture
    assert all_seen - last == 2 * of_picture


def test_a_broken_picture_is_told_and_its_sound_is_heard(
    driver: Driver, slot: Slot, script: Script, word: NDArray[np.float32]
) -> None:
    prepare(driver, slot)

    failed = driver.refusal(slot, AudioChunk(pcm=pcm(word), frames=(Buffer(b"no picture"),)))
    script_answer(driver, script, "one two")
    say(driver, slot, quiet(1.0))
    done = events_of_turn(driver, slot)[-1]

    assert not failed.fatal and isinstance(done, TurnDone)
    assert done.text == "one two"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PrepareHalfDuplex(system=(Part(kind="audio", data=Buffer(b"1")),)), "system[0] (audio)"),
        (PrepareHalfDuplex(system=(Part(kind="image", data=Buffer(b"1")),)), "system[0] (image)"),
        (PrepareHalfDuplex(temperature=-1.0), "out of range"),
        (
            PrepareHalfDuplex(system=(Part(kind="audio", data=pcm(quiet(0.1))),)),
            "reference recording",
        ),
    ],
)
def test_a_session_that_cannot_be_is_refused(
    driver: Driver, slot: Slot, options: PrepareHalfDuplex, words: str
) -> None:
    failed = driver.refusal(slot, options)

    assert failed.fatal
    assert words in failed.message

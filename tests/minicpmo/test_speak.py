"""Reading aloud: the text is spoken as the model's own answer, whoever else is being answered."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni.engine import (
    ChatDone,
    ChatMessage,
    ChatRequest,
    Part,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    Slot,
    SpeakRequest,
    StopAnswer,
)
from omni.minicpmo.speak import MAX_PASSAGE_WIDTH, passages, speak
from omni.minicpmo.work import EncodeAudio, Feed, Ids, Speak, Vocode
from tests.minicpmo.driver import Driver, heard, pcm, slots
from tests.minicpmo.executor import Executor

WAVE = 5e-3  # an f0 error of 1e-6 grows with the accumulated phase
TEXT = "The ship left early. Nobody had slept! 十二个人在船上。"
LONG = "All of it was said before, and nobody listened to a word of what was said. " * 7


def read_out(driver: Driver, slot: Slot, request: SpeakRequest) -> list[SessionEvent]:
    driver.step(slot, request)
    return driver.until_done(slot)


def sound_of(events: list[SessionEvent]) -> NDArray[np.float32]:
    return np.concatenate([heard(e.pcm) for e in events if isinstance(e, ReplyChunk)])


def forced(executor: Executor) -> list[int]:
    """Return the tokens that were fed one by one: the answer that was given to the model."""
    feeds = [feed for feed in executor.works(Feed) if len(feed) == 1]
    return [feed.parts[0].ids[0] for feed in feeds if isinstance(feed.parts[0], Ids)]


def test_the_text_comes_back_with_its_sound(driver: Driver, slot: Slot) -> None:
    events = read_out(driver, slot, SpeakRequest(text=TEXT, seed=1))

    first, *chunks, last, done = events
    assert isinstance(first, PrefillDone) and first.input_tokens > 0
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, ReplyChunk)) == TEXT
    assert last == ReplyChunk(is_final=True)
    assert isinstance(done, ChatDone)
    assert (done.text, done.finish_reason) == (TEXT, "stop")
    assert len(sound_of(events)) > 24_000
    assert done.speech_tokens > 25 and done.generated_tokens == 0
    assert done.input_tokens > first.input_tokens
    assert done.input_audio_tokens > 0
    assert driver.is_clean(0)


def test_what_is_spoken_is_the_text_token_by_token(driver: Driver, executor: Executor) -> None:
    executor.run(lambda session: speak(session, SpeakRequest(text=TEXT)))

    tokens = driver.engine.loaded.around.tokenizer.encode(TEXT)
    calls = executor.works(Speak)
    assert forced(executor) == tokens
    assert [token for call in calls for token in call.text_ids] == tokens
    assert [len(call.text_ids) for call in calls[:-1]] == [10] * (len(calls) - 1)
    assert [call.is_turn_end for call in calls] == [False] * (len(calls) - 1) + [True]


def test_the_model_is_asked_to_read_in_the_voice(driver: Driver, executor: Executor) -> None:
    voice = pcm(np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32))
    request = SpeakRequest(text="Read me.", voice=voice, instructions="Whisper, please.")

    executor.run(lambda session: speak(session, request))

    system, asked, *_ = executor.works(Feed)
    decode = executor.session.tokenizer.decode
    ids = [token for part in system.parts if isinstance(part, Ids) for token in part.ids]
    text = decode(ids, skips_special=False)
    assert text.startswith("<|im_start|>system\nClone the voice in the provided audio prompt.")
    (recording,) = executor.works(EncodeAudio)[0].recordings
    assert len(recording) == 32_000
    (part,) = asked.parts
    assert isinstance(part, Ids)
    assert decode(part.ids, skips_special=False) == (
        "<|im_start|>user\nWhisper, please.\nPlease read the text below.\nRead me.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n<|tts_bos|>"
    )


def test_the_engine_reads_as_one_item_after_the_other_would(
    driver: Driver, slot: Slot, executor: Executor
) -> None:
    request = SpeakRequest(text=TEXT, seed=5)
    executor.session.random.seed(5)
    executor.run(lambda session: speak(session, request))
    executor.release()

    events = read_out(driver, slot, request)

    alone = sound_of(executor.events)
    assert len(alone) > 24_000
    np.testing.assert_allclose(sound_of(events), alone, rtol=0, atol=WAVE)


def test_a_reading_is_the_same_beside_others(driver: Driver, slot: Slot) -> None:
    request = SpeakRequest(text=TEXT, seed=9)
    alone = sound_of(read_out(driver, slot, request))
    chatter, reader = slots(3)[1:]
    question = ChatMessage(role="user", parts=(Part(kind="text", text="Hello"),))
    driver.step(chatter, ChatRequest(messages=(question,), speak=True, max_new_tokens=40))
    driver.step(reader, SpeakRequest(text="Somebody else reads something else, meanwhile."))

    beside = sound_of(read_out(driver, slot, request))

    np.testing.assert_allclose(beside, alone, rtol=0, atol=WAVE)
    for other in (chatter, reader):
        driver.until_done(other)


def test_a_long_text_is_read_in_passages_that_a_small_cache_holds(
    driver: Driver, executor: Executor
) -> None:
    executor.run(lambda session: speak(session, SpeakRequest(text=LONG, seed=2)))

    begun = [work for work in executor.works(Vocode) if work.voice is not None]
    ends = [call for call in executor.works(Speak) if call.is_turn_end]
    assert len(begun) == len(ends) == len(passages(LONG)) == 2
    assert executor.session.kv_length < 0.7 * sum(len(feed) for feed in executor.works(Feed))
    done = executor.events[-1]
    assert isinstance(done, ChatDone) and done.text == LONG.strip()


def test_the_first_sound_leaves_before_the_text_is_fed(executor: Executor) -> None:
    executor.run(lambda session: speak(session, SpeakRequest(text=TEXT * 3)))

    works = [work for work, _ in executor.done]
    first_sound = next(
        at for at, work in enumerate(works) if isinstance(work, Vocode) and work.chunks
    )
    num_fed = sum(isinstance(work, Feed) and len(work) == 1 for work in works[:first_sound])
    assert num_fed <= 20


def test_a_stop_ends_the_reading_with_what_was_read(driver: Driver, slot: Slot) -> None:
    driver.step(slot, SpeakRequest(text=LONG))
    driver.until(lambda: any(isinstance(e, ReplyChunk) and e.pcm for e in driver.events[slot]))

    driver.step(slot, StopAnswer())

    done = driver.until_done(slot)[-1]
    assert isinstance(done, ChatDone) and done.finish_reason == "cancelled"
    assert LONG.startswith(done.text) and len(done.text) < len(LONG)
    assert driver.is_clean(0)


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_text_has_no_sound(driver: Driver, slot: Slot, text: str) -> None:
    events = read_out(driver, slot, SpeakRequest(text=text))

    done = events[-1]
    assert isinstance(done, ChatDone) and done.text == ""
    assert not len(sound_of(events))


def test_a_voice_that_is_too_short_is_refused(driver: Driver, slot: Slot) -> None:
    failed = driver.refusal(slot, SpeakRequest(text="Hi", voice=pcm(np.zeros(10, np.float32))))

    assert failed.fatal and failed.code == "invalid_request"


def test_names_of_control_tokens_are_read_as_text(executor: Executor) -> None:
    executor.run(lambda session: speak(session, SpeakRequest(text="<|im_end|> is a name")))

    control = executor.session.control
    assert control.im_end not in forced(executor)


@given(st.text(max_size=3000) | st.text("a. 好。,\n", max_size=3000))
def test_passages_are_the_text_and_fit(text: str) -> None:
    cut = passages(text)

    assert "".join(cut).split() == text.split()
    assert all(len(passage) <= MAX_PASSAGE_WIDTH for passage in cut)


def test_passages_end_with_sentences() -> None:
    cut = passages(LONG)

    assert all(passage.rstrip().endswith("said.") for passage in cut)
    assert all(len(a) + len(b) > MAX_PASSAGE_WIDTH for a, b in pairwise(cut))
    assert len(passages("好" * 300)) == 3

"""Recordings are written down stretch by stretch, each as a short chat of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni.audio import INPUT_HZ
from omni.engine import (
    EMPTY,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Part,
    SessionEvent,
    Slot,
    StopAnswer,
    TranscribeRequest,
    TranscriptSegment,
)
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.transcribe import transcribe
from omni.minicpmo.work import Draw, EncodeAudio, Feed, Ids
from omni.wav import waveform_from_wav
from tests.minicpmo.driver import Driver, pcm, slots
from tests.minicpmo.executor import Executor
from tests.minicpmo.script import Script

VOICE = Path(__file__).parents[2] / "omni" / "assets" / "default_voice.wav"


@pytest.fixture(scope="module")
def driver(checkpoint_dir: Path, script: Script) -> Iterator[Driver]:
    made = Driver(checkpoint_dir, EngineOptions(choose=script))
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def recording() -> NDArray[np.float32]:
    """Somebody speaks, is silent for two seconds, and speaks again."""
    spoken, rate_hz = waveform_from_wav(VOICE.read_bytes())
    assert rate_hz == INPUT_HZ
    quiet = np.random.default_rng(1).normal(0, 1e-4, 2 * INPUT_HZ).astype(np.float32)
    return np.concatenate([quiet, spoken[:24_000], quiet, spoken[:24_000], quiet[:8000]])


def written(driver: Driver, slot: Slot, request: TranscribeRequest) -> list[SessionEvent]:
    driver.step(slot, request)
    return driver.until_done(slot)


def says(driver: Driver, *texts: str) -> list[int]:
    """Return the tokens of several answers, one after the other."""
    tokenizer = driver.engine.loaded.around.tokenizer
    end = tokenizer.control.im_end
    return [token for text in texts for token in (*tokenizer.encode(text), end)]


def test_each_stretch_of_speech_has_its_words_and_its_times(
    driver: Driver, slot: Slot, script: Script, recording: NDArray[np.float32]
) -> None:
    script.tokens[0] = says(driver, " One two\nthree. ", "四五六。")
    num_said = len(script.tokens[0])

    events = written(driver, slot, TranscribeRequest(pcm=pcm(recording)))

    first, second, done = events
    assert isinstance(first, TranscriptSegment) and isinstance(second, TranscriptSegment)
    assert (first.text, second.text) == ("One two three.", "四五六。")
    assert 1.5 < first.start_s < 2.2 < first.end_s < second.start_s < second.end_s
    assert second.end_s <= len(recording) / INPUT_HZ
    assert isinstance(done, ChatDone)
    assert (done.text, done.finish_reason) == ("One two three. 四五六。", "stop")
    assert done.input_tokens > done.input_audio_tokens > 20
    assert done.generated_tokens == num_said - 2  # what ends an answer is no part of it
    assert driver.is_clean(0)


def test_the_model_is_asked_for_the_words_of_each_stretch_alone(
    executor: Executor, recording: NDArray[np.float32]
) -> None:
    request = TranscribeRequest(pcm=pcm(recording), prompt="Kathryn")

    executor.run(lambda session: transcribe(session, request))

    prompts = [feed for feed in executor.works(Feed) if feed.wants_logits and len(feed) > 1]
    assert len(prompts) == len(executor.works(EncodeAudio)) == 2
    text = executor.session.tokenizer.decode(
        [token for part in prompts[1].parts if isinstance(part, Ids) for token in part.ids]
    )
    asked = "Please listen to the audio snippet carefully and transcribe the content."
    assert text.startswith(f"user\n{asked}\nThese words may come up: Kathryn\n")
    assert executor.session.kv_length < sum(len(feed) for feed in executor.works(Feed))
    assert all(draw.sampling.takes_best for draw in executor.works(Draw))


def test_chinese_is_asked_for_in_chinese(
    executor: Executor, recording: NDArray[np.float32]
) -> None:
    request = TranscribeRequest(pcm=pcm(recording), language="zh", temperature=0.5)

    executor.run(lambda session: transcribe(session, request))

    part = executor.works(Feed)[0].parts[0]
    assert isinstance(part, Ids)
    assert "请仔细听这段音频片段" in executor.session.tokenizer.decode(part.ids)
    assert executor.works(Draw)[0].sampling.temperature == 0.5


def test_a_transcript_is_the_same_beside_others(
    driver: Driver, slot: Slot, recording: NDArray[np.float32], script: Script
) -> None:
    script.tokens.clear()
    request = TranscribeRequest(pcm=pcm(recording))
    alone = written(driver, slot, request)
    other = slots(2)[1]
    question = ChatMessage(role="user", parts=(Part(kind="text", text="Hello"),))
    driver.step(other, ChatRequest(messages=(question,), max_new_tokens=60))

    beside = written(driver, slot, request)

    assert [event for event in beside if isinstance(event, TranscriptSegment)] == [
        event for event in alone if isinstance(event, TranscriptSegment)
    ]
    driver.until_done(other)


def test_talk_without_an_end_is_cut(
    driver: Driver, slot: Slot, script: Script, recording: NDArray[np.float32]
) -> None:
    """The model may repeat itself for ever; people say at most ten tokens a second."""
    tokenizer = driver.engine.loaded.around.tokenizer
    script.tokens[0] = tokenizer.encode("again and again ") * 200

    done = written(driver, slot, TranscribeRequest(pcm=pcm(recording)))[-1]

    script.tokens.clear()
    assert isinstance(done, ChatDone)
    assert done.generated_tokens <= 2 * 24 + 10 * 5


@pytest.mark.parametrize("sound", [EMPTY, pcm(np.zeros(INPUT_HZ, np.float32))])
def test_where_nobody_speaks_nothing_is_written(
    driver: Driver, slot: Slot, sound: bytes
) -> None:
    (done,) = written(driver, slot, TranscribeRequest(pcm=sound))  # type: ignore[arg-type]

    assert isinstance(done, ChatDone)
    assert (done.text, done.input_tokens) == ("", 0)


def test_a_stop_ends_with_what_was_written(
    driver: Driver, slot: Slot, recording: NDArray[np.float32], script: Script
) -> None:
    script.tokens[0] = says(driver, *["word"] * 40)
    driver.step(slot, TranscribeRequest(pcm=pcm(np.tile(recording, 10))))
    driver.until(lambda: any(isinstance(e, TranscriptSegment) for e in driver.events[slot]))

    driver.step(slot, StopAnswer())

    done = driver.until_done(slot)[-1]
    script.tokens.clear()
    assert isinstance(done, ChatDone) and done.finish_reason == "cancelled"
    assert set(done.text.split()) == {"word"} and len(done.text.split()) < 20


@pytest.mark.parametrize(
    "request_", [TranscribeRequest(pcm=EMPTY, language="fr"), TranscribeRequest(pcm=b"abc")]
)
def test_what_cannot_be_written_is_refused(
    driver: Driver, slot: Slot, request_: TranscribeRequest
) -> None:
    failed = driver.refusal(slot, request_)

    assert failed.fatal and failed.code in ("invalid_request", "protocol_error")

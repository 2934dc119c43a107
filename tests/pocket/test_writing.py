"""A recording is written down stretch by stretch, with the times of each."""

import numpy as np
import pytest

from omni import audio
from omni.engine import (
    EMPTY,
    Buffer,
    ChatDone,
    Failed,
    SessionEvent,
    StopAnswer,
    TranscribeRequest,
    TranscriptSegment,
)
from omni.pocket.speaking import Voice
from tests.pocket.conftest import said_at_16_khz, silence, word_error_rate
from tests.pocket.driver import Driver

FIRST = "The ship left the harbour early in the morning."
SECOND = "Nobody on board had slept at all."


def is_over(event: SessionEvent) -> bool:
    return isinstance(event, ChatDone | Failed)


def pcm(waveform: audio.Waveform) -> Buffer:
    return Buffer(audio.float32_from_waveform(waveform))


def written(driver: Driver, request: TranscribeRequest) -> list[SessionEvent]:
    slot = driver.new_slot(0)
    events = driver.send(slot, request)
    return events if any(map(is_over, events)) else events + driver.until(slot, is_over)


@pytest.fixture(scope="module")
def recording(voice: Voice) -> audio.Waveform:
    """Two sentences with two seconds between them."""
    parts = [silence(1.0), said_at_16_khz(voice, FIRST), silence(2.0)]
    return np.concatenate([*parts, said_at_16_khz(voice, SECOND), silence(0.5)])


def test_each_stretch_of_speech_has_its_words_and_its_times(
    driver: Driver, recording: audio.Waveform
) -> None:
    *segments, done = written(driver, TranscribeRequest(pcm=pcm(recording), language="en"))

    assert [type(segment) for segment in segments] == [TranscriptSegment] * 2
    first, second = (item for item in segments if isinstance(item, TranscriptSegment))
    assert word_error_rate(FIRST, first.text) < 0.2
    assert word_error_rate(SECOND, second.text) < 0.2
    assert 0.5 < first.start_s < 1.3 < first.end_s < second.start_s < second.end_s
    assert second.start_s - first.end_s > 1.0
    assert second.end_s <= len(recording) / audio.INPUT_HZ
    assert isinstance(done, ChatDone)
    assert done.text == f"{first.text} {second.text}"


@pytest.mark.parametrize("sound", [EMPTY, pcm(silence(3.0))], ids=["nothing", "silence"])
def test_where_nobody_speaks_nothing_is_written(driver: Driver, sound: Buffer) -> None:
    (done,) = written(driver, TranscribeRequest(pcm=sound))

    assert isinstance(done, ChatDone) and done.text == ""


def test_names_in_the_prompt_are_spelled_as_there(driver: Driver, voice: Voice) -> None:
    said = np.concatenate([said_at_16_khz(voice, "Ask Kathryn about it."), silence(0.5)])

    plain = written(driver, TranscribeRequest(pcm=pcm(said)))[-1]
    hinted = written(driver, TranscribeRequest(pcm=pcm(said), prompt="Kathryn and Geoff"))[-1]

    assert isinstance(plain, ChatDone) and "Kathryn" not in plain.text
    assert isinstance(hinted, ChatDone) and "Kathryn" in hinted.text


def test_a_temperature_still_gives_words(driver: Driver, recording: audio.Waveform) -> None:
    done = written(driver, TranscribeRequest(pcm=pcm(recording), temperature=0.2))[-1]

    assert isinstance(done, ChatDone) and done.text


def test_a_language_that_it_does_not_know_is_refused(driver: Driver) -> None:
    (failed,) = written(driver, TranscribeRequest(pcm=pcm(silence(1.0)), language="zh"))

    assert isinstance(failed, Failed) and failed.fatal
    assert (failed.code, "English" in failed.message) == ("invalid_request", True)


def test_a_broken_recording_is_refused(driver: Driver) -> None:
    (failed,) = written(driver, TranscribeRequest(pcm=Buffer(b"abc")))

    assert isinstance(failed, Failed) and failed.fatal


def test_a_stop_ends_with_what_was_written(driver: Driver, recording: audio.Waveform) -> None:
    slot = driver.new_slot(0)
    driver.send(slot, TranscribeRequest(pcm=pcm(np.tile(recording, 20))))
    driver.until(slot, lambda event: isinstance(event, TranscriptSegment))

    events = driver.send(slot, StopAnswer())

    done = events[-1]
    assert isinstance(done, ChatDone) and done.finish_reason == "cancelled" and done.text

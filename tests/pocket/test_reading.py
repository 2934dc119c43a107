"""A text is read out as it stands, piece by piece; Whisper hears the same words."""

import pytest

from omni.engine import ChatDone, Close, Failed, ReplyChunk, SessionEvent, SpeakRequest, StopAnswer
from omni.pocket.hearing import Hearing
from tests.pocket.conftest import word_error_rate
from tests.pocket.driver import Driver, joined

TEXT = (
    "The ship left the harbour early in the morning. There were 12 people on board, and nobody "
    "had slept. By noon the wind had turned."
)


def is_over(event: SessionEvent) -> bool:
    return isinstance(event, ChatDone | Failed)


def read_out(driver: Driver, request: SpeakRequest) -> list[SessionEvent]:
    slot = driver.new_slot(0)
    events = driver.send(slot, request)
    return events if any(map(is_over, events)) else events + driver.until(slot, is_over)


def test_a_text_is_read_word_for_word(driver: Driver, hearing: Hearing) -> None:
    events = read_out(driver, SpeakRequest(text=TEXT))

    chunks = [event for event in events if isinstance(event, ReplyChunk)]
    assert len(chunks) >= 3  # its sentences, and the last, empty one
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert chunks[-1].is_final
    heard = hearing.transcribe(joined([chunk.pcm for chunk in chunks]))
    assert word_error_rate(TEXT, heard) < 0.15
    done = events[-1]
    assert isinstance(done, ChatDone)
    assert (done.text, done.finish_reason) == (TEXT, "stop")


@pytest.mark.parametrize("text", ["", "   ", "...", "\U0001f600"])
def test_a_text_without_words_ends_without_sound(driver: Driver, text: str) -> None:
    events = read_out(driver, SpeakRequest(text=text))

    assert isinstance(events[-1], ChatDone)
    assert not any(event.pcm for event in events if isinstance(event, ReplyChunk))


def test_a_thousand_short_sentences_do_not_fill_the_lane(driver: Driver) -> None:
    """A session's lane holds 256 jobs; the next piece goes in when one has come out."""
    slot = driver.new_slot(0)
    assert driver.send(slot, SpeakRequest(text="No. " * 1000)) == []

    events = driver.until(slot, lambda event: isinstance(event, ReplyChunk))

    assert not any(isinstance(event, Failed) for event in events)
    driver.send(slot, Close())


def test_a_stop_ends_the_reading_with_what_was_read(driver: Driver) -> None:
    slot = driver.new_slot(0)
    driver.send(slot, SpeakRequest(text=TEXT * 10))
    driver.until(slot, lambda event: isinstance(event, ReplyChunk))

    events = driver.send(slot, StopAnswer())

    done = events[-1]
    assert isinstance(done, ChatDone) and done.finish_reason == "cancelled"
    assert done.text and TEXT.startswith(done.text[:20]) and len(done.text) < len(TEXT * 10)

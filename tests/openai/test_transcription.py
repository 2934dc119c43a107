"""The shapes of a transcript, and the fields of its form."""

import pytest

from omni.engine import ChatDone, TranscriptSegment
from omni.openai.errors import Refusal
from omni.openai.transcription import (
    json_answer,
    read_form,
    srt_answer,
    verbose_answer,
    vtt_answer,
)

LATE = TranscriptSegment(start_s=3599.9996, end_s=7322.05, text="so -->\nlate")


def test_times_of_subtitles_go_beyond_an_hour_and_round_well() -> None:
    assert srt_answer([LATE]).split("\n")[1] == "01:00:00,000 --> 02:02:02,050"
    assert vtt_answer([LATE]).split("\n")[2] == "01:00:00.000 --> 02:02:02.050"


def test_no_words_make_another_cue() -> None:
    assert srt_answer([LATE]).split("\n")[2] == "so -> late"


def test_without_speech_there_are_no_cues() -> None:
    assert (srt_answer([]), vtt_answer([])) == ("", "WEBVTT\n\n")


def test_usage_is_left_out_where_nothing_is_counted() -> None:
    done = ChatDone(text="so late", input_tokens=0, generated_tokens=0)

    assert json_answer(done) == {"text": "so late"}
    usage = verbose_answer(done, [], "en", 1.2)["usage"]
    assert usage == {"type": "duration", "seconds": 2}


@pytest.mark.parametrize(
    "given, language", [("", ""), ("en", "en"), ("EN", "en"), ("zh-Hans-CN", "zh"), ("pt_BR", "pt")]
)
def test_a_language_is_its_iso_code(given: str, language: str) -> None:
    assert read_form({"language": given}, []).language == language


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "warm", "1e9"])
def test_a_temperature_is_a_number_in_its_bounds(given: str) -> None:
    with pytest.raises(Refusal, match="from 0 to 1"):
        read_form({"temperature": given}, [])


@pytest.mark.parametrize(
    "given, stream", [("true", True), ("True", True), ("0", False), ("", False)]
)
def test_a_flag_of_a_form_is_a_word(given: str, stream: bool) -> None:
    assert read_form({"stream": given}, []).stream is stream

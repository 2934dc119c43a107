"""OpenAI's client and the pocket engine: real speech is written down, texts are really read out."""

import base64
import io
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI

from omni.audio import OUTPUT_HZ, resample, waveform_from_pcm16
from omni.pocket.hearing import Hearing
from tests.conftest import RunningOmni, StartOmni
from tests.openai.conftest import MODEL, TIMEOUT_S, picture_url, sdk
from tests.pocket.conftest import hearing, lexicon, voice, word_error_rate
from tests.realtime.openai.talk import talking

__all__ = ["hearing", "lexicon", "voice"]  # fixtures

TEXT = "The ship left the harbour early in the morning. Nobody on board had slept at all."


@pytest.fixture(scope="module")
def talker(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"model.engine": "pocket", "fabric.heartbeat_misses": 100})
    yield running
    running.stop()


@pytest.fixture
async def speaker(talker: RunningOmni) -> AsyncIterator[AsyncOpenAI]:
    async with sdk(talker, timeout_s=2 * TIMEOUT_S) as made:
        yield made


async def test_a_text_is_read_out_and_written_down_again(speaker: AsyncOpenAI) -> None:
    read = await speaker.audio.speech.create(model=MODEL, input=TEXT, voice="alloy")

    written = await speaker.audio.transcriptions.create(
        model=MODEL,
        file=("speech.mp3", read.content),
        response_format="verbose_json",
        language="en",
    )

    assert word_error_rate(TEXT, written.text) < 0.15
    assert written.segments and written.segments[0].start < 0.5
    assert 3 < float(written.duration) < 9
    assert written.segments[-1].end <= float(written.duration)


@pytest.mark.parametrize("speed", [0.8, 1.3])
async def test_another_tempo_is_still_understood(
    speaker: AsyncOpenAI, hearing: Hearing, speed: float
) -> None:
    read = await speaker.audio.speech.create(
        model=MODEL, input=TEXT, voice="alloy", response_format="pcm", speed=speed
    )

    samples = waveform_from_pcm16(read.content)
    heard = hearing.transcribe(resample(samples, OUTPUT_HZ, 16_000))
    assert word_error_rate(TEXT, heard) < 0.2


async def test_subtitles_follow_the_speech(speaker: AsyncOpenAI) -> None:
    read = await speaker.audio.speech.create(
        model=MODEL, input=TEXT, voice="alloy", response_format="wav"
    )

    subtitles = await speaker.audio.transcriptions.create(
        model=MODEL, file=io.BytesIO(read.content), response_format="srt"
    )

    first, *_ = str(subtitles).split("\n\n")
    number, times, words = first.split("\n")
    assert (number, times[:6], times[12:17]) == ("1", "00:00:", " --> ")
    assert "ship left" in words


async def test_a_spoken_question_is_answered_in_sound(
    speaker: AsyncOpenAI, hearing: Hearing
) -> None:
    asked = await speaker.audio.speech.create(
        model=MODEL,
        input="What is the capital of France?",
        voice="alloy",
        response_format="mp3",
    )
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(asked.content).decode(), "format": "mp3"},
    }

    stream = await speaker.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [part]}],  # type: ignore[list-item]
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
        stream=True,
        stream_options={"include_usage": True},
    )

    pcm, said, usage = b"", "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            audio = choice.delta.model_dump(exclude_unset=True).get("audio", {})
            pcm += base64.b64decode(audio.get("data", ""))
            said += audio.get("transcript", "")
    assert "Paris" in said
    heard = hearing.transcribe(resample(waveform_from_pcm16(pcm), OUTPUT_HZ, 16_000))
    assert "Paris" in heard
    assert usage is not None and usage.prompt_tokens > 20 and usage.completion_tokens > 3


async def test_a_picture_is_refused_by_an_engine_that_sees_nothing(speaker: AsyncOpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": picture_url()}}
    with pytest.raises(openai.BadRequestError, match="takes no pictures"):
        await speaker.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": [picture]}]  # type: ignore
        )


CLOCK = {"name": "clock", "parameters": {"type": "object"}}


async def test_an_engine_that_calls_no_functions_answers_without_them(
    speaker: AsyncOpenAI,
) -> None:
    """What others' functions gave is told to it in words."""
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    reply = await speaker.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "tool_calls": [call]},  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        tools=[{"type": "function", "function": CLOCK}],  # type: ignore[list-item]
        max_completion_tokens=40,
    )

    assert reply.choices[0].message.content
    assert reply.choices[0].message.tool_calls is None
    assert reply.choices[0].finish_reason in ("stop", "length")


async def test_an_engine_that_calls_no_functions_says_so_in_each_response(
    talker: RunningOmni,
) -> None:
    async with talking(talker.address) as talk:
        await talk.update(
            tools=[{"type": "function", **CLOCK}],
            output_modalities=["text"],
        )
        done = [await talk.ask("What is the capital of France?") for _ in range(2)]

    for response in done:  # and no `error` came: Pipecat would take it for the end of the call
        error = response["status_details"]["error"]
        assert error["code"] == "tools_not_supported"
        assert "pocket calls no functions" in error["message"]
        assert response["status"] == "completed" and response["output"][0]["type"] == "message"

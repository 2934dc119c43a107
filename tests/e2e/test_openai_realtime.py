"""Spoken OpenAI calls with the pocket engine, by the real package; what is said is heard again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omni.audio import OUTPUT_HZ, Waveform
from tests.conftest import RunningOmni
from tests.e2e.conftest import Ears, Say, quiet, words
from tests.realtime.openai.talk import CHUNK, Event, Talk, sound_of, talking

WEEK = "How many days are in a week?"
ENGLAND = "What is the capital of England?"
STORY = "Tell me a story about the sea."
HEARD = "conversation.item.input_audio_transcription.completed"
TRANSCRIBED = {"transcription": {"model": "whisper-1"}}


def at_24_khz(say: Say, text: str) -> Waveform:
    """Return *text*, spoken, as OpenAI clients send it."""
    return say(text, rate_hz=OUTPUT_HZ)


@asynccontextmanager
async def silence_after(talk: Talk) -> AsyncIterator[None]:
    """Have the microphone go on with a quiet room, in real time, as it does."""

    async def be_quiet() -> None:
        while True:
            await talk.say(quiet(CHUNK / OUTPUT_HZ, OUTPUT_HZ))
            await asyncio.sleep(CHUNK / OUTPUT_HZ)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(be_quiet(), name="quiet")
        yield
        task.cancel()


def transcript_of(response: Event) -> str:
    """Return what an answer said."""
    return str(response["output"][0]["content"][0]["transcript"])


async def test_a_spoken_question_is_answered_in_speech(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    async with talking(pocket.address) as talk:
        await talk.update(audio={"input": TRANSCRIBED})
        talk.events.clear()
        await talk.say(at_24_khz(say, WEEK))
        async with silence_after(talk):
            response = await talk.done()

    names = [event["type"] for event in talk.events]
    begun = names.index("response.created")
    assert names[:begun] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    started, stopped, committed, *_ = talk.events
    assert started["item_id"] == stopped["item_id"] == committed["item_id"]
    assert 0 < started["audio_start_ms"] < stopped["audio_end_ms"]
    (heard,) = [event for event in talk.events if event["type"] == HEARD]
    assert heard["item_id"] == committed["item_id"] and words(heard["transcript"]) == words(WEEK)
    assert response["status"] == "completed" and "seven" in words(transcript_of(response))
    ears.assert_said(transcript_of(response), sound_of(talk.events))


async def test_push_to_talk_is_answered_when_it_is_asked_for(
    pocket: RunningOmni, say: Say
) -> None:
    async with talking(pocket.address) as talk:
        await talk.update(audio={"input": {"turn_detection": None, **TRANSCRIBED}})
        await talk.say(at_24_khz(say, ENGLAND))
        await talk.send("input_audio_buffer.commit")
        await talk.send("response.create", response={"output_modalities": ["text"]})
        response = await talk.done()
        again = await talk.ask("And what did I ask?", output_modalities=["text"])

    heard = [event["transcript"] for event in talk.events if event["type"] == HEARD]
    assert [words(text) for text in heard] == [words(ENGLAND)]
    assert "London" in response["output"][0]["content"][0]["text"]
    assert again["status"] == "completed"


async def test_what_nobody_answers_is_written_down_all_the_same(
    pocket: RunningOmni, say: Say
) -> None:
    """A client that only wants transcripts: the server ends turns and answers none."""
    detection = {"type": "server_vad", "create_response": False}
    async with talking(pocket.address) as talk:
        await talk.update(audio={"input": {"turn_detection": detection, **TRANSCRIBED}})
        await talk.say(at_24_khz(say, WEEK))
        async with silence_after(talk):
            heard = await talk.until(HEARD)

    assert words(heard["transcript"]) == words(WEEK)
    assert "response.created" not in [event["type"] for event in talk.events]


async def test_who_breaks_in_is_heard_and_answered(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    async with talking(pocket.address) as talk:
        await talk.write(STORY)
        await talk.send("response.create")
        spoken = await talk.until("response.output_audio.delta")
        await talk.say(at_24_khz(say, ENGLAND))
        cut = await talk.done()
        where = {"item_id": spoken["item_id"], "content_index": 0}
        await talk.send("conversation.item.truncate", **where, audio_end_ms=700)
        await talk.until("conversation.item.truncated")
        await talk.send("conversation.item.retrieve", item_id=spoken["item_id"])
        kept = (await talk.until("conversation.item.retrieved"))["item"]["content"][0]
        talk.events.clear()
        async with silence_after(talk):
            answer = await talk.done()

    assert cut["status"] == "cancelled"
    assert cut["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert len(kept["transcript"]) < len(transcript_of(cut))
    assert transcript_of(cut).startswith(kept["transcript"])
    assert answer["status"] == "completed" and "London" in transcript_of(answer)
    ears.assert_said(transcript_of(answer), sound_of(talk.events))


async def test_pictures_are_left_out_for_an_engine_that_sees_nothing(
    pocket: RunningOmni,
) -> None:
    picture = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
    content = [
        {"type": "input_image", "image_url": picture},
        {"type": "input_text", "text": ENGLAND},
    ]
    item = {"type": "message", "role": "user", "content": content}
    async with talking(pocket.address) as talk:
        await talk.send("conversation.item.create", item=item)
        await talk.until("conversation.item.done")
        await talk.send("response.create", response={"output_modalities": ["text"]})
        response = await talk.done()

    assert response["status"] == "completed"
    assert response["status_details"]["error"]["code"] == "images_not_supported"
    assert "London" in response["output"][0]["content"][0]["text"]

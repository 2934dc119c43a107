"""Sessions that write down and answer nothing: OpenAI's `type` `transcription`.

The updates are those that LiveKit's `openai.STT` (1.8.9) and Pipecat's `OpenAIRealtimeSTTService`
(1.14.0) send.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest

from bench.speech import load_voice, speak
from omni.audio import OUTPUT_HZ, Waveform
from tests.conftest import RunningOmni
from tests.realtime.openai.talk import TIMEOUT_S, Talk, kinds, talking

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
FORMAT = {"type": "audio/pcm", "rate": 24000}
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    TRANSCRIBED,
]
LIVEKIT = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": FORMAT,
            "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
            "turn_detection": {
                "type": "server_vad",
                "prefix_padding_ms": 600,
                "silence_duration_ms": 350,
                "threshold": 0.5,
            },
        }
    },
}
PIPECAT = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": FORMAT,
            "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
            "turn_detection": None,
        }
    },
}


@pytest.fixture(scope="module")
def speech() -> Waveform:
    """A sentence, and silence after it."""
    sentence = speak(load_voice(), "The capital of France is Paris.", OUTPUT_HZ)
    return np.concatenate([sentence, np.zeros(2 * OUTPUT_HZ, np.float32)])


@asynccontextmanager
async def writing_down(address: str, session: dict[str, object]) -> AsyncIterator[Talk]:
    """Connect for transcripts, and set the session as *session*."""
    async with talking(address, extra_query={"intent": "transcription"}) as talk:
        await talk.update(**session)
        talk.events.clear()
        yield talk


async def test_what_the_server_takes_for_a_turn_is_written_down_and_not_answered(
    omni: RunningOmni, speech: Waveform
) -> None:
    async with writing_down(omni.address, LIVEKIT) as talk:
        await talk.say(speech)
        await talk.until(TRANSCRIBED)
        await talk.send("input_audio_buffer.clear")  # by then an answer would have begun
        await talk.until("input_audio_buffer.cleared")

    assert kinds(talk.events) == [*TURN, "input_audio_buffer.cleared"]


async def test_what_the_client_commits_is_written_down_and_not_answered(
    omni: RunningOmni, speech: Waveform
) -> None:
    async with writing_down(omni.address, PIPECAT) as talk:
        await talk.say(speech)
        await talk.send("input_audio_buffer.commit")
        event = await talk.until(TRANSCRIBED)

    assert kinds(talk.events) == TURN[2:]
    assert event["transcript"].startswith("second 1")  # the null engine counts


async def test_a_commit_after_the_server_s_own_is_no_error(
    omni: RunningOmni, speech: Waveform
) -> None:
    """LiveKit listens for the end of speech itself with models that OpenAI has do so."""
    async with writing_down(omni.address, {"type": "transcription"}) as talk:
        await talk.say(speech)
        await talk.until(TRANSCRIBED)
        await talk.send("input_audio_buffer.commit")
        await talk.send("input_audio_buffer.clear")
        await talk.expect("input_audio_buffer.cleared")


async def test_a_transcription_session_shows_what_it_has_and_has_transcripts_on(
    omni: RunningOmni,
) -> None:
    async with talking(omni.address, extra_query={"intent": "transcription"}) as talk:
        created = talk.events[0]["session"]
        updated = await talk.update(**PIPECAT)

    assert created["type"] == updated["type"] == "transcription"
    assert created["object"] == "realtime.transcription_session"
    assert set(created["audio"]) == {"input"} and "instructions" not in created
    assert created["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert created["audio"]["input"]["transcription"]["model"] == "omni-null"
    assert updated["audio"]["input"]["turn_detection"] is None
    assert updated["audio"]["input"]["transcription"]["language"] == "en"


async def test_a_session_becomes_one_by_its_type_alone(omni: RunningOmni) -> None:
    async with talking(omni.address) as talk:
        session = await talk.update(type="transcription")
        error = await talk.refused("response.create")

    assert session["type"] == "transcription"
    assert error["param"] == "type"


async def test_a_client_that_names_nothing_but_its_intent_is_spoken_to_first(
    omni: RunningOmni,
) -> None:
    """Pipecat sends its session once it has `session.created`, and sound before that."""
    sound = base64.b64encode(bytes(4800)).decode()
    headers = {"Authorization": "Bearer any", "User-Agent": "Python/3.11 websockets/17.4"}
    address = f"{omni.address}/v1/realtime?intent=transcription"
    async with (
        asyncio.timeout(TIMEOUT_S),
        aiohttp.ClientSession() as http,
        http.ws_connect(address, headers=headers) as socket,
    ):
        await socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
        created = await socket.receive_json()
        await socket.send_json({"type": "session.update", "session": PIPECAT})
        updated = await socket.receive_json()

    assert (created["type"], updated["type"]) == ("session.created", "session.updated")

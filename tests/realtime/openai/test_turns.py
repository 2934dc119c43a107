"""Spoken turns on a server without a model: what they do to answers that are on their way."""

from collections.abc import Iterator

import numpy as np
import pytest

from bench.speech import load_voice, speak
from omni.audio import OUTPUT_HZ, Waveform, samples
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.openai.talk import Talk, slot_held, talking

TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


@pytest.fixture(scope="module")
def single(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot: who wants to see an answer wait takes it first."""
    running = start_omni({"fabric.slots": 1, "realtime.max_wait_s": 1000})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sentence() -> Waveform:
    return speak(load_voice(), "The capital of France is Paris.", OUTPUT_HZ)


@pytest.fixture(scope="module")
def speech(sentence: Waveform) -> Waveform:
    """A sentence in a quiet room."""
    return np.concatenate([quiet(0.5), sentence, quiet(1.5)])


def quiet(duration_s: float) -> Waveform:
    size = samples(duration_s, OUTPUT_HZ)
    noise = np.random.default_rng(7).standard_normal(size, dtype=np.float32)
    return noise * np.float32(1e-4)


def names(talk: Talk) -> list[str]:
    return [event["type"] for event in talk.events]


async def test_a_turn_is_answered_once(single: RunningOmni, speech: Waveform) -> None:
    async with talking(single.address) as talk:
        talk.events.clear()
        await talk.say(speech)
        response = await talk.done()

    assert names(talk)[:6] == [*TURN, "response.created"]
    assert response["status"] == "completed"


async def test_a_pause_within_a_turn_answers_nothing(
    single: RunningOmni, sentence: Waveform
) -> None:
    """What was made ahead in the pause is never told."""
    async with talking(single.address) as talk:
        talk.events.clear()
        await talk.say(np.concatenate([sentence, quiet(0.3), sentence, quiet(1.5)]))
        await talk.done()
        await talk.send("input_audio_buffer.clear")
        await talk.until("input_audio_buffer.cleared")

    assert names(talk).count("response.created") == 1
    assert names(talk).count("input_audio_buffer.committed") == 1


async def test_speech_ends_an_answer_that_only_waits(
    single: RunningOmni, speech: Waveform
) -> None:
    async with talking(single.address) as talk:
        async with slot_held(single.address):
            await talk.write("one")
            await talk.send("response.create")
            await talk.until("response.created")
            await talk.say(speech)
            interrupted = await talk.done()
        answered = await talk.done()

    assert interrupted["status_details"]["reason"] == "turn_detected"
    assert answered["status"] == "completed"


async def test_who_may_not_interrupt_is_answered_afterwards(
    single: RunningOmni, speech: Waveform
) -> None:
    detection = {"type": "server_vad", "interrupt_response": False}
    async with talking(single.address) as talk:
        await talk.update(audio={"input": {"turn_detection": detection}})
        async with slot_held(single.address):
            await talk.write("one")
            await talk.send("response.create")
            await talk.until("response.created")
            talk.events.clear()
            await talk.say(speech)
            await talk.until("conversation.item.done")
            meanwhile = names(talk)
        first, second = await talk.done(), await talk.done()

    assert meanwhile == TURN
    assert first["status"] == second["status"] == "completed"
    assert first["id"] != second["id"]


async def test_a_turn_may_be_left_to_the_client(single: RunningOmni, speech: Waveform) -> None:
    detection = {"type": "server_vad", "create_response": False}
    async with talking(single.address) as talk:
        await talk.update(audio={"input": {"turn_detection": detection}})
        talk.events.clear()
        await talk.say(speech)
        await talk.until("conversation.item.done")
        await talk.send("input_audio_buffer.clear")
        await talk.until("input_audio_buffer.cleared")

    assert names(talk) == [*TURN, "input_audio_buffer.cleared"]


async def test_what_changes_in_the_silence_counts_for_the_answer(
    single: RunningOmni, sentence: Waveform
) -> None:
    """An answer was begun in the pause, without it."""
    async with talking(single.address) as talk:
        await talk.update(output_modalities=["text"])
        await talk.say(np.concatenate([quiet(0.5), sentence, quiet(0.3)]))
        await talk.write("only this")
        await talk.say(quiet(1.0))
        response = await talk.done()

    assert response["output"][0]["content"][0]["text"] == "only this"

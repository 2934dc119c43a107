"""The protocol's section 12.5 where no other test tells a wrong row; by the real package."""

import base64
from typing import Any

import aiohttp
import numpy as np
import pytest

from omni.audio import OUTPUT_HZ
from tests.conftest import RunningOmni
from tests.realtime.openai.talk import Event, Talk, talking

HALF_A_SECOND = base64.b64encode(bytes(2 * OUTPUT_HZ // 2)).decode()
#: What the server may be told of sound; the same as 8 kHz telephones have it.
FORMATS = [
    ({"type": "audio/pcm", "rate": 24_000}, 24_000 * 2),
    ({"type": "audio/pcmu"}, 8_000),
    ({"type": "audio/pcma"}, 8_000),
]


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


async def commit(talk: Talk, sound: str = HALF_A_SECOND) -> list[Event]:
    """Append and commit a recording, and return the three events of it."""
    await talk.send("input_audio_buffer.append", audio=sound)
    await talk.send("input_audio_buffer.commit")
    return await talk.expect(
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"
    )


async def test_a_commit_names_its_item_and_the_one_before_it(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        first, *_ = await commit(talk)
        written = await talk.write("one")
        second, added, done = await commit(talk)

    assert first["previous_item_id"] is None and first["item_id"] != written
    assert second["previous_item_id"] == added["previous_item_id"] == written
    assert second["item_id"] == added["item"]["id"] == done["item"]["id"]


@pytest.mark.parametrize(("form", "bytes_a_second"), FORMATS, ids=lambda item: str(item))
async def test_a_second_of_each_format_is_a_second(
    address: str, form: dict[str, Any], bytes_a_second: int
) -> None:
    """The null engine says which seconds a recording has."""
    detection = {"turn_detection": None, "transcription": {"model": "whisper-1"}, "format": form}
    sound = base64.b64encode(bytes(bytes_a_second * 3 // 2)).decode()
    async with talking(address) as talk:
        shown = await talk.update(audio={"input": detection})
        await commit(talk, sound)
        heard = await talk.until("conversation.item.input_audio_transcription.completed")

    assert shown["audio"]["input"]["format"] == form
    assert heard["transcript"] == "second 1 second 2"
    assert heard["usage"]["seconds"] == pytest.approx(1.5, abs=0.01)


async def test_a_user_s_sound_can_be_an_item(address: str) -> None:
    pcm = (1000 * np.sin(np.arange(OUTPUT_HZ) / 10)).astype("<i2").tobytes()
    part = {"type": "input_audio", "audio": base64.b64encode(pcm).decode()}
    async with talking(address) as talk:
        item = {"type": "message", "role": "user", "content": [part]}
        await talk.send("conversation.item.create", item=item)
        created = await talk.until("conversation.item.done")
        await talk.send("conversation.item.retrieve", item_id=created["item"]["id"])
        (event,) = await talk.expect("conversation.item.retrieved")

    (back,) = event["item"]["content"]
    assert back["type"] == "input_audio"
    assert len(base64.b64decode(back["audio"])) == pytest.approx(len(pcm), abs=64)


async def test_an_assistant_s_words_can_be_an_item(address: str) -> None:
    content = [{"type": "output_text", "text": "I said this"}]
    async with talking(address) as talk:
        await talk.write("one")
        item = {"type": "message", "role": "assistant", "content": content}
        await talk.send("conversation.item.create", item=item)
        event = await talk.until("conversation.item.done")
        response = await talk.ask("two", output_modalities=["text"])

    assert event["item"]["content"] == content
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "two"}]


async def test_what_only_others_judge_by_is_taken_and_shown(address: str) -> None:
    """Noise reduction, eagerness, a voice of OpenAI's, speed: none of them ends a call."""
    sound = {
        "input": {
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "semantic_vad", "eagerness": "low"},
        },
        "output": {"voice": "marin", "speed": 1.2},
    }
    async with talking(address) as talk:
        shown = (await talk.update(audio=sound))["audio"]

    assert shown["input"]["noise_reduction"] == {"type": "near_field"}
    assert shown["input"]["turn_detection"]["type"] == "semantic_vad"
    assert (shown["output"]["voice"], shown["output"]["speed"]) == ("marin", 1.2)


async def test_an_answer_has_every_count(address: str) -> None:
    async with talking(address) as talk:
        response = await talk.ask("one two")

    usage = response["usage"]
    assert {"input_tokens", "output_tokens", "total_tokens"} <= usage.keys()
    inputs, outputs = usage["input_token_details"], usage["output_token_details"]
    assert {"text_tokens", "audio_tokens", "image_tokens", "cached_tokens"} <= inputs.keys()
    assert {"text_tokens", "audio_tokens"} <= outputs.keys()


async def test_a_secret_has_its_three_fields(address: str) -> None:
    async with aiohttp.ClientSession(address) as http:
        async with http.post("/v1/realtime/client_secrets", json={}) as reply:
            body = await reply.json()

    assert body.keys() == {"value", "expires_at", "session"}
    assert body["session"]["type"] == "realtime" and isinstance(body["expires_at"], int)

"""Every event of the OpenAI Realtime dialect, by the real package, on a server without a model."""

import asyncio
import base64
import io
from itertools import pairwise

import aiohttp
import numpy as np
import pytest
from openai import AsyncOpenAI
from PIL import Image

from omni.audio import OUTPUT_HZ
from tests.conftest import RunningOmni
from tests.realtime.openai.talk import LONG, TIMEOUT_S, Event, kinds, sound_of, talking

TEXT = ["text"]


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


def seconds_of_sound(duration_s: float) -> str:
    """Return a tone as clients append it."""
    at_s = np.arange(int(OUTPUT_HZ * duration_s)) / OUTPUT_HZ
    return base64.b64encode((8000 * np.sin(2000 * at_s)).astype("<i2").tobytes()).decode()


def a_picture() -> str:
    """Return a small PNG as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# --- the session ---


async def test_the_server_speaks_first_and_tells_the_whole_session(address: str) -> None:
    async with AsyncOpenAI(api_key="key", base_url=f"{address}/v1") as client:
        async with client.realtime.connect(model="gpt-realtime") as connection:
            created = await asyncio.wait_for(connection.recv(), TIMEOUT_S)

    session = created.to_dict()["session"]
    assert isinstance(session, dict)
    assert created.type == "session.created" and created.event_id
    assert session["type"] == "realtime" and session["object"] == "realtime.session"
    assert session["id"].startswith("sess_")
    assert session["output_modalities"] == ["audio"] and session["tools"] == []
    assert session["tool_choice"] == "auto" and session["max_output_tokens"] == "inf"
    sound = session["audio"]
    assert sound["input"]["format"] == sound["output"]["format"]
    assert sound["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert sound["input"]["transcription"] is None and sound["input"]["noise_reduction"] is None
    detection = sound["input"]["turn_detection"]
    assert detection["type"] == "server_vad"
    assert detection["create_response"] and detection["interrupt_response"]
    assert {"threshold", "prefix_padding_ms", "silence_duration_ms"} <= set(detection)
    assert {"voice", "speed"} <= set(sound["output"])


async def test_an_update_changes_what_it_names_and_nothing_else(address: str) -> None:
    async with talking(address) as talk:
        first = await talk.update(instructions="Be brief.", output_modalities=TEXT)
        second = await talk.update(audio={"input": {"turn_detection": None}})

    assert first["instructions"] == second["instructions"] == "Be brief."
    assert second["output_modalities"] == TEXT
    assert first["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert second["audio"]["input"]["turn_detection"] is None


async def test_every_event_has_an_id_of_its_own(address: str) -> None:
    async with talking(address) as talk:
        await talk.ask("one two three")

    ids = [event["event_id"] for event in talk.events]
    assert len(set(ids)) == len(ids)


# --- answers ---

ITEM_EVENTS = ["conversation.item.added", "conversation.item.done"]
BEGINNING = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
END = [
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


async def test_a_written_answer_comes_in_the_documented_order(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(output_modalities=TEXT)
        talk.events.clear()
        response = await talk.ask("one two three")

    assert kinds(talk.events) == [
        *ITEM_EVENTS,
        *BEGINNING,
        "response.output_text.delta",
        "response.output_text.done",
        *END,
    ]
    deltas = [e["delta"] for e in talk.events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "one two three"
    assert response["status"] == "completed" and response["object"] == "realtime.response"
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "one two three"}]


async def test_a_spoken_answer_comes_in_the_documented_order(address: str) -> None:
    async with talking(address) as talk:
        response = await talk.ask("one two")

    words, sound = "response.output_audio_transcript.delta", "response.output_audio.delta"
    assert kinds(talk.events)[1:] == [
        *ITEM_EVENTS,
        *BEGINNING,
        *[words, sound] * 2,
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        *END,
    ]
    assert sound_of(talk.events).size == 2 * OUTPUT_HZ  # a second for each word
    (item,) = response["output"]
    assert item["content"] == [{"type": "output_audio", "transcript": "one two"}]
    assert item["status"] == "completed" and item["role"] == "assistant"


async def test_deltas_and_parts_name_their_response_and_item(address: str) -> None:
    async with talking(address) as talk:
        response = await talk.ask("one two")

    of_part = [e for e in talk.events if e["type"].startswith(("response.output_a", "response.co"))]
    assert len(of_part) >= 8
    for event in of_part:
        assert event["response_id"] == response["id"]
        assert event["item_id"] == response["output"][0]["id"]
        assert event["output_index"] == event["content_index"] == 0


async def test_usage_adds_up(address: str) -> None:
    async with talking(address) as talk:
        usage = (await talk.ask("one two three"))["usage"]

    assert (usage["input_tokens"], usage["output_tokens"]) == (3, 3)
    assert usage["total_tokens"] == 6
    assert sum(usage["output_token_details"].values()) == 3
    details = usage["input_token_details"]
    assert details["text_tokens"] + details["audio_tokens"] + details["image_tokens"] == 3
    assert details["cached_tokens"] == 0


async def test_an_answer_that_is_too_long_is_incomplete(address: str) -> None:
    async with talking(address) as talk:
        response = await talk.ask("one two three", max_output_tokens=2)

    assert response["status"] == "incomplete"
    assert response["status_details"]["reason"] == "max_output_tokens"
    assert response["output"][0]["status"] == "incomplete"


async def test_a_response_may_be_set_otherwise_than_the_session(address: str) -> None:
    async with talking(address) as talk:
        response = await talk.ask("one", output_modalities=TEXT, metadata={"topic": "numbers"})
        spoken = await talk.ask("two")

    assert response["output_modalities"] == TEXT and response["metadata"] == {"topic": "numbers"}
    assert spoken["output_modalities"] == ["audio"]


async def test_an_answer_can_be_given_in_g711(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(audio={"output": {"format": {"type": "audio/pcmu"}}})
        await talk.ask("one two")

    deltas = [e["delta"] for e in talk.events if e["type"] == "response.output_audio.delta"]
    assert len(b"".join(map(base64.b64decode, deltas))) == pytest.approx(2 * 8_000, abs=16)


async def test_one_answer_at_a_time(address: str) -> None:
    async with talking(address) as talk:
        await talk.write(LONG)
        await talk.send("response.create")
        await talk.until("response.created")
        await talk.send("response.create", event_id="evt_second")
        while (event := await talk.receive())["type"] != "error":
            assert event["type"] != "response.done"
        await talk.send("response.cancel")
        await talk.done()

    assert event["error"]["code"] == "conversation_already_has_active_response"
    assert event["error"]["event_id"] == "evt_second"


async def test_a_cancelled_answer_ends_at_once_with_what_there_was(address: str) -> None:
    async with talking(address) as talk:
        await talk.write(LONG)
        await talk.send("response.create")
        await talk.until("response.output_audio.delta")
        await talk.send("response.cancel")
        response = await talk.done()
        after = await talk.ask("and on", output_modalities=TEXT)

    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    (item,) = response["output"]
    assert item["status"] == "incomplete"
    assert LONG.startswith(item["content"][0]["transcript"])
    assert after["output"][0]["content"][0]["text"] == "and on"


async def test_cancelling_nothing_is_an_error(address: str) -> None:
    async with talking(address) as talk:
        error = await talk.refused("response.cancel")

    assert error["code"] == "response_cancel_not_active"
    assert error["message"].startswith("Cancellation failed")  # what LiveKit goes by


async def test_a_cancelled_answer_can_be_followed_by_the_next_at_once(address: str) -> None:
    async with talking(address) as talk:
        await talk.write(LONG)
        await talk.send("response.create")
        await talk.until("response.output_audio.delta")
        await talk.send("response.cancel")
        await talk.send("response.create", response={"output_modalities": TEXT})
        first, second = await talk.done(), await talk.done()

    assert (first["status"], second["status"]) == ("cancelled", "completed")


async def test_an_answer_out_of_band_leaves_the_conversation_alone(address: str) -> None:
    content = [{"type": "input_text", "text": "only this"}]
    item = {"type": "message", "role": "user", "content": content}
    async with talking(address) as talk:
        asked = await talk.write("one two three")
        talk.events.clear()
        asides = {"conversation": "none", "output_modalities": TEXT}
        await talk.send("response.create", response={**asides, "input": [item]})
        alone = await talk.done()
        reference = {"type": "item_reference", "id": asked}
        await talk.send("response.create", response={**asides, "input": [reference]})
        referring = await talk.done()
        error = await talk.refused("conversation.item.retrieve", item_id=alone["output"][0]["id"])

    assert alone["conversation_id"] is None
    assert alone["output"][0]["content"][0]["text"] == "only this"
    assert referring["output"][0]["content"][0]["text"] == "one two three"
    assert not [e for e in talk.events if e["type"].startswith("conversation.item.")]
    assert error["code"] == "item_retrieve_invalid_item_id"


async def test_a_response_to_an_empty_conversation_follows_its_instructions(address: str) -> None:
    async with talking(address) as talk:
        await talk.send("response.create", response={"instructions": "Say hello."})
        response = await talk.done()

    assert response["output"][0]["content"][0]["transcript"] == "Say hello."


# --- sound ---


async def test_push_to_talk(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        await talk.send("input_audio_buffer.append", audio=seconds_of_sound(0.5))
        await talk.send("input_audio_buffer.commit")
        committed, added, done = await talk.expect(
            "input_audio_buffer.committed", *ITEM_EVENTS
        )
        await talk.send("response.create")
        response = await talk.done()

    assert committed["item_id"] == added["item"]["id"] == done["item"]["id"]
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert response["status"] == "completed"


async def test_an_empty_buffer_cannot_be_committed(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        empty = await talk.refused("input_audio_buffer.commit")
        await talk.send("input_audio_buffer.append", audio=seconds_of_sound(0.05))
        short = await talk.refused("input_audio_buffer.commit")

    assert empty["code"] == short["code"] == "input_audio_buffer_commit_empty"


async def test_a_cleared_buffer_is_empty(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        await talk.send("input_audio_buffer.append", audio=seconds_of_sound(0.5))
        await talk.send("input_audio_buffer.clear")
        await talk.expect("input_audio_buffer.cleared")
        error = await talk.refused("input_audio_buffer.commit")

    assert error["code"] == "input_audio_buffer_commit_empty"


async def test_committed_sound_is_what_was_appended(address: str) -> None:
    """Through 16 kHz and back; what an engine hears is heard again in the retrieved item."""
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        sent = seconds_of_sound(1.0)
        for at in range(0, len(sent), 4000):
            await talk.send("input_audio_buffer.append", audio=sent[at : at + 4000])
        await talk.send("input_audio_buffer.commit")
        (committed, *_) = await talk.expect("input_audio_buffer.committed", *ITEM_EVENTS)
        await talk.send("conversation.item.retrieve", item_id=committed["item_id"])
        (event,) = await talk.expect("conversation.item.retrieved")

    back = np.frombuffer(base64.b64decode(event["item"]["content"][0]["audio"]), "<i2")
    given = np.frombuffer(base64.b64decode(sent), "<i2")
    assert back.size == pytest.approx(given.size, abs=32)
    middle = slice(2_000, 22_000)  # the ends ring
    assert np.abs(back[middle].astype(int) - given[middle]).max() < 80


async def test_a_transcript_is_made_of_what_is_committed(address: str) -> None:
    """The null engine says of a recording which second it is."""
    kind = "conversation.item.input_audio_transcription.completed"
    async with talking(address) as talk:
        await talk.update(
            audio={"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}
        )
        await talk.send("input_audio_buffer.append", audio=seconds_of_sound(1.5))
        await talk.send("input_audio_buffer.commit")
        committed = await talk.until("input_audio_buffer.committed")
        event = await talk.until(kind)

    assert event["item_id"] == committed["item_id"] and event["content_index"] == 0
    assert event["transcript"] == "second 1 second 2"
    assert event["usage"] == {"type": "duration", "seconds": pytest.approx(1.5, abs=0.01)}


async def test_output_audio_buffer_clear_is_taken_without_an_answer(address: str) -> None:
    async with talking(address) as talk:
        await talk.send("output_audio_buffer.clear")
        await talk.send("input_audio_buffer.clear")

        await talk.expect("input_audio_buffer.cleared")


# --- items ---


async def test_items_stand_where_they_are_put(address: str) -> None:
    async with talking(address) as talk:
        first = await talk.write("one")
        await talk.write("three")
        content = [{"type": "input_text", "text": "two"}]
        item = {"id": "item_mine", "type": "message", "role": "user", "content": content}
        await talk.send("conversation.item.create", item=item, previous_item_id=first)
        added, done = await talk.expect(*ITEM_EVENTS)
        root = {**item, "id": "item_root", "content": [{"type": "input_text", "text": "zero"}]}
        await talk.send("conversation.item.create", item=root, previous_item_id="root")
        await talk.expect(*ITEM_EVENTS)
        await talk.send("response.create", response={"output_modalities": TEXT})
        response = await talk.done()

    assert added["previous_item_id"] == first and added["item"]["id"] == "item_mine"
    assert done["item"]["status"] == "completed" and done["item"]["object"] == "realtime.item"
    assert response["output"][0]["content"][0]["text"] == "zero one two three"


async def test_a_deleted_item_is_gone(address: str) -> None:
    async with talking(address) as talk:
        kept = await talk.write("one")
        gone = await talk.write("two")
        await talk.send("conversation.item.delete", item_id=gone)
        (event,) = await talk.expect("conversation.item.deleted")
        error = await talk.refused("conversation.item.delete", item_id=gone)
        await talk.send("conversation.item.retrieve", item_id=kept)
        (retrieved,) = await talk.expect("conversation.item.retrieved")
        await talk.send("response.create", response={"output_modalities": TEXT})
        response = await talk.done()

    assert event["item_id"] == gone and error["code"] == "item_delete_invalid_item_id"
    assert error["param"] == "item_id"
    assert retrieved["item"]["content"] == [{"type": "input_text", "text": "one"}]
    assert response["output"][0]["content"][0]["text"] == "one"


async def test_a_truncated_answer_keeps_what_was_played(address: str) -> None:
    """The null engine says each word in a second."""
    async with talking(address) as talk:
        response = await talk.ask("one two three four")
        item_id = response["output"][0]["id"]
        where = {"item_id": item_id, "content_index": 0}
        await talk.send("conversation.item.truncate", **where, audio_end_ms=2000)
        (event,) = await talk.expect("conversation.item.truncated")
        await talk.send("conversation.item.retrieve", item_id=item_id)
        (retrieved,) = await talk.expect("conversation.item.retrieved")
        too_late = await talk.refused("conversation.item.truncate", **where, audio_end_ms=2500)

    assert event["item_id"] == item_id and event["audio_end_ms"] == 2000
    assert event["content_index"] == 0
    assert retrieved["item"]["content"][0]["transcript"] == "one two"
    assert too_late["param"] == "audio_end_ms"


async def test_an_answer_may_be_truncated_before_it_is_cancelled(address: str) -> None:
    """As OpenAI's agents do it when somebody breaks in."""
    async with talking(address) as talk:
        await talk.write(LONG)
        await talk.send("response.create")
        begun = await talk.until("response.output_audio.delta")
        where = {"item_id": begun["item_id"], "content_index": 0}
        await talk.send("conversation.item.truncate", **where, audio_end_ms=1000)
        await talk.until("conversation.item.truncated")
        await talk.send("response.cancel")
        response = await talk.done()
        await talk.send("conversation.item.retrieve", item_id=begun["item_id"])
        retrieved = await talk.until("conversation.item.retrieved")

    assert response["status"] == "cancelled"
    assert retrieved["item"]["content"][0]["transcript"] == "word"


async def test_a_picture_is_part_of_a_message(address: str) -> None:
    url = a_picture()
    content = [
        {"type": "input_image", "image_url": url, "detail": "high"},
        {"type": "input_text", "text": "seen"},
    ]
    async with talking(address) as talk:
        await talk.send(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": content},
        )
        added, _ = await talk.expect(*ITEM_EVENTS)
        await talk.send("conversation.item.retrieve", item_id=added["item"]["id"])
        (retrieved,) = await talk.expect("conversation.item.retrieved")
        await talk.send("response.create", response={"output_modalities": TEXT})
        response = await talk.done()

    assert retrieved["item"]["content"][0]["image_url"] == url
    assert response["output"][0]["content"][0]["text"] == "seen"


# --- what is wrong ---


@pytest.mark.parametrize(
    ("kind", "fields", "code", "param"),
    [
        ("session.fly", {}, "invalid_value", "type"),
        ("session.update", {}, "missing_required_parameter", "session"),
        ("session.update", {"session": {"type": "other"}}, "invalid_value", "session.type"),
        (
            "session.update",
            {"session": {"type": "realtime", "audio": {"input": {"format": {"type": "mp3"}}}}},
            "invalid_value",
            "session.audio.input.format.type",
        ),
        ("input_audio_buffer.append", {}, "missing_required_parameter", "audio"),
        ("input_audio_buffer.append", {"audio": "?"}, "invalid_value", "audio"),
        ("input_audio_buffer.append", {"audio": "AAAA"}, "invalid_value", "audio"),
        ("conversation.item.create", {"item": {}}, "missing_required_parameter", "item.type"),
        (
            "conversation.item.create",
            {"item": {"type": "message", "role": "user", "content": [{"type": "output_text"}]}},
            "invalid_value",
            "item.content[0].type",
        ),
        ("conversation.item.delete", {}, "missing_required_parameter", "item_id"),
        (
            "conversation.item.truncate",
            {"item_id": "item_no", "content_index": 0, "audio_end_ms": 1},
            "item_truncate_invalid_item_id",
            "item_id",
        ),
        ("response.create", {"response": {"output_modalities": ["smell"]}}, "invalid_value", None),
    ],
)
async def test_what_is_wrong_is_named_and_ends_nothing(
    address: str, kind: str, fields: Event, code: str, param: str | None
) -> None:
    async with talking(address) as talk:
        error = await talk.refused(kind, **fields)
        await talk.ask("one", output_modalities=TEXT)

    assert error["type"] == "invalid_request_error" and error["code"] == code
    assert param is None or error["param"] == param


async def test_addresses_of_pictures_are_not_fetched(address: str) -> None:
    content = [{"type": "input_image", "image_url": "http://127.0.0.1/secret.png"}]
    async with talking(address) as talk:
        item = {"type": "message", "role": "user", "content": content}
        error = await talk.refused("conversation.item.create", item=item)

    assert error["code"] == "unsupported_value" and error["param"] == "item.content[0].image_url"


# --- the wire ---


async def test_sound_may_come_as_binary_frames(address: str) -> None:
    tone = np.full(16_000, 0.25, "<f4")
    async with talking(address) as talk:
        await talk.update(audio={"input": {"turn_detection": None}})
        await talk.connection._connection.send(b"F32L" + tone.tobytes())
        await talk.send("input_audio_buffer.commit")

        await talk.expect("input_audio_buffer.committed", *ITEM_EVENTS)


async def test_the_beta_keeps_its_names(address: str) -> None:
    async with talking(address, extra_headers={"OpenAI-Beta": "realtime=v1"}) as talk:
        (begun,) = await talk.expect("conversation.created")
        session = {"modalities": ["text"], "turn_detection": None, "temperature": 0.7}
        await talk.send("session.update", session=session)
        (updated,) = await talk.expect("session.updated")
        await talk.send(
            "conversation.item.create",
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "one two"}],
            },
        )
        await talk.expect("conversation.item.created")
        talk.events.clear()
        await talk.send("response.create")
        response = await talk.done()

    assert begun["conversation"]["id"].startswith("conv_")
    shown = updated["session"]
    assert shown["modalities"] == ["text"] and shown["turn_detection"] is None
    assert shown["input_audio_format"] == "pcm16" and shown["temperature"] == 0.7
    assert kinds(talk.events) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.created",
        "response.content_part.added",
        "response.text.delta",
        "response.text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert response["output"][0]["content"] == [{"type": "text", "text": "one two"}]
    assert response["modalities"] == ["text"]


async def test_a_silent_session_holds_no_slot(address: str) -> None:
    async with talking(address) as talk, aiohttp.ClientSession() as http:
        await talk.ask("one")
        async with asyncio.timeout(TIMEOUT_S):
            running = [""]
            while running:
                async with http.get(f"{address}/status") as reply:
                    running = (await reply.json())["running_tasks"]


async def test_sessions_do_not_hear_each_other(address: str) -> None:
    async with talking(address) as one, talking(address) as two:
        first = await one.ask("one", output_modalities=TEXT)
        second = await two.ask("two", output_modalities=TEXT)

    texts = [r["output"][0]["content"][0]["text"] for r in (first, second)]
    assert texts == ["one", "two"]
    assert all(a != b for a, b in pairwise([e["event_id"] for e in one.events + two.events]))

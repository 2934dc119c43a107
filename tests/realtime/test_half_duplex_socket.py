"""`/ws/half_duplex/{id}` of a whole server with the null engine."""

import base64

import aiohttp
import pytest

from tests.conftest import RunningOmni
from tests.realtime.client import SILENCE, SPEECH, Client, connected
from tests.recording.stage import picture


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


async def _say(client: Client) -> None:
    await client.send_chunk(SPEECH)
    await client.send_chunk(SILENCE)


async def test_a_spoken_turn_is_answered_in_the_order_of_the_protocol(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_1") as client:
        await client.expect("queue_done")
        await client.send("prepare", config={"session": {"timeout_s": 60}})
        prepared = await client.expect("prepared")
        await _say(client)
        kinds, chunks = [], []
        while not kinds or kinds[-1] != "turn_done":
            event = await client.receive()
            kinds.append(event["type"])
            chunks += [event] if event["type"] == "chunk" else []
        await client.send("stop")
        await client.expect("stopped")

        assert await client.closed() == 1000
    assert (prepared["session_id"], prepared["timeout_s"]) == ("hdx_1", 60)
    assert kinds[:3] == ["vad_state", "vad_state", "generating"]
    assert set(kinds[3:-1]) == {"chunk"}
    assert [chunk["chunk_index"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[-1]["is_final"] is True
    assert len(base64.b64decode(chunks[0]["audio_data"])) % 4 == 0


async def test_turns_are_counted_from_one(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_2") as client:
        await client.prepare()
        turns = []
        for _ in range(3):
            await _say(client)
            turns.append((await client.until("turn_done"))["turn_index"])

    assert turns == [1, 2, 3]


async def test_a_session_ends_when_its_time_is_over(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_3") as client:
        await client.prepare(config={"session": {"timeout_s": 1}})
        await client.send_chunk()
        timeout = await client.expect("timeout")

        assert await client.closed() == 1000
    assert timeout["elapsed_s"] >= 1


async def test_a_silent_answer_can_be_asked_for(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_4") as client:
        await client.prepare(config={"tts": {"enabled": False}})
        await _say(client)
        chunk = await client.until("chunk")

    assert chunk["audio_data"] is None and chunk["text_delta"]


@pytest.mark.parametrize(
    "frame",
    ["", "{", "3", '{"type": "dance"}', '{"type": "audio_chunk"}', '{"type": "prepare"}', b"x"],
)
async def test_a_wrong_frame_gets_an_error_and_the_session_goes_on(
    address: str, frame: str | bytes
) -> None:
    async with connected(address, "/ws/half_duplex/hdx_5") as client:
        await client.prepare()
        if isinstance(frame, bytes):
            await client.socket.send_bytes(frame)
        else:
            await client.socket.send_str(frame)
        await client.expect("error")
        await _say(client)
        await client.until("turn_done")


async def test_sound_before_prepare_is_an_error(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_6") as client:
        await client.expect("queue_done")
        await client.send_chunk()

        assert (await client.expect("error"))["error"] == "Not prepared yet"


async def test_stop_is_honoured_while_an_answer_is_made(address: str) -> None:
    """The reference did not read its socket then, and stopped only after the turn."""
    async with connected(address, "/ws/half_duplex/hdx_7") as client:
        await client.prepare()
        await _say(client)
        await client.until("generating")
        await client.send("stop")
        await client.until("stopped")

        assert await client.closed() == 1000


async def test_the_stop_route_knows_sessions_by_their_id(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_8") as client, aiohttp.ClientSession() as h:
        await client.prepare()
        replies = []
        for session_id in ("hdx_8", "hdx_unknown"):
            body = {"session_id": session_id}
            async with h.post(f"{address}/api/half_duplex/stop", json=body) as reply:
                replies.append((await reply.json())["message"])
        await _say(client)
        await client.until("turn_done")

    assert replies == ["No answer is running", "No such half-duplex session"]


async def test_a_page_with_a_camera_is_told_of_its_pictures(address: str) -> None:
    """The demo's other half-duplex path, with three more words."""
    frame = base64.b64encode(picture()).decode()
    vision = {"frame_interval_s": 0.5, "max_slice_nums": 2}
    counts = []
    async with connected(address, "/ws/half_duplex_omni/hdomni_1") as client:
        prepared = await client.prepare(config={"vision": vision})
        for shown in (2, 0, 1):
            await client.send_chunk(SPEECH, frame_base64_list=[frame] * shown)
            await client.send_chunk(SILENCE)
            counts.append((await client.until("generating"))["video_frames"])
            await client.until("turn_done")

    assert (prepared["frame_interval_s"], prepared["session_id"]) == (0.5, "hdomni_1")
    assert counts == [2, 0, 1]


async def test_the_path_without_a_camera_has_no_words_for_one(address: str) -> None:
    async with connected(address, "/ws/half_duplex/hdx_plain") as client:
        prepared = await client.prepare()
        await _say(client)
        generating = await client.until("generating")

    assert "frame_interval_s" not in prepared and "video_frames" not in generating

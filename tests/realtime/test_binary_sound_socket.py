"""Sound in binary frames on every WebSocket of a whole server."""

from collections.abc import Callable

import numpy as np
import pytest
from aiohttp import WSMsgType

from omni.audio import OUTPUT_HZ, pcm16_from_waveform
from omni.realtime.opus import OpusReader, OpusWriter
from tests.conftest import RunningOmni
from tests.realtime.client import TIMEOUT_S, Client, Event, connected

SECOND = np.zeros(16_000, np.float32)
LOUD = (0.5 * np.sin(np.arange(8_000) / 8)).astype(np.float32)  # Opus lets no constant through
ASK = {"messages": [{"role": "user", "content": "hello you"}], "tts": {"enabled": True}}
MP3 = {"sound": "mp3"}
#: Samples of the tone that the null engine says with each word, at 24 kHz.
TONE = OUTPUT_HZ


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


def _opus() -> Callable[[np.ndarray], bytes]:
    """Give a function that encodes pieces of one stream (16 kHz in, each a whole frame)."""
    writer = OpusWriter()

    def encoded(samples: np.ndarray) -> bytes:
        at_24_khz = np.repeat(samples, 3)[::2].astype("<f4")
        frame = writer.frame(at_24_khz.tobytes(), True)
        assert frame is not None and frame.work is not None
        return frame.work()

    return encoded


WRITERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "pcm16": lambda samples: b"S16L" + pcm16_from_waveform(samples),
    "float32": lambda samples: b"F32L" + samples.astype("<f4").tobytes(),
    "opus": _opus(),
}
forms = pytest.mark.parametrize("form", sorted(WRITERS))


async def _sound(client: Client, reader: OpusReader, form: str) -> int:
    """Return how many samples at 24 kHz the binary frame has that comes next."""
    message = await client.socket.receive(TIMEOUT_S)
    assert message.type is WSMsgType.BINARY, message.data
    tag, body = message.data[:4], message.data[4:]
    assert tag == {"pcm16": b"S16L", "float32": b"F32L", "opus": b"OPUS"}[form]
    if form == "opus":
        return reader.read(message.data, 30.0).size * 3 // 2
    return len(body) // (2 if form == "pcm16" else 4)


async def _until(client: Client, kind: str, form: str) -> tuple[list[Event], int]:
    """Return the events up to one of *kind*, and the samples in the frames that follow them."""
    events: list[Event] = []
    reader, num_samples = OpusReader(), 0
    while not events or events[-1]["type"] != kind:
        event = await client.receive()
        events.append(event)
        if event.get("audio_follows"):
            assert event.get("audio_data", event.get("audio")) is None
            num_samples += await _sound(client, reader, form)
    return events, num_samples


@forms
async def test_full_duplex(address: str, form: str) -> None:
    async with connected(address, f"/ws/duplex/adx_b_{form}") as client:
        await client.prepare(sound=form, sound_version=1)
        for _ in range(4):
            await client.socket.send_bytes(WRITERS[form](SECOND))
        for _ in range(3):
            assert (await client.expect("result"))["is_listen"]
        _, num_samples = await _until(client, "result", form)

    assert num_samples == TONE


@forms
@pytest.mark.parametrize("path", ["half_duplex", "half_duplex_omni"])
async def test_half_duplex(address: str, form: str, path: str) -> None:
    async with connected(address, f"/ws/{path}/hdx_b_{form}") as client:
        await client.prepare(sound=form)
        await client.socket.send_bytes(WRITERS[form](LOUD))
        await client.expect("vad_state")
        await client.socket.send_bytes(WRITERS[form](np.zeros(8_000, np.float32)))
        events, num_samples = await _until(client, "turn_done", form)

    num_words = len(events[-1]["text"].split())
    assert num_words and num_samples == num_words * TONE


@forms
@pytest.mark.parametrize("streaming", [True, False])
async def test_chat(address: str, form: str, streaming: bool) -> None:
    async with connected(address, "/ws/chat") as client:
        await client.socket.send_json(ASK | {"sound": form, "streaming": streaming})
        events, num_samples = await _until(client, "done", form)

    assert num_samples == 2 * TONE
    assert events[-1]["text"] == "hello you"


@forms
async def test_older_streaming(address: str, form: str) -> None:
    async with connected(address, f"/ws/streaming/stm_b_{form}") as client:
        await client.send("prefill", messages=ASK["messages"], sound=form)
        await client.until("prefill_done")
        await client.send("generate")
        _, num_samples = await _until(client, "done", form)

    assert num_samples == 2 * TONE


@forms
async def test_r1(address: str, form: str) -> None:
    async with connected(address, "/v1/realtime?dialect=r1") as client:
        await client.send("session.update", session={"instructions": "", "sound": form})
        await client.until("session.created")
        for _ in range(4):
            await client.socket.send_bytes(WRITERS[form](SECOND))
        for _ in range(3):
            await client.expect("response.listen")
        _, num_samples = await _until(client, "response.output_audio.delta", form)

    assert num_samples == TONE


@forms
async def test_r2(address: str, form: str) -> None:
    async with connected(address, "/v1/realtime?dialect=r2") as client:
        await client.send("session.init", payload={"sound": form})
        await client.until("session.created")
        for _ in range(16):
            await client.socket.send_bytes(WRITERS[form](SECOND[:4_000]))
        await client.send("session.close")
        events, num_samples = await _until(client, "session.closed", form)

    kinds = [event.get("kind") for event in events[3:-1]]
    assert not kinds or kinds == ["text", "audio", "listen"]
    assert num_samples == (TONE if kinds else 0)


@forms
async def test_r2_in_turns(address: str, form: str) -> None:
    async with connected(address, "/v1/realtime?mode=chat") as client:
        await client.send("session.init", payload={"sound": form})
        await client.until("session.created")
        for streaming in (True, False):
            await client.send("input.append", input=ASK | {"streaming": streaming})
            _, num_samples = await _until(client, "response.done", form)
            assert num_samples == 2 * TONE


@forms
async def test_openai(address: str, form: str) -> None:
    session = {"type": "realtime", "sound": form, "audio": {"input": {"turn_detection": None}}}
    async with connected(address, "/v1/realtime?dialect=openai") as client:
        await client.send("session.update", session=session)
        updated = await client.until("session.updated")
        await client.socket.send_bytes(WRITERS[form](LOUD))
        await client.send("input_audio_buffer.commit")
        await client.until("input_audio_buffer.committed")
        await client.send("response.create")
        _, num_samples = await _until(client, "response.done", form)

    assert updated["session"]["sound"] == form
    assert num_samples == TONE


@pytest.mark.parametrize(
    ("path", "kind", "fields"),
    [
        ("/ws/duplex/adx_b1", "prepare", MP3),
        ("/ws/half_duplex/hdx_b1", "prepare", MP3),
        ("/ws/chat", "", ASK | MP3),
        ("/ws/streaming/stm_b1", "prefill", {"messages": ASK["messages"], **MP3}),
        ("/v1/realtime?dialect=r1", "session.update", {"session": {"instructions": "", **MP3}}),
        ("/v1/realtime?dialect=r2", "session.init", {"payload": MP3}),
        ("/v1/realtime?mode=chat", "session.init", {"payload": MP3}),
        ("/v1/realtime?dialect=openai", "session.update", {"session": MP3}),
    ],
)
async def test_an_unknown_form_is_refused_with_all_that_there_is(
    address: str, path: str, kind: str, fields: Event
) -> None:
    async with connected(address, path) as client:
        await client.send(kind, **fields)
        error = await client.until("error")

    assert "base64, pcm16, float32, opus" in str(error)


async def test_another_version_of_the_layout_is_refused(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_b2") as client:
        await client.send("prepare", sound="opus", sound_version=2)
        error = await client.until("error")

    assert "sound_version: 2 is not in 1..1" in error["message"]


async def test_an_unknown_tag_is_refused_with_all_that_there_are(address: str) -> None:
    async with connected(address, "/ws/duplex/adx_b3") as client:
        await client.prepare()
        await client.socket.send_bytes(b"MP3L" + bytes(100))
        error = await client.expect("error")

    assert "S16L, F32L, OPUS" in error["message"]

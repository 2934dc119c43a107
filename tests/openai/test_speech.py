"""Speech: OpenAI's own client against a running server."""

import base64
import io
import json

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, rms, waveform_from_pcm16
from omni.containers import read_sound
from tests.openai.conftest import MODEL

TEXT = "one two three four"  # a second of tone each
LEVEL = 0.2 / 2**0.5
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def heard(kind: str, data: bytes) -> tuple[Waveform, int]:
    """Return the samples of a sound file and their rate."""
    if kind == "pcm":
        return waveform_from_pcm16(data), OUTPUT_HZ
    return read_sound(io.BytesIO(data), max_s=60), INPUT_HZ


@pytest.mark.parametrize("kind", sorted(TYPES))
async def test_a_text_is_read_in_every_format(client: AsyncOpenAI, kind: str) -> None:
    reply = await client.audio.speech.create(
        model=MODEL, input=TEXT, voice="alloy", response_format=kind  # type: ignore[arg-type]
    )

    assert reply.response.headers["content-type"] == TYPES[kind]
    sound, rate_hz = heard(kind, reply.content)
    assert len(sound) / rate_hz == pytest.approx(4.0, abs=0.12)
    assert rms(sound) == pytest.approx(LEVEL, rel=0.1)


def test_the_format_is_mp3_unless_it_is_said(sync_client: OpenAI) -> None:
    reply = sync_client.audio.speech.create(model=MODEL, input="one", voice="nova")

    assert reply.response.headers["content-type"] == "audio/mpeg"
    sound, rate_hz = heard("mp3", reply.read())
    assert len(sound) / rate_hz == pytest.approx(1.0, abs=0.12)


async def test_bytes_come_in_pieces(client: AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model=MODEL, input="w " * 30, voice="alloy", response_format="pcm"
    ) as reply:
        pieces = [piece async for piece in reply.iter_bytes(4096)]

    assert reply.headers["transfer-encoding"] == "chunked"
    assert len(waveform_from_pcm16(b"".join(pieces))) == 30 * OUTPUT_HZ


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
async def test_speed_changes_the_length(client: AsyncOpenAI, speed: float) -> None:
    reply = await client.audio.speech.create(
        model=MODEL, input=TEXT, voice="alloy", response_format="wav", speed=speed
    )

    sound, rate_hz = heard("wav", reply.content)
    assert len(sound) / rate_hz == pytest.approx(4.0 / speed, rel=0.05)


async def test_events_carry_the_same_file_and_the_counts(http: aiohttp.ClientSession) -> None:
    body = {"input": TEXT, "voice": "alloy", "response_format": "mp3", "stream_format": "sse"}
    async with http.post("/v1/audio/speech", json=body) as reply:
        text = await reply.text()

    assert reply.content_type == "text/event-stream"
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: ")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    sound, rate_hz = heard("mp3", b"".join(base64.b64decode(e["audio"]) for e in deltas))
    assert len(sound) / rate_hz == pytest.approx(4.0, abs=0.12)
    usage = {"input_tokens": 4, "output_tokens": 4, "total_tokens": 8}
    assert done == {"type": "speech.audio.done", "usage": usage}


async def test_the_accept_header_of_the_client_is_no_reason_to_refuse(
    http: aiohttp.ClientSession,
) -> None:
    headers = {"Accept": "application/octet-stream"}
    async with http.post("/v1/audio/speech", json={"input": "one"}, headers=headers) as reply:
        assert (reply.status, reply.content_type) == (200, "audio/mpeg")


REFUSED = [
    ({"input": ""}, "input", "missing_required_parameter"),
    ({"input": " \n"}, "input", "missing_required_parameter"),
    ({"input": "a" * 4097}, "input", "invalid_value"),
    ({"input": 5}, "input", "invalid_value"),
    ({"response_format": "midi"}, "response_format", "invalid_value"),
    ({"speed": 0.2}, "speed", "invalid_value"),
    ({"speed": 4.1}, "speed", "invalid_value"),
    ({"stream_format": "carrier pigeon"}, "stream_format", "invalid_value"),
    ({"voice": 5}, "voice", "invalid_value"),
]


@pytest.mark.parametrize("fields, param, code", REFUSED, ids=lambda item: str(item)[:40])
async def test_what_cannot_be_read_out_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.speech.create(
            model=MODEL, input="one", voice="alloy", extra_body=fields
        )

    assert (caught.value.param, caught.value.code) == (param, code)


async def test_a_text_may_have_4096_characters(client: AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model=MODEL, input="a" * 4096, voice="alloy", response_format="pcm"
    ) as reply:
        assert len(await reply.read()) == 2 * OUTPUT_HZ

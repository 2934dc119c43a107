"""Transcriptions: OpenAI's own client against a running server, whose engine counts seconds."""

import io

import aiohttp
import av
import numpy as np
import openai
import pytest
import soundfile
from openai import AsyncOpenAI, OpenAI

from tests.openai.conftest import MODEL, sound_file

TWO_SECONDS = "second 1 second 2"


def film(duration_s: float) -> bytes:
    """Return a video file with a sound track."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        for _ in range(int(5 * duration_s)):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        samples = np.zeros((1, int(16_000 * duration_s)), np.float32)
        tone = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        tone.sample_rate = 16_000
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
        container.mux(picture.encode(None))
    return file.getvalue()


def test_the_sync_client_gets_json(sync_client: OpenAI) -> None:
    reply = sync_client.audio.transcriptions.create(model=MODEL, file=("a.wav", sound_file(2.0)))

    assert reply.text == TWO_SECONDS
    assert reply.usage is not None and reply.usage.type == "tokens"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (2, 4)
    assert reply.usage.total_tokens == 6


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
async def test_sound_files_of_many_formats_are_taken(client: AsyncOpenAI, kind: str) -> None:
    file = (f"a.{kind.lower()}", sound_file(1.9, kind))

    reply = await client.audio.transcriptions.create(model=MODEL, file=file)

    assert reply.text == TWO_SECONDS


async def test_of_a_film_the_sound_is_taken(client: AsyncOpenAI) -> None:
    reply = await client.audio.transcriptions.create(model=MODEL, file=("a.mp4", film(1.9)))

    assert reply.text == TWO_SECONDS


async def test_every_text_format_is_a_plain_body(client: AsyncOpenAI) -> None:
    async def answer(kind: str) -> str:
        reply = await client.audio.transcriptions.with_raw_response.create(
            model=MODEL,
            file=("a.wav", sound_file(1.5)),
            response_format=kind,  # type: ignore[arg-type]
        )
        return reply.text

    assert await answer("text") == "second 1 second 2\n"
    assert await answer("srt") == (
        "1\n00:00:00,000 --> 00:00:01,000\nsecond 1\n\n"
        "2\n00:00:01,000 --> 00:00:01,500\nsecond 2\n\n"
    )
    assert await answer("vtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.000\nsecond 1\n\n"
        "00:00:01.000 --> 00:00:01.500\nsecond 2\n\n"
    )


async def test_verbose_json_has_the_segments(client: AsyncOpenAI) -> None:
    reply = await client.audio.transcriptions.create(
        model=MODEL,
        file=("a.wav", sound_file(1.5)),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )

    assert (reply.text, reply.language, float(reply.duration)) == (TWO_SECONDS, "en", 1.5)
    assert reply.segments is not None and len(reply.segments) == 2
    second = reply.segments[1]
    assert (second.id, second.start, second.end, second.text) == (1, 1.0, 1.5, "second 2")


async def test_a_stream_gives_words_and_then_all_of_them(client: AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", sound_file(2.0)), stream=True
    )

    *deltas, done = [event async for event in stream]

    assert all(event.type == "transcript.text.delta" for event in deltas)
    text = "".join(event.delta for event in deltas if event.type == "transcript.text.delta")
    assert done.type == "transcript.text.done"
    assert text == done.text == TWO_SECONDS
    assert done.usage is not None and done.usage.total_tokens == 6


async def test_an_empty_recording_has_no_words_and_no_cues(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(model=MODEL, file=("a.wav", sound_file(0.0)))

    assert caught.value.param == "file"


REFUSED = [
    ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "unsupported_value"),
    ({"response_format": "pdf"}, "response_format", "invalid_value"),
    ({"temperature": 2}, "temperature", "invalid_value"),
    ({"language": "the one of birds"}, "language", "invalid_value"),
    ({"prompt": "p" * 10_001}, "prompt", "invalid_value"),
    ({"stream": True, "response_format": "srt"}, "stream", "unsupported_value"),
]


@pytest.mark.parametrize("fields, param, code", REFUSED, ids=lambda item: str(item)[:40])
async def test_what_cannot_be_written_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, object], param: str, code: str
) -> None:
    given = {"model": MODEL, "file": ("a.wav", sound_file(0.5)), **fields}

    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(**given)  # type: ignore[call-overload]

    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    "data", [b"", b"no sound", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n"]
)
async def test_a_file_that_is_no_sound_is_refused(client: AsyncOpenAI, data: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(model=MODEL, file=("a.wav", data))

    assert caught.value.param == "file"


async def test_a_recording_that_is_too_long_is_too_large(client: AsyncOpenAI) -> None:
    """Forty minutes of silence are 50 kB; hours follow suit."""
    bomb = io.BytesIO()
    soundfile.write(bomb, np.zeros(2400 * 8000, np.int16), 8000, format="FLAC")
    assert len(bomb.getvalue()) < 2**18

    with pytest.raises(openai.APIStatusError) as caught:
        await client.audio.transcriptions.create(model=MODEL, file=("a.flac", bomb.getvalue()))

    assert caught.value.status_code == 413 and "longer than 1800 s" in caught.value.message


async def test_a_body_above_the_limit_is_too_large(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.audio.transcriptions.create(model=MODEL, file=("a.wav", bytes(9 * 2**20)))

    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    "body, content_type",
    [
        (b"{}", "application/json"),
        (b"", "multipart/form-data"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"--x\r\ngarbage\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n'
            b"Content-Transfer-Encoding: odd\r\n\r\ntext\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\ntext\r\n--x--\r\n", "multipart/mixed"),
    ],
)
async def test_a_broken_form_is_a_bad_request(
    http: aiohttp.ClientSession, body: bytes, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    async with http.post("/v1/audio/transcriptions", data=body, headers=headers) as reply:
        answer = await reply.json()

    assert reply.status == 400, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}

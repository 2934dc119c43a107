"""Chat completions: OpenAI's own client against a running server."""

import asyncio
import base64
import io
from typing import cast

import aiohttp
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from omni.audio import INPUT_HZ, OUTPUT_HZ, rms, waveform_from_pcm16
from omni.containers import read_sound
from tests.openai.conftest import MODEL, TIMEOUT_S, picture_url, sound_file

WORDS = "one two three"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": WORDS}]
TONE_LEVEL = 0.2 / 2**0.5  # of the null engine, which says a word a second


def test_the_sync_client_gets_text(sync_client: OpenAI) -> None:
    reply = sync_client.chat.completions.create(model=MODEL, messages=ASK)

    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == (WORDS, "stop")
    assert (choice.message.role, choice.message.audio, choice.logprobs) == ("assistant", None, None)


async def test_a_whole_answer_has_all_that_openai_says(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model=MODEL, messages=ASK, user="u", seed=-3)

    assert reply.id.startswith("chatcmpl-")
    assert (reply.object, reply.model) == ("chat.completion", "omni-null")
    assert reply.created > 1_600_000_000
    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 3, 6)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 0


async def test_a_stream_gives_words_then_reason_then_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    )

    first, *middle, last, counts = [chunk async for chunk in stream]

    assert {chunk.object for chunk in (first, *middle, last, counts)} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in (first, *middle, last, counts)}) == 1
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in middle] == ["one ", "two ", "three"]
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert not counts.choices and counts.usage is not None and counts.usage.total_tokens == 6
    assert all(chunk.usage is None for chunk in (first, *middle, last))


async def test_a_stream_without_include_usage_ends_with_the_reason(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)

    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.choices for chunk in chunks)


def test_the_sync_client_streams(sync_client: OpenAI) -> None:
    stream = sync_client.chat.completions.create(model=MODEL, messages=ASK, stream=True)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == WORDS


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_is_cut_ends_with_length(client: AsyncOpenAI, name: str) -> None:
    reply = await client.chat.completions.create(model=MODEL, messages=ASK, extra_body={name: 2})

    choice = reply.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one two", "length")


@pytest.mark.parametrize("stop", ["three", ["nothing", "three"]])
async def test_a_stop_text_ends_the_answer_before_it(
    client: AsyncOpenAI, stop: str | list[str]
) -> None:
    reply = await client.chat.completions.create(model=MODEL, messages=ASK, stop=stop)

    choice = reply.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one two", "stop")


async def test_every_kind_of_part_is_taken(client: AsyncOpenAI) -> None:
    film = "data:video/mp4;base64," + base64.b64encode(b"the engine looks at it").decode()
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": picture_url(), "detail": "high"}},
        {"type": "input_audio", "input_audio": {"data": _b64(sound_file(1.0)), "format": "wav"}},
        {
            "type": "input_audio",
            "input_audio": {"data": _b64(sound_file(1.0, "MP3")), "format": "mp3"},
        },
        {"type": "video_url", "video_url": {"url": film}},
        {"type": "text", "text": "again"},
    ]
    history = [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": None},
    ]

    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[*history, {"role": "user", "content": parts}],  # type: ignore[list-item]
    )

    assert reply.choices[0].message.content == "look again"


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
async def test_a_spoken_answer_comes_in_every_format(client: AsyncOpenAI, kind: str) -> None:
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": kind},  # type: ignore[typeddict-item]
    )

    message = reply.choices[0].message
    assert message.content is None and message.audio is not None
    assert message.audio.transcript == WORDS
    assert message.audio.expires_at > reply.created
    data = base64.b64decode(message.audio.data)
    if kind == "pcm16":
        sound, rate_hz = waveform_from_pcm16(data), OUTPUT_HZ
    else:
        sound, rate_hz = read_sound(io.BytesIO(data), max_s=60), INPUT_HZ
    assert len(sound) / rate_hz == pytest.approx(3.0, abs=0.12)
    assert rms(sound) == pytest.approx(TONE_LEVEL, rel=0.1)


async def test_a_spoken_answer_is_streamed_as_pcm16(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        modalities=["text", "audio"],
        audio={"voice": {"id": "joe"}, "format": "pcm16"},
        stream=True,
    )

    deltas = [
        delta["audio"]
        async for chunk in stream
        if "audio" in (delta := chunk.choices[0].delta.model_dump(exclude_unset=True))
    ]

    assert len({delta["id"] for delta in deltas}) == 1
    assert "".join(delta.get("transcript", "") for delta in deltas) == WORDS
    pcm = b"".join(base64.b64decode(delta.get("data", "")) for delta in deltas)
    assert len(waveform_from_pcm16(pcm)) == 3 * OUTPUT_HZ
    assert "transcript" in deltas[0] and list(deltas[-1]) == ["id", "expires_at"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_spoken_answer_can_be_named_in_the_next_request(
    client: AsyncOpenAI, streams: bool
) -> None:
    """The null engine repeats the last message; that the name is known, it shows by answering."""
    made = await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
        stream=streams,
    )
    if isinstance(made, openai.AsyncStream):
        deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) async for chunk in made]
        audio_id = next(delta["audio"]["id"] for delta in deltas if "audio" in delta)
    else:
        assert made.choices[0].message.audio is not None
        audio_id = made.choices[0].message.audio.id

    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[
            *ASK,
            {"role": "assistant", "audio": {"id": audio_id}},
            {"role": "user", "content": "and then"},
        ],
    )

    assert reply.choices[0].message.content == "and then"


async def test_an_audio_id_that_nobody_knows_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "assistant", "audio": {"id": "audio_0"}}, *ASK],
        )

    assert (caught.value.param, caught.value.code) == ("messages[0].audio.id", "audio_not_found")


REFUSED = [
    ({"n": 2}, "n", "unsupported_value"),
    ({"logprobs": True}, "logprobs", "unsupported_value"),
    ({"top_logprobs": 3}, "logprobs", "unsupported_value"),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "unsupported_value"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value"),
    ({"modalities": ["smell"]}, "modalities", "unsupported_value"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_p": -1}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
    ({"stop": [5]}, "stop[0]", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hi"}, "messages", "invalid_value"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
    (
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "midi"}},
        "audio.format",
        "invalid_value",
    ),
    (
        {"modalities": ["text", "audio"], "audio": {"format": "wav"}, "stream": True},
        "audio.format",
        "unsupported_value",
    ),
]


@pytest.mark.parametrize("fields, param, code", REFUSED, ids=lambda item: str(item)[:40])
async def test_what_cannot_be_done_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK, extra_body=fields)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


WRONG_PARTS = [
    ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}, "image_url.url"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image_url.url"),
    ({"type": "image_url", "image_url": {"detail": "low"}}, "image_url.url"),
    ({"type": "image_url", "image_url": {"url": "x", "detail": "9"}}, "image_url.detail"),
    ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio.data"),
    ({"type": "input_audio", "input_audio": {"data": "@"}}, "input_audio.data"),
    ({"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}}, "input_audio.format"),
    ({"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}, "video_url.url"),
    ({"type": "smell"}, "type"),
    ({}, "type"),
]


@pytest.mark.parametrize("part, name", WRONG_PARTS, ids=lambda item: str(item)[:60])
async def test_a_part_that_cannot_be_read_is_named(
    client: AsyncOpenAI, part: dict[str, object], name: str
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]

    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore

    assert caught.value.param == f"messages[0].content[1].{name}"


@pytest.mark.parametrize(
    ("roles", "asked"),
    [
        ("system system", "one"),  # how LiveKit and Pipecat have an agent greet
        ("user assistant developer", "one"),
        ("system", "Begin the conversation."),
        ("user assistant", "Go on."),
    ],
)
async def test_a_conversation_may_end_with_another_s_word(
    client: AsyncOpenAI, roles: str, asked: str
) -> None:
    """The null engine repeats what it was asked."""
    messages = [{"role": role, "content": "one"} for role in roles.split()]

    reply = await client.chat.completions.create(
        model=MODEL, messages=cast(list[ChatCompletionMessageParam], messages)
    )

    assert reply.choices[0].message.content == asked


async def test_unknown_keys_are_ignored(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        metadata={"a": "b"},
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="auto",
        n=1,
        logprobs=False,
        top_logprobs=0,
        extra_body={"service_tier": "flex", "store": True, "odd": [1]},
    )

    assert reply.choices[0].message.content == WORDS


async def test_a_long_spoken_answer_is_whole(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "w " * 10}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
    )

    assert reply.choices[0].message.audio is not None
    samples = waveform_from_pcm16(base64.b64decode(reply.choices[0].message.audio.data))
    assert len(samples) == 10 * OUTPUT_HZ and float(np.abs(samples).max()) < 0.21


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_conversations_are_recorded_and_texts_to_read_are_not(
    client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    async def recorded() -> list[str]:
        async with http.get("/api/sessions") as reply:
            return [item["session_id"] for item in (await reply.json())["sessions"]]

    read = await client.audio.speech.create(model=MODEL, input="not this", voice="alloy")
    reply = await client.chat.completions.create(model=MODEL, messages=ASK)
    async with asyncio.timeout(TIMEOUT_S):  # they are written in the order in which they were said
        # so that what a client logs can be listened to
        while reply._request_id not in (names := await recorded()):
            await asyncio.sleep(0.02)

    assert read.response.headers["x-request-id"] not in names
    async with http.get(f"/api/sessions/{reply._request_id}") as shown:
        assert (await shown.json())["app_type"] == "chat"


async def test_every_answer_names_its_request(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, stream=True
    )
    models = await client.models.with_raw_response.list()
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=[])

    names = [stream.request_id, models.request_id, caught.value.request_id]
    assert [str(name).partition("_")[0] for name in names] == ["chat", "req", "chat"]


async def test_a_hundred_requests_at_once_are_all_answered(client: AsyncOpenAI) -> None:
    """Those without media need none of the threads that read files, which are few."""
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": f"number {number}"}]
                ),
                name=f"request {number}",
            )
            for number in range(100)
        ]

    texts = [task.result().choices[0].message.content for task in asked]
    assert texts == [f"number {number}" for number in range(100)]

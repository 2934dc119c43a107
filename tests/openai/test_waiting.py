"""Who waits, who is refused, who leaves: the line in front of one slot, for OpenAI's clients."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from omni.messages import Status
from tests.conftest import RunningOmni, StartOmni, status_of
from tests.openai.conftest import MODEL, TIMEOUT_S, sdk, sound_file
from tests.realtime.client import connected

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two"}]
#: Minutes of tone, of which a client that does not read takes a window's worth; what is made
#: ahead of it waits in the worker.
LONG = "w " * 500


@pytest.fixture(scope="module")
def crowded_server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """One slot, and one place in the line; a holder is expected to leave at once."""
    settings = {
        "fabric.slots": 1,
        "service.max_queue_size": 1,
        "service.eta_audio_duplex_s": 0,
        "service.eta_chat_s": 0,
        "fabric.heartbeat_misses": 200,
    }
    running = start_omni(settings)
    yield running
    running.stop()


@pytest.fixture
async def crowded(crowded_server: RunningOmni) -> RunningOmni:
    """That server, when nobody of the test before is left."""
    await crowded_server.until_idle()
    return crowded_server


@asynccontextmanager
async def held(server: RunningOmni) -> AsyncIterator[None]:
    """Somebody has the slot."""
    async with connected(server.websocket_address, "/ws/duplex/adx_holder") as client:
        await client.prepare()
        yield


async def counts(server: RunningOmni) -> tuple[int, int]:
    """Return how many wait, and how many are served."""
    return _counts(await server.status())


def _counts(status: Status) -> tuple[int, int]:
    return len(status.tickets), sum(len(worker.tasks) for worker in status.workers)


async def until(server: RunningOmni, waiting: int, served: int) -> None:
    async with asyncio.timeout(TIMEOUT_S), server.link() as link:
        while _counts(await status_of(link)) != (waiting, served):
            await asyncio.sleep(0.005)


async def refusals(server: RunningOmni) -> int:
    """Return how many found the line full."""
    return (await server.status()).counters.get("queue_full", 0)


def asks(group: asyncio.TaskGroup, client: AsyncOpenAI, name: str) -> asyncio.Task[ChatCompletion]:
    return group.create_task(client.chat.completions.create(model=MODEL, messages=ASK), name=name)


async def test_a_request_waits_in_silence_and_is_answered(crowded: RunningOmni) -> None:
    async with sdk(crowded) as client, asyncio.TaskGroup() as group:
        async with held(crowded):
            asked = asks(group, client, "asked")
            await until(crowded, waiting=1, served=1)

    assert asked.result().choices[0].message.content == "one two"


async def test_a_stream_that_waits_has_its_headers_and_a_comment(crowded: RunningOmni) -> None:
    body = {"messages": ASK, "stream": True}
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    async with aiohttp.ClientSession(crowded.address, timeout=timeout) as http:
        async with held(crowded):
            reply = await http.post("/v1/chat/completions", json=body)
            first = await reply.content.readline()
        rest = (await reply.read()).decode()

    assert (reply.status, reply.content_type) == (200, "text/event-stream")
    assert first == b": queued\n"
    chunks = [line[6:] for line in rest.split("\n\n") if line.startswith("data: ")]
    assert chunks[-1] == "[DONE]"
    text = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(text) == "one two"


async def test_openai_s_client_passes_over_the_comments(crowded: RunningOmni) -> None:
    async with sdk(crowded) as client, asyncio.TaskGroup() as group:
        async with held(crowded):
            # the client returns the stream with the headers, which a comment brings
            stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
            await until(crowded, waiting=1, served=1)
        chunks = [chunk async for chunk in stream]
        group.create_task(until(crowded, waiting=0, served=0), name="idle")

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_line_is_a_rate_limit_with_a_time_to_come_back(
    crowded: RunningOmni, stream: bool
) -> None:
    async with sdk(crowded) as client, held(crowded), asyncio.TaskGroup() as group:
        waits = asks(group, client, "waits")
        await until(crowded, waiting=1, served=1)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=ASK, stream=stream)
        waits.cancel()

    error = caught.value
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert error.type == "rate_limit_error"
    assert int(error.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", ["audio/speech", "audio/transcriptions"])
async def test_a_full_line_is_a_rate_limit_on_every_way_in(
    crowded: RunningOmni, path: str
) -> None:
    async with sdk(crowded) as client, held(crowded), asyncio.TaskGroup() as group:
        waits = asks(group, client, "waits")
        await until(crowded, waiting=1, served=1)
        with pytest.raises(openai.RateLimitError):
            if path == "audio/speech":
                await client.audio.speech.create(model=MODEL, input="one", voice="alloy")
            else:
                file = ("a.wav", sound_file(0.5))
                await client.audio.transcriptions.create(model=MODEL, file=file)
        waits.cancel()


async def test_openai_s_client_comes_back_when_it_was_told_to(crowded: RunningOmni) -> None:
    async with sdk(crowded, max_retries=5) as client, asyncio.TaskGroup() as group:
        async with held(crowded):
            waits = asks(group, client, "waits")
            await until(crowded, waiting=1, served=1)
            before = await refusals(crowded)
            again = asks(group, client, "again")
            async with asyncio.timeout(TIMEOUT_S):
                while await refusals(crowded) == before:
                    await asyncio.sleep(0.02)

    assert waits.result().choices[0].message.content == "one two"
    assert again.result().choices[0].message.content == "one two"


async def test_a_client_that_leaves_the_line_gives_its_place_up(crowded: RunningOmni) -> None:
    async with sdk(crowded) as client, held(crowded), asyncio.TaskGroup() as group:
        waits = asks(group, client, "waits")
        await until(crowded, waiting=1, served=1)

        waits.cancel()

        await until(crowded, waiting=0, served=1)


async def test_a_stream_that_is_closed_frees_its_slot(crowded: RunningOmni) -> None:
    async with sdk(crowded) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": LONG}],
            modalities=["text", "audio"],
            audio={"voice": "alloy", "format": "pcm16"},
            stream=True,
        )
        await anext(aiter(stream))
        assert await counts(crowded) == (0, 1)

        await stream.close()

        await until(crowded, waiting=0, served=0)


async def test_speech_that_nobody_listens_to_any_more_frees_its_slot(
    crowded: RunningOmni,
) -> None:
    async with sdk(crowded) as client:
        async with client.audio.speech.with_streaming_response.create(
            model=MODEL, input=LONG, voice="alloy", response_format="pcm"
        ) as reply:
            pieces = reply.iter_bytes(1024)  # kept: without it, the answer would be closed
            await anext(pieces)
            assert await counts(crowded) == (0, 1)

        await until(crowded, waiting=0, served=0)


async def test_a_request_whose_client_leaves_frees_its_slot(crowded: RunningOmni) -> None:
    """The worker stands still, so that there is no answer before the client has left."""
    while not await leaves_a_standing_worker(crowded):
        await crowded.until_idle()

    await until(crowded, waiting=0, served=0)


async def leaves_a_standing_worker(server: RunningOmni) -> bool:
    """Ask a worker that stands still, and leave; say whether it was asked.

    It was not where it stood still before it gave back the slot of the test before.
    """
    server.kill("worker-0", signal.SIGSTOP)
    try:
        async with sdk(server) as client, asyncio.TaskGroup() as group:
            asked = asks(group, client, "asked")
            async with asyncio.timeout(TIMEOUT_S):
                while (now := await counts(server)) == (0, 0):
                    await asyncio.sleep(0.005)
            asked.cancel()
    finally:
        server.kill("worker-0", signal.SIGCONT)
    return now == (0, 1)


async def test_without_a_worker_there_is_503_and_a_time_to_come_back(
    start_omni: StartOmni,
) -> None:
    running = start_omni({"service.request_timeout": 1})
    try:
        async with sdk(running) as client:
            async with running.link() as link:
                await link.drain()
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError) as caught:
                    await client.chat.completions.create(
                        model=MODEL, messages=ASK, stream=stream
                    )
                assert caught.value.status_code == 503
                assert caught.value.code == "no_worker"
                assert int(caught.value.response.headers["retry-after"]) >= 1
    finally:
        running.stop()


async def test_a_worker_that_dies_in_mid_stream_is_told_as_an_error(
    start_omni: StartOmni,
) -> None:
    running = start_omni({"fabric.restart_backoff_s": 0})
    try:
        async with sdk(running) as client:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": LONG}],
                modalities=["text", "audio"],
                audio={"voice": "alloy", "format": "pcm16"},
                stream=True,
            )
            chunks = aiter(stream)
            await anext(chunks)
            running.kill("worker-0")
            with pytest.raises(openai.APIError) as caught:
                async for _ in chunks:
                    pass
        assert not isinstance(caught.value, openai.APIConnectionError)
        assert caught.value.code == "worker_lost"
    finally:
        running.stop()

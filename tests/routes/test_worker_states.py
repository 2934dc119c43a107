"""The protocol's section 3.4: the demo's word for what a worker does."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from omni.messages import RequestType, TaskView, WorkerView
from omni.routes.status import worker_state
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import SPEECH, Client, connected

#: Of spoken words a client that does not read takes a window's worth; the rest waits in the worker,
#: which has room for so many seconds.
LONG = {"role": "user", "content": "word " * 600}


@pytest.fixture(scope="module")
def single(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with one slot."""
    running = start_omni({"fabric.slots": 1})
    yield running
    running.stop()


def view(state: Any, *types: RequestType) -> WorkerView:  # Any: a closed set of the messages
    """Return a worker in *state* with sessions of *types*, the first of them `c0`."""
    tasks = tuple(
        TaskView(
            worker="worker-0",
            request_type=kind,
            client_id=f"c{number}",
            started_at=0.0,
            elapsed_s=0.0,
            estimated_remaining_s=0.0,
        )
        for number, kind in enumerate(types)
    )
    return WorkerView(
        name="worker-0",
        state=state,
        gpu="",
        host="here",
        pid=1,
        num_slots=4,
        tasks=tasks,
        total_requests=0,
        mean_duration_ms=0.0,
        last_heartbeat=0.0,
        restarts=0,
        capabilities=None,
    )


@pytest.mark.parametrize(
    ("worker", "word"),
    [
        (view("offline"), "offline"),
        (view("loading"), "loading"),
        (view("error"), "error"),
        (view("ready"), "idle"),
        (view("ready", "chat"), "busy_chat"),
        (view("ready", "streaming"), "busy_chat"),
        (view("ready", "half_duplex_audio"), "busy_half_duplex"),
        (view("ready", "audio_duplex"), "duplex_active"),
        (view("ready", "omni_duplex", "chat"), "duplex_active"),
        (view("draining"), "offline"),  # nothing new begins on it
        (view("draining", "chat"), "busy_chat"),
        (view("probation"), "offline"),
    ],
)
def test_a_worker_has_the_word_of_the_protocol(worker: WorkerView, word: str) -> None:
    assert worker_state(worker, set()) == word


def test_a_pause_is_the_first_session_s_own() -> None:
    worker = view("ready", "omni_duplex", "audio_duplex")

    assert worker_state(worker, {"c0"}) == "duplex_paused"
    assert worker_state(worker, {"c1"}) == "duplex_active"


@asynccontextmanager
async def talking_to(address: str, path: str) -> AsyncIterator[Client]:
    """Have a session run on *path* for the time of the block."""
    async with connected(address, path) as client:
        if path == "/ws/chat":
            fields = {"messages": [LONG], "generation": {"max_new_tokens": 600}}
            await client.send("", **fields, tts={"enabled": True})
            await client.until("chunk")
        else:
            await client.prepare()
            await client.send_chunk(SPEECH)
        yield client


@pytest.mark.parametrize(
    ("path", "status", "request_type"),
    [
        ("/ws/chat", "busy_chat", "chat"),
        ("/ws/half_duplex/hdx_1", "busy_half_duplex", "half_duplex_audio"),
        ("/ws/duplex/adx_1", "duplex_active", "audio_duplex"),
        ("/ws/duplex/audio_duplex_1", "duplex_active", "audio_duplex"),
        ("/ws/duplex/omni_1", "duplex_active", "omni_duplex"),
        ("/ws/duplex/odd", "duplex_active", "omni_duplex"),
    ],
)
async def test_a_running_session_shows_its_type(
    single: RunningOmni, path: str, status: str, request_type: str
) -> None:
    """`/ws/chat` was `chat_ws` in the reference, for which nobody had an expected duration."""
    await single.until_idle()
    async with (
        talking_to(single.address, path),
        aiohttp.ClientSession(single.address) as http,
    ):
        async with http.get("/workers") as reply:
            (worker,) = (await reply.json())["workers"]

    assert (worker["status"], worker["current_request_type"]) == (status, request_type)


async def test_a_pause_and_its_end_show_at_once(single: RunningOmni) -> None:
    words = []
    await single.until_idle()
    async with (
        talking_to(single.address, "/ws/duplex/adx_2") as client,
        aiohttp.ClientSession(single.address) as http,
    ):
        for control, answer in (("pause", "paused"), ("resume", "resumed")):
            await client.send(control)
            await client.until(answer)
            async with http.get("/workers") as reply:
                words.append((await reply.json())["workers"][0]["status"])

    assert words == ["duplex_paused", "duplex_active"]

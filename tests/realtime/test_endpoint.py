"""A session that others reach into, while its client is slow or gone: it alone feels that."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from aiohttp import WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from omni.diagnostics import Diagnostics
from omni.engine.null import NullEngine
from omni.link import BrokerLink, open_link
from omni.realtime.dialect import Frame
from omni.realtime.early import EarlyCommands
from omni.realtime.endpoint import Endpoint
from omni.realtime.live import LiveSessions
from omni.realtime.socket import ClientSocket
from omni.realtime.streaming import StreamingDialect
from omni.realtime.streaming_session import StreamingSession
from omni.recording.recorder import NoRecording
from omni.settings import FabricSettings, WebSettings
from tests.fabric import HostedWorker, broker_thread, fabric
from tests.fakes import TIMEOUT_S

__all__ = ["fabric"]

PREFILL = orjson.dumps({"type": "prefill", "messages": [{"role": "user", "content": "one two"}]})
CLOSE = orjson.dumps({"type": "close"})


class Client(ClientSocket):
    """A socket without a network. `queued` is not taken while `takes` is clear."""

    def __init__(self) -> None:
        super().__init__(WebSettings())
        self.is_gone = False
        self.takes = asyncio.Event()
        self.takes.set()
        self.told: list[str] = []
        self.closed_with: list[int] = []
        self._said: asyncio.Queue[WSMessage] = asyncio.Queue()

    def say(self, data: bytes) -> None:
        self._said.put_nowait(WSMessage(WSMsgType.TEXT, data, None))

    async def until_told(self, kind: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while kind not in self.told:
                await asyncio.sleep(0.005)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        return request._payload_writer

    async def receive(self, timeout: float | None = None) -> WSMessage:
        return await self._said.get()

    async def tell(self, frames: Sequence[Frame]) -> None:
        if self.is_gone:
            raise ConnectionResetError("gone")
        self.told += [orjson.loads(frame.data)["type"] for frame in frames]
        if self.told[-1:] == ["queued"]:
            await self.takes.wait()

    async def end(self, code: int, reason: str) -> None:
        self.closed_with.append(code)

    def cut(self) -> None:
        self.closed_with.append(1006)


@pytest.fixture
def worker(fabric: FabricSettings) -> Iterator[HostedWorker]:
    """A worker with one slot."""
    worker = HostedWorker(fabric, NullEngine(1))
    yield worker
    worker.stop()


@pytest.fixture
async def link(fabric: FabricSettings, worker: HostedWorker) -> AsyncIterator[BrokerLink]:
    with broker_thread(fabric):
        async with open_link(fabric, role="web", name="web-0") as link:
            await link.wait_connected(TIMEOUT_S)
            yield link


def endpoint(link: BrokerLink, client: Client, folder: Path, name: str) -> Endpoint:
    session = StreamingSession(
        request_type="streaming", client_id=name, prepare_timeout_s=60.0, request_timeout_s=60.0
    )
    return Endpoint(
        link=link,
        linked=link.open_session(name, "streaming"),
        live=LiveSessions(),
        recordings=NoRecording(),
        diagnostics=Diagnostics(folder),
        dialect=StreamingDialect(),
        session=session,
        socket=client,
        early=EarlyCommands(2**20),
    )


def serve(group: asyncio.TaskGroup, one: Endpoint) -> None:
    group.create_task(one.run(make_mocked_request("GET", "/ws/streaming")))


async def stop(one: Endpoint) -> None:
    """Stop the answer, as the route does that anybody with the id may ask."""
    assert isinstance(one.session, StreamingSession)
    await one.perform(one.session.stop_answer(time.monotonic()))


async def test_who_stops_an_answer_does_not_feel_that_its_client_is_gone(
    link: BrokerLink, tmp_path: Path
) -> None:
    """The error was the stopping request's; the session went on, and held its slot."""
    client = Client()
    one = endpoint(link, client, tmp_path, "stm_1")
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        serve(group, one)
        client.say(PREFILL)
        await client.until_told("prefill_done")
        client.is_gone = True

        await stop(one)

    assert client.closed_with == [1006]
    assert not one.linked.is_leased


async def test_a_slot_that_comes_while_its_ticket_is_given_back_ends_nothing(
    link: BrokerLink, tmp_path: Path
) -> None:
    """The client is slow to take its place in the line; what it waits for is stopped and leased."""
    holder, waiter = Client(), Client()
    first = endpoint(link, holder, tmp_path, "stm_1")
    second = endpoint(link, waiter, tmp_path, "stm_2")
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        serve(group, first)
        serve(group, second)
        holder.say(PREFILL)
        await holder.until_told("prefill_done")
        waiter.takes.clear()
        waiter.say(PREFILL)
        await waiter.until_told("queued")
        waits_for = second.linked
        holder.say(CLOSE)
        while not waits_for.is_leased:
            await asyncio.sleep(0.005)

        await stop(second)
        waiter.takes.set()
        waiter.say(PREFILL)
        await waiter.until_told("prefill_done")
        waiter.say(CLOSE)

    assert waiter.closed_with == [1000]

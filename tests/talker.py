"""Load for tests: duplex sessions that send chunks and count what comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omni.engine import AudioChunk, Buffer, Prepared, PrepareDuplex, UnitResult
from omni.errors import CapacityError, OmniError
from omni.link import BrokerLink, LinkedSession
from tests.fakes import TIMEOUT_S

PAUSE_S = 0.02
CHUNK = AudioChunk(pcm=Buffer(bytes(1280)))


class Talker:
    """One session that talks until it is closed or fails.

    num_sent, num_results: chunks, and answers to them. error: what ended it, if not `stop`.
    """

    def __init__(self, session: LinkedSession) -> None:
        self.session = session
        self.num_sent = 0
        self.num_results = 0
        self.is_leased = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: OmniError | None = None
        self.last_time = 0

    async def run(self) -> None:
        """Take a ticket, prepare, and talk."""
        try:
            async for _ in self.session.wait_for_lease():
                pass
            self.session.send(PrepareDuplex(mode="audio_duplex", chunk_ms=20))
            assert isinstance(await self.session.receive(), Prepared)
            self.is_leased.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(), name="send")
                group.create_task(self._receive(), name="receive")
        except* OmniError as errors:
            self.error = _first(errors)
        finally:
            self.session.close()
            self.ended.set()

    async def _send(self) -> None:
        while True:
            try:
                self.session.send(CHUNK)
                self.num_sent += 1
            except CapacityError:
                pass  # the way is blocked for a moment: a broker restarts
            await asyncio.sleep(PAUSE_S)

    async def _receive(self) -> None:
        while True:
            event = await self.session.receive()
            if isinstance(event, UnitResult):
                self.num_results += 1
                assert event.current_time >= self.last_time, "answers came out of order"
                self.last_time = event.current_time

    async def until_results(self, more: int = 5) -> None:
        """Return when *more* answers came than there are now."""
        wanted = self.num_results + more
        async with asyncio.timeout(TIMEOUT_S):
            while self.num_results < wanted:
                assert not self.ended.is_set(), f"it ended: {self.error!r}"
                await asyncio.sleep(PAUSE_S)

    async def until_ended(self) -> OmniError | None:
        """Return what ended it."""
        await asyncio.wait_for(self.ended.wait(), TIMEOUT_S)
        return self.error


def _first(group: BaseExceptionGroup[OmniError]) -> OmniError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OmniError)
    return error


@asynccontextmanager
async def talking(link: BrokerLink, count: int) -> AsyncIterator[list[Talker]]:
    """Have *count* sessions talk, or wait in the line; all are closed at the end."""
    async with asyncio.TaskGroup() as group:
        talkers = [Talker(link.open_session(f"adx_{n}", "audio_duplex")) for n in range(count)]
        tasks = [group.create_task(talker.run(), name="talker") for talker in talkers]
        try:
            yield talkers
        finally:
            for task in tasks:
                task.cancel()

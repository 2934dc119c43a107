"""A duplex call that sends its next chunk when the last one is answered: faster than real time."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
from attrs import define, field

from omni.audio import INPUT_HZ, Waveform
from tests.e2e.conftest import quiet
from tests.realtime.client import Client, Event, connected

#: Time for the models while there is no answer yet; they share the cores with this process.
BREATH_S = 0.06
#: So much silence that only a server that hangs has not answered.
MAX_QUIET_CHUNKS = 2000


@define
class Call:
    """results: of all chunks so far. heard: what the server understood, turn by turn."""

    client: Client
    chunk_ms: int
    results: list[Event] = field(factory=list)
    heard: list[str] = field(factory=list)

    async def send(self, sound: Waveform) -> list[Event]:
        """Say *sound* (16 kHz) and return the results of its chunks, one each."""
        size = INPUT_HZ * self.chunk_ms // 1000
        padded = np.pad(sound, (0, -sound.size % size)).astype("<f4")
        return [await self._answer(chunk) for chunk in padded.reshape(-1, size)]

    async def quiet_until(self, is_last: Callable[[Event], bool]) -> list[Event]:
        """Be quiet until a result is the last; return the results on the way."""
        first = len(self.results)
        for _ in range(MAX_QUIET_CHUNKS):
            (result,) = await self.send(quiet(self.chunk_ms / 1000))
            if is_last(result):
                return self.results[first:]
            if not result["audio_data"]:
                await asyncio.sleep(BREATH_S)
        raise AssertionError(f"nothing more comes after {self.results[-1]}")

    async def ask(self, question: Waveform) -> list[Event]:
        """Say *question* and hear the answer to its end; return the results that speak."""
        results = await self.send(question)
        results += await self.quiet_until(lambda result: bool(result["end_of_turn"]))
        return [result for result in results if not result["is_listen"]]

    async def _answer(self, chunk: Waveform) -> Event:
        await self.client.send_chunk(base64.b64encode(chunk.tobytes()).decode())
        while (event := await self.client.receive())["type"] != "result":
            assert event["type"] == "transcript", event
            self.heard.append(str(event["text"]))
        self.results.append(event)
        assert event["current_time"] == len(self.results), "chunks and results do not match"
        return event


def speaks(result: Event) -> bool:
    """True for a result with an answer in it."""
    return not result["is_listen"]


def text_of(results: list[Event]) -> str:
    """Return the words of *results*."""
    return "".join(str(result["text"]) for result in results)


def sound_of(events: list[Event]) -> Waveform:
    """Return the sound of *events* at 24 kHz."""
    pcm = [base64.b64decode(event["audio_data"]) for event in events if event.get("audio_data")]
    return np.frombuffer(b"".join(pcm), "<f4")


@asynccontextmanager
async def calling(address: str, session_id: str, chunk_ms: int = 200) -> AsyncIterator[Call]:
    """Open a call, prepared."""
    async with connected(address, f"/ws/duplex/{session_id}") as client:
        prepared = await client.prepare(config={"chunk_ms": chunk_ms})
        assert prepared["chunk_ms"] == chunk_ms
        yield Call(client, chunk_ms)

"""A conversation over the real `openai` package, for tests."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
from attrs import define, field
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from omni.audio import Waveform, pcm16_from_waveform
from tests.realtime.client import connected

TIMEOUT_S = 60.0
#: What a microphone gives at a time, in samples of 24 kHz: 100 ms.
CHUNK = 2_400
#: The null engine says each word in a second, so this lasts while its sound is not read. All of it
#: fits into what a worker keeps for a client that stands still: with more, the answer would fail.
LONG = "word " * 600
Event = dict[str, Any]  # JSON of the server under test

_KNOWN_EVENT: TypeAdapter[RealtimeServerEvent] = TypeAdapter(RealtimeServerEvent)


@define
class Talk:
    """One connection. events: all that came, oldest first."""

    connection: AsyncRealtimeConnection
    is_beta: bool = False
    events: list[Event] = field(factory=list)

    async def send(self, kind: str, **fields: object) -> None:
        """Send one event as it stands, right or wrong."""
        await self.connection.send({"type": kind, **fields})  # type: ignore[misc,typeddict-item]

    async def receive(self) -> Event:
        """Return the next event, which must be what the package's own types say."""
        async with asyncio.timeout(TIMEOUT_S):
            data = await self.connection.recv_bytes()
        if not self.is_beta:
            _KNOWN_EVENT.validate_json(data)
        event: Event = orjson.loads(data)
        self.events.append(event)
        return event

    async def expect(self, *kinds: str) -> list[Event]:
        """Return the next events, which must be of these kinds, in this order."""
        events = [await self.receive() for _ in kinds]
        assert [event["type"] for event in events] == list(kinds), events
        return events

    async def until(self, kind: str) -> Event:
        """Return the next event of *kind*; others before it are kept in `events`."""
        while (event := await self.receive())["type"] != kind:
            assert event["type"] != "error", event
        return event

    async def update(self, **session: object) -> Event:
        """Change the session, and return it as it is then."""
        await self.send("session.update", session={"type": "realtime", **session})
        shown: Event = (await self.until("session.updated"))["session"]
        return shown

    async def refused(self, kind: str, **fields: object) -> Event:
        """Send an event that is wrong, and return the error; it names the event."""
        await self.send(kind, event_id="evt_wrong", **fields)
        (event,) = await self.expect("error")
        assert event["error"]["event_id"] == "evt_wrong"
        error: Event = event["error"]
        return error

    async def say(self, sound: Waveform) -> None:
        """Append *sound* (24 kHz) as a microphone does, as fast as it goes."""
        for at in range(0, sound.size, CHUNK):
            data = pcm16_from_waveform(sound[at : at + CHUNK])
            await self.connection.input_audio_buffer.append(audio=base64.b64encode(data).decode())

    async def write(self, text: str) -> str:
        """Add what the user writes, and return the id of the item."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send("conversation.item.create", item=item)
        event = await self.until("conversation.item.done")
        return str(event["item"]["id"])

    async def ask(self, text: str, **response: object) -> Event:
        """Write *text*, have it answered, and return the finished response."""
        await self.write(text)
        await self.send("response.create", response=response)
        return await self.done()

    async def done(self) -> Event:
        """Return the response that ends next."""
        response: Event = (await self.until("response.done"))["response"]
        return response


@asynccontextmanager
async def talking(address: str, **options: Any) -> AsyncIterator[Talk]:
    """Connect, past `session.created`. options: of `realtime.connect`."""
    async with AsyncOpenAI(api_key="key", base_url=f"{address}/v1", max_retries=0) as client:
        async with client.realtime.connect(**{"model": "gpt-realtime", **options}) as connection:
            talk = Talk(connection, "OpenAI-Beta" in options.get("extra_headers", {}))
            await talk.until("session.created")
            yield talk


def kinds(events: Sequence[Event]) -> list[str]:
    """Return the types of *events*, each run of the same one once."""
    names = [str(event["type"]) for event in events]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def sound_of(events: Sequence[Event]) -> Waveform:
    """Return the sound in *events*, 24 kHz."""
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    pcm = b"".join(map(base64.b64decode, deltas))
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)


@asynccontextmanager
async def slot_held(address: str) -> AsyncIterator[None]:
    """Hold a slot for the time of the block, by a session of the demo's that says nothing."""
    async with connected(address, "/ws/duplex/adx_holder") as holder:
        await holder.prepare()
        yield
        await holder.send("stop")
        await holder.until("stopped")

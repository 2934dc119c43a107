"""A client of every dialect: one spoken or written question, one answer, its timings.

Sound is sent as a microphone would: each chunk when it is complete, in real time.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
from attrs import define, field, frozen

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, rms
from omni.errors import OmniError

Event = dict[str, Any]  # JSON of a server that may be another program

#: Sound below this is silence, when the end of the question is looked for; -40 dB of full scale.
_QUIET = 0.01
_WINDOW_SAMPLES = 320
#: Longest wait for the first word about anything.
ANSWER_TIMEOUT_S = 120.0
#: A TLS connection ends a few rounds of the loop after it was closed, and aiohttp does not wait.
_TLS_END_S = 0.05
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@define
class Exchange:
    """A question and its answer. Times are seconds of one clock; None: it did not happen.

    asked_at: when the question was over. pcm: the answer as float32 at 24 kHz. chunk_ms: what the
    server takes at once.
    """

    asked_at: float = 0.0
    heard: str = ""
    text: str = ""
    pcm: list[bytes] = field(factory=list, repr=False)
    first_text_at: float | None = None
    first_sound_at: float | None = None
    done_at: float = 0.0
    queued_s: float = 0.0
    chunk_ms: int = 200

    @property
    def first_text_s(self) -> float | None:
        """From the end of the question to the first word of the answer."""
        return None if self.first_text_at is None else self.first_text_at - self.asked_at

    @property
    def first_sound_s(self) -> float | None:
        """From the end of the question to the first sound of the answer."""
        return None if self.first_sound_at is None else self.first_sound_at - self.asked_at

    @property
    def sound_s(self) -> float:
        """How long the answer's sound lasts."""
        return self.sound.size / OUTPUT_HZ

    @property
    def rtf(self) -> float | None:
        """Time from the end of the question to the whole answer, by the length of its sound."""
        return (self.done_at - self.asked_at) / self.sound_s if self.sound_s else None

    @property
    def sound(self) -> Waveform:
        """The answer's sound at 24 kHz, shape (N,)."""
        return np.frombuffer(b"".join(self.pcm), "<f4")

    def add(self, text: str = "", audio: bytes = b"") -> None:
        """Note a piece of the answer that came now. audio: float32 at 24 kHz."""
        now = time.monotonic()
        if text.strip() and self.first_text_at is None:
            self.first_text_at = now
        if audio and self.first_sound_at is None:
            self.first_sound_at = now
        self.text += text
        if audio:
            self.pcm.append(audio)


@frozen(kw_only=True)
class Conversation:
    """How one dialect is spoken in one mode.

    asks_on: the event after which *opening* is sent, ready_on: the one after which the question may
    come; "": it may at once. said: what asks a written question. wrap: a chunk of a spoken one (16
    kHz) as its event. hear: notes what an event brings; True when the answer is complete.
    """

    path: str
    hear: Callable[[Event, Exchange], bool]
    asks_on: str = ""
    opening: Event = field(factory=dict)
    ready_on: str = ""
    said: tuple[Event, ...] = ()
    wrap: Callable[[Waveform], Event] | None = None
    chunk_ms: int = 200
    closing: Event | None = None


@define
class Talker:
    """Talks to the server at *url* (`https://host:port`). on_event: sees all that it says.

    key: the API key that it may want.
    """

    url: str
    verify: bool = True
    on_event: Callable[[Event], None] = lambda event: None
    key: str = field(default="", repr=False)

    async def ask(self, conversation: Conversation, question: Waveform | None = None) -> Exchange:
        """Return the answer to *question*, sound at 16 kHz; None where the conversation has a text.

        Raises: OmniError with what the server said; aiohttp.ClientError when it is not there.
        """
        exchange = Exchange()
        async with self._open(conversation.path) as socket:
            events = self._events(socket)
            if conversation.asks_on:
                await _open_session(socket, events, conversation, exchange)
            try:
                async with asyncio.TaskGroup() as group:
                    asking = group.create_task(
                        _ask(socket, conversation, question, exchange), name="ask"
                    )
                    async for event in events:
                        if conversation.hear(event, exchange):
                            break
                    exchange.done_at = time.monotonic()
                    asking.cancel()
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            if conversation.closing is not None:
                await socket.send_str(_json(conversation.closing))
        return exchange

    async def _events(self, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Event]:
        while True:
            message = await socket.receive(ANSWER_TIMEOUT_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise OmniError(f"the server closed the session ({socket.close_code})")
            event: Event = orjson.loads(message.data)
            self.on_event(event)
            if event["type"] == "error":
                raise OmniError(_error_text(event))
            yield event

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        trust: bool | ssl.SSLContext = self.verify and not is_loopback(self.url)
        address = self.url.rstrip("/") + path
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.ws_connect(address, max_msg_size=0, ssl=trust) as socket:
                yield socket
        await asyncio.sleep(_TLS_END_S)


async def _open_session(
    socket: aiohttp.ClientWebSocketResponse,
    events: AsyncIterator[Event],
    conversation: Conversation,
    exchange: Exchange,
) -> None:
    """Wait for the slot, say what is wanted, and return when the question may come."""
    began_at = time.monotonic()
    async for event in events:
        if event["type"] == conversation.asks_on:
            exchange.queued_s = time.monotonic() - began_at
            await socket.send_str(_json(conversation.opening))
        if event["type"] == conversation.ready_on:
            exchange.chunk_ms = event.get("chunk_ms", conversation.chunk_ms)
            return


async def _ask(
    socket: aiohttp.ClientWebSocketResponse,
    conversation: Conversation,
    question: Waveform | None,
    exchange: Exchange,
) -> None:
    """Say the question; a spoken one in real time, with silence behind it until cancelled."""
    exchange.asked_at = time.monotonic()
    for event in conversation.said:
        await socket.send_str(_json(event))
    if question is None or conversation.wrap is None:
        return
    size = INPUT_HZ * exchange.chunk_ms // 1000
    begin_s = time.monotonic()
    exchange.asked_at = begin_s + speech_end(question) / INPUT_HZ
    number = 0
    while True:
        piece = question[number * size : (number + 1) * size]
        piece = np.pad(piece, (0, size - piece.size))
        number += 1
        await asyncio.sleep(max(0.0, begin_s + number * size / INPUT_HZ - time.monotonic()))
        await socket.send_str(_json(conversation.wrap(piece)))


def _error_text(event: Event) -> str:
    error = event.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(event.get("message") or error)


def is_loopback(url: str) -> bool:
    """Say whether *url* leads to this machine, where a self-signed certificate is trusted."""
    return urlsplit(url).hostname in _LOOPBACK


def speech_end(question: Waveform) -> int:
    """Return the number of samples of *question* up to its last sound."""
    for end in range(question.size, 0, -_WINDOW_SAMPLES):
        if rms(question[max(0, end - _WINDOW_SAMPLES) : end]) > _QUIET:
            return end
    return question.size


def _json(event: object) -> str:
    return orjson.dumps(event).decode()

"""A client of the server's own protocol: one spoken or written question, one answer, its timings.

Sound is sent as a microphone would: each chunk when it is complete, in real time.
"""

import asyncio
import base64
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
from attrs import define, field

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, rms
from omni.errors import OmniError

TalkMode = Literal["duplex", "half", "chat"]
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

    asked_at: when the question was over. pcm: the answer as float32 at 24 kHz.
    """

    asked_at: float = 0.0
    heard: str = ""
    text: str = ""
    pcm: list[bytes] = field(factory=list, repr=False)
    first_text_at: float | None = None
    first_sound_at: float | None = None
    done_at: float = 0.0
    queued_s: float = 0.0
    engine: str = ""

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

    def add(self, text: str, audio: str | None) -> None:
        """Note a piece of the answer that came now."""
        now = time.monotonic()
        if text.strip() and self.first_text_at is None:
            self.first_text_at = now
        if audio and self.first_sound_at is None:
            self.first_sound_at = now
        self.text += text
        if audio:
            self.pcm.append(base64.b64decode(audio))


@define
class Talker:
    """Talks to the server at *url* (`https://host:port`). on_event: sees all that it says."""

    url: str
    verify: bool = True
    chunk_ms: int = 200
    on_event: Callable[[Event], None] = lambda event: None

    async def ask(self, mode: TalkMode, question: Waveform | str) -> Exchange:
        """Return the answer to *question*, sound at 16 kHz or a text (chat alone takes texts).

        Raises: OmniError with what the server said; aiohttp.ClientError when it is not there.
        """
        if mode == "chat":
            return await self._chat(question)
        assert not isinstance(question, str)
        return await (self._duplex(question) if mode == "duplex" else self._half(question))

    async def _chat(self, question: Waveform | str) -> Exchange:
        part: dict[str, object] = {"type": "text", "text": question}
        if not isinstance(question, str):
            part = {"type": "audio", "data": _encode(question)}
        request = {
            "messages": [{"role": "user", "content": [part]}],
            "tts": {"enabled": True, "mode": "audio_assistant"},
        }
        exchange = Exchange()
        async with self._open("/ws/chat") as socket:
            await socket.send_str(_json(request))
            exchange.asked_at = time.monotonic()
            async for event in self._events(socket):
                if event["type"] == "chunk":
                    exchange.add(event.get("text_delta", ""), event.get("audio_data"))
                elif event["type"] == "done":
                    exchange.text = event.get("text") or exchange.text
                    break
        exchange.done_at = time.monotonic()
        return exchange

    async def _duplex(self, question: Waveform) -> Exchange:
        exchange, path = Exchange(), f"/ws/duplex/adx_{secrets.token_hex(4)}"
        prepare = {"type": "prepare", "config": {"chunk_ms": self.chunk_ms}}
        async with self._open(path) as socket:
            prepared = await self._prepare(socket, prepare, exchange)
            chunk_ms = prepared.get("chunk_ms", 1000)
            async with asyncio.TaskGroup() as group:
                speaking = group.create_task(
                    _speak(socket, question, chunk_ms, exchange), name="speak"
                )
                async for event in self._events(socket):
                    if event["type"] == "result" and not event["is_listen"]:
                        exchange.add(event["text"], event.get("audio_data"))
                    if event["type"] == "transcript":
                        exchange.heard += event["text"]
                    if event["type"] == "result" and event["end_of_turn"]:
                        break
                exchange.done_at = time.monotonic()
                speaking.cancel()
            await socket.send_str('{"type":"stop"}')
        return exchange

    async def _half(self, question: Waveform) -> Exchange:
        exchange, path = Exchange(), f"/ws/half_duplex/hdx_{secrets.token_hex(4)}"
        async with self._open(path) as socket:
            await self._prepare(socket, {"type": "prepare"}, exchange)
            async with asyncio.TaskGroup() as group:
                speaking = group.create_task(
                    _speak(socket, question, self.chunk_ms, exchange), name="speak"
                )
                async for event in self._events(socket):
                    if event["type"] == "chunk":
                        exchange.add(event["text_delta"], event.get("audio_data"))
                    elif event["type"] == "transcript":
                        exchange.heard += event["text"]
                    elif event["type"] == "turn_done":
                        break
                exchange.done_at = time.monotonic()
                speaking.cancel()
            await socket.send_str('{"type":"stop"}')
        return exchange

    async def _prepare(
        self, socket: aiohttp.ClientWebSocketResponse, prepare: Event, exchange: Exchange
    ) -> Event:
        began_at = time.monotonic()
        async for event in self._events(socket):
            if event["type"] == "queue_done":
                exchange.queued_s = time.monotonic() - began_at
                await socket.send_str(_json(prepare))
            elif event["type"] == "prepared":
                exchange.engine = event.get("engine", "")
                return event
        raise OmniError("the server closed before the session was prepared")

    async def _events(self, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Event]:
        while True:
            message = await socket.receive(ANSWER_TIMEOUT_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise OmniError(f"the server closed the session ({socket.close_code})")
            event: Event = orjson.loads(message.data)
            self.on_event(event)
            if event["type"] == "error":
                raise OmniError(str(event.get("message") or event.get("error")))
            yield event

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        trust: bool | ssl.SSLContext = self.verify and not is_loopback(self.url)
        address = self.url.rstrip("/") + path
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(address, max_msg_size=0, ssl=trust) as socket:
                yield socket
        await asyncio.sleep(_TLS_END_S)


def is_loopback(url: str) -> bool:
    """Say whether *url* leads to this machine, where a self-signed certificate is trusted."""
    return urlsplit(url).hostname in _LOOPBACK


def speech_end(question: Waveform) -> int:
    """Return the number of samples of *question* up to its last sound."""
    for end in range(question.size, 0, -_WINDOW_SAMPLES):
        if rms(question[max(0, end - _WINDOW_SAMPLES) : end]) > _QUIET:
            return end
    return question.size


async def _speak(
    socket: aiohttp.ClientWebSocketResponse, question: Waveform, chunk_ms: int, exchange: Exchange
) -> None:
    """Say *question* in real time, then stay silent until cancelled."""
    size = INPUT_HZ * chunk_ms // 1000
    begin_s = time.monotonic()
    exchange.asked_at = begin_s + speech_end(question) / INPUT_HZ
    number = 0
    while True:
        piece = question[number * size : (number + 1) * size]
        piece = np.pad(piece, (0, size - piece.size))
        number += 1
        await asyncio.sleep(max(0.0, begin_s + number * size / INPUT_HZ - time.monotonic()))
        await socket.send_str(_json({"type": "audio_chunk", "audio_base64": _encode(piece)}))


def _encode(samples: Waveform) -> str:
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def _json(event: object) -> str:
    return orjson.dumps(event).decode()

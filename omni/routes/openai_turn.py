"""One request of OpenAI's API on the link: waits for a slot, is answered, gives the slot back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

from aiohttp import web
from attrs import define, field, frozen

from omni.audio import float32_from_waveform
from omni.engine import (
    EMPTY,
    Buffer,
    Capabilities,
    ChatDone,
    ChatRequest,
    Failed,
    SessionEvent,
    SpeakRequest,
    TranscribeRequest,
)
from omni.errors import CapacityError, OmniError, ProtocolError, error_from_code
from omni.link import LinkedSession
from omni.openai.tools import in_words
from omni.realtime.chat_session import misfit
from omni.recording.recorder import NoRecording, Recorder
from omni.routes.errors import Handler
from omni.routes.keys import LINK, RECORDINGS, SETTINGS, VOICES
from omni.routes.sockets import new_id
from omni.security.rules import OPENAI_PATHS

#: The broker knows at once whether there is a slot, a place in the line, or neither; who streams
#: sends its headers after this time in any case.
FIRST_WORD_S = 0.5
#: A client that waits in the line hears so often that it still does.
WAITING_WORD_S = 10.0

#: The id of a request; if it is one for an engine, its recording and the logs name it so.
_ID: web.RequestKey[str] = web.RequestKey("request id", str)

Input = ChatRequest | SpeakRequest | TranscribeRequest


class Listener(Protocol):
    """Who gets the answer.

    streams: what it was told has left already, and `request_timeout` is the longest wait for more;
    else it is the longest time for all of it.
    """

    streams: bool

    async def waits(self) -> None:
        """There is no slot yet; called after a moment, and again and again."""

    async def begins(self) -> None:
        """The request is on its way to the engine."""

    async def hears(self, event: SessionEvent) -> None:
        """The engine says something; the last is `ChatDone`."""


@define
class Gathered:
    """A listener for who sends the answer as a whole: it keeps the events."""

    events: list[SessionEvent] = field(factory=list)
    streams: bool = False

    @property
    def done(self) -> ChatDone:
        """The end of the answer. `Turn.run` must have returned."""
        done = self.events[-1]
        assert isinstance(done, ChatDone)
        return done

    async def waits(self) -> None:
        """Nothing can be said before the answer."""

    async def begins(self) -> None:
        """The same."""

    async def hears(self, event: SessionEvent) -> None:
        """Keep it."""
        self.events.append(event)


@frozen(kw_only=True)
class Turn:
    """A request. is_recorded: conversations are; texts to read and recordings are not."""

    request: web.Request
    input: Input
    is_recorded: bool = False

    async def run(self, listener: Listener) -> None:
        """Have the request answered. Raises: OmniError, and what *listener* raises."""
        timeout_s = self.request.app[SETTINGS].service.request_timeout
        try:
            async with _session(self.request) as linked, asyncio.timeout(timeout_s) as limit:
                await _wait(linked, listener)
                _require(self.input, linked.lease.capabilities)
                await listener.begins()
                async with aclosing(self._answer(linked)) as events:
                    async for event in events:
                        await listener.hears(event)
                        if listener.streams:
                            limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
        except TimeoutError as exc:
            raise CapacityError(f"the request took longer than {timeout_s:.0f} s") from exc

    async def _answer(self, linked: LinkedSession) -> AsyncGenerator[SessionEvent, None]:
        """Send the request, and yield what comes, up to its `ChatDone`."""
        recorder, input = self._recorder(linked), _told(self.input, linked)
        try:
            linked.send(input)
            recorder.heard(input)
            while True:
                event = await linked.receive()
                recorder.said(event)
                if isinstance(event, Failed):
                    raise error_from_code(event.code, event.message or "the engine failed")
                yield event
                if isinstance(event, ChatDone):
                    return
        finally:
            recorder.close()

    def _recorder(self, linked: LinkedSession) -> Recorder:
        recordings = self.request.app[RECORDINGS] if self.is_recorded else NoRecording()
        return recordings.start(linked.client_id, "chat", linked.lease.worker)


@web.middleware
async def named(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give each request of OpenAI's API a name."""
    if request.path.startswith(OPENAI_PATHS):
        request[_ID] = new_id("chat" if request.method == "POST" else "req")
    return await handler(request)


async def tell_name(request: web.Request, response: web.StreamResponse) -> None:
    """Name the request in the header in which OpenAI does; its clients put it into their logs."""
    if (name := request.get(_ID)) is not None:
        response.headers["X-Request-Id"] = name


async def find_voice(app: web.Application, name: str) -> Buffer:
    """Return the voice of that id or name; any other name, OpenAI's among them, is the default."""
    voice = await app[VOICES].find(name) if name else None
    return EMPTY if voice is None else Buffer(float32_from_waveform(voice.samples))


@asynccontextmanager
async def _session(request: web.Request) -> AsyncIterator[LinkedSession]:
    linked = request.app[LINK].open_session(request[_ID], "chat")
    try:
        yield linked
    finally:
        linked.close()


async def _wait(linked: LinkedSession, listener: Listener) -> None:
    """Wait for a slot. Raises: QueueFull, NoWorker, Cancelled."""
    pause_s = FIRST_WORD_S
    while True:
        try:
            async with asyncio.timeout(pause_s):
                async for _ in linked.wait_for_lease():
                    pass  # HTTP has no place for a place in the line
            return
        except TimeoutError:
            await listener.waits()
            pause_s = WAITING_WORD_S


def _told(input: Input, linked: LinkedSession) -> Input:
    """Return *input* as the engine takes it: not every one calls functions."""
    if isinstance(input, ChatRequest) and not linked.lease.capabilities.calls_tools:
        return in_words(input)
    return input


def _require(input: Input, capabilities: Capabilities) -> None:
    """Raise the error that says why the engine cannot answer *input*, if it cannot."""
    error: OmniError | None = None
    match input:
        case ChatRequest():
            error = misfit(input, capabilities)
        case SpeakRequest() if not capabilities.reads_aloud:
            error = ProtocolError(f"The engine {capabilities.engine} reads no texts out")
        case TranscribeRequest() if not capabilities.writes_down:
            error = ProtocolError(f"The engine {capabilities.engine} writes no recordings down")
    if error is not None:
        raise error

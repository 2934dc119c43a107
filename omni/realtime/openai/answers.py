"""The answers of one session: each a chat turn on a slot of its own, held as long as it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field

from omni.engine import (
    Buffer,
    Capabilities,
    ChatDone,
    ChatRequest,
    Failed,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    StopAnswer,
    Tool,
    ToolCall,
    UserTranscript,
)
from omni.errors import CapacityError, OmniError, QueueFull, WorkerLost, error_from_code
from omni.link import LinkedSession
from omni.openai.tools import in_words
from omni.realtime.chat_session import misfit
from omni.realtime.openai.call_record import CallRecord
from omni.realtime.openai.conversation import history, messages_of
from omni.realtime.openai.events import ServerEvent, error_object
from omni.realtime.openai.items import Item, Message, Picture, UserSound
from omni.realtime.openai.response import Ending, Response, Usage
from omni.realtime.openai.slots import Slots
from omni.settings import RealtimeSettings

log = logging.getLogger(__name__)

#: Answers at once, those that are just being stopped among them.
MAX_ANSWERS = 8
#: How long an engine may take to stop a cancelled answer; its slot goes back in any case.
_STOP_S = 2.0
_MAX_NEW_TOKENS = 1024
_ATTEMPTS = 2
_ENDINGS: Mapping[str, tuple[Ending, str | None]] = {
    "stop": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "cancelled": ("cancelled", "client_cancelled"),
}


#: Name -> reference voice (float32, 16 kHz); empty: the engine's own.
FindVoice = Callable[[str], Awaitable[Buffer]]


@define(eq=False, kw_only=True)
class Answer:
    """One answer on its way.

    items: what it answers. prompt: what is asked where the last word is not the user's. heard: the
    item that the user spoke last, if that is what is answered. tools: functions that may be called.
    released: set once its events may
    be told; it may be made ahead, before the user's turn is certainly over.
    """

    response: Response
    items: Sequence[Item]
    instructions: str
    prompt: str = ""
    heard: Message | None = None
    tools: tuple[Tool, ...] = ()
    released: asyncio.Event = field(factory=asyncio.Event)
    linked: LinkedSession | None = field(default=None, init=False)
    task: asyncio.Task[None] | None = field(default=None, init=False)
    clock: asyncio.Timeout | None = field(default=None, init=False)
    is_cancelled: bool = field(default=False, init=False)

    def request(
        self, voice: Buffer, capabilities: Capabilities, max_history_s: float
    ) -> ChatRequest:
        """Return what an engine that can do this is asked."""
        told = history(self.items, max_history_s, prefers_words=capabilities.transcribes)
        request = ChatRequest(
            messages=messages_of(told, self.instructions, self.prompt, capabilities.vision),
            max_new_tokens=self.response.max_output_tokens or _MAX_NEW_TOKENS,
            speak=self.response.modality == "audio",
            voice=voice,
            max_slice_nums=2 if any(p.detail == "high" for p in self._pictures()) else 1,
            tools=self.tools,
        )
        return request if capabilities.calls_tools else in_words(request)

    @property
    def has_pictures(self) -> bool:
        """True when there is something to see."""
        return bool(self._pictures())

    def _pictures(self) -> list[Picture]:
        messages = [item for item in self.items if isinstance(item, Message)]
        return [part for item in messages for part in item.content if isinstance(part, Picture)]


class Owner(Protocol):
    """The session, as its answers know it."""

    async def tell(self, events: Sequence[ServerEvent]) -> None:
        """Tell the client. Raises: ConnectionError when it is gone."""

    async def met(self, answer: Answer, capabilities: Capabilities) -> None:
        """The answer has a slot of an engine that can do this."""

    async def transcribed(self, item: Message, text: str) -> None:
        """The engine said what it heard in *item*."""

    async def over(self, answer: Answer) -> None:
        """The answer is over, and everything about it was told."""

    async def turned_away(self, error: QueueFull) -> None:
        """There is no slot for this session, and there will be none soon."""


@define(eq=False, kw_only=True)
class Answers:
    """Runs answers as tasks of *group*."""

    group: asyncio.TaskGroup
    owner: Owner
    slots: Slots
    record: CallRecord
    settings: RealtimeSettings
    find_voice: FindVoice
    _running: list[Answer] = field(factory=list, init=False)

    @property
    def is_full(self) -> bool:
        """True when no further one may begin."""
        return len(self._running) >= MAX_ANSWERS

    def active(self, response_id: str | None = None) -> Answer | None:
        """Return the answer of that id, or the conversation's own; None if it is not running."""
        for answer in self._running:
            response = answer.response
            is_it = response.id == response_id if response_id else response.conversation is not None
            if is_it and answer.released.is_set() and not response.is_over:
                return answer
        return None

    def begin(self, answer: Answer) -> None:
        """Ask an engine; what it says is told once the answer is released."""
        self._running.append(answer)
        name = f"answer {answer.response.id}"
        answer.task = self.group.create_task(self._run(answer), name=name)
        # a task that is cancelled before its first step runs none of `_run`
        answer.task.add_done_callback(lambda _: self._forget(answer))

    async def release(self, answer: Answer) -> None:
        """Tell that the answer begins, and what there is of it already."""
        answer.released.set()
        self.record.asked(_speech_ms(answer))
        await self.owner.tell(answer.response.created())

    async def cancel(self, answer: Answer, reason: str) -> None:
        """End the answer now. Its engine is stopped afterwards, and nothing more is told of it."""
        events = answer.response.finish("cancelled", reason=reason)
        answer.is_cancelled = True
        if answer.linked is None:
            self.record.ended(answer.response.text)
            self.discard(answer)
        else:
            self._stop_engine(answer)
        await self.owner.tell(events)
        await self.owner.over(answer)

    def discard(self, answer: Answer) -> None:
        """Drop an answer of which nobody was told."""
        answer.response.is_over = True
        if answer.task is not None:
            answer.task.cancel()

    def stop(self) -> None:
        """Drop all answers: the session is over."""
        for answer in self._running:
            self.discard(answer)

    def _stop_engine(self, answer: Answer) -> None:
        assert answer.linked is not None and answer.clock is not None
        try:
            answer.linked.send(StopAnswer())
        except OmniError as exc:
            log.debug("answer %s: not stopped: %s", answer.response.id, exc)
        answer.clock.reschedule(asyncio.get_running_loop().time() + _STOP_S)

    async def _run(self, answer: Answer) -> None:
        try:
            async with asyncio.timeout(self.settings.response_timeout_s) as answer.clock:
                await self._ask(answer)
        except TimeoutError:
            text = f"The answer took longer than {self.settings.response_timeout_s:.0f} s"
            await self._fail(answer, CapacityError(text))
        except QueueFull as exc:
            await self._fail(answer, exc)
            await self.owner.turned_away(exc)
        except OmniError as exc:
            await self._fail(answer, exc)
        except ConnectionError:
            raise  # of the client: the whole call ends
        except Exception:
            log.exception("answer %s failed", answer.response.id)
            await self._fail(answer, OmniError("The server failed; the call goes on"))
        finally:
            self._forget(answer)
        if not answer.is_cancelled:
            await self.owner.over(answer)

    def _forget(self, answer: Answer) -> None:
        if answer in self._running:
            self._running.remove(answer)

    async def _ask(self, answer: Answer) -> None:
        """Have the answer made; once more where its worker was lost before it said anything."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._ask_once(answer)
            except WorkerLost:
                if attempt == _ATTEMPTS or answer.response.has_output:
                    raise
                answer.linked = None
                log.warning("answer %s lost its worker: asking another", answer.response.id)

    async def _ask_once(self, answer: Answer) -> None:
        voice = await self.find_voice(answer.response.voice)
        async with self.slots.slot() as linked:
            capabilities = linked.lease.capabilities
            request = answer.request(voice, capabilities, self.settings.max_history_s)
            if (error := misfit(request, capabilities)) is not None:
                raise error
            linked.send(request)
            answer.linked = linked
            await answer.released.wait()
            await self.owner.met(answer, capabilities)
            while True:
                event = await linked.receive()
                self.record.said(event)
                if not answer.response.is_over:
                    await self._take(answer, event)
                if isinstance(event, ChatDone | Failed):
                    return

    async def _take(self, answer: Answer, event: SessionEvent) -> None:
        response = answer.response
        match event:
            case PrefillDone(input_tokens=input_tokens):
                response.input_tokens = input_tokens
            case UserTranscript(text=text):
                if answer.heard is not None:
                    await self.owner.transcribed(answer.heard, text)
            case ReplyChunk(text=text, pcm=pcm):
                await self.owner.tell(response.said(text, pcm))
            case ToolCall():
                await self.owner.tell(response.called(event))
            case ChatDone():
                await self._done(answer, event)
            case Failed(code=code, message=message):
                raise error_from_code(code, message)

    async def _done(self, answer: Answer, done: ChatDone) -> None:
        status, reason = _ENDINGS[done.finish_reason]
        await self.owner.tell(answer.response.finish(status, Usage.of(done), reason))

    async def _fail(self, answer: Answer, error: OmniError) -> None:
        await answer.released.wait()
        if answer.response.is_over:
            return
        log.info("answer %s failed: %s", answer.response.id, error)
        self.record.ended(answer.response.text)
        await self.owner.tell(answer.response.finish("failed", error=error_object(error)))


def _speech_ms(answer: Answer) -> int:
    if answer.heard is None:
        return 0
    sounds = [part for part in answer.heard.content if isinstance(part, UserSound)]
    return round(1000 * sum(sound.duration_s for sound in sounds))

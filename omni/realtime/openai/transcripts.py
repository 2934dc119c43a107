"""What the user said, written down, where the client asked for it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field

from omni.engine import Capabilities, ChatDone, Failed, TranscribeRequest
from omni.errors import CapacityError, OmniError, error_from_code
from omni.openai.errors import Refusal
from omni.realtime.openai.config import Transcription
from omni.realtime.openai.events import ServerEvent, error_object
from omni.realtime.openai.items import Message, UserSound
from omni.realtime.openai.slots import Slots

#: Recordings being written down or waiting for it; what comes beyond is told as failed.
MAX_TRANSCRIPTS = 8
_KIND = "conversation.item.input_audio_transcription"

Tell = Callable[[Sequence[ServerEvent]], Awaitable[None]]


@define(eq=False, kw_only=True)
class Transcripts:
    """Writes down items of one session: by slots of its own, or by what an answer's engine heard.

    wanted: None while the client asked for no transcripts. timeout_s: longest time for one.
    """

    group: asyncio.TaskGroup
    tell: Tell
    slots: Slots
    timeout_s: float
    wanted: Transcription | None
    _tasks: dict[str, asyncio.Task[None]] = field(factory=dict, init=False)

    def begin(self, item: Message) -> None:
        """Write *item* down, unless that is done, under way or not wanted."""
        sound = sound_of(item)
        if self.wanted is None or sound.transcript is not None or item.id in self._tasks:
            return
        name = f"transcript {item.id}"
        self._tasks[item.id] = self.group.create_task(self._run(item, sound), name=name)

    def leave_to_answer(self, item: Message) -> None:
        """Stop writing *item* down: an engine that answers it says what it heard."""
        if (task := self._tasks.pop(item.id, None)) is not None:
            task.cancel()

    def stop(self) -> None:
        """Stop everything: the session is over."""
        for task in self._tasks.values():
            task.cancel()

    async def said(self, item: Message, text: str) -> None:
        """Keep and tell what was said in *item*."""
        sound = sound_of(item)
        if sound.transcript is None:
            sound.transcript = text
            if self.wanted is not None:
                usage = {"type": "duration", "seconds": round(sound.duration_s, 3)}
                await self._tell_of(item, "completed", transcript=text, usage=usage)

    async def _run(self, item: Message, sound: UserSound) -> None:
        try:
            if len(self._tasks) > MAX_TRANSCRIPTS:
                raise CapacityError(f"{MAX_TRANSCRIPTS} transcripts are on their way already")
            async with asyncio.timeout(self.timeout_s):
                text = await self._write_down(sound)
            await self.said(item, text)
        except TimeoutError:
            await self._fail(item, CapacityError(f"No transcript in {self.timeout_s:.0f} s"))
        except OmniError as exc:
            await self._fail(item, exc)
        finally:
            self._tasks.pop(item.id, None)

    async def _write_down(self, sound: UserSound) -> str:
        assert self.wanted is not None
        request = TranscribeRequest(
            pcm=sound.pcm, language=self.wanted.language, prompt=self.wanted.prompt
        )
        async with self.slots.slot() as linked:
            require_transcripts(linked.lease.capabilities)
            linked.send(request)
            while True:
                match await linked.receive():
                    case ChatDone(text=text):
                        return text
                    case Failed(code=code, message=message):
                        raise error_from_code(code, message)

    async def _fail(self, item: Message, error: OmniError) -> None:
        await self._tell_of(item, "failed", error=error_object(error))

    async def _tell_of(self, item: Message, kind: str, **fields: object) -> None:
        index = item.content.index(sound_of(item))
        event = ServerEvent.of(f"{_KIND}.{kind}", item_id=item.id, content_index=index, **fields)
        await self.tell([event])


def require_transcripts(capabilities: Capabilities) -> None:
    """Raise Refusal when the engine cannot write down what it hears."""
    if not capabilities.writes_down:
        problem = f"the engine {capabilities.engine} does not write down what it hears"
        raise Refusal((), problem, "transcription_not_supported")


def sound_of(item: Message) -> UserSound:
    """Return the last recording in *item*, which must hold one."""
    return next(part for part in reversed(item.content) if isinstance(part, UserSound))

"""One session of the OpenAI Realtime dialect: what a client's events do, and what it is told."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, evolve, field

from omni.audio import INPUT_HZ, Waveform, float32_from_waveform, waveform_from_float32
from omni.call_threads import in_call_thread
from omni.engine import Buffer, Capabilities
from omni.errors import ProtocolError, QueueFull
from omni.link import BrokerLink
from omni.openai.errors import Refusal
from omni.realtime.binary_sound import SoundReader, is_slow
from omni.realtime.dialect import Frame
from omni.realtime.openai.answers import MAX_ANSWERS, Answer, Answers, FindVoice
from omni.realtime.openai.asked import answer_to
from omni.realtime.openai.call_record import CallRecord
from omni.realtime.openai.client_events import (
    AppendSound,
    CancelResponse,
    ClearOutput,
    ClearSound,
    ClientEvent,
    CommitSound,
    CreateItem,
    CreateResponse,
    DeleteItem,
    RetrieveItem,
    SessionUpdate,
    TruncateItem,
    read_frame,
)
from omni.realtime.openai.config import SessionConfig
from omni.realtime.openai.conversation import Conversation
from omni.realtime.openai.events import ServerEvent, error_event, new_id
from omni.realtime.openai.formats import Decoder
from omni.realtime.openai.item_events import added, done_with_item
from omni.realtime.openai.items import Item, Message, UserSound
from omni.realtime.openai.lacks import lack_of
from omni.realtime.openai.microphone import INLINE_WINDOWS, Microphone, SpeechChange
from omni.realtime.openai.shown_config import shown
from omni.realtime.openai.slots import Slots
from omni.realtime.openai.transcripts import Transcripts
from omni.settings import RealtimeSettings
from omni.vad import WINDOW_SAMPLES

#: Frames above this are read in a thread: their base64, JSON and pictures would block the loop.
_INLINE_BYTES = 2**16
_MIB = 2**20


@define(eq=False)
class _Ahead:
    """An answer that is made in the silence before the turn is certainly over.

    message: what was said so far; version, config: what the answer was made of.
    """

    answer: Answer
    message: Message
    version: int
    config: SessionConfig


@define(eq=False, kw_only=True)
class RealtimeSession:
    """The state of one session. Frames of the client are taken one after another, by one task.

    send: writes frames; ConnectionError when the client is gone. send_away: called when no slot can
    be had for long; the session shall end then. expires_at: Unix seconds.
    """

    id: str
    config: SessionConfig
    is_beta: bool
    expires_at: int
    group: asyncio.TaskGroup
    link: BrokerLink
    capabilities: Capabilities
    settings: RealtimeSettings
    record: CallRecord
    find_voice: FindVoice
    send: Callable[[Sequence[Frame]], Awaitable[None]]
    send_away: Callable[[QueueFull], Awaitable[None]]
    conversation: Conversation = field(init=False)
    _answers: Answers = field(init=False)
    _transcripts: Transcripts = field(init=False)
    _microphone: Microphone = field(init=False)
    _decoder: Decoder = field(init=False)
    _reader: SoundReader = field(factory=SoundReader, init=False)
    _speech_item_id: str = field(default="", init=False)
    _ahead: _Ahead | None = field(default=None, init=False)
    _is_answer_due: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        slots = Slots(link=self.link, client_id=self.id, max_wait_s=settings.max_wait_s)
        self.conversation = Conversation(
            max_items=settings.max_items, max_bytes=settings.max_conversation_mb * _MIB
        )
        self._answers = Answers(
            group=self.group,
            owner=self,
            slots=slots,
            record=self.record,
            settings=settings,
            find_voice=self.find_voice,
        )
        self._transcripts = Transcripts(
            group=self.group,
            tell=self.tell,
            slots=slots,
            timeout_s=settings.response_timeout_s,
            wanted=self.config.transcription,
        )
        self._microphone = Microphone(self.config.turn_detection)
        self._decoder = Decoder(self.config.input_format)

    def stop(self) -> None:
        """Stop all answers; nothing more is told."""
        self._answers.stop()
        self._transcripts.stop()

    # --- towards the client ---

    async def open(self) -> None:
        """Speak first."""
        events = [ServerEvent.of("session.created", session=self._shown())]
        if self.is_beta:
            begun = {"id": self.conversation.id, "object": "realtime.conversation"}
            events.append(ServerEvent.of("conversation.created", conversation=begun))
        await self.tell(events)

    async def tell(self, events: Sequence[ServerEvent]) -> None:
        """Tell the client. Raises: ConnectionError when it is gone."""
        await self.send([frame for event in events for frame in event.frames(self.is_beta)])

    def _shown(self) -> dict[str, object]:
        return shown(self.config, self.id, self.expires_at, self.is_beta)

    # --- from the client ---

    async def take(self, data: bytes, binary: bool) -> None:
        """Do what a frame asks for, or tell what is wrong with it; the session goes on."""
        if len(data) > _INLINE_BYTES or is_slow(data, binary):
            received = await in_call_thread(read_frame, data, binary, self.config, self._reader)
        else:
            received = read_frame(data, binary, self.config, self._reader)
        try:
            if received.event is None:
                raise received.error or ProtocolError("Invalid event")
            await self._do(received.event)
        except ProtocolError as exc:
            await self.tell([error_event(exc, received.event_id)])

    async def _do(self, event: ClientEvent) -> None:
        match event:
            case AppendSound():
                await self._append(event)
            case CommitSound():
                await self._commit_buffer()
            case ClearSound():
                self._forget_sound()
                await self.tell([ServerEvent.of("input_audio_buffer.cleared")])
            case SessionUpdate(config=config):
                await self._update(config)
            case CreateItem():
                await self._create_item(event)
            case RetrieveItem() | DeleteItem() | TruncateItem():
                sound = self.config.input_format
                await self.tell(await done_with_item(self.conversation, event, sound))
            case CreateResponse():
                await self._create_response(event)
            case CancelResponse(response_id=response_id):
                await self._cancel(response_id)
            case ClearOutput():
                pass  # of WebRTC alone: here the client holds what is to be played

    async def _update(self, config: SessionConfig) -> None:
        if config.input_format != self.config.input_format:
            self._decoder = Decoder(config.input_format)
        if config.turn_detection != self.config.turn_detection:
            self._discard_ahead()
            self._speech_item_id = ""
            self._microphone.configure(config.turn_detection)
        self.config = config
        self._transcripts.wanted = config.transcription
        await self.tell([ServerEvent.of("session.updated", session=self._shown())])

    # --- items ---

    async def _create_item(self, event: CreateItem) -> None:
        events = added(self.conversation, event.item, event.previous_item_id)
        self.record.wrote(event.item)
        await self.tell(events)

    # --- sound ---

    async def _append(self, event: AppendSound) -> None:
        """Listen to what was appended, a second at a time: much at once must not hold up others."""
        if event.pcm is not None:
            waveform = waveform_from_float32(event.pcm)
        elif len(event.data) > _INLINE_BYTES:
            waveform = await in_call_thread(self._decoder.push, event.data)
        else:
            waveform = self._decoder.push(event.data)
        for at in range(0, waveform.size, INPUT_HZ):
            await self._hear(waveform[at : at + INPUT_HZ])

    async def _hear(self, waveform: Waveform) -> None:
        if waveform.size > INLINE_WINDOWS * WINDOW_SAMPLES:
            changes = await in_call_thread(self._microphone.push, waveform)
        else:
            changes = self._microphone.push(waveform)
        if self.config.turn_detection is None:
            self.record.spoke(True)
        self.record.heard(Buffer(float32_from_waveform(waveform)))
        for change in changes:
            await self._on_speech(change)

    async def _on_speech(self, change: SpeechChange) -> None:
        match change.kind:
            case "started":
                await self._on_started(change.at_ms)
            case "paused":
                self._answer_ahead(change.waveform)
            case "resumed":
                self._discard_ahead()
            case "stopped":
                stopped = ServerEvent.of(
                    "input_audio_buffer.speech_stopped",
                    audio_end_ms=change.at_ms,
                    item_id=self._speech_item_id,
                )
                await self.tell([stopped])
                await self._commit(change.waveform)

    async def _on_started(self, at_ms: int) -> None:
        self._speech_item_id = new_id("item")
        started = ServerEvent.of(
            "input_audio_buffer.speech_started",
            audio_start_ms=at_ms,
            item_id=self._speech_item_id,
        )
        self.record.spoke(True)
        await self.tell([started])
        rules, active = self.config.turn_detection, self._answers.active()
        self._is_answer_due = False
        if rules is not None and rules.interrupt_response and active is not None:
            await self._answers.cancel(active, "turn_detected")

    async def _commit_buffer(self) -> None:
        try:
            sound = self._microphone.commit(self._decoder.drain())
        except Refusal:
            if self.config.kind == "transcription" and self._microphone.rules is not None:
                return  # the server ended the turn before a client that listens for ends as well
            raise
        self._discard_ahead()
        self._speech_item_id = self._speech_item_id or new_id("item")
        await self._commit(sound, is_turn=False)

    def _forget_sound(self) -> None:
        self._discard_ahead()
        self._speech_item_id = ""
        self.record.spoke(False)
        self._decoder.drain()
        self._microphone.clear()

    async def _commit(self, sound: Waveform, is_turn: bool = True) -> None:
        """Make an item of *sound*. is_turn: the server ended the turn, and may answer it."""
        self.record.spoke(False)
        ahead, self._ahead = self._ahead, None
        version = self.conversation.version
        pcm = Buffer(float32_from_waveform(sound))
        message = Message(id=self._speech_item_id, role="user", content=[UserSound(pcm)])
        if ahead is not None:
            message = ahead.message
            message.content[0] = evolve(_sound(message), pcm=pcm)
        self._speech_item_id = ""
        events = added(self.conversation, message)
        committed = ServerEvent.of(
            "input_audio_buffer.committed",
            previous_item_id=self.conversation.before(message),
            item_id=message.id,
        )
        await self.tell([committed, *events])
        answers_it = is_turn and self.config.answers_turns
        if not (answers_it and self.capabilities.transcribes):
            self._transcripts.begin(message)
        if answers_it:
            await self._answer_turn(ahead, version)

    # --- answers ---

    async def _create_response(self, event: CreateResponse) -> None:
        if self.config.kind == "transcription":
            raise Refusal(("type",), "a transcription session has no responses")
        if event.in_conversation and (active := self._answers.active()) is not None:
            problem = f"the conversation has an active response: {active.response.id}"
            raise Refusal((), problem, "conversation_already_has_active_response")
        if self._answers.is_full:
            problem = f"{MAX_ANSWERS} responses are on their way already"
            raise Refusal((), problem, "rate_limit_exceeded")
        self._discard_ahead()
        await self._begin(self._answer_to(event))

    async def _begin(self, answer: Answer) -> None:
        if answer.heard is not None and self.capabilities.transcribes:
            self._transcripts.leave_to_answer(answer.heard)
        self._is_answer_due = False
        self._answers.begin(answer)
        await self._answers.release(answer)

    def _answer_to(self, event: CreateResponse, further: Sequence[Item] = ()) -> Answer:
        return answer_to(event, self.config, self.conversation, further)

    async def _cancel(self, response_id: str | None) -> None:
        active = self._answers.active(response_id)
        if active is None:
            # clients know by these first words that it was only over sooner than they saw
            problem = "Cancellation failed: no active response found"
            raise Refusal((), problem, "response_cancel_not_active")
        await self._answers.cancel(active, "client_cancelled")

    def _answer_ahead(self, sound: Waveform) -> None:
        """Begin to answer in a pause that may be the end: who was right to wait loses no time."""
        if not self.config.answers_turns or self._answers.is_full:
            return
        if self._answers.active() is not None or self._ahead is not None:
            return
        pcm = Buffer(float32_from_waveform(sound))
        message = Message(id=self._speech_item_id, role="user", content=[UserSound(pcm)])
        answer = self._answer_to(CreateResponse(), [message])
        self._ahead = _Ahead(answer, message, self.conversation.version, self.config)
        self._answers.begin(answer)

    def _discard_ahead(self) -> None:
        if self._ahead is not None:
            self._answers.discard(self._ahead.answer)
            self._ahead = None

    async def _answer_turn(self, ahead: _Ahead | None, version: int) -> None:
        """Answer what was just said: with what was made ahead, where nothing has changed since."""
        if ahead is not None:
            if ahead.version == version and ahead.config == self.config:
                await self._answers.release(ahead.answer)
                return
            self._answers.discard(ahead.answer)
        if self._answers.active() is not None or self._answers.is_full:
            self._is_answer_due = True
            return
        await self._begin(self._answer_to(CreateResponse()))

    # --- from the answers ---

    async def met(self, answer: Answer, capabilities: Capabilities) -> None:
        """Note what the engine can do, and what it leaves out of this answer."""
        self.capabilities = capabilities
        answer.response.left_out = lack_of(answer, capabilities)

    async def transcribed(self, item: Message, text: str) -> None:
        """Tell what the engine heard in *item*."""
        await self._transcripts.said(item, text)

    async def over(self, answer: Answer) -> None:
        """Go on after an answer: with what it did not come to, and with what was said meanwhile."""
        if answer.heard is not None:
            self._transcripts.begin(answer.heard)
        if self._is_answer_due and self._answers.active() is None and not self._answers.is_full:
            await self._begin(self._answer_to(CreateResponse()))

    async def turned_away(self, error: QueueFull) -> None:
        """End: whoever waits for longer than people do is better told."""
        await self.send_away(error)


def _sound(message: Message) -> UserSound:
    part = message.content[0]
    assert isinstance(part, UserSound)
    return part

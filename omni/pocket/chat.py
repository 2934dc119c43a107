"""Chat: one request with its whole history, one answer in text and, if wanted, sound."""

from collections import deque
from typing import Literal

from attrs import define, field

from omni import audio
from omni.engine import (
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Part,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    StageCosts,
    StopAnswer,
    UserTranscript,
)
from omni.errors import ClientError, OmniError
from omni.pocket import sampling
from omni.pocket.answering import Order
from omni.pocket.persona import Persona
from omni.pocket.request_session import RequestSession
from omni.pocket.results import Broke, Finished, Heard, Piece, Prefilled, Result
from omni.pocket.thinking import Answer, Utterance


@define(kw_only=True)
class ChatSession(RequestSession):
    """One chat turn; over with `ChatDone` or a fatal `Failed`."""

    request: ChatRequest
    tuned_prompt: str
    _heard: deque[str] = field(factory=deque)
    _num_sounds: int = 0
    _input_tokens: int = 0
    _said: str = ""
    _num_pieces: int = 0

    def open(self) -> list[SessionEvent]:
        """Begin with what must be heard, or with the answer."""
        try:
            sounds = [_waveform(p) for m in self.request.messages for p in _spoken(m)]
        except OmniError as exc:
            return self._fail(exc)
        self._num_sounds = len(sounds)
        for waveform in sounds:
            self.pipeline.hear(self.slot, self._turn, waveform, self.post)
        return [] if sounds else self._answer()

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """End the answer with what there is of it."""
        if isinstance(message, StopAnswer):
            return self._end("cancelled")
        return [Failed(code="protocol_error", message="a chat takes no audio chunks")]

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Nothing waits: a chat's sound comes whole."""
        return []

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take what background work gave."""
        if self._is_late(result):
            return []
        match result:
            case Heard():
                return self._on_heard(result.text)
            case Prefilled():
                self._input_tokens = result.input_tokens
                return [PrefillDone(input_tokens=result.input_tokens)]
            case Piece():
                self._said += result.text
                self._num_pieces += 1
                pcm = Buffer(audio.float32_from_waveform(result.waveform))
                return [ReplyChunk(text=result.text, pcm=pcm)]
            case Finished():
                reason = result.answer.finish_reason
                return self._end("length" if reason == "length" else "stop", result.answer)
            case Broke():
                return self._fail(result.error)

    @property
    def is_behind(self) -> bool:
        """False: see `listen`."""
        return False

    def _on_heard(self, text: str) -> list[SessionEvent]:
        self._heard.append(text)
        if len(self._heard) < self._num_sounds:
            return []
        last = self.request.messages[-1]
        spoken = _spoken(last)
        transcript = " ".join(text for text in list(self._heard)[-len(spoken) :] if text)
        events: list[SessionEvent] = [UserTranscript(text=transcript)] if spoken else []
        return events + self._answer()

    def _answer(self) -> list[SessionEvent]:
        try:
            self.pipeline.answer(self.slot, self.slot.index, self._turn, self._order(), self.post)
        except OmniError as exc:
            return self._fail(exc)
        return []

    def _order(self) -> Order:
        """Raises: ClientError, if the last message is not the user's, or one is a function's."""
        if not self.request.messages or self.request.messages[-1].role != "user":
            raise ClientError("the last message must be the user's")
        instructions = " ".join(
            self._text_of(m) for m in self.request.messages if m.role == "system"
        )
        persona = Persona.of(instructions, self.tuned_prompt)
        turns = [
            Utterance(role=_speaker(message), text=self._text_of(message))
            for message in self.request.messages
            if message.role != "system"
        ]
        return Order(
            messages=(*persona.prefix, *turns),
            persona=persona,
            sampling=sampling.of_chat(self.request),
            speak=self.request.speak,
            is_limited=not persona.is_custom,
        )

    def _text_of(self, message: ChatMessage) -> str:
        spoken = _spoken(message)
        texts = [
            self._heard.popleft() if part in spoken else part.text for part in message.parts
        ]
        return " ".join(text for text in texts if text)

    def _end(
        self,
        reason: Literal["stop", "length", "cancelled"],
        answer: Answer | None = None,
    ) -> list[SessionEvent]:
        self.close()
        done = ChatDone(
            text=self._said.strip(),
            input_tokens=self._input_tokens,
            generated_tokens=answer.generated_tokens if answer else self._num_pieces,
            finish_reason=reason,
            costs=StageCosts(
                prefill_ms=answer.prefill_ms if answer else None,
                llm_ms=answer.generate_ms if answer else None,
                tts_ms=self._turn.speaking_ms,
            ),
        )
        return [ReplyChunk(is_final=True), done]


def _speaker(message: ChatMessage) -> Literal["system", "user", "assistant"]:
    """Return who says *message*. Raises: ClientError, for what only functions lead to."""
    if message.role == "tool" or message.tool_calls:
        raise ClientError("this engine calls no functions: tell it in words what they gave")
    return message.role


def _spoken(message: ChatMessage) -> list[Part]:
    """Return what must be heard of *message*: not the voice to answer in, which a system one holds.

    It was heard with every turn, which took three seconds on the demo's page, and its words became
    instructions. Raises: ClientError, for what we cannot take.
    """
    sounds = [part for part in message.parts if _is_sound(part)]
    return [] if message.role == "system" else sounds


def _is_sound(part: Part) -> bool:
    """Return whether *part* must be heard. Raises: ClientError, for what we cannot take."""
    if part.kind in ("image", "video"):
        raise ClientError("this engine sees nothing: it takes text and sound, no pictures or video")
    return part.kind == "audio"


def _waveform(part: Part) -> audio.Waveform:
    return audio.waveform_from_float32(part.data)

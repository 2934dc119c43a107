"""The null engine: answers by a script, at once. For measuring and testing the fabric.

Duplex: listens, and in every `speak_every`-th unit speaks a tone and the unit's number.
Half duplex: a turn ends with the first quiet chunk after a loud one. Chat and half duplex answer
with the user's own words, a word in each step; a text is read out as a tone for each word, and a
recording says which second it is. `call NAME {...}` in a user's words calls that function, if the
request has it. Anything else would need a model.
"""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
from attrs import define, evolve, field, frozen

from omni.engine import (
    EMPTY,
    Arrival,
    AudioChunk,
    Buffer,
    Capabilities,
    ChatDone,
    ChatRequest,
    Close,
    Emission,
    Failed,
    FinishReason,
    Generating,
    PrefillDone,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    Slot,
    SpeakRequest,
    StageCosts,
    StopAnswer,
    ToolCall,
    TranscribeRequest,
    TranscriptSegment,
    TurnDone,
    UnitResult,
    VadState,
)

OUT_HZ = 24_000
IN_HZ = 16_000
NUM_SLOTS = 1024

FLOAT32_BYTES = 4
#: As MiniCPM-o counts them: of a picture, and of a second of sound, heard and spoken.
TOKENS_A_PICTURE = 64
AUDIO_TOKENS_HZ = 10
SPEECH_TOKENS_HZ = 25

#: How a user orders a call: the name, and arguments without braces in them.
_ORDER = re.compile(r"\bcall ([\w-]+) (\{[^{}]*\})")

#: Mean level above which a half-duplex chunk counts as speech; -40 dB of full scale.
LOUD = 0.01


@frozen(kw_only=True)
class Script:
    """How the engine answers. delay_s: what each step with inputs costs, as if it computed."""

    speak_every: int = 4
    tone_hz: float = 440.0
    tone_s: float = 1.0
    delay_s: float = 0.0


@define
class _Session:
    opening: ChatRequest | SpeakRequest | PrepareHalfDuplex | PrepareDuplex
    num_asked: int = 0  # words of a chat's question
    num_units: int = 0
    num_turns: int = 0
    speech_ms: int = 0
    said: str = ""
    words: list[str] = field(factory=list)  # of the answer, still to be said
    calls: list[ToolCall] = field(factory=list)  # to be made when the words are said

    @property
    def speaks(self) -> bool:
        return isinstance(self.opening, PrepareDuplex | SpeakRequest) or self.opening.speak


class NullEngine:
    """Meets `omni.engine.Engine` without a model."""

    def __init__(self, num_slots: int = NUM_SLOTS, script: Script = Script()) -> None:
        self._num_slots = num_slots
        self._script = script
        self._sessions: dict[Slot, _Session] = {}
        self._talking: dict[Slot, _Session] = {}  # those with words left
        self._tone = _tone(script)

    def load(self, wake: Callable[[], None]) -> Capabilities:
        """Return the capabilities; there is nothing to load."""
        return Capabilities(
            engine="null",
            model="scripted answers (no model)",
            modes=("chat", "half_duplex", "audio_duplex", "omni_duplex"),
            num_slots=self._num_slots,
            notice="No model is running: answers follow a script, for tests and measurements.",
            vision=True,
            reads_aloud=True,
            writes_down=True,
            calls_tools=True,
            min_chunk_ms=20,
        )

    @property
    def busy(self) -> bool:
        """True while an answer has words left."""
        return bool(self._talking)

    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Answer *arrivals*, and say one more word of every running answer."""
        if self._script.delay_s and (arrivals or self.busy):
            time.sleep(self._script.delay_s)
        answers = [
            Emission(arrival.slot, event)
            for arrival in arrivals
            for event in self._answer(arrival.slot, arrival.input)
        ]
        return answers + self._say_words()

    def close(self) -> None:
        """Forget every session."""
        self._sessions.clear()
        self._talking.clear()

    def _answer(self, slot: Slot, message: SessionInput) -> list[SessionEvent]:
        match message:
            case ChatRequest():
                words, calls = _answer_to(message)
                return self._begin(slot, message, words, calls)
            case SpeakRequest():
                return self._begin(slot, message, message.text.split() or ["nothing"])
            case TranscribeRequest():
                return _write_down(message)
            case PrepareHalfDuplex():
                self._sessions[slot] = _Session(message)
                return [Prepared()]
            case PrepareDuplex():
                self._sessions[slot] = _Session(message)
                num_words = len(message.system_prompt.split())
                return [Prepared(prompt_length=num_words, chunk_ms=max(20, message.chunk_ms))]
            case Close():
                self._sessions.pop(slot, None)
                self._talking.pop(slot, None)
                return []
        session = self._sessions.get(slot)
        if session is None:
            return [Failed(code="protocol_error", message="the slot is not open", fatal=True)]
        if isinstance(message, StopAnswer):
            return self._stop(slot, session)
        return self._hear(slot, session, message)

    def _begin(
        self,
        slot: Slot,
        opening: ChatRequest | SpeakRequest,
        words: list[str],
        calls: Sequence[ToolCall] = (),
    ) -> list[SessionEvent]:
        most = opening.max_new_tokens if isinstance(opening, ChatRequest) else len(words)
        session = _Session(opening, num_asked=len(words), words=words[:most], calls=list(calls))
        self._sessions[slot] = self._talking[slot] = session
        return [PrefillDone(input_tokens=len(words))]

    def _hear(self, slot: Slot, session: _Session, chunk: AudioChunk) -> list[SessionEvent]:
        match session.opening:
            case PrepareDuplex() as opening:
                return [self._unit(session, opening, chunk)]
            case PrepareHalfDuplex():
                return self._listen_for_turn(slot, session, chunk)
            case ChatRequest() | SpeakRequest():
                return [Failed(code="protocol_error", message="a chat takes no audio chunks")]
            case _:
                assert_never(session.opening)

    def _unit(self, session: _Session, opening: PrepareDuplex, chunk: AudioChunk) -> UnitResult:
        session.num_units += 1
        number = session.num_units
        forced = chunk.force_listen or number <= opening.force_listen_count
        heard = UnitResult(
            is_listen=True,
            current_time=number,
            costs=StageCosts(all_ms=0.0),
            vision_slices=len(chunk.frames),
            vision_tokens=TOKENS_A_PICTURE * len(chunk.frames),
            audio_tokens=len(chunk.pcm) * AUDIO_TOKENS_HZ // (FLOAT32_BYTES * IN_HZ),
        )
        if forced or number % self._script.speak_every:
            return heard
        pcm = self._tone if opening.generate_audio else EMPTY
        return evolve(
            heard,
            is_listen=False,
            text=f"unit {number} ",
            pcm=pcm,
            end_of_turn=True,
            n_tokens=2,
            n_tts_tokens=len(pcm) * SPEECH_TOKENS_HZ // (FLOAT32_BYTES * OUT_HZ),
            token_ids=(number,),
        )

    def _listen_for_turn(
        self, slot: Slot, session: _Session, chunk: AudioChunk
    ) -> list[SessionEvent]:
        pcm = np.frombuffer(chunk.pcm, np.float32)
        was_speaking = session.speech_ms > 0
        if session.words:
            return []
        if pcm.size and float(np.abs(pcm).mean()) > LOUD:
            session.speech_ms += pcm.size * 1000 // IN_HZ
            return [] if was_speaking else [VadState(speaking=True)]
        if not was_speaking:
            return []
        duration_ms, session.speech_ms = session.speech_ms, 0
        session.words = f"you spoke for {duration_ms} ms".split()
        self._talking[slot] = session
        return [VadState(speaking=False), Generating(speech_duration_ms=duration_ms)]

    def _stop(self, slot: Slot, session: _Session) -> list[SessionEvent]:
        if slot not in self._talking:
            return []
        session.words, session.calls = [], []
        return self._finish(slot, session, cancelled=True)

    def _say_words(self) -> list[Emission]:
        said: list[Emission] = []
        for slot, session in list(self._talking.items()):
            if session.words:
                said.append(Emission(slot, self._say_word(session)))
            if not session.words:
                events: list[SessionEvent] = [*session.calls]
                if events:
                    events.append(ReplyChunk(is_final=True))
                events += self._finish(slot, session)
                said += [Emission(slot, event) for event in events]
        return said

    def _say_word(self, session: _Session) -> ReplyChunk:
        word = session.words.pop(0)
        is_last = not session.words
        text = word if is_last else word + " "
        session.said += text
        pcm = self._tone if session.speaks else EMPTY
        return ReplyChunk(text=text, pcm=pcm, is_final=is_last and not session.calls)

    def _finish(self, slot: Slot, session: _Session, cancelled: bool = False) -> list[SessionEvent]:
        del self._talking[slot]
        text, session.said = session.said.strip(), ""
        if isinstance(session.opening, ChatRequest | SpeakRequest):
            del self._sessions[slot]
            num_words = len(text.split())
            reason: FinishReason = "tool_calls" if session.calls else "stop"
            if num_words < session.num_asked:
                reason = "length"
            return [
                ChatDone(
                    text=text,
                    input_tokens=session.num_asked,
                    generated_tokens=num_words,
                    finish_reason="cancelled" if cancelled else reason,
                )
            ]
        session.num_turns += 1
        return [TurnDone(turn_index=session.num_turns, text=text)]


def _answer_to(request: ChatRequest) -> tuple[list[str], list[ToolCall]]:
    """Return the words of the last message, up to the first text that ends an answer.

    The calls that the user orders in it, of functions of the request, are made and not said.
    """
    last, names = request.messages[-1], {tool.name for tool in request.tools}
    said = " ".join(" ".join(part.text for part in last.parts).split())
    calls: list[ToolCall] = []
    for order in _ORDER.finditer(said) if last.role == "user" else ():
        if order[1] in names:
            call_id = f"call_{secrets.token_hex(12)}"
            calls.append(ToolCall(id=call_id, name=order[1], arguments=order[2]))
            said = said.replace(order[0], "", 1)
    for stop in request.stop:
        said = said.partition(stop)[0] if stop else said
    return said.split() or ([] if calls else ["nothing"]), calls


def _write_down(request: TranscribeRequest) -> list[SessionEvent]:
    """Return what a recording says: `second 1`, `second 2`, ..., the last one cut short."""
    num_samples = len(request.pcm) // np.dtype(np.float32).itemsize
    starts = range(0, num_samples, IN_HZ)
    segments = [
        TranscriptSegment(
            start_s=at / IN_HZ,
            end_s=min(at + IN_HZ, num_samples) / IN_HZ,
            text=f"second {number}",
        )
        for number, at in enumerate(starts, 1)
    ]
    text = " ".join(segment.text for segment in segments)
    done = ChatDone(text=text, input_tokens=len(segments), generated_tokens=2 * len(segments))
    return [*segments, done]


def _tone(script: Script) -> Buffer:
    at_s = np.arange(int(OUT_HZ * script.tone_s), dtype=np.float32) / OUT_HZ
    return Buffer((0.2 * np.sin(2 * np.pi * script.tone_hz * at_s)).astype(np.float32).tobytes())

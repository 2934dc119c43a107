"""Full duplex: listens while it speaks, answers every chunk, and stops when the user breaks in."""

import time
from collections import deque

import numpy as np
from attrs import define, field

from omni import audio
from omni.engine import (
    EMPTY,
    AudioChunk,
    Buffer,
    Failed,
    Prepared,
    PrepareDuplex,
    SessionEvent,
    StageCosts,
    StopAnswer,
    UnitResult,
    UserTranscript,
)
from omni.errors import OmniError, ProtocolError
from omni.pocket.playout import Playout
from omni.pocket.results import Broke, Finished, Heard, Piece, Result
from omni.pocket.thinking import Answer
from omni.pocket.turns import Turns
from omni.vad import WINDOW_SAMPLES, Speech, SpeechDetector, SpeechRules

MIN_CHUNK_MS, MAX_CHUNK_MS = 100, 1000
#: Three windows of voice break in (96 ms); 480 ms of silence end an utterance.
RULES = SpeechRules(threshold=0.6, min_speech_ms=96, min_silence_ms=480, pad_ms=192)
#: Unheard chunks kept; beyond that the oldest is answered unheard.
_MAX_PENDING_CHUNKS = 16
_CHARS_A_TOKEN = 4


@define
class _Chunk:
    """A chunk that waits. position: samples of it already heard."""

    waveform: audio.Waveform
    force_listen: bool
    taken_at: float = field(factory=time.perf_counter)
    position: int = 0


class DuplexSession:
    """One call. Each chunk gets one `UnitResult`, in order, which carries at most a chunk of sound.

    So what was sent is what was played, and when the user breaks in, the conversation keeps the
    words that were sent and no others.
    """

    def __init__(self, opening: PrepareDuplex, turns: Turns) -> None:
        self._opening = opening
        self._turns = turns
        self._conversation = turns.conversation
        self._detector = SpeechDetector(RULES)
        self._pending: deque[_Chunk] = deque()
        self._playout = Playout()
        self._num_units = 0
        self._was_interrupted = False
        self._context_tokens = 0
        self._untold: Answer | None = None  # what thinking took, told with the next result

    def open(self) -> list[SessionEvent]:
        """Warm the model up for this session's instructions."""
        self._turns.warm()
        prompt = sum(len(message.text) for message in self._conversation.messages())
        chunk_ms = min(max(self._opening.chunk_ms, MIN_CHUNK_MS), MAX_CHUNK_MS)
        return [Prepared(prompt_length=prompt // _CHARS_A_TOKEN, chunk_ms=chunk_ms)]

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """Take a chunk, or end the running answer."""
        if isinstance(message, StopAnswer):
            self._break_in()
            return []
        events: list[SessionEvent] = []
        try:
            waveform = audio.waveform_from_float32(message.pcm)
        except ProtocolError as exc:
            events.append(Failed(code=exc.code, message=str(exc)))
            waveform = np.zeros(0, dtype=np.float32)  # its result is owed all the same
        self._pending.append(_Chunk(waveform, message.force_listen))
        if len(self._pending) > _MAX_PENDING_CHUNKS:
            events += self._unit(self._pending.popleft())
        return events

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Hear what waits, and answer the chunks that are heard to their end."""
        events: list[SessionEvent] = []
        left = max_windows * WINDOW_SAMPLES
        while self._pending and left > 0:
            chunk = self._pending[0]
            part = chunk.waveform[chunk.position : chunk.position + left]
            chunk.position += part.size
            left -= max(part.size, 1)
            for change in self._detector.push(part):
                self._on_speech(change)
            if chunk.position >= chunk.waveform.size:
                self._pending.popleft()
                events += self._unit(chunk)
        return events

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take what background work gave; it goes out with the next chunk."""
        self._turns.on_result(result)
        return []

    @property
    def is_behind(self) -> bool:
        """True while chunks wait to be heard."""
        return bool(self._pending)

    @property
    def is_over(self) -> bool:
        """Never: a call ends when it is closed."""
        return False

    def close(self) -> None:
        """Stop all work."""
        self._turns.close()

    def _on_speech(self, change: Speech) -> None:
        if change.kind == "confirmed" and self._turns.is_answering:
            self._break_in()
        self._turns.on_speech(change)

    def _break_in(self) -> None:
        if not self._turns.is_answering:
            return
        self._was_interrupted = self._playout.has_begun
        self._conversation.answered(self._playout.heard, interrupted=self._playout.has_begun)
        self._turns.cancel()
        self._playout = Playout()

    def _unit(self, chunk: _Chunk) -> list[SessionEvent]:
        self._num_units += 1
        events: list[SessionEvent] = []
        for result in self._turns.take():
            events += self._let_out(result)
        may_speak = self._num_units > self._opening.force_listen_count and not chunk.force_listen
        if chunk.force_listen:
            self._break_in()
        if may_speak and not self._was_interrupted and not self._playout.is_empty:
            return [*events, self._spoken(chunk)]
        interrupted, self._was_interrupted = self._was_interrupted, False
        is_pausing = may_speak and not interrupted and self._playout.has_begun
        unit = self._result(chunk, is_listen=not is_pausing, interrupted=interrupted)
        return [*events, unit]

    def _let_out(self, result: Result) -> list[SessionEvent]:
        match result:
            case Heard(text=""):
                self._turns.close_turn()
            case Heard():
                self._conversation.asked(result.text)
                return [UserTranscript(text=result.text)]
            case Piece():
                self._playout.push(result.text, result.waveform)
            case Finished():
                answer = self._untold = result.answer
                self._context_tokens = answer.input_tokens + answer.generated_tokens
                self._playout.finish()
            case Broke():
                return self._fail(result.error)
            case _:
                pass
        return []

    def _fail(self, error: OmniError) -> list[SessionEvent]:
        self._break_in()
        return [Failed(code=error.code, message=str(error))]

    def _spoken(self, chunk: _Chunk) -> UnitResult:
        num_samples = chunk.waveform.size * audio.OUTPUT_HZ // audio.INPUT_HZ
        portion = self._playout.take(num_samples)
        result = self._result(
            chunk,
            is_listen=False,
            text=portion.text,
            pcm=Buffer(audio.float32_from_waveform(portion.waveform)),
            end_of_turn=portion.is_last,
        )
        if portion.is_last:
            self._conversation.answered(self._playout.heard)
            self._playout = Playout()
            self._turns.close_turn()
            self._turns.warm()
        return result

    def _result(
        self,
        chunk: _Chunk,
        *,
        is_listen: bool,
        text: str = "",
        pcm: Buffer = EMPTY,
        end_of_turn: bool = False,
        interrupted: bool = False,
    ) -> UnitResult:
        turn = self._turns.turn
        answer, self._untold = self._untold, None
        return UnitResult(
            is_listen=is_listen,
            text=text,
            pcm=pcm,
            end_of_turn=end_of_turn,
            interrupted=interrupted,
            current_time=self._num_units,
            costs=StageCosts(
                prefill_ms=turn.hearing_ms if turn else None,
                tts_ms=turn.speaking_ms if turn else None,
                all_ms=(time.perf_counter() - chunk.taken_at) * 1000,
            ),
            n_tokens=answer.generated_tokens if answer else None,
            kv_cache_length=self._context_tokens,
            text_tokens=answer.input_tokens if answer else 0,
        )

"""Half duplex: hears an utterance to its end, answers it, and is deaf meanwhile."""

from collections import deque

from omni import audio
from omni.engine import (
    AudioChunk,
    Buffer,
    Failed,
    Generating,
    Prepared,
    ReplyChunk,
    SessionEvent,
    StageCosts,
    StopAnswer,
    TurnDone,
    UserTranscript,
    VadParams,
    VadState,
)
from omni.pocket.results import Broke, Finished, Heard, Piece, Result
from omni.pocket.thinking import Answer
from omni.pocket.turns import Turns
from omni.vad import WINDOW_SAMPLES, Speech, SpeechDetector, SpeechRules

#: The pop of a microphone that is switched on. Source: protocol 6.3
_DEAF_AT_FIRST_S = 0.5
#: Sound that may wait to be heard; beyond that the oldest goes.
_MAX_PENDING_S = 10.0
_CHARS_A_TOKEN = 4


class HalfDuplexSession:
    """Hands-free turns. What comes between `Generating` and `TurnDone` is not heard."""

    def __init__(self, vad: VadParams, turns: Turns) -> None:
        self._turns = turns
        self._conversation = turns.conversation
        self._detector = SpeechDetector(SpeechRules.of(vad))
        self._pending: deque[audio.Waveform] = deque()
        self._deaf_samples = audio.samples(_DEAF_AT_FIRST_S, audio.INPUT_HZ)
        self._turn_index = 0
        self._said = ""

    def open(self) -> list[SessionEvent]:
        """Warm the model up for this session's instructions."""
        self._turns.warm()
        prompt = sum(len(message.text) for message in self._conversation.messages())
        return [Prepared(prompt_length=prompt // _CHARS_A_TOKEN)]

    def take(self, message: AudioChunk | StopAnswer) -> list[SessionEvent]:
        """Take sound, or end the running answer with what there is of it."""
        if isinstance(message, StopAnswer):
            return self._end_turn(is_stopped=True) if self._turns.is_answering else []
        if not self._turns.is_answering:
            self._keep(audio.waveform_from_float32(message.pcm))
        return []

    def listen(self, max_windows: int) -> list[SessionEvent]:
        """Look for speech in what waits."""
        events: list[SessionEvent] = []
        left = max_windows * WINDOW_SAMPLES
        while self._pending and left > 0:
            waveform = self._pending.popleft()
            part, rest = waveform[:left], waveform[left:]
            if rest.size:
                self._pending.appendleft(rest)
            left -= max(part.size, 1)
            for change in self._detector.push(part):
                events += self._on_speech(change)
        return events

    def on_result(self, result: Result) -> list[SessionEvent]:
        """Take what background work gave."""
        self._turns.on_result(result)
        return self._let_out()

    @property
    def is_behind(self) -> bool:
        """True while sound waits to be heard."""
        return bool(self._pending)

    @property
    def is_over(self) -> bool:
        """Never: a call ends when it is closed."""
        return False

    def close(self) -> None:
        """Stop all work."""
        self._turns.close()

    def _keep(self, waveform: audio.Waveform) -> None:
        skipped = min(self._deaf_samples, waveform.size)
        self._deaf_samples -= skipped
        self._pending.append(waveform[skipped:])
        most = audio.samples(_MAX_PENDING_S, audio.INPUT_HZ)
        while sum(waiting.size for waiting in self._pending) > most:
            self._pending.popleft()

    def _on_speech(self, change: Speech) -> list[SessionEvent]:
        if self._turns.is_answering:
            return []
        self._turns.on_speech(change)
        match change.kind:
            case "started":
                return [VadState(speaking=True)]
            case "dropped":
                return [VadState(speaking=False)]
            case "ended":
                self._pending.clear()
                duration_s = audio.seconds(change.waveform.size, audio.INPUT_HZ)
                generating = Generating(speech_duration_ms=round(duration_s * 1000))
                return [VadState(speaking=False), generating, *self._let_out()]
            case _:
                return []

    def _let_out(self) -> list[SessionEvent]:
        events: list[SessionEvent] = []
        for result in self._turns.take():
            match result:
                case Heard(text=""):
                    events += self._end_turn()
                case Heard():
                    self._conversation.asked(result.text)
                    events.append(UserTranscript(text=result.text))
                case Piece():
                    self._said += result.text
                    pcm = Buffer(audio.float32_from_waveform(result.waveform))
                    events.append(ReplyChunk(text=result.text, pcm=pcm))
                case Finished():
                    events += self._end_turn(result.answer)
                case Broke():
                    failed = Failed(code=result.error.code, message=str(result.error))
                    events += [failed, *self._end_turn()]
                case _:
                    pass
        return events

    def _end_turn(
        self, answer: Answer | None = None, is_stopped: bool = False
    ) -> list[SessionEvent]:
        """Close the turn with what was said; the client is deaf until it hears `TurnDone`."""
        turn = self._turns.turn
        costs = StageCosts(
            prefill_ms=turn.hearing_ms if turn else None,
            llm_ms=answer.prefill_ms + answer.generate_ms if answer else None,
            tts_ms=turn.speaking_ms if turn else None,
        )
        self._conversation.answered(self._said, interrupted=is_stopped)
        text, self._said = self._said.strip(), ""
        self._turn_index += 1
        self._turns.cancel()
        self._detector.reset()
        self._turns.warm()
        done = TurnDone(turn_index=self._turn_index, text=text, costs=costs)
        return [ReplyChunk(is_final=True), done]

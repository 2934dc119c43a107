"""The pocket engine: real spoken conversation on two CPU cores, several sessions at once."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from omni import audio
from omni.engine import (
    Arrival,
    AudioChunk,
    Capabilities,
    ChatRequest,
    Close,
    Emission,
    Failed,
    Opening,
    PrepareDuplex,
    PrepareHalfDuplex,
    SessionEvent,
    SessionInput,
    Slot,
    SpeakRequest,
    StopAnswer,
    TranscribeRequest,
)
from omni.errors import EngineDead, OmniError
from omni.pocket import sampling, weights
from omni.pocket.chat import ChatSession
from omni.pocket.conversation import Conversation
from omni.pocket.duplex import MIN_CHUNK_MS, DuplexSession
from omni.pocket.half_duplex import HalfDuplexSession
from omni.pocket.hearing import Hearing
from omni.pocket.lexicon import Lexicon
from omni.pocket.persona import Persona
from omni.pocket.pipeline import Pipeline, Post
from omni.pocket.reading import ReadingSession
from omni.pocket.results import Result, Turn
from omni.pocket.session import Session
from omni.pocket.speaking import Voice
from omni.pocket.thinking import Sampling, Thinking, load_thinking
from omni.pocket.turns import Turns
from omni.pocket.writing import LANGUAGES, WritingSession
from omni.settings import PocketSettings, Settings

#: Context of each conversation: persona (about 400 tokens), history (bounded at about 400), answer.
_SEAT_TOKENS = 2048
#: Windows of voice detection in one step, all sessions together: 1.5 ms each (measured), so that a
#: step takes 15 ms at most.
_WINDOWS_A_STEP = 10
#: Whisper's encoder gains little from more.
_MAX_HEARING_THREADS = 2
_CLOSE_TIMEOUT_S = 5.0
#: Whose work it is to warm the seats while nobody is here.
_SEATS = "seats"
_NOTICE = (
    "A very small language model answers ({model}, English only): it is quick, but it often gets "
    "facts wrong."
)


class PocketEngine:
    """Meets `omni.engine.Engine`. `step` only moves sessions; the models run in lanes behind it."""

    def __init__(
        self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now()
    ) -> None:
        self._settings: PocketSettings = settings.pocket
        self._now = now
        self._sessions: dict[int, tuple[Slot, Session]] = {}
        self._results: deque[tuple[Slot, Result]] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._pipeline: Pipeline | None = None
        self._warming = Turn()
        self._next = 0

    def load(self, wake: Callable[[], None]) -> Capabilities:
        """Load the weights, run each model once, and prepare the conversations' caches."""
        settings = self._settings
        self._wake = wake
        hearing = Hearing.load(
            _path(settings.whisper_path) or weights.hearing_directory(), self._hearing_threads()
        )
        lexicon = Lexicon.load(weights.lexicon_files(), weights.letter_to_sound_file())
        voice = Voice.load(_path(settings.voice_path) or weights.voice_file(), lexicon)
        thinking = load_thinking(
            _path(settings.llm_path) or weights.thinking_file(),
            settings.max_sessions,
            _SEAT_TOKENS,
        )
        _warm_up(hearing, voice, thinking, Persona.of("", settings.system_prompt))
        self._pipeline = Pipeline(hearing, thinking, voice, settings.max_sessions, self._now)
        self._warm_seats()
        return Capabilities(
            engine="pocket",
            model=thinking.name,
            modes=("chat", "half_duplex", "audio_duplex"),
            num_slots=settings.max_sessions,
            notice=_NOTICE.format(model=thinking.name),
            transcribes=True,
            reads_aloud=True,
            writes_down=True,
            languages=LANGUAGES,
            min_chunk_ms=MIN_CHUNK_MS,
        )

    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Take *arrivals* and finished work, and listen a little; never waits for a model."""
        emissions: list[Emission] = []
        for arrival in arrivals:
            emissions += self._take(arrival.slot, arrival.input)
        emissions += self._take_results()
        emissions += self._listen()
        self._forget_ended()
        return emissions

    @property
    def busy(self) -> bool:
        """True while sound waits to be listened to, or finished work to be taken."""
        return bool(self._results) or any(s.is_behind for _, s in self._sessions.values())

    def close(self) -> None:
        """Stop all work and free the models."""
        self._warming.is_cancelled = True
        for _, session in self._sessions.values():
            session.close()
        self._sessions.clear()
        if self._pipeline is not None:
            self._pipeline.close(_CLOSE_TIMEOUT_S)

    def _take(self, slot: Slot, message: SessionInput) -> list[Emission]:
        tenant, session = self._sessions.get(slot.index, (None, None))
        if tenant is not None and slot.generation < tenant.generation:
            return []
        try:
            match message:
                case Close():
                    self._end(slot.index)
                    return []
                case AudioChunk() | StopAnswer():
                    if session is not None and tenant == slot:
                        return _emit(slot, session.take(message))
                    # A stop may cross with the end of what it stops.
                    return _emit(slot, [] if isinstance(message, StopAnswer) else [_not_open()])
                case _:
                    self._end(slot.index)
                    return self._open(slot, message)
        except OmniError as exc:
            return _emit(slot, [Failed(code=exc.code, message=str(exc))])

    def _open(self, slot: Slot, opening: Opening) -> list[Emission]:
        if not 0 <= slot.index < self._settings.max_sessions:
            text = f"there is no slot {slot.index}: {self._settings.max_sessions} are there"
            return _emit(slot, [Failed(code="no_capacity", message=text, fatal=True)])
        if isinstance(opening, PrepareDuplex) and opening.mode != "audio_duplex":
            text = "this engine sees nothing: use audio duplex"
            return _emit(slot, [Failed(code="invalid_request", message=text, fatal=True)])
        self._warming.is_cancelled = True  # what is left of it must not hold up somebody who waits
        session = self._session(slot, opening)
        self._sessions[slot.index] = (slot, session)
        return _emit(slot, session.open())

    def _session(self, slot: Slot, opening: Opening) -> Session:
        match opening:
            case SpeakRequest():
                return ReadingSession(
                    slot=slot, request=opening, pipeline=self._running(), post=self._post(slot)
                )
            case TranscribeRequest():
                return WritingSession(
                    slot=slot, request=opening, pipeline=self._running(), post=self._post(slot)
                )
            case ChatRequest():
                return ChatSession(
                    slot=slot,
                    request=opening,
                    tuned_prompt=self._settings.system_prompt,
                    pipeline=self._running(),
                    post=self._post(slot),
                )
            case PrepareHalfDuplex():
                prompt = " ".join(part.text for part in opening.system if part.kind == "text")
                chosen = sampling.of_half_duplex(opening)
                return HalfDuplexSession(
                    opening.vad, self._turns(slot, prompt, chosen, opening.speak)
                )
            case PrepareDuplex():
                chosen = sampling.of_duplex(opening)
                return DuplexSession(
                    opening,
                    self._turns(slot, opening.system_prompt, chosen, opening.generate_audio),
                )

    def _turns(self, slot: Slot, prompt: str, chosen: Sampling, speak: bool) -> Turns:
        return Turns(
            session=slot,
            seat=slot.index,
            pipeline=self._running(),
            conversation=Conversation(Persona.of(prompt, self._settings.system_prompt)),
            sampling=chosen,
            speak=speak,
            post=self._post(slot),
        )

    def _post(self, slot: Slot) -> Post:
        """Return how background work for *slot* hands back results: from any thread."""

        def post(result: Result) -> None:
            self._results.append((slot, result))
            self._wake()

        return post

    def _take_results(self) -> list[Emission]:
        emissions: list[Emission] = []
        for _ in range(len(self._results)):
            slot, result = self._results.popleft()
            tenant, session = self._sessions.get(slot.index, (None, None))
            if session is not None and tenant == slot:
                emissions += _emit(slot, session.on_result(result))
        return emissions

    def _listen(self) -> list[Emission]:
        """Share the step's windows among the sessions that are behind, beginning with the next."""
        behind = [index for index, (_, s) in sorted(self._sessions.items()) if s.is_behind]
        if not behind:
            return []
        self._next = next((index for index in behind if index >= self._next), behind[0])
        at = behind.index(self._next)
        share = max(1, _WINDOWS_A_STEP // len(behind))
        emissions: list[Emission] = []
        for index in (behind[at:] + behind[:at])[:_WINDOWS_A_STEP]:
            slot, session = self._sessions[index]
            emissions += _emit(slot, session.listen(share))
            self._next = index + 1
        return emissions

    def _end(self, index: int) -> None:
        if (tenant := self._sessions.pop(index, None)) is not None:
            tenant[1].close()
            if not self._sessions:
                self._warm_seats()

    def _warm_seats(self) -> None:
        """While nobody is here: bring the usual instructions into every cache, and nothing else."""
        self._warming = Turn()
        self._running().drop(_SEATS)  # of earlier times, cancelled already
        prefix = Persona.of("", self._settings.system_prompt).prefix
        for seat in range(self._settings.max_sessions):
            self._running().warm(_SEATS, seat, self._warming, prefix)

    def _forget_ended(self) -> None:
        for index in [i for i, (_, s) in self._sessions.items() if s.is_over]:
            self._end(index)

    def _running(self) -> Pipeline:
        if self._pipeline is None:
            raise EngineDead("the engine is used before it is loaded")
        return self._pipeline

    def _hearing_threads(self) -> int:
        return self._settings.threads or min(os.cpu_count() or 1, _MAX_HEARING_THREADS)


def _warm_up(hearing: Hearing, voice: Voice, thinking: Thinking, persona: Persona) -> None:
    """Run each model once: the first run of each allocates, and takes several times as long."""
    hearing.transcribe(np.zeros(audio.INPUT_HZ, dtype=np.float32))
    voice.say("Hello.")
    thinking.prepare(0, persona.prefix, lambda _: True)


def _path(setting: str) -> Path | None:
    return Path(setting).expanduser() if setting else None


def _emit(slot: Slot, events: Sequence[SessionEvent]) -> list[Emission]:
    return [Emission(slot, event) for event in events]


def _not_open() -> Failed:
    return Failed(code="protocol_error", message="the slot is not open", fatal=True)

"""Speaks one answer: groups of text tokens -> speech codes -> sound, let out as it comes.

By groups of ten tokens while the text is written (the published streaming procedure), or the whole
text at once (the published one-shot procedure). Either way a sound leaves with the 28th code.
"""

import logging

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from omni.audio import float32_from_waveform
from omni.engine import Buffer, ReplyChunk
from omni.errors import CapacityError
from omni.minicpmo.code_buffer import CHUNK_CODES, CodeBuffer, CodeChunk, Pace
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.model.hift import OVERLAP_SAMPLES
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.session import Session
from omni.minicpmo.speech_codes import SpeechMode
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import (
    Fork,
    Join,
    Program,
    Speak,
    SpeakOn,
    Spoken,
    Strand,
    Vocode,
    Waveform,
    done,
)

log = logging.getLogger(__name__)

GROUP_TOKENS = 10  # of one call; the speech-token model was trained with so many
#: Longest text spoken by one call: some 40 s. The call ends at 2,048 codes, 82 s, wherever it is,
#: and holds the cache of them all.
MAX_WHOLE_TOKENS = 120


@define(eq=False)
class Group:
    """Tokens to be spoken, and the language model's state at each, (1, C)."""

    ids: list[int] = field(factory=list)
    states: list[Tensor] = field(factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, token: int, state: Tensor) -> None:
        """Add a token."""
        self.ids.append(token)
        self.states.append(state)

    def parts(self, size: int) -> "list[Group]":
        """Return the group in groups of *size*; the last may be smaller."""
        return [
            Group(self.ids[at : at + size], self.states[at : at + size])
            for at in range(0, len(self), size)
        ]


@define(kw_only=True, eq=False)
class Speaker:
    """The sound of one answer. Call `say` for each group, or `say_whole`; then `finish`.

    begun: the strand that puts the vocoder at the start of a turn of the voice (`begin_voice`).
    num_codes: speech codes so far.
    waits_for_text: the answer is spoken when its text is complete.
    """

    session: Session
    outlet: Outlet
    costs: Costs
    begun: Strand[None]
    sampling: CodeSampling
    waits_for_text: bool = False
    num_codes: int = 0
    buffer: CodeBuffer = field(factory=lambda: CodeBuffer.after_silence(Pace.FULL))
    _mode: SpeechMode = SpeechMode.HALF_DUPLEX
    _has_begun: bool = False
    _num_sounds: int = 0

    def say_whole(self, text: Group) -> Program[None]:
        """Speak all of an answer's text: by one call, unless it is long."""
        if len(text) > MAX_WHOLE_TOKENS:
            parts = text.parts(GROUP_TOKENS)
            for part in parts:
                yield from self.say(part, ends_text=part is parts[-1])
        else:
            self._mode, self.buffer = SpeechMode.CHAT, CodeBuffer(Pace.FULL)
            yield from self.say(text, ends_text=True)

    def say(self, group: Group, ends_text: bool) -> Program[None]:
        """Speak *group* (at least one token); sounds leave meanwhile."""
        if self.outlet.is_over:
            return
        if not self._has_begun:
            yield from self._begin()
        spoken = yield from self._call(group, ends_text)
        self._push(spoken)
        while not spoken.is_done and not self.outlet.is_over:
            yield from self._sound(self.buffer.take(ends_turn=False))
            spoken = yield from self._go_on()
            self._push(spoken)
        if not self.outlet.is_over:
            yield from self._sound(self.buffer.take(ends_turn=False))

    def finish(self) -> Program[None]:
        """Let out the rest of the sound; nothing of it, if the answer was stopped."""
        if not self._has_begun:
            yield from done(Join(strand=self.begun))
            return
        if not self.outlet.is_over:
            yield from self._sound(self.buffer.take(ends_turn=True))
        self.session.close_speech()

    def _push(self, spoken: Spoken) -> None:
        self.num_codes += len(spoken.codes)
        self.buffer.push(list(spoken.codes))

    def _begin(self) -> Program[None]:
        with self.costs.stage("token2wav"):
            yield from done(Join(strand=self.begun))
        self.session.open_speech(self._mode, self.sampling)
        self._has_begun = True

    def _call(self, group: Group, ends_text: bool) -> Program[Spoken]:
        speak = Speak(
            text_ids=group.ids,
            hidden=torch.cat(group.states),
            is_turn_end=ends_text,
            num_codes=self._num_missing(),
        )
        spoken = yield from self._spoken(speak)
        if spoken is None:
            # The turn has outgrown its cache: it goes on as if it began here.
            spoken = yield from self._spoken(speak)
        return spoken or self._cut()

    def _go_on(self) -> Program[Spoken]:
        spoken = yield from self._spoken(SpeakOn(num_codes=self._num_missing()))
        return spoken or self._cut()

    def _spoken(self, work: Speak | SpeakOn) -> Program[Spoken | None]:
        """Return what came of *work*; None, if there was no room, and the turn is begun anew."""
        with self.costs.stage("tts"):
            try:
                spoken = yield from done(work)
            except CapacityError:
                self.session.open_speech(self._mode, self.sampling)
                return None
        return spoken

    def _cut(self) -> Spoken:
        log.warning("slot %s: some words have no room and stay unspoken", self.session.slot.index)
        return Spoken(codes=(), is_done=True)

    def _num_missing(self) -> int:
        """Return how many codes make the next chunk whole."""
        return CHUNK_CODES - len(self.buffer)

    def _sound(self, chunks: list[CodeChunk]) -> Program[None]:
        for chunk in chunks:
            with self.costs.stage("token2wav"):
                waveform = yield from done(Vocode(chunks=(chunk,)))
            if not self._num_sounds and not chunk.is_last:
                # The vocoder runs 160 ms behind and fills them with zeros: a wait without a use.
                waveform = waveform[OVERLAP_SAMPLES:]
            self._num_sounds += 1
            self.outlet.emit(ReplyChunk(pcm=_buffer(waveform)))
            yield from self.outlet.wait()


def begin_voice(session: Session, voice: Voice | Waveform) -> Program[Strand[None]]:
    """Begin, beside the text, a turn of the vocoder with *voice* (float32, 16 kHz, if unread)."""
    strand = yield from done(Fork(program=_begin_voice(session, voice)))
    return strand


def _begin_voice(session: Session, voice: Voice | Waveform) -> Program[None]:
    if isinstance(voice, np.ndarray):
        voice = yield from session.analyse(voice)
    yield from done(Vocode(chunks=(), voice=voice))


def _buffer(waveform: Waveform) -> Buffer:
    return Buffer(float32_from_waveform(waveform))

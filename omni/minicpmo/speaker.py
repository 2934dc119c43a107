"""Speaks one answer: groups of text tokens -> speech codes -> sound, let out as it comes.

By groups of ten tokens while the text is written (the published streaming procedure), or the whole
text at once (the published one-shot procedure). Either way a sound leaves with the 28th code.
"""

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from omni.audio import float32_from_waveform
from omni.engine import Buffer, ReplyChunk
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
    Strand,
    Vocode,
    Waveform,
    done,
)

GROUP_TOKENS = 10  # of one call; the speech-token model was trained with so many


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


@define(kw_only=True, eq=False)
class Speaker:
    """The sound of one answer. Call `say` for each group, then `finish`.

    begun: the strand that puts the vocoder at the start of a turn of the voice (`begin_voice`).
    """

    session: Session
    outlet: Outlet
    costs: Costs
    begun: Strand[None]
    sampling: CodeSampling
    is_whole: bool = False  # the text is spoken by one call
    buffer: CodeBuffer = field(init=False)
    _has_begun: bool = False
    _num_sounds: int = 0

    def __attrs_post_init__(self) -> None:
        pace = Pace.FULL
        self.buffer = CodeBuffer(pace) if self.is_whole else CodeBuffer.after_silence(pace)

    def say(self, group: Group, ends_text: bool) -> Program[None]:
        """Speak *group* (at least one token); sounds leave meanwhile."""
        if not self._has_begun:
            yield from self._begin()
        hidden = torch.cat(group.states)
        with self.costs.stage("tts"):
            spoken = yield from done(
                Speak(
                    text_ids=group.ids,
                    hidden=hidden,
                    is_turn_end=ends_text,
                    num_codes=self._num_missing(),
                )
            )
        self.buffer.push(list(spoken.codes))
        while not spoken.is_done and not self.outlet.is_over:
            yield from self._sound(self.buffer.take(ends_turn=False))
            with self.costs.stage("tts"):
                spoken = yield from done(SpeakOn(num_codes=self._num_missing()))
            self.buffer.push(list(spoken.codes))
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

    def _begin(self) -> Program[None]:
        with self.costs.stage("token2wav"):
            yield from done(Join(strand=self.begun))
        mode = SpeechMode.CHAT if self.is_whole else SpeechMode.HALF_DUPLEX
        self.session.open_speech(mode, self.sampling)
        self._has_begun = True

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

"""How the text of a duplex unit becomes its sound: codes, the buffer between units, the voice."""

import numpy as np
import torch
from attrs import define, field

from omni.errors import CapacityError
from omni.minicpmo.code_buffer import CodeBuffer, Pace, fill_unit
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.session import Session
from omni.minicpmo.speech_codes import SpeechMode
from omni.minicpmo.unit import Said, Stopwatch
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Program, Speak, Spoken, Vocode, Waveform, done


def _after_silence() -> CodeBuffer:
    return CodeBuffer.after_silence(Pace.FLUSH)


@define(kw_only=True, eq=False)
class UnitSpeech:
    """The spoken side of one call.

    is_open: the speech-token model is in a turn. has_sounded: the vocoder is in one.
    """

    session: Session
    voice: Voice
    sampling: CodeSampling
    is_open: bool = False
    has_sounded: bool = False
    buffer: CodeBuffer = field(factory=_after_silence)

    def sound(self, said: Said, watch: Stopwatch) -> Program[tuple[Waveform, int]]:
        """Return the unit's sound (at least 1 s, unless the turn ends) and its number of codes."""
        spoken = yield from self._speak(said)
        watch.spoken_s = self.session.now_s()
        self.buffer.push(list(spoken.codes))
        chunks = self.buffer.take(ends_turn=said.ends_turn)
        sound = np.zeros(0, dtype=np.float32)
        if chunks:
            first = None if self.has_sounded else self.voice
            self.has_sounded = True
            sound = yield from done(Vocode(chunks=chunks, voice=first))
        watch.sounded_s = self.session.now_s()
        return fill_unit(sound, ends_turn=said.ends_turn), len(spoken.codes)

    def end_turn(self) -> None:
        """Put speech and voice at the start of a turn."""
        self.is_open = self.has_sounded = False
        self.session.close_speech()
        self.buffer = _after_silence()

    def _speak(self, said: Said) -> Program[Spoken]:
        if not self.is_open:
            self._open()
        hidden = torch.cat(said.hidden) if said.hidden else self.session.states.no_hidden()
        call = Speak(text_ids=said.spoken, hidden=hidden, is_turn_end=said.ends_turn)
        try:
            spoken = yield from done(call)
        except CapacityError:
            # The turn has outgrown its cache: it goes on as if it began here.
            self._open()
            spoken = yield from done(call)
        return spoken

    def _open(self) -> None:
        self.session.open_speech(SpeechMode.DUPLEX, self.sampling)
        self.is_open = True

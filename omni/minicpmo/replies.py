"""The answers of a hands-free session; one may begin before it is certain that it is wanted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import define, field

from omni.audio import Waveform
from omni.errors import CapacityError, OmniError
from omni.minicpmo.answer import Answer, AnswerRules
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.content import Content, num_audio_tokens
from omni.minicpmo.dialogue import Dialogue, Mark
from omni.minicpmo.images import SlicedImage
from omni.minicpmo.mel import FIRST_MIN_SAMPLES
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.prompt import AudioPart, ImagePart
from omni.minicpmo.session import Session
from omni.minicpmo.speaker import Speaker, begin_voice
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Fork, Join, Part, Program, Strand, done


def utterance(waveform: Waveform, pictures: Sequence[SlicedImage] = ()) -> Content:
    """Return what the user said (float32, 16 kHz) and showed as a turn, the pictures first.

    A short one gets silence in front.
    """
    missing = max(0, FIRST_MIN_SAMPLES - len(waveform))
    sound = np.pad(waveform, (missing, 0))
    spoken = AudioPart(num_tokens=num_audio_tokens(len(sound)))
    return Content(
        role="user",
        parts=(*(ImagePart(grid=picture.grid) for picture in pictures), spoken),
        images=tuple(pictures),
        sound=sound,
    )


@define(kw_only=True, eq=False)
class Reply:
    """One answer, from its prefill on. mark: the dialogue before it."""

    outlet: Outlet
    costs: Costs
    random_state: tuple[Any, ...]  # of the random module, opaque
    mark: Mark | None = None
    answer: Answer | None = None
    strand: Strand[None] = field(init=False)

    @property
    def text(self) -> str:
        """What was written so far."""
        return self.answer.text if self.answer is not None else ""


@define(kw_only=True, eq=False)
class Replies:
    """Answers utterances of one session. voice: None for text alone."""

    session: Session
    dialogue: Dialogue
    rules: AnswerRules
    codes: CodeSampling
    voice: Voice | None

    def begin(self, content: Content, is_held: bool) -> Program[Reply]:
        """Begin to answer *content*, beside the caller; held: nothing leaves until `release`."""
        reply = Reply(
            outlet=Outlet(self.session, is_held),
            costs=Costs(self.session.now_s),
            random_state=self.session.random.getstate(),
        )
        reply.strand = yield from done(Fork(program=self.answer(reply, content)))
        return reply

    def drop(self, reply: Reply) -> Program[None]:
        """End *reply*; session and dialogue are afterwards as if it had never begun."""
        reply.outlet.cancel()
        try:
            yield from done(Join(strand=reply.strand))
        except OmniError:
            pass  # nobody was to hear it
        if reply.mark is not None:
            self.dialogue.restore(reply.mark)
        self.session.random.setstate(reply.random_state)

    def answer(self, reply: Reply, content: Content) -> Program[None]:
        """Prefill *content* and write and speak the answer."""
        with reply.costs.stage("prefill"):
            parts = yield from self.dialogue.encode(content)
            yield from self._hear(reply, parts)
        yield from self.generate(reply)

    def generate(self, reply: Reply) -> Program[None]:
        """Answer what was heard."""
        if reply.outlet.is_over:
            return
        speaker = None
        if self.voice is not None:
            speaker = yield from self._speaker(reply, self.voice)
        with reply.costs.stage("prefill"):
            fed = yield from self.dialogue.begin_answer()
        reply.answer = Answer(
            session=self.session,
            rules=self.rules,
            outlet=reply.outlet,
            costs=reply.costs,
            speaker=speaker,
        )
        try:
            yield from reply.answer.write(fed)
        finally:
            self.dialogue.end_answer()
            self.session.close_speech()

    def _speaker(self, reply: Reply, voice: Voice) -> Program[Speaker]:
        return Speaker(
            session=self.session,
            outlet=reply.outlet,
            costs=reply.costs,
            begun=(yield from begin_voice(self.session, voice)),
            sampling=self.codes,
        )

    def _hear(self, reply: Reply, parts: list[Part]) -> Program[None]:
        """Feed the user's words; when the pool of pages is short, old rounds make room."""
        self.dialogue.make_room(sum(len(part) for part in parts))
        reply.mark = self.dialogue.mark()
        try:
            yield from self.dialogue.hear(parts)
        except CapacityError:
            if not self.dialogue.make_half():
                raise
            reply.mark = self.dialogue.mark()
            yield from self.dialogue.hear(parts)

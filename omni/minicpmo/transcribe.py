"""A recording written down: every stretch of speech in it is a short chat that asks for its words.

What the model was trained on: a request to transcribe, the sound, and an answer in text.
"""

import re
from typing import Literal

from attrs import define, field

from omni.audio import Waveform, waveform_from_float32
from omni.engine import Buffer, ChatDone, Part, TranscribeRequest, TranscriptSegment
from omni.errors import ClientError, ContextExhausted
from omni.minicpmo.chat import num_places
from omni.minicpmo.content import MediaOptions, embedded, read_message
from omni.minicpmo.outlet import Costs
from omni.minicpmo.prompt import ChatOptions
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.system_prompts import Language
from omni.minicpmo.work import Aside, Draw, Fed, Feed, Ids, Lane, Program, done
from omni.vad import Utterance, UtteranceFinder

#: The published requests for a transcript.
_REQUESTS: dict[Language, str] = {
    "en": "Please listen to the audio snippet carefully and transcribe the content.",
    "zh": "请仔细听这段音频片段，并将其内容逐字记录。",
}
_MAY_COME_UP = {"en": "These words may come up: ", "zh": "可能出现的词语："}
#: Windows (32 ms each) that are looked through in one go: about 0.3 s of a busy core.
_WINDOWS_A_STEP = 200
#: People say at most so many tokens a second; more is the model talking to itself.
_TOKENS_PER_S = 10
_TOKENS_AT_LEAST = 24
_SPACES = re.compile(r"\s+")


def transcribe(session: Session, request: TranscribeRequest) -> Program[None]:
    """The story of one recording: it ends with `ChatDone`. Raises: ClientError."""
    if request.language and request.language not in _REQUESTS:
        known = " and ".join(_REQUESTS)
        raise ClientError(f"this model writes {known} down, not {request.language!r}")
    waveform = waveform_from_float32(request.pcm)
    scribe = Scribe(session=session, request=request, costs=Costs(session.now_s))
    yield from scribe.write(UtteranceFinder(waveform))


@define(kw_only=True, eq=False)
class Scribe:
    """Writes one stretch after another; nothing of one is in the cache for the next."""

    session: Session
    request: TranscribeRequest
    costs: Costs
    texts: list[str] = field(factory=list)
    num_input_tokens: int = 0
    num_audio_tokens: int = 0
    num_generated_tokens: int = 0

    def write(self, finder: UtteranceFinder) -> Program[None]:
        """Write all of it, or as far as it is wanted."""
        while not finder.is_done and not self.session.is_stopped:
            found = yield from done(
                Aside(call=lambda: finder.step(_WINDOWS_A_STEP), lane=Lane.SPEECH)
            )
            for utterance in found:
                if not self.session.is_stopped:
                    yield from self._write_stretch(utterance)
        is_stopped = self.session.is_stopped
        reason: Literal["stop", "cancelled"] = "cancelled" if is_stopped else "stop"
        self.session.emit(
            ChatDone(
                text=" ".join(self.texts),
                input_tokens=self.num_input_tokens,
                generated_tokens=self.num_generated_tokens,
                input_audio_tokens=self.num_audio_tokens,
                finish_reason=reason,
                costs=self.costs.total(),
            )
        )

    def _write_stretch(self, utterance: Utterance) -> Program[None]:
        fed = yield from self._ask(utterance.waveform)
        duration_s = utterance.end_s - utterance.start_s
        ids = yield from self._answer(fed, _TOKENS_AT_LEAST + int(_TOKENS_PER_S * duration_s))
        text = _SPACES.sub(" ", self.session.tokenizer.decode(ids)).strip()
        if text:
            self.texts.append(text)
            self.session.emit(
                TranscriptSegment(start_s=utterance.start_s, end_s=utterance.end_s, text=text)
            )

    def _ask(self, waveform: Waveform) -> Program[Fed]:
        """Feed the request for the words in *waveform*, to an empty cache."""
        session = self.session
        content = yield from done(
            Aside(call=lambda: read_message("user", self._parts(waveform), MediaOptions()))
        )
        prompt = session.around.prompts.chat([content.message], ChatOptions())
        session.truncate(0)
        with self.costs.stage("prefill"):
            parts = yield from embedded(prompt, [content])
            fed = yield from done(Feed(parts=parts, wants_logits=True))
        self.num_input_tokens += len(prompt.ids)
        self.num_audio_tokens += num_places(prompt.audios)
        return fed

    def _parts(self, waveform: Waveform) -> list[Part]:
        language: Language = "zh" if self.request.language == "zh" else "en"
        asked = _REQUESTS[language]
        if self.request.prompt.strip():
            asked += f"\n{_MAY_COME_UP[language]}{self.request.prompt.strip()}"
        sound = Buffer(waveform.astype("<f4", copy=False).tobytes())
        return [Part(kind="text", text=asked), Part(kind="audio", data=sound)]

    def _answer(self, fed: Fed, max_tokens: int) -> Program[list[int]]:
        """Return the tokens of the answer, at most *max_tokens*."""
        control = self.session.control
        ends = (control.im_end, control.end_of_text, control.tts_eos)
        temperature = self.request.temperature
        sampling = TextSampling(
            temperature=temperature or 1.0, repetition_penalty=1.0, is_greedy=not temperature
        )
        ids: list[int] = []
        with self.costs.stage("llm"):
            while len(ids) < max_tokens and not self.session.is_stopped:
                draw = Draw(logits=fed.next_logits, sampling=sampling, history=ids)
                token = (yield from done(draw)).token
                if token in ends:
                    break
                ids.append(token)
                try:
                    fed = yield from done(Feed(parts=(Ids((token,)),), wants_logits=True))
                except ContextExhausted:
                    break
        self.num_generated_tokens += len(ids)
        return ids

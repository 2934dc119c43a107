"""A text read out: the language model is given it as its own answer, and the answer is spoken.

Each passage is a turn of its own behind the voice's system message: a request to read, as the model
was trained on, and the text as the answer to it, fed token by token; the state at each token is
what its sound is made of. So a session holds a passage, however long the text is.
"""

import re
from typing import Final, Literal

from attrs import define, field, frozen

from omni.engine import ChatDone, PrefillDone, ReplyChunk, SpeakRequest
from omni.errors import ClientError
from omni.minicpmo.chat import MAX_TEXT_CHARS, num_places, reference_voice, voice_message
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.content import Content, embedded
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.prompt import ChatOptions
from omni.minicpmo.session import Session, Surroundings
from omni.minicpmo.speaker import GROUP_TOKENS, Group, Speaker, begin_voice
from omni.minicpmo.system_prompts import Language
from omni.minicpmo.tokenizer import TextStream
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Aside, Feed, Ids, Program, Strand, Waveform, done

#: Length of a passage, in Latin letters: some 25 s of speech. The published streaming speech was
#: trained on answers of 256 tokens.
MAX_PASSAGE_WIDTH = 400
#: A character of Chinese, Japanese or Korean is said about as long as so many Latin letters.
_WIDE_WIDTH = 3
_WIDE: Final = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_IS_WIDE = re.compile(f"[{_WIDE}]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？；])|\n+")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[，、：])|\s+")
#: The published request for reading.
_READ: dict[Language, str] = {
    "en": "Please read the text below.",
    "zh": "请朗读以下内容。",
}
_OPTIONS = ChatOptions(uses_image_ids=False, adds_generation_prompt=False)


@frozen(kw_only=True, eq=False)
class Reading:
    """A request, read. system: introduces the voice. lead: what asks for the reading."""

    system: Content
    voice: Waveform
    lead: str
    passages: tuple[str, ...]


def speak(session: Session, request: SpeakRequest) -> Program[None]:
    """The story of one text: it ends with `ChatDone`."""
    costs = Costs(session.now_s)
    with costs.stage("prefill"):
        reading = yield from done(Aside(call=lambda: read_text(request, session.around)))
    reader = Reader(session=session, reading=reading, costs=costs)
    yield from reader.read()


def read_text(request: SpeakRequest, around: Surroundings) -> Reading:
    """Return *request* read. Raises: ClientError."""
    if len(request.text) > MAX_TEXT_CHARS:
        raise ClientError(f"{len(request.text)} characters; at most {MAX_TEXT_CHARS} are read")
    language: Language = "zh" if _IS_WIDE.search(request.text) else "en"
    voice = reference_voice(request.voice, (), around.default_voice)
    return Reading(
        system=voice_message("voice_cloning", language, voice),
        voice=voice,
        lead="\n".join(part for part in (request.instructions, _READ[language]) if part),
        passages=tuple(passages(request.text)),
    )


@define(kw_only=True, eq=False)
class Reader:
    """Reads the passages one after another. The voice is analysed once."""

    session: Session
    reading: Reading
    costs: Costs
    outlet: Outlet = field(init=False)
    text: str = ""
    num_input_tokens: int = 0
    num_codes: int = 0

    def __attrs_post_init__(self) -> None:
        self.outlet = Outlet(self.session)

    def read(self) -> Program[None]:
        """Read all of it, or as far as it is wanted."""
        session = self.session
        voice = yield from session.analyse(self.reading.voice)
        num_audio = yield from self._introduce()
        start = session.kv_length
        session.emit(PrefillDone(input_tokens=start))
        for passage in self.reading.passages:
            if self.outlet.is_over:
                break
            session.truncate(start)
            yield from self._read_passage(passage, voice)
        session.emit(ReplyChunk(is_final=True))
        reason: Literal["stop", "cancelled"] = "cancelled" if self.outlet.is_over else "stop"
        session.emit(
            ChatDone(
                text=self.text.strip(),
                input_tokens=self.num_input_tokens,
                generated_tokens=0,
                input_audio_tokens=num_audio,
                speech_tokens=self.num_codes,
                finish_reason=reason,
                costs=self.costs.total(),
            )
        )

    def _introduce(self) -> Program[int]:
        """Feed the system message; return the tokens in it that stand for sound."""
        prompt = self.session.around.prompts.chat([self.reading.system.message], _OPTIONS)
        with self.costs.stage("prefill"):
            parts = yield from embedded(prompt, [self.reading.system])
            yield from done(Feed(parts=parts))
        self.num_input_tokens += len(prompt.ids)
        return num_places(prompt.audios)

    def _read_passage(self, passage: str, voice: Voice) -> Program[None]:
        begun = yield from begin_voice(self.session, voice)
        with self.costs.stage("prefill"):
            yield from self._feed(self._request(passage))
        speaker = self._speaker(begun)
        stream, group = TextStream(self.session.tokenizer), Group()
        for token in self.session.tokenizer.encode(passage):
            if self.outlet.is_over:
                break
            if len(group) == GROUP_TOKENS:
                yield from self._say(speaker, group, stream.push(group.ids), ends_text=False)
                group = Group()
            with self.costs.stage("llm"):
                group.add(token, (yield from done(Feed(parts=(Ids((token,)),)))).hidden)
            self.num_input_tokens += 1
        if len(group):
            text = stream.push(group.ids) + stream.flush()
            yield from self._say(speaker, group, text, ends_text=True)
        yield from speaker.finish()
        self.num_codes += speaker.num_codes

    def _request(self, passage: str) -> list[int]:
        """Return the user's turn that asks for *passage*, and the opening of the answer."""
        prompts = self.session.around.prompts
        asked = prompts.content((self.reading.lead, passage), _OPTIONS)
        header = prompts.assistant_header(speaks=True)
        return [*prompts.turn_start("user"), *asked.ids, *header]

    def _feed(self, ids: list[int]) -> Program[None]:
        yield from done(Feed(parts=(Ids(ids),)))
        self.num_input_tokens += len(ids)

    def _speaker(self, begun: Strand[None]) -> Speaker:
        return Speaker(
            session=self.session,
            outlet=self.outlet,
            costs=self.costs,
            begun=begun,
            sampling=CodeSampling(),
        )

    def _say(self, speaker: Speaker, group: Group, text: str, ends_text: bool) -> Program[None]:
        if text:
            self.text += text
            self.outlet.emit(ReplyChunk(text=text))
        yield from speaker.say(group, ends_text=ends_text)


def passages(text: str) -> list[str]:
    """Return *text* in passages of whole sentences, none wider than MAX_PASSAGE_WIDTH.

    Put together they are the text. A sentence that is longer is cut between clauses or words, and
    where there are none, anywhere.
    """
    cut: list[str] = []
    for sentence in _pieces(text, _SENTENCE_END):
        for piece in _fitting(sentence):
            if cut and _width(cut[-1]) + _width(piece) <= MAX_PASSAGE_WIDTH:
                cut[-1] += piece
            else:
                cut.append(piece)
    return [passage for passage in cut if passage.strip()]


def _fitting(sentence: str) -> list[str]:
    """Return *sentence*, in pieces that fit if it does not."""
    if _width(sentence) <= MAX_PASSAGE_WIDTH:
        return [sentence]
    most = MAX_PASSAGE_WIDTH // _WIDE_WIDTH
    return [
        clause[at : at + most]
        for clause in _pieces(sentence, _CLAUSE_END)
        for at in range(0, len(clause), most)
    ]


def _pieces(text: str, end: re.Pattern[str]) -> list[str]:
    """Return *text* cut behind every match of *end*."""
    ends = [match.end() for match in end.finditer(text)]
    pieces = [text[start:stop] for start, stop in zip([0, *ends], [*ends, len(text)])]
    return [piece for piece in pieces if piece]


def _width(text: str) -> int:
    return len(text) + (_WIDE_WIDTH - 1) * len(_IS_WIDE.findall(text))

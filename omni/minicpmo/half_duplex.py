"""Half duplex as a program: hears an utterance to its end, answers it, and is deaf meanwhile.

The answer begins in the first pause that could be the end (the published snapshot and rollback):
nothing of it leaves before the silence is long enough, and when the user goes on it never was.
Source: the published half-duplex loop and its server.
"""

from collections import deque

from attrs import define, evolve, field

from omni.audio import INPUT_HZ, Waveform, samples, seconds, waveform_from_float32
from omni.engine import (
    AudioChunk,
    Failed,
    Generating,
    Part,
    Prepared,
    PrepareHalfDuplex,
    ReplyChunk,
    TurnDone,
    VadState,
)
from omni.errors import ClientError, OmniError
from omni.minicpmo.answer import AnswerRules
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.content import MediaOptions, read_message
from omni.minicpmo.dialogue import Dialogue
from omni.minicpmo.images import SlicedImage
from omni.minicpmo.replies import Replies, Reply, utterance
from omni.minicpmo.sampling import HALF_DUPLEX_SAMPLING, TextRule, TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.speaker import GROUP_TOKENS
from omni.minicpmo.work import Aside, Join, Lane, Program, Vocode, done
from omni.vad import Speech, SpeechDetector, SpeechRules

DEFAULT_SYSTEM = (Part(kind="text", text="You are a helpful assistant."),)
#: The pop of a microphone that is switched on. Source: the demo protocol's 6.3
_DEAF_AT_FIRST_S = 0.5
#: Pictures of one turn; the oldest go. The published page sends one a second.
MAX_PICTURES = 16
_MAX_SLICES = 1  # where the client does not say. Source: the published page's


def half_duplex(
    session: Session, options: PrepareHalfDuplex, codes: CodeSampling = CodeSampling()
) -> Program[None]:
    """The story of one hands-free session; it ends when the session is closed."""
    rules = _rules(session, options)
    system = options.system or DEFAULT_SYSTEM
    content = yield from done(
        Aside(call=lambda: read_message("system", system, MediaOptions(), "system"))
    )
    dialogue = Dialogue.of(session, options.max_new_tokens)
    yield from dialogue.begin(content)
    voice = None
    if options.speak:
        voice = yield from session.analyse(_recording(system, session.around.default_voice))
        yield from done(Vocode(chunks=(), voice=voice))
    session.emit(Prepared(prompt_length=session.kv_length))
    replies = Replies(session=session, dialogue=dialogue, rules=rules, codes=codes, voice=voice)
    yield from HandsFree(
        session=session,
        replies=replies,
        detector=SpeechDetector(SpeechRules.of(options.vad)),
    ).listen()


def _rules(session: Session, options: PrepareHalfDuplex) -> AnswerRules:
    rule = TextRule.HALF_DUPLEX_SPOKEN if options.speak else TextRule.HALF_DUPLEX_TEXT
    return AnswerRules(
        sampling=_text_sampling(rule, options),
        max_new_tokens=options.max_new_tokens,
        ends=frozenset((session.control.tts_eos, session.control.im_end)),
        text_tokens=GROUP_TOKENS,
    )


def _text_sampling(rule: TextRule, options: PrepareHalfDuplex) -> TextSampling:
    try:
        return evolve(
            HALF_DUPLEX_SAMPLING,
            rule=rule,
            temperature=options.temperature,
            length_penalty=options.length_penalty,
        )
    except ValueError as exc:
        raise ClientError(f"a sampling parameter is out of range: {exc.args[0]}") from exc


def _recording(system: tuple[Part, ...], default: Waveform) -> Waveform:
    """Return the recording of the voice: the first one in the system prompt, or the default."""
    recordings = [part.data for part in system if part.kind == "audio"]
    return waveform_from_float32(recordings[0]) if recordings else default


@define(kw_only=True, eq=False)
class HandsFree:
    """Listens for utterances and has them answered. early: an answer that waits for its release.

    pictures: shown while the user spoke, and the last one before. They stand before the words.
    """

    session: Session
    replies: Replies
    detector: SpeechDetector
    num_deaf_samples: int = samples(_DEAF_AT_FIRST_S, INPUT_HZ)
    num_turns: int = 0
    early: Reply | None = None
    pictures: deque[SlicedImage] = field(factory=lambda: deque(maxlen=MAX_PICTURES))
    is_speaking: bool = False

    def listen(self) -> Program[None]:
        """Hear chunk after chunk."""
        while True:
            chunk = yield from self.session.receive()
            if len(chunk.frames):
                yield from self._see(chunk)
            try:
                changes = yield from self._detect(chunk)
            except ClientError as exc:
                self.session.emit(Failed(code=exc.code, message=str(exc)))
                continue
            for change in changes:
                if change.kind == "paused" and change is not changes[-1]:
                    continue  # over already
                yield from self._on_speech(change)
                if change.kind == "ended":
                    break  # what came behind it is not heard

    def _see(self, chunk: AudioChunk) -> Program[None]:
        """Keep the chunk's pictures; what is wrong with one is told, and the sound still heard."""
        most = chunk.max_slice_nums or _MAX_SLICES
        try:
            seen = yield from self.session.look_at(chunk.frames, most)
        except ClientError as exc:
            self.session.emit(Failed(code=exc.code, message=str(exc)))
            return
        if not self.is_speaking:
            self.pictures.clear()
            seen = seen[-1:]
        self.pictures.extend(seen)

    def _detect(self, chunk: AudioChunk) -> Program[list[Speech]]:
        waveform = waveform_from_float32(chunk.pcm)
        num_skipped = min(self.num_deaf_samples, len(waveform))
        self.num_deaf_samples -= num_skipped
        heard = waveform[num_skipped:]
        changes = yield from done(
            Aside(call=lambda: self.detector.push(heard), lane=Lane.SPEECH)
        )
        return changes

    def _on_speech(self, change: Speech) -> Program[None]:
        match change.kind:
            case "started":
                self.is_speaking = True
                self.session.emit(VadState(speaking=True))
            case "paused":
                said = utterance(change.waveform, self.pictures)
                self.early = yield from self.replies.begin(said, is_held=True)
            case "resumed":
                yield from self._drop_early()
            case "dropped":
                yield from self._drop_early()
                self.is_speaking = False
                self.session.emit(VadState(speaking=False))
            case "ended":
                self.is_speaking = False
                self.session.emit(VadState(speaking=False))
                yield from self._turn(change.waveform)

    def _turn(self, waveform: Waveform) -> Program[None]:
        """Answer an utterance; whatever happens, the turn ends with `TurnDone`."""
        session = self.session
        duration_ms = round(1000 * seconds(len(waveform), INPUT_HZ))
        session.emit(Generating(speech_duration_ms=duration_ms))
        session.is_stopped = False
        if self.early is not None and self.early.strand.error is not None:
            yield from self._drop_early()
        reply, self.early = self.early, None
        if reply is None:
            said = utterance(waveform, self.pictures)
            reply = yield from self.replies.begin(said, is_held=False)
        reply.costs.start_s = session.now_s()
        reply.outlet.release()
        try:
            yield from done(Join(strand=reply.strand))
        except OmniError as exc:
            session.emit(Failed(code=exc.code, message=str(exc)))
            if reply.answer is None and reply.mark is not None:
                self.replies.dialogue.restore(reply.mark)
        self.num_turns += 1
        session.emit(ReplyChunk(is_final=True))
        costs = reply.costs.total()
        session.emit(TurnDone(turn_index=self.num_turns, text=reply.text, costs=costs))
        session.is_stopped = False
        session.chunks.clear()
        self.pictures.clear()
        self.detector.reset()

    def _drop_early(self) -> Program[None]:
        reply, self.early = self.early, None
        if reply is not None:
            yield from self.replies.drop(reply)

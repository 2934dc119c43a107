"""Full duplex as a program: prepare, then for every second hear, decide, and listen or speak.

Source: the published duplex loop; its known faults are mended where a comment names one (Q...).
Longer than most files: what a unit does, from hearing to its end, shares the state of one call.
"""

import logging
from collections.abc import Sequence

import attrs
from attrs import define, field
from torch import Tensor

from omni.audio import INPUT_HZ, float32_from_waveform, waveform_from_float32
from omni.engine import (
    EMPTY,
    AudioChunk,
    Buffer,
    Failed,
    Prepared,
    PrepareDuplex,
    StageCosts,
    UnitResult,
)
from omni.errors import CapacityError, ClientError, OmniError
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.images import SlicedImage
from omni.minicpmo.sampling import TextRule, TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.unit import MAX_CHARACTERS, Perceived, Said, Stopwatch, opening
from omni.minicpmo.unit_speech import UnitSpeech
from omni.minicpmo.window import UnitRecord, Window
from omni.minicpmo.work import (
    Draw,
    Embeds,
    EncodeAudio,
    EncodeImages,
    Feed,
    HearUnit,
    Ids,
    Part,
    Program,
    Vocode,
    Waveform,
    done,
)

log = logging.getLogger(__name__)

CHUNK_MS = 1000  # the length of a unit, fixed by training
#: Tokens that the repetition penalty looks at where the session asks for all of them.
_MAX_HISTORY = 8192
#: A chunk has at most so many seconds and pictures: it is answered as one.
_MAX_UNITS_A_CHUNK = 30
_MAX_FRAMES = 32


def duplex(session: Session, options: PrepareDuplex) -> Program[None]:
    """The story of one call; it ends when the session is closed."""
    call = yield from _prepare(session, options)
    session.emit(
        Prepared(
            prompt_length=session.kv_length,
            audio_tokens=call.num_voice_tokens,
            chunk_ms=CHUNK_MS,
        )
    )
    while True:
        chunk = yield from session.receive()
        for _ in range(session.num_skipped):
            session.emit(UnitResult(is_listen=True, current_time=call.num_units))
        session.num_skipped = 0
        yield from call.answer(chunk)


def _prepare(session: Session, options: PrepareDuplex) -> Program["Call"]:
    text, codes = _samplings(options)
    persona, sounding = _recordings(session, options)
    prompts = session.around.prompts
    prefix: list[Part] = [Ids(prompts.duplex_prefix(options.system_prompt))]
    num_voice_tokens = 0
    if len(persona):
        (embeds,) = yield from done(EncodeAudio(recordings=[persona]))
        prefix.append(Embeds(embeds))
        num_voice_tokens = len(embeds)
    suffix = prompts.duplex_suffix()
    yield from done(Feed(parts=[*prefix, Ids(suffix)]))
    window = Window.of(session, session.kv_length - len(suffix), suffix)
    speech = None
    if options.generate_audio:
        voice = yield from session.analyse(sounding)
        yield from done(Vocode(chunks=(), voice=voice))  # shows that there is room for it
        speech = UnitSpeech(session=session, voice=voice, sampling=codes)
    return Call(
        session=session,
        options=options,
        text=text,
        window=window,
        speech=speech,
        num_voice_tokens=num_voice_tokens,
    )


def _recordings(session: Session, options: PrepareDuplex) -> tuple[Waveform, Waveform]:
    """Return the recordings of the persona and of the sound, as the published server chooses them.

    The persona's is the default one where the client sent none, also beside a recording for the
    sound or in a call without sound. It is empty where there is no default one.
    """
    persona = session.around.default_voice
    if len(options.voice):
        persona = waveform_from_float32(options.voice)
    return persona, waveform_from_float32(options.tts_voice) if len(options.tts_voice) else persona


def _samplings(options: PrepareDuplex) -> tuple[TextSampling, CodeSampling]:
    try:
        text = TextSampling(
            rule=TextRule.DUPLEX,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.text_repetition_penalty,
            repetition_window=options.text_repetition_window_size,
            length_penalty=options.length_penalty,
            listen_prob_scale=options.listen_prob_scale,
            listen_top_k=options.listen_top_k or 0,
            is_greedy=options.decode_mode == "greedy",
        )
        return text, CodeSampling(temperature=options.tts_temperature)
    except ValueError as exc:
        raise ClientError(f"a sampling parameter is out of range: {exc.args[0]}") from exc


@define(kw_only=True, eq=False)
class Call:
    """A duplex call after its preparation.

    history: what the repetition penalty looks at. pending: the end of the last unit, not fed yet.
    num_units: units heard. unit_start: the cache's length when the running unit began.
    num_turn_tokens: spoken in the turn that is open.
    """

    session: Session
    options: PrepareDuplex
    text: TextSampling
    window: Window
    speech: UnitSpeech | None
    num_voice_tokens: int = 0
    history: list[int] = field(factory=list)
    pending: list[int] = field(factory=list)
    images: list[SlicedImage] = field(factory=list)
    is_turn_open: bool = False
    num_units: int = 0
    num_turn_tokens: int = 0
    unit_start: int = 0

    def answer(self, chunk: AudioChunk) -> Program[None]:
        """Answer one chunk by exactly one `UnitResult`; a failed one is a listen after `Failed`."""
        start_s = self.session.now_s()
        results: list[UnitResult] = []
        try:
            is_heard = yield from self._take_in(chunk)
            while is_heard:
                results.append((yield from self._unit(chunk, start_s)))
                is_heard = self.session.has_unit()
        except OmniError as exc:
            self.session.emit(Failed(code=exc.code, message=str(exc)))
            yield from self._skip_rest()
        if not results:  # too short to complete a unit, or failed
            results.append(UnitResult(is_listen=True, current_time=self.num_units))
        result = _merged(results)
        if not self.options.deferred_finalize:
            yield from self._finalize()
        self.session.emit(attrs.evolve(result, kv_cache_length=self.session.kv_length))
        yield from self._slide()

    # --- hearing and seeing

    def _take_in(self, chunk: AudioChunk) -> Program[bool]:
        """Add the chunk to what waits; say whether there is a unit. Nothing is fed yet (Q23)."""
        samples = waveform_from_float32(chunk.pcm)
        if len(samples) > _MAX_UNITS_A_CHUNK * INPUT_HZ or len(chunk.frames) > _MAX_FRAMES:
            raise ClientError(
                f"a chunk of {len(samples) / INPUT_HZ:.1f} s and {len(chunk.frames)} pictures; "
                f"at most {_MAX_UNITS_A_CHUNK} s and {_MAX_FRAMES} are taken at once"
            )
        if len(chunk.frames):
            most = chunk.max_slice_nums or self.options.max_slice_nums
            self.images = yield from self.session.look_at(chunk.frames, most)
        if len(samples):
            self.session.push_sound(samples)
            return self.session.has_unit()
        return bool(self.images)

    def _skip_rest(self) -> Program[None]:
        """Hear the units that are left of a chunk whose answer failed: they must not pile up.

        Where hearing is what fails they stay for the next chunk, and the call goes on.
        """
        try:
            while self.session.has_unit():
                yield from done(HearUnit())
        except OmniError as exc:
            log.info("a unit is heard with the next chunk: %s", exc)

    def _perceive(self) -> Program[Perceived]:
        images, self.images = self.images, []
        image_embeds = sound = None
        if images:
            image_embeds = yield from done(EncodeImages(images=images))
        if self.session.has_unit():
            sound = yield from done(HearUnit())
        return Perceived(images=images, image_embeds=image_embeds, sound=sound)

    # --- one unit

    def _unit(self, chunk: AudioChunk, start_s: float) -> Program[UnitResult]:
        watch = Stopwatch(start_s=start_s)
        perceived = yield from self._perceive()
        self.unit_start, pending = self.session.kv_length, self.pending
        try:
            result = yield from self._decide_and_speak(chunk, perceived, watch)
        except OmniError:
            # As if the unit had not been: its input is lost, the call goes on.
            self.session.truncate(self.unit_start)
            self.pending = pending
            self._end_turn()
            raise
        return result

    def _decide_and_speak(
        self, chunk: AudioChunk, perceived: Perceived, watch: Stopwatch
    ) -> Program[UnitResult]:
        session, control = self.session, self.session.control
        num_pending = len(self.pending)
        must_listen = chunk.force_listen or self.num_units < self.options.force_listen_count
        is_interrupted = chunk.force_listen and self.is_turn_open
        parts = [opening(self.pending, control), *perceived.parts(session.around.prompts)]
        if is_interrupted:
            parts.append(Ids([control.turn_eos]))
        logits = yield from self._feed(parts, wants_logits=not must_listen)
        self.num_units += 1
        watch.prefilled_s = session.now_s()
        if is_interrupted:
            self._end_turn()
        said = Said(terminator=control.listen)
        if logits is not None:
            yield from self._say(said, logits)
        watch.decoded_s = session.now_s()
        is_listen = self._is_listen(said)
        sound, num_codes = None, 0
        if not is_listen and self.speech is not None:
            sound, num_codes = yield from self.speech.sound(said, watch)
        if said.ends_turn:
            self._end_turn()
        self.pending = [said.terminator, control.unit_end]
        length = session.kv_length - self.unit_start - num_pending + len(self.pending)
        self.window.note(self._record(length, said, is_listen))
        turn_eos = [control.turn_eos] if is_interrupted else []
        return UnitResult(
            is_listen=is_listen,
            text="" if is_listen else session.tokenizer.decode(said.spoken),
            pcm=EMPTY if sound is None else Buffer(float32_from_waveform(sound)),
            end_of_turn=said.ends_turn,
            interrupted=is_interrupted,
            current_time=self.num_units,
            costs=watch.costs(session.now_s(), is_listen),
            n_tokens=len(said.spoken),
            n_tts_tokens=num_codes,
            vision_slices=perceived.num_slices,
            vision_tokens=perceived.num_image_tokens,
            audio_tokens=perceived.num_audio_tokens,
            token_ids=(*turn_eos, *said.tokens, said.terminator),
        )

    def _feed(self, parts: Sequence[Part], wants_logits: bool) -> Program[Tensor | None]:
        """Feed a unit's input; when the pool of pages is short, the oldest units make room."""
        feed = Feed(parts=parts, wants_logits=wants_logits)
        try:
            fed = yield from done(feed)
        except CapacityError:
            self.session.truncate(self.unit_start)
            count = self.window.num_half(self.unit_start)
            if not count:
                raise
            yield from self.window.drop(self.session, count)
            self.unit_start = self.session.kv_length
            fed = yield from done(feed)
        return fed.logits

    def _say(self, said: Said, logits: Tensor) -> Program[None]:
        """Draw and feed tokens until the unit ends."""
        control = self.session.control
        ends = (control.listen, control.chunk_eos, control.chunk_tts_eos)
        for _ in range(self.options.max_new_speak_tokens_per_chunk - 1):
            drawn = yield from done(
                Draw(logits=logits, sampling=self.text, history=self.history)
            )
            if drawn.is_recorded:
                self.history.append(drawn.token)
                del self.history[: -(self.text.repetition_window or _MAX_HISTORY)]
            token = drawn.token
            if token == control.listen and self.is_turn_open:
                token = control.tts_bos
            if said.tokens and self._is_turn_full:
                token = control.turn_eos
            if token in ends:
                said.terminator = token
                return
            if said.tokens and self._is_too_long([*said.spoken, token]):
                break  # it opens no turn (Q42); the penalty has seen it, as published (Q38)
            try:
                fed = yield from done(Feed(parts=[Ids([token])], wants_logits=True))
            except CapacityError:
                log.info("no page for a word: the unit ends here, the next one makes room")
                break
            if said.tokens:
                said.hidden.append(fed.hidden)
                self.num_turn_tokens += 1
            said.tokens.append(token)
            said.ends_turn = token == control.turn_eos
            self.is_turn_open = not said.ends_turn
            logits = fed.next_logits
        said.terminator = control.chunk_eos

    @property
    def _is_turn_full(self) -> bool:
        most = self.options.max_turn_tokens
        return most is not None and self.is_turn_open and self.num_turn_tokens >= most

    def _is_too_long(self, tokens: Sequence[int]) -> bool:
        return len(self.session.tokenizer.decode(tokens)) >= MAX_CHARACTERS

    def _is_listen(self, said: Said) -> bool:
        # <|chunk_eos|> as the first token of a closed turn opens no turn and speaks nothing (Q41).
        says_nothing = not said.tokens and not self.is_turn_open
        return said.is_listen(self.session.control) or says_nothing

    def _record(self, length: int, said: Said, is_listen: bool) -> UnitRecord:
        special = set(self.session.tokenizer.special_ids.values())
        spoken = () if is_listen else said.spoken
        return UnitRecord(
            number=self.num_units - 1,
            length=length,
            said=tuple(token for token in spoken if token not in special),
        )

    def _end_turn(self) -> None:
        """Put speech and voice at the start of a turn (also after an interruption: Q18)."""
        self.is_turn_open = False
        self.num_turn_tokens = 0
        if self.speech is not None:
            self.speech.end_turn()

    # --- between units

    def _finalize(self) -> Program[None]:
        """Feed the end of the unit; where there is no page for it, it is fed with the next one."""
        if not self.pending:
            return
        try:
            yield from done(Feed(parts=[Ids(self.pending)]))
        except CapacityError:
            log.info("no page for the end of a unit: it is fed later")
            return
        self.pending = []

    def _slide(self) -> Program[None]:
        """Drop the oldest units when the window is full; the newest must be in the cache whole."""
        count = self.window.num_due(self.session.kv_length + len(self.pending))
        if not count:
            return
        yield from self._finalize()
        yield from self.window.drop(self.session, count)


def _merged(results: Sequence[UnitResult]) -> UnitResult:
    """Return one result for a chunk that completed several units."""
    if len(results) == 1:
        return results[0]
    spoken = [result for result in results if not result.is_listen]
    return UnitResult(
        is_listen=not spoken,
        text="".join(result.text for result in spoken),
        pcm=Buffer(b"".join(bytes(result.pcm) for result in spoken)),
        end_of_turn=results[-1].end_of_turn,
        interrupted=any(result.interrupted for result in results),
        current_time=results[-1].current_time,
        costs=_sum([result.costs for result in results]),
        n_tokens=sum(result.n_tokens or 0 for result in results),
        n_tts_tokens=sum(result.n_tts_tokens or 0 for result in results),
        vision_slices=sum(result.vision_slices for result in results),
        vision_tokens=sum(result.vision_tokens for result in results),
        audio_tokens=sum(result.audio_tokens for result in results),
        token_ids=tuple(token for result in results for token in result.token_ids),
    )


def _sum(costs: Sequence[StageCosts]) -> StageCosts:
    """Return the costs of several units; `all_ms` counts from the chunk's arrival in each."""
    fields = [attrs.asdict(each) for each in costs]
    sums = {
        name: sum(values) if (values := [f[name] for f in fields if f[name] is not None]) else None
        for name in fields[0]
    }
    return StageCosts(**{**sums, "all_ms": costs[-1].all_ms})

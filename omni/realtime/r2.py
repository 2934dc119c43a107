"""R2, the wire of the PyPI package `openbmb-realtime`: full duplex by `session.init`.

Per unit: idle, one `listen` without text; speaking, `text` and `audio`, each in a frame of its own;
where a turn ends, a `listen` with an empty text, which is what the SDK takes for its end. The SDK
reads no usage on `text` and `listen`: it stands on `audio`, or in an event of its own.
"""

from collections.abc import Sequence

from attrs import define, evolve, field

from omni.engine import AudioChunk, UnitResult
from omni.errors import MissingField, ProtocolError
from omni.realtime.binary_sound import SoundReader, sound_form
from omni.realtime.dialect import (
    Command,
    Frame,
    Notice,
    Open,
    Ready,
    Sound,
    UnitAnswered,
    event,
)
from omni.realtime.duplex import (
    MAX_FRAMES,
    MAX_SLICES,
    MAX_SOUND_CHARS,
    DuplexMode,
    parse_config,
    parse_frames,
    parse_voice,
    refuse_tools,
)
from omni.realtime.fields import Fields, no_event, read_object
from omni.realtime.media import MAX_CHUNK_S, decode_sound
from omni.realtime.r2_events import R2Session
from omni.realtime.usage import Usage

#: Slices of a picture where `vision_hd` is asked for and nothing else is said.
HD_SLICES = 2
_FRAME_FIELDS = ("video_frames", "frame_base64_list", "frames")
_MAX_KV_TOKENS = 1_000_000
_MAX_TURN_TOKENS = 4096


@define
class R2Dialect:
    """Speaks R2 in full duplex. idle_s: longest silence; its clients pause by sending nothing."""

    mode: DuplexMode
    idle_s: float
    _session: R2Session = field(factory=R2Session, init=False)
    _response_id: str = field(default="", init=False)  # of the turn that is open
    _ears: SoundReader = field(factory=SoundReader, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            self._session.require_created()
            return Sound(chunk=AudioChunk(pcm=self._ears.read(data)))
        fields = read_object(data)
        match fields.text("type"):
            case "session.init":
                return self._parse_init(fields)
            case "input.append":
                return self._parse_append(fields)
            case "session.close":
                return self._session.parse_close(fields)
        raise no_event(fields)

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case UnitAnswered():
                return self._render_unit(notice)
            case Ready():
                return self._session.create(notice, "full_duplex")
        return self._session.render(notice)

    # --- from the client

    def _parse_init(self, fields: Fields) -> Open:
        try:
            return self._opening(fields.section("payload"))
        except ProtocolError as exc:
            raise self._session.refuse_init(exc) from exc

    def _opening(self, payload: Fields) -> Open:
        config, voice = payload.section("config"), payload.section("voice")
        if payload.choice("mode", "full_duplex", ("full_duplex", "turn_based")) == "turn_based":
            raise ProtocolError("Turns are served at ?mode=chat: connect there")
        refuse_tools(payload)
        refuse_tools(config)
        form, wanted = sound_form(payload), parse_config(config, self.mode)
        slices = HD_SLICES if config.flag("vision_hd", False) else wanted.max_slice_nums
        if config.has("max_slice_nums"):
            slices = wanted.max_slice_nums
        prompt = payload.text("instructions", wanted.system_prompt)
        prepare = evolve(
            wanted,
            system_prompt=payload.text("system_prompt", prompt),
            voice=parse_voice(voice, _first(voice, "ref_audio_base64", "ref_audio")),
            tts_voice=parse_voice(voice, _first(voice, "tts_ref_audio_base64", "tts_ref_audio")),
            max_slice_nums=payload.whole("max_slice_nums", slices, 1, MAX_SLICES),
            generate_audio=config.flag("tts_enabled", wanted.generate_audio),
            max_turn_tokens=config.optional_whole("max_tokens", 1, _MAX_TURN_TOKENS),
        )
        opening = Open(
            input=prepare,
            silence_s=self.idle_s,
            max_kv_tokens=config.optional_whole("max_kv_tokens", 1, _MAX_KV_TOKENS),
            recuts=True,
        )
        self._session.choose_sound(form)
        return opening

    def _parse_append(self, fields: Fields) -> Sound:
        input = self._session.read_input(fields)
        frames = parse_frames(input, _first(input, *_FRAME_FIELDS), MAX_FRAMES)
        text, loc = _audio_text(input)
        if not text and not frames:
            raise MissingField("input.audio is missing")
        hints = input.section("hints")
        wished = hints.flag("force_listen", False)
        chunk = AudioChunk(
            pcm=decode_sound(text, loc, MAX_CHUNK_S),
            frames=frames,
            force_listen=input.flag("force_listen", wished),
            max_slice_nums=_slices(input) or _slices(hints),
        )
        return Sound(chunk=chunk, input_id=input.text("input_id", max_chars=200))

    # --- to the client

    def _render_unit(self, answer: UnitAnswered) -> Sequence[Frame]:
        result = answer.result
        counted = self._session.usage.add(Usage.of_unit(result))
        frames: list[Frame] = []
        if result.interrupted and self._response_id:
            frames += self._end_turn(answer)
        if result.is_listen:
            if frames:  # the end of the turn is the unit's listen
                return [*frames, *event("session.usage", **counted)]
            response_id = self._response_id or self._session.next_response_id()
            return self._delta(answer, response_id, kind="listen", **counted)
        self._response_id = self._response_id or self._session.next_response_id()
        return [*frames, *self._speak(answer, counted)]

    def _speak(self, answer: UnitAnswered, counted: dict[str, object]) -> list[Frame]:
        result, response_id, frames = answer.result, self._response_id, list[Frame]()
        audio, follows = self._session.mouth.told("audio", result.pcm, result.end_of_turn)
        has_sound = len(result.pcm) > 0 or bool(follows)
        if result.text:
            extra = {} if has_sound else counted
            frames += self._delta(
                answer,
                response_id,
                kind="text",
                text=result.text,
                end_of_turn=result.end_of_turn,
                **extra,
            )
        if has_sound or not result.text:
            frames += self._delta(answer, response_id, kind="audio", **audio, **counted)
            frames += follows
        if result.end_of_turn:
            frames += self._end_turn(answer)
            frames += [] if has_sound else event("session.usage", **counted)
        return frames

    def _end_turn(self, answer: UnitAnswered) -> list[Frame]:
        response_id, self._response_id = self._response_id, ""
        self._session.mouth.cut()
        return self._delta(
            answer, response_id, kind="listen", text="", interrupted=answer.result.interrupted
        )

    def _delta(self, answer: UnitAnswered, response_id: str, **fields: object) -> list[Frame]:
        return event(
            "response.output.delta",
            session_id=self._session.session_id,
            response_id=response_id,
            input_id=answer.input_id or None,
            **fields,
            metrics={"backend": self._session.engine, **_metrics(answer)},
            server_send_ts=answer.sent_at,
        )


def _metrics(answer: UnitAnswered) -> dict[str, object]:
    result: UnitResult = answer.result
    costs = result.costs
    return {
        "kv_cache_length": result.kv_cache_length,
        "prefill_ms": costs.prefill_ms,
        "generate_ms": costs.llm_ms,
        "wall_clock_ms": round(answer.wall_clock_ms, 3),
        "cost_llm_ms": costs.llm_ms,
        "cost_tts_prep_ms": costs.tts_prep_ms,
        "cost_tts_ms": costs.tts_ms,
        "cost_token2wav_ms": costs.token2wav_ms,
        "cost_all_ms": costs.all_ms,
        "n_tokens": result.n_tokens,
        "n_tts_tokens": result.n_tts_tokens,
        "vision_slices": result.vision_slices,
        "vision_tokens": result.vision_tokens,
        "dropped": answer.dropped,
    }


def _first(fields: Fields, *names: str) -> str:
    """Return the first of *names* that is there, else the first."""
    return next((name for name in names if fields.has(name)), names[0])


def _audio_text(input: Fields) -> tuple[str, tuple[str | int, ...]]:
    """Return the base64 of the sound, which is a text or an object with `data`, and its place."""
    if isinstance(input.values.get("audio"), dict):
        input, name = input.section("audio"), "data"
    else:
        name = "audio"
    return input.text(name, max_chars=MAX_SOUND_CHARS), (*input.loc, name)


def _slices(fields: Fields) -> int | None:
    """Return the most slices that are asked for; a list has a number for each picture."""
    value = fields.values.get("max_slice_nums")
    if not isinstance(value, list):
        return fields.optional_whole("max_slice_nums", 1, MAX_SLICES)
    items = fields.items("max_slice_nums", MAX_FRAMES)
    each = [Fields({"max_slice_nums": item}, fields.loc) for item in items]
    return max((item.whole("max_slice_nums", 1, 1, MAX_SLICES) for item in each), default=None)

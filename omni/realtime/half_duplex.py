"""The demo's dialect of `/ws/half_duplex/{id}`: hands-free turns, cut by the server's own VAD.

`/ws/half_duplex_omni/{id}` is the same with a few words more about pictures.
"""

from collections.abc import Sequence

from attrs import define, field

from omni.engine import (
    AudioChunk,
    Generating,
    Part,
    PrepareHalfDuplex,
    ReplyChunk,
    TurnDone,
    VadParams,
    VadState,
)
from omni.errors import ProtocolError
from omni.realtime.binary_sound import SoundReader, sound_form
from omni.realtime.content import only, parse_parts
from omni.realtime.dialect import (
    Command,
    Frame,
    Interrupt,
    Interrupted,
    Notice,
    Open,
    Ready,
    Sound,
    Stop,
    TimedOut,
    event,
)
from omni.realtime.duplex import MAX_SLICES, MAX_SOUND_CHARS, parse_frames, parse_voice
from omni.realtime.fields import Fields, read_object
from omni.realtime.media import (
    MAX_CHUNK_S,
    MAX_VOICE_S,
    SoundLeft,
    decode_sound,
)
from omni.realtime.native import AnswerWriter, render_common

DEFAULT_PROMPT = "You are a helpful assistant."
MAX_TIMEOUT_S = 3600


@define
class HalfDuplexDialect:
    """Speaks `/ws/half_duplex/{id}`.

    timeout_s: length of a session unless the client says. tells_pictures: as the demo's page with a
    camera expects it.
    """

    timeout_s: float
    tells_pictures: bool = False
    _is_opened: bool = field(default=False, init=False)
    _frame_interval_s: float = field(default=1.0, init=False)
    _max_slice_nums: int | None = field(default=None, init=False)
    _num_frames: int = field(default=0, init=False)  # since the last turn
    _answers: AnswerWriter = field(factory=AnswerWriter, init=False)
    _ears: SoundReader = field(factory=SoundReader, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            return Sound(chunk=AudioChunk(pcm=self._ears.read(data)))
        fields = read_object(data)
        match kind := fields.text("type"):
            case "audio_chunk":
                chunk = _parse_chunk(fields, self._max_slice_nums)
                self._num_frames += len(chunk.frames)
                return Sound(chunk=chunk)
            case "prepare":
                return self._parse_prepare(fields)
            case "stop":
                return Stop()
            case "interrupt":
                return Interrupt()
            case "":
                raise ProtocolError("Missing type")
        raise ProtocolError(f"Unknown type: {kind[:60]}")

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case ReplyChunk():
                return self._answers.render(notice)
            case VadState(speaking=speaking):
                return event("vad_state", speaking=speaking)
            case Generating(speech_duration_ms=speech_duration_ms):
                self._answers.begin()
                shown = {"video_frames": self._num_frames} if self.tells_pictures else {}
                self._num_frames = 0
                return event("generating", speech_duration_ms=speech_duration_ms, **shown)
            case TurnDone(turn_index=turn_index, text=text):
                self._num_frames = 0  # what was shown during the answer is no turn's
                return event("turn_done", turn_index=turn_index, text=text)
            case Ready():
                return self._render_ready(notice)
            case Interrupted():
                return event("interrupted")
            case TimedOut(elapsed_s=elapsed_s, reason=reason):
                return event("timeout", elapsed_s=round(elapsed_s, 1), reason=reason)
        return render_common(notice)

    def _parse_prepare(self, fields: Fields) -> Open:
        config = fields.section("config")
        generation = config.section("generation")
        session = config.section("session")
        vision = config.section("vision")
        default, form = PrepareHalfDuplex(), sound_form(fields)
        opening = Open(
            input=PrepareHalfDuplex(
                system=_parse_system(fields),
                vad=_parse_vad(config.section("vad")),
                max_new_tokens=generation.whole("max_new_tokens", default.max_new_tokens, 1, 4096),
                length_penalty=generation.number("length_penalty", default.length_penalty, 0.1, 5),
                temperature=generation.number("temperature", default.temperature, 0, 2),
                speak=config.section("tts").flag("enabled", default.speak),
            ),
            timeout_s=session.number("timeout_s", self.timeout_s, 1, MAX_TIMEOUT_S),
        )
        interval_s = vision.number("frame_interval_s", 1.0, 0.01, 3600)
        max_slice_nums = vision.optional_whole("max_slice_nums", 1, MAX_SLICES)
        if not self._is_opened:  # a second one is refused, and changes nothing
            self._is_opened, self._answers.mouth.form = True, form
            self._max_slice_nums, self._frame_interval_s = max_slice_nums, interval_s
        return opening

    def _render_ready(self, ready: Ready) -> Sequence[Frame]:
        fields: dict[str, object] = {
            "session_id": ready.session_id,
            "timeout_s": ready.timeout_s,
            "engine": ready.engine,
            "model": ready.model,
        }
        if self.tells_pictures:
            fields["frame_interval_s"] = self._frame_interval_s
        if ready.recording_id:
            fields["recording_session_id"] = ready.recording_id
        return event("prepared", **fields)


def _parse_chunk(fields: Fields, max_slice_nums: int | None) -> AudioChunk:
    name = "audio_base64" if fields.has("audio_base64") else "audio"
    text = fields.text(name, max_chars=MAX_SOUND_CHARS)
    if not text:
        raise ProtocolError("Missing audio_base64")
    return AudioChunk(
        pcm=decode_sound(text, (name,), MAX_CHUNK_S),
        frames=parse_frames(fields, "frame_base64_list"),
        max_slice_nums=fields.optional_whole("max_slice_nums", 1, MAX_SLICES) or max_slice_nums,
    )


def _parse_system(fields: Fields) -> tuple[Part, ...]:
    """Return the system content; documents of the demo also know the two older fields."""
    parts = parse_parts(fields, "system_content", SoundLeft(MAX_VOICE_S))
    only(parts, ("text", "audio"), "system_content")
    if not parts and (text := fields.text("system_prompt")):
        parts = (Part(kind="text", text=text),)
    if len(voice := parse_voice(fields, "ref_audio_base64")):
        parts = (*parts, Part(kind="audio", data=voice))
    return parts or (Part(kind="text", text=DEFAULT_PROMPT),)


def _parse_vad(fields: Fields) -> VadParams:
    default = VadParams()
    return VadParams(
        threshold=fields.number("threshold", default.threshold, 0, 1),
        min_speech_duration_ms=fields.whole(
            "min_speech_duration_ms", default.min_speech_duration_ms, 0, 10_000
        ),
        min_silence_duration_ms=fields.whole(
            "min_silence_duration_ms", default.min_silence_duration_ms, 0, 10_000
        ),
        speech_pad_ms=fields.whole("speech_pad_ms", default.speech_pad_ms, 0, 2_000),
    )

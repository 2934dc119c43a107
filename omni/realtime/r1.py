"""R1, the MiniCPM-o realtime protocol: full duplex on `/v1/realtime` by `session.update`.

Its published schemas allow no further fields, so nothing is added to any event. Source: the demo's
branch `realtime-protocol`.
"""

from collections.abc import Sequence

from attrs import define, evolve, field

from omni.engine import AudioChunk, Buffer
from omni.errors import MissingField, NotReady, ProtocolError, Unusable
from omni.realtime.binary_sound import SoundReader, SoundWriter, sound_form
from omni.realtime.dialect import (
    Command,
    ContextFull,
    Frame,
    Notice,
    Open,
    Ready,
    Sound,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    UnitAnswered,
    event,
)
from omni.realtime.duplex import (
    MAX_SOUND_CHARS,
    DuplexMode,
    parse_config,
    parse_frames,
    parse_voice,
    refuse_tools,
)
from omni.realtime.fields import FieldError, Fields, no_event, read_object
from omni.realtime.media import MAX_CHUNK_S, decode_sound
from omni.realtime.queue_events import render_queue

MAX_SLICES = 9
MAX_FRAMES = 4
MIN_CHUNK_SAMPLES = 4000
#: Context at which a session ends. Source: the demo's server.
MAX_KV_TOKENS = 8192
_FLOAT32_BYTES = 4

#: Our codes -> the documented ones; what is missing here failed in the engine.
_SERVER_CODES = {
    "queue_full": "queue_full",
    "no_worker": "service_unavailable",
    "no_capacity": "service_unavailable",
    "lease_expired": "service_unavailable",
    "cancelled": "service_unavailable",
    "forbidden": "service_unavailable",
}


@define
class R1Dialect:
    """Speaks R1. limit_s: longest session, counted from its slot."""

    mode: DuplexMode
    limit_s: float
    _is_created: bool = field(default=False, init=False)
    _mouth: SoundWriter = field(factory=SoundWriter, init=False)
    _ears: SoundReader = field(factory=SoundReader, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError; Unusable where it is no JSON."""
        if binary:
            self._require_created()
            return Sound(chunk=AudioChunk(pcm=_long_enough(self._ears.read(data))))
        try:
            fields = read_object(data)
        except ProtocolError as exc:
            raise Unusable(str(exc)) from exc
        match fields.text("type"):
            case "session.update":
                return self._parse_update(fields)
            case "input_audio_buffer.append":
                return self._parse_append(fields)
            case "session.close":
                return Stop()
        raise no_event(fields)

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case UnitAnswered():
                return self._render_unit(notice)
            case Ready():
                self._is_created = True
                return event(
                    "session.created",
                    session_id=notice.session_id,
                    prompt_length=notice.prepared.prompt_length,
                )
            case TimedOut():
                return event("session.closed", reason="timeout")
            case ContextFull():
                return event("session.closed", reason="context_full")
            case Stopped():
                return event("session.closed", reason="stopped")
            case Trouble():
                return self._render_trouble(notice)
        return render_queue(notice)

    def _parse_update(self, fields: Fields) -> Open:
        if not fields.has("session"):
            raise MissingField("session is missing")
        session = fields.section("session")
        if not session.has("instructions"):
            raise MissingField("session.instructions is missing")
        refuse_tools(session)
        form = sound_form(session)
        wanted = parse_config(session.section("voice_config"), self.mode)
        opening = Open(
            input=evolve(
                wanted,
                system_prompt=session.text("instructions"),
                voice=parse_voice(session, "ref_audio"),
                tts_voice=parse_voice(session, "tts_ref_audio"),
                max_slice_nums=session.whole(
                    "max_slice_nums", wanted.max_slice_nums, 1, MAX_SLICES
                ),
            ),
            timeout_s=self.limit_s,
            silence_s=self.limit_s,
            max_kv_tokens=MAX_KV_TOKENS,
        )
        if not self._is_created:
            self._mouth.form = form
        return opening

    def _parse_append(self, fields: Fields) -> Sound:
        self._require_created()
        if not fields.has("audio"):
            raise MissingField("audio is missing")
        text = fields.text("audio", max_chars=MAX_SOUND_CHARS)
        chunk = AudioChunk(
            pcm=_long_enough(decode_sound(text, ("audio",), MAX_CHUNK_S)),
            frames=parse_frames(fields, "video_frames", MAX_FRAMES),
            force_listen=fields.flag("force_listen", False),
            max_slice_nums=fields.optional_whole("max_slice_nums", 1, MAX_SLICES),
        )
        return Sound(chunk=chunk)

    def _require_created(self) -> None:
        if not self._is_created:
            raise NotReady("input_audio_buffer.append came before session.created")

    def _render_unit(self, answer: UnitAnswered) -> Sequence[Frame]:
        result = answer.result
        if result.interrupted:
            self._mouth.cut()
        if result.is_listen:
            return event("response.listen", kv_cache_length=result.kv_cache_length)
        audio, frames = self._mouth.told("audio", result.pcm, result.end_of_turn)
        told = event(
            "response.output_audio.delta",
            text=result.text,
            **audio,
            end_of_turn=result.end_of_turn,
            kv_cache_length=result.kv_cache_length,
        )
        return [*told, *frames]

    def _render_trouble(self, trouble: Trouble) -> Sequence[Frame]:
        if trouble.code == "context_exhausted" and trouble.fatal:
            return event("session.closed", reason="context_full")
        if trouble.reason == "server_shutdown":
            return event("session.closed", reason="server_shutdown")
        code, kind = self._error_of(trouble)
        frames = event("error", error={"code": code, "message": trouble.message, "type": kind})
        if trouble.fatal and self._is_created:
            frames += event("session.closed", reason="error")
        return frames

    def _error_of(self, trouble: Trouble) -> tuple[str, str]:
        """Return the documented code and type."""
        if trouble.reason:
            return trouble.reason, "client_error"
        if trouble.code in ("too_large", "invalid_request", "not_found"):
            return "invalid_payload", "client_error"
        if trouble.code == "worker_lost" and not self._is_created:
            return "worker_connect_failed", "server_error"
        return _SERVER_CODES.get(trouble.code, "inference_error"), "server_error"


def _long_enough(pcm: Buffer) -> Buffer:
    num_samples = len(pcm) // _FLOAT32_BYTES
    if num_samples < MIN_CHUNK_SAMPLES:
        problem = f"{num_samples} samples at 16 kHz; at least {MIN_CHUNK_SAMPLES} are taken"
        raise FieldError(("audio",), problem)
    return pcm

"""The demo's dialect of `/ws/duplex/{id}`: full duplex, with or without pictures."""

from collections.abc import Sequence
from typing import Literal

from attrs import define, evolve, field

from omni.audio import OUTPUT_HZ
from omni.engine import AudioChunk, Buffer, PrepareDuplex
from omni.errors import ProtocolError
from omni.realtime.binary_sound import SoundReader, SoundWriter, sound_form
from omni.realtime.dialect import (
    Command,
    Diagnose,
    Frame,
    Interrupt,
    Interrupted,
    Notice,
    Open,
    Pause,
    Paused,
    Ready,
    Resume,
    Resumed,
    Sound,
    Stop,
    TimedOut,
    UnitAnswered,
    event,
)
from omni.realtime.fields import Fields, read_object
from omni.realtime.media import (
    MAX_CHUNK_S,
    MAX_VOICE_S,
    decode_picture,
    decode_sound,
)
from omni.realtime.native import render_common

DuplexMode = Literal["audio_duplex", "omni_duplex"]

#: Those of the demo's pages have some 2 KiB; what waits for the disk is bounded by their number.
MAX_DIAGNOSTIC_BYTES = 64 * 2**10
MAX_FRAMES = 32
MAX_SLICES = 16
#: A voice of MAX_VOICE_S as base64 of float32 at 48 kHz fits.
MAX_SOUND_CHARS = 48 * 2**20
_MAX_SEED = 2**63 - 1
_MAX_TOOLS = 10_000


@define
class DuplexDialect:
    """Speaks `/ws/duplex/{id}`. traced: whether results tell their way, as the `prepare` asked."""

    mode: DuplexMode
    traced: bool = False
    _is_opened: bool = field(default=False, init=False)
    _mouth: SoundWriter = field(factory=SoundWriter, init=False)
    _ears: SoundReader = field(factory=SoundReader, init=False)

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return the command in *data*. Raises: ProtocolError."""
        if binary:
            return Sound(chunk=AudioChunk(pcm=self._ears.read(data)))
        fields = read_object(data)
        kind = fields.text("type")
        if kind == "audio_chunk":
            return Sound(chunk=parse_chunk(fields))
        if kind == "prepare":
            opening = Open(input=parse_prepare(fields, self.mode))
            form, traced = sound_form(fields), fields.flag("trace", False)
            if not self._is_opened:  # a second one is refused, and changes nothing
                self._is_opened, self.traced, self._mouth.form = True, traced, form
            return opening
        if kind == "client_diagnostic" and len(data) > MAX_DIAGNOSTIC_BYTES:
            raise ProtocolError(f"client_diagnostic is above {MAX_DIAGNOSTIC_BYTES >> 10} KiB")
        return _parse_control(kind, fields)

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames of *notice*."""
        match notice:
            case UnitAnswered():
                return self._render_result(notice)
            case Ready():
                return _render_ready(notice)
            case Paused(timeout_s=timeout_s):
                return event("paused", timeout=timeout_s)
            case Resumed():
                return event("resumed")
            case Interrupted():
                return event("interrupted")
            case TimedOut(reason=reason, elapsed_s=elapsed_s):
                return event("timeout", reason=reason, elapsed_s=round(elapsed_s, 1))
        return render_common(notice)

    def _render_result(self, answer: UnitAnswered) -> Sequence[Frame]:
        result, fields = answer.result, result_fields(answer)
        if result.interrupted:
            self._mouth.cut()
        if self.traced:
            fields["trace"] = [(stamp.hop, stamp.at_ns) for stamp in answer.stamps]
        audio, frames = self._mouth.told("audio_data", result.pcm, result.end_of_turn)
        return [*event("result", **fields, **audio), *frames]


def parse_chunk(fields: Fields) -> AudioChunk:
    """Return the chunk of an `audio_chunk` event."""
    name = "audio_base64" if fields.has("audio_base64") else "audio"
    text = fields.text(name, max_chars=MAX_SOUND_CHARS)
    if not text:
        raise ProtocolError("Missing audio_base64")
    return AudioChunk(
        pcm=decode_sound(text, (name,), MAX_CHUNK_S),
        frames=parse_frames(fields, "frame_base64_list"),
        force_listen=fields.flag("force_listen", False),
        max_slice_nums=fields.optional_whole("max_slice_nums", 1, MAX_SLICES),
    )


def parse_prepare(fields: Fields, mode: DuplexMode) -> PrepareDuplex:
    """Return the input that `prepare` asks for; whatever it leaves out is the default again."""
    wanted = parse_config(fields.section("config"), mode)
    return evolve(
        wanted,
        system_prompt=fields.text("system_prompt", wanted.system_prompt),
        voice=parse_voice(fields, "ref_audio_base64"),
        tts_voice=parse_voice(fields, "tts_ref_audio_base64"),
        max_slice_nums=fields.whole("max_slice_nums", wanted.max_slice_nums, 1, MAX_SLICES),
        deferred_finalize=fields.flag("deferred_finalize", wanted.deferred_finalize),
    )


def refuse_tools(fields: Fields) -> None:
    """Raise FieldError where functions are named: nothing of a client's is passed over silently."""
    if fields.items("tools", _MAX_TOOLS):
        problem = (
            "no functions are called in full duplex, nor in this protocol: leave tools out, or "
            "connect with ?dialect=openai"
        )
        raise fields.wrong("tools", problem)


def parse_config(config: Fields, mode: DuplexMode) -> PrepareDuplex:
    """Return the input for a `config` of the published keys, which every duplex dialect has."""
    config.whole("sample_rate", 16_000, 16_000, 16_000)
    default = PrepareDuplex(mode=mode)
    return PrepareDuplex(
        mode=mode,
        max_slice_nums=config.whole("max_slice_nums", default.max_slice_nums, 1, MAX_SLICES),
        generate_audio=config.flag("generate_audio", default.generate_audio),
        force_listen_count=config.whole("force_listen_count", default.force_listen_count, 0, 1000),
        max_new_speak_tokens_per_chunk=config.whole(
            "max_new_speak_tokens_per_chunk", default.max_new_speak_tokens_per_chunk, 1, 512
        ),
        decode_mode=config.choice("decode_mode", default.decode_mode, ("sampling", "greedy")),
        temperature=config.number("temperature", default.temperature, 0, 2),
        top_k=config.whole("top_k", default.top_k, 0, 100_000),
        top_p=config.number("top_p", default.top_p, 0, 1),
        text_repetition_penalty=config.number(
            "text_repetition_penalty", default.text_repetition_penalty, 0.1, 10
        ),
        text_repetition_window_size=config.whole(
            "text_repetition_window_size", default.text_repetition_window_size, 0, 100_000
        ),
        length_penalty=config.number("length_penalty", default.length_penalty, 0.1, 5),
        listen_prob_scale=config.number("listen_prob_scale", default.listen_prob_scale, 0, 1000),
        listen_top_k=config.optional_whole("listen_top_k", 0, 100_000),
        tts_temperature=config.number("tts_temperature", default.tts_temperature, 0, 2),
        chunk_ms=config.whole("chunk_ms", default.chunk_ms, 20, 10_000),
        seed=config.optional_whole("seed", 0, _MAX_SEED),
    )


def result_fields(answer: UnitAnswered) -> dict[str, object]:
    """Return what a `result` says of *answer*, all but its sound."""
    result, costs = answer.result, answer.result.costs
    return {
        "is_listen": result.is_listen,
        "text": result.text,
        "end_of_turn": result.end_of_turn,
        "interrupted": result.interrupted,
        "dropped": answer.dropped,
        "current_time": result.current_time,
        "cost_prefill_ms": costs.prefill_ms,
        "cost_llm_ms": costs.llm_ms,
        "cost_tts_prep_ms": costs.tts_prep_ms,
        "cost_tts_ms": costs.tts_ms,
        "cost_token2wav_ms": costs.token2wav_ms,
        "cost_all_ms": costs.all_ms,
        "n_tokens": result.n_tokens,
        "n_tts_tokens": result.n_tts_tokens,
        "server_send_ts": answer.sent_at,
        "wall_clock_ms": round(answer.wall_clock_ms, 3),
        "kv_cache_length": result.kv_cache_length,
        "vision_slices": result.vision_slices,
        "vision_tokens": result.vision_tokens,
    }


def parse_voice(fields: Fields, name: str) -> Buffer:
    """Return the reference audio under *name*, raw float32 or WAV; nothing where there is none."""
    text = fields.text(name, max_chars=MAX_SOUND_CHARS)
    return decode_sound(text, (*fields.loc, name), MAX_VOICE_S)


def parse_frames(fields: Fields, name: str, max_frames: int = MAX_FRAMES) -> tuple[Buffer, ...]:
    """Return the pictures in the list under *name*, none where there is none."""
    frames = []
    for index, entry in enumerate(fields.items(name, max_frames)):
        if not isinstance(entry, str):
            raise fields.wrong(name, f"entry {index} is no text")
        frames.append(decode_picture(entry, (*fields.loc, name, index)))
    return tuple(frames)


def _parse_control(kind: str, fields: Fields) -> Command:
    match kind:
        case "stop":
            return Stop()
        case "pause":
            if not fields.has("timeout"):
                return Pause()
            return Pause(timeout_s=fields.number("timeout", 60, 1, 3600))
        case "resume":
            return Resume()
        case "interrupt":
            return Interrupt()
        case "client_diagnostic":
            return Diagnose(record=dict(fields.values))
        case "":
            raise ProtocolError("Missing type")
    raise ProtocolError(f"Unknown message type: {kind[:60]}")


def _render_ready(ready: Ready) -> Sequence[Frame]:
    fields: dict[str, object] = {
        "prompt_length": ready.prepared.prompt_length,
        "session_id": ready.session_id,
        "engine": ready.engine,
        "model": ready.model,
        "chunk_ms": ready.prepared.chunk_ms,
        "output_sample_rate": OUTPUT_HZ,
    }
    if ready.recording_id:
        fields["recording_session_id"] = ready.recording_id
    return event("prepared", **fields)

"""What is said on the demo's WebSockets, as `/openapi.json` shows it."""

from omni.routes.chat_schemas import CHAT_REQUEST, MESSAGES, PART
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Event,
    list_of,
    or_null,
    record,
    said,
)

_SOUND_IN = said(TEXT, "base64 of float32 at 16 kHz, or of a WAV file")
_SOUND_OUT = or_null(said(TEXT, "base64 of float32 at 24 kHz"))

_PLACE = record({"position": WHOLE, "estimated_wait_s": NUMBER, "queue_length": WHOLE})
_ERROR = Event(
    type="error",
    help="what was wrong; the session goes on unless the socket closes",
    fields=record({"error": TEXT, "message": TEXT, "code": TEXT}),
)
QUEUE = (
    Event(type="queued", help="once, where it must wait; also with ticket_id", fields=_PLACE),
    Event(type="queue_update", help="when its place changes, and every 3 s", fields=_PLACE),
    Event(type="queue_done", help="it has a slot"),
)
CHUNK = Event(
    type="chunk",
    help="a piece of an answer",
    fields=record(
        {
            "chunk_index": WHOLE,
            "text_delta": TEXT,
            "audio_data": _SOUND_OUT,
            "audio_sample_rate": WHOLE,
            "is_final": FLAG,
            "duration_ms": WHOLE,
        }
    ),
)

CHAT_CLIENT = (
    Event(type="", help="the request; it has no type", fields=CHAT_REQUEST),
    Event(type="stop", help="end the answer with what there is"),
)
CHAT_SERVER = (
    *QUEUE[:2],
    Event(type="prefill_done", fields=record({"input_tokens": WHOLE})),
    Event(
        type="chunk",
        help="a piece of the answer: text, sound or both",
        fields=record({"text_delta": TEXT, "audio_data": TEXT}, ["text_delta", "audio_data"]),
    ),
    Event(
        type="done",
        help="the whole text; with its sound where nothing was streamed; then close 1000",
        fields=record(
            {
                "text": TEXT,
                "generated_tokens": WHOLE,
                "input_tokens": WHOLE,
                "finish_reason": TEXT,
                "audio_data": _SOUND_OUT,
                "recording_session_id": TEXT,
            },
            optional=["audio_data", "recording_session_id"],
        ),
    ),
    _ERROR,
)

_HALF_CONFIG = record(
    {
        "vad": record({}),
        "generation": record({}),
        "tts": record({"enabled": FLAG}, ["enabled"]),
        "session": record({"timeout_s": NUMBER}, ["timeout_s"]),
        "vision": record(
            {"frame_interval_s": NUMBER, "max_slice_nums": WHOLE},
            ["frame_interval_s", "max_slice_nums"],
        ),
    },
    optional=["vad", "generation", "tts", "session", "vision"],
)
_WITH_CAMERA = said(NUMBER, "on /ws/half_duplex_omni/{session_id}")
HALF_DUPLEX_CLIENT = (
    Event(
        type="prepare",
        help="first; also while it waits",
        fields=record(
            {"system_content": list_of(PART), "config": _HALF_CONFIG},
            optional=["system_content", "config"],
        ),
    ),
    Event(
        type="audio_chunk",
        help="sound of any length; binary frames do the same. Pictures go with the turn's words",
        fields=record(
            {
                "audio_base64": _SOUND_IN,
                "frame_base64_list": list_of(TEXT),
                "max_slice_nums": WHOLE,
            },
            optional=["frame_base64_list", "max_slice_nums"],
        ),
    ),
    Event(type="interrupt", help="cut the running answer"),
    Event(type="stop", help="end"),
)
HALF_DUPLEX_SERVER = (
    *QUEUE,
    Event(
        type="prepared",
        fields=record(
            {"session_id": TEXT, "timeout_s": NUMBER, "frame_interval_s": _WITH_CAMERA},
            optional=["frame_interval_s"],
        ),
    ),
    Event(type="vad_state", help="speech began or ended", fields=record({"speaking": FLAG})),
    Event(
        type="generating",
        fields=record(
            {"speech_duration_ms": WHOLE, "video_frames": _WITH_CAMERA}, optional=["video_frames"]
        ),
    ),
    CHUNK,
    Event(
        type="turn_done",
        help="also after an answer that failed",
        fields=record({"turn_index": said(WHOLE, "from 1"), "text": TEXT}),
    ),
    Event(type="timeout", help="then close 1000", fields=record({"elapsed_s": NUMBER})),
    Event(type="stopped", help="then close 1000"),
    _ERROR,
)

DUPLEX_CLIENT = (
    Event(
        type="prepare",
        help="first; also while it waits",
        fields=record(
            {
                "system_prompt": TEXT,
                "ref_audio_base64": _SOUND_IN,
                "tts_ref_audio_base64": _SOUND_IN,
                "max_slice_nums": WHOLE,
                "deferred_finalize": FLAG,
                "config": said(record({}), "see docs/realtime.md"),
            },
            optional=[
                "system_prompt",
                "ref_audio_base64",
                "tts_ref_audio_base64",
                "max_slice_nums",
                "deferred_finalize",
                "config",
            ],
        ),
    ),
    Event(
        type="audio_chunk",
        help="one unit; exactly one result follows, in order",
        fields=record(
            {
                "audio_base64": _SOUND_IN,
                "frame_base64_list": list_of(TEXT),
                "force_listen": FLAG,
                "max_slice_nums": WHOLE,
            },
            optional=["frame_base64_list", "force_listen", "max_slice_nums"],
        ),
    ),
    Event(type="pause", fields=record({"timeout": NUMBER}, ["timeout"])),
    Event(type="resume"),
    Event(type="interrupt", help="the next chunk is forced to listen"),
    Event(type="client_diagnostic", help="kept, never answered"),
    Event(type="stop", help="end"),
)
DUPLEX_SERVER = (
    *QUEUE,
    Event(type="prepared", fields=record({"prompt_length": WHOLE, "session_id": TEXT})),
    Event(
        type="result",
        help="of one chunk",
        fields=record(
            {
                "is_listen": FLAG,
                "text": TEXT,
                "audio_data": _SOUND_OUT,
                "end_of_turn": FLAG,
                "current_time": said(WHOLE, "counts results from 1"),
                "kv_cache_length": WHOLE,
                "server_send_ts": NUMBER,
                "wall_clock_ms": NUMBER,
            }
        ),
    ),
    Event(type="transcript", help="what the user said, where the engine knows it"),
    Event(type="paused", fields=record({"timeout": NUMBER})),
    Event(type="resumed"),
    Event(type="interrupted"),
    Event(type="timeout", help="then close 1000", fields=record({"reason": TEXT})),
    Event(type="stopped", help="then close 1000"),
    _ERROR,
)

STREAMING_CLIENT = (
    Event(
        type="prefill",
        help="the whole conversation",
        fields=record(
            {
                "messages": MESSAGES,
                "ref_audio_base64": _SOUND_IN,
                "tts_ref_audio_base64": _SOUND_IN,
                "max_slice_nums": WHOLE,
            },
            optional=["ref_audio_base64", "tts_ref_audio_base64", "max_slice_nums"],
        ),
    ),
    Event(
        type="generate",
        help="ask for the answer",
        fields=record(
            {"generate_audio": FLAG, "max_new_tokens": WHOLE, "length_penalty": NUMBER},
            optional=["generate_audio", "max_new_tokens", "length_penalty"],
        ),
    ),
    Event(type="stop", help="stop the turn: done.stopped is true"),
    Event(type="close", help="end"),
)
STREAMING_SERVER = (
    *QUEUE,
    Event(type="prefill_done", help="generate may come"),
    CHUNK,
    Event(type="done", help="the turn is over; token_stats tells the tokens"),
    _ERROR,
)

import base64
import math
import struct

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.engine import Buffer, Prepared, PrepareDuplex, StageCosts, UnitResult, UserTranscript
from omni.errors import ProtocolError
from omni.messages import Queued
from omni.realtime.dialect import (
    Command,
    Diagnose,
    Interrupt,
    Notice,
    Open,
    Pause,
    Paused,
    QueueDone,
    Ready,
    Resume,
    Sound,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    UnitAnswered,
    Waiting,
)
from omni.realtime.duplex import DuplexDialect

PCM = struct.pack("<4f", 0, 0.25, -0.25, 0.5)
PCM_TEXT = base64.b64encode(PCM).decode()
RESULT_KEYS = {
    "type",
    "is_listen",
    "text",
    "audio_data",
    "end_of_turn",
    "current_time",
    "cost_llm_ms",
    "cost_tts_prep_ms",
    "cost_tts_ms",
    "cost_token2wav_ms",
    "cost_all_ms",
    "n_tokens",
    "n_tts_tokens",
    "server_send_ts",
    "wall_clock_ms",
    "kv_cache_length",
    "vision_slices",
    "vision_tokens",
}


def _parse(event: dict[str, object]) -> object:
    return DuplexDialect("audio_duplex").parse(orjson.dumps(event), False)


def _prepare(event: dict[str, object]) -> PrepareDuplex:
    command = _parse({"type": "prepare", **event})
    assert isinstance(command, Open) and isinstance(command.input, PrepareDuplex)
    return command.input


def _render(notice: Notice, dialect: DuplexDialect | None = None) -> list[dict[str, object]]:
    frames = (dialect or DuplexDialect("audio_duplex")).render(notice)
    return [orjson.loads(frame.data) for frame in frames if not frame.binary]


def _answered(result: UnitResult) -> UnitAnswered:
    return UnitAnswered(result=result, wall_clock_ms=12.0, sent_at=1.5)


def test_a_prepare_without_fields_has_every_default_of_the_protocol() -> None:
    assert _prepare({}) == PrepareDuplex(mode="audio_duplex")


def test_every_field_of_prepare_reaches_the_engine() -> None:
    config = {
        "generate_audio": False,
        "force_listen_count": 0,
        "max_new_speak_tokens_per_chunk": 10,
        "decode_mode": "greedy",
        "temperature": 2.0,
        "top_k": 5,
        "top_p": 0.5,
        "text_repetition_penalty": 1.2,
        "text_repetition_window_size": 64,
        "length_penalty": 1.3,
        "listen_prob_scale": 0.5,
        "listen_top_k": 3,
        "tts_temperature": 0.6,
        "chunk_ms": 200,
    }
    prepare = _prepare(
        {
            "system_prompt": "Be short.",
            "ref_audio_base64": PCM_TEXT,
            "tts_ref_audio_base64": PCM_TEXT,
            "max_slice_nums": 2,
            "deferred_finalize": False,
            "config": config,
        }
    )

    assert {name: getattr(prepare, name) for name in config} == config
    assert (prepare.voice, prepare.tts_voice) == (PCM, PCM)
    assert (prepare.system_prompt, prepare.max_slice_nums) == ("Be short.", 2)
    assert prepare.deferred_finalize is False


def test_slices_come_from_the_message_then_the_config_then_one() -> None:
    assert _prepare({"config": {"max_slice_nums": 4}}).max_slice_nums == 4
    assert _prepare({"max_slice_nums": 2, "config": {"max_slice_nums": 4}}).max_slice_nums == 2


def test_unknown_keys_are_ignored() -> None:
    event = {"ref_audio_path": "/etc/passwd", "config": {"ls_mode": "explicit"}}

    assert _prepare(event) == PrepareDuplex(mode="audio_duplex")


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"config": {"temperature": 3}}, "config.temperature"),
        ({"config": {"top_k": "many"}}, "config.top_k"),
        ({"config": {"chunk_ms": 1}}, "config.chunk_ms"),
        ({"config": {"decode_mode": "beam"}}, "config.decode_mode"),
        ({"config": {"sample_rate": 24000}}, "config.sample_rate"),
        ({"config": []}, "config"),
        ({"system_prompt": 5}, "system_prompt"),
        ({"ref_audio_base64": "AAA"}, "ref_audio_base64"),
        ({"deferred_finalize": "yes"}, "deferred_finalize"),
        ({"sound": "mp3"}, "sound"),
    ],
)
def test_a_wrong_field_of_prepare_is_named(event: dict[str, object], path: str) -> None:
    with pytest.raises(ProtocolError, match="^" + path.replace(".", r"\.") + ":"):
        _prepare(event)


def test_a_chunk_has_sound_frames_and_flags() -> None:
    command = _parse(
        {
            "type": "audio_chunk",
            "audio_base64": PCM_TEXT,
            "frame_base64_list": ["/9j/"],
            "force_listen": True,
            "max_slice_nums": 3,
        }
    )

    assert isinstance(command, Sound)
    assert command.chunk.pcm == PCM
    assert command.chunk.frames == (b"\xff\xd8\xff",)
    assert (command.chunk.force_listen, command.chunk.max_slice_nums) == (True, 3)


def test_the_field_of_the_documents_is_taken_too() -> None:
    command = _parse({"type": "audio_chunk", "audio": PCM_TEXT})

    assert isinstance(command, Sound) and command.chunk.pcm == PCM


@pytest.mark.parametrize("event", [{}, {"audio_base64": ""}, {"audio_base64": None}])
def test_a_chunk_without_sound_is_missing_it(event: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="Missing audio_base64"):
        _parse({"type": "audio_chunk", **event})


@pytest.mark.parametrize(
    ("event", "command"),
    [
        ({"type": "stop"}, Stop()),
        ({"type": "pause"}, Pause()),
        ({"type": "pause", "timeout": 5}, Pause(timeout_s=5.0)),
        ({"type": "resume"}, Resume()),
        ({"type": "interrupt"}, Interrupt()),
    ],
)
def test_control_messages_are_commands(event: dict[str, object], command: object) -> None:
    assert _parse(event) == command


def test_a_diagnostic_is_kept_as_it_came() -> None:
    event = {"type": "client_diagnostic", "event": "gap", "gap_ms": 12}

    assert _parse(event) == Diagnose(record=event)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ProtocolError, match="Unknown message type: dance"):
        _parse({"type": "dance"})


def test_a_result_has_the_fields_that_clients_read() -> None:
    result = UnitResult(
        is_listen=False, text="hi", pcm=Buffer(PCM), costs=StageCosts(all_ms=4.5), n_tokens=2
    )

    (event,) = _render(_answered(result))

    assert RESULT_KEYS <= event.keys()
    assert event["audio_data"] == PCM_TEXT
    assert (event["cost_all_ms"], event["cost_tts_ms"], event["n_tokens"]) == (4.5, None, 2)
    assert (event["wall_clock_ms"], event["server_send_ts"]) == (12.0, 1.5)


def test_a_listen_result_has_null_for_sound() -> None:
    (event,) = _render(_answered(UnitResult(is_listen=True)))

    assert (event["is_listen"], event["audio_data"], event["text"]) == (True, None, "")


@pytest.mark.parametrize(("form", "tag", "width"), [("pcm16", b"S16L", 2), ("float32", b"F32L", 4)])
def test_a_client_may_have_its_sound_as_binary_frames(form: str, tag: bytes, width: int) -> None:
    dialect = DuplexDialect("audio_duplex")
    dialect.parse(orjson.dumps({"type": "prepare", "sound": form}), False)

    text, sound = dialect.render(_answered(UnitResult(is_listen=False, pcm=Buffer(PCM))))

    assert orjson.loads(text.data)["audio_follows"] is True
    assert sound.binary and sound.data[:4] == tag and len(sound.data) == 4 + 4 * width


def test_notices_have_the_words_of_the_protocol() -> None:
    place = Queued(ticket_id="q_1", position=2, estimated_wait_s=3.5, queue_length=4)
    known = {"position": 2, "estimated_wait_s": 3.5, "ticket_id": "q_1", "queue_length": 4}

    assert _render(Waiting(place=place, first=True)) == [{"type": "queued", **known}]
    assert _render(Waiting(place=place, first=False)) == [{"type": "queue_update", **known}]
    assert _render(QueueDone()) == [{"type": "queue_done"}]
    assert _render(Stopped()) == [{"type": "stopped"}]
    assert _render(Paused(timeout_s=60.0)) == [{"type": "paused", "timeout": 60.0}]
    assert _render(UserTranscript(text="hello")) == [
        {"type": "transcript", "role": "user", "text": "hello", "final": True}
    ]
    assert _render(Trouble(code="x", text="short", message="long")) == [
        {"type": "error", "error": "short", "message": "long", "code": "x"}
    ]
    (timeout,) = _render(TimedOut(reason="Pause timeout (60.0s)", elapsed_s=61))
    assert (timeout["type"], timeout["reason"]) == ("timeout", "Pause timeout (60.0s)")


def test_prepared_names_the_engine_and_the_recording_only_if_there_is_one() -> None:
    ready = Ready(
        prepared=Prepared(prompt_length=7, chunk_ms=200),
        session_id="adx_1",
        engine="null",
        model="none",
        timeout_s=None,
    )

    (event,) = _render(ready)

    assert (event["prompt_length"], event["chunk_ms"], event["engine"]) == (7, 200, "null")
    assert "recording_session_id" not in event


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["audio_base64", "frame_base64_list", "force_listen", "config", "timeout"]),
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.text(max_size=4), max_size=3)
        | st.dictionaries(st.sampled_from(["top_k", "seed"]), st.floats() | st.text(max_size=3)),
    ),
    st.sampled_from(["prepare", "audio_chunk", "pause", "stop", "", "x"]),
)
def test_any_fields_are_a_command_or_a_protocol_error(fields: dict[str, object], kind: str) -> None:
    try:
        command = _parse({"type": kind, **fields})
    except ProtocolError:
        return
    if isinstance(command, Open) and isinstance(command.input, PrepareDuplex):
        assert math.isfinite(command.input.temperature)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes, binary: bool) -> None:
    try:
        command = DuplexDialect("omni_duplex").parse(data, binary)
    except ProtocolError:
        return

    assert isinstance(command, Command)

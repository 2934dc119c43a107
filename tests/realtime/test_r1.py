"""R1, event by event: its schemas allow no further fields, and none is missing."""

import base64
from collections.abc import Sequence

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.engine import Buffer, Prepared, PrepareDuplex, UnitResult, UserTranscript
from omni.errors import MissingField, NotReady, OmniError, ProtocolError, UnknownEvent, Unusable
from omni.messages import Queued
from omni.realtime.binary_sound import TAGS
from omni.realtime.dialect import (
    ContextFull,
    Notice,
    Open,
    QueueDone,
    Ready,
    Sound,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    UnitAnswered,
    Waiting,
)
from omni.realtime.r1 import R1Dialect
from omni.wav import wav_from_waveform

SOUND = np.full(4000, 0.25, "<f4")
AUDIO = base64.b64encode(SOUND.tobytes()).decode()
PLACE = Queued(ticket_id="q_1", position=2, estimated_wait_s=3.5, queue_length=4)
READY = Ready(
    prepared=Prepared(prompt_length=17),
    session_id="rt_1",
    engine="null",
    model="m",
    timeout_s=300,
    recording_id="rec",
)


def _dialect(created: bool = True) -> R1Dialect:
    dialect = R1Dialect("omni_duplex", 300.0)
    if created:
        dialect.render(READY)
    return dialect


def _parse(event: object, created: bool = True) -> object:
    return _dialect(created).parse(orjson.dumps(event), False)


def _told(notice: Notice, created: bool = True) -> Sequence[object]:
    return [orjson.loads(frame.data) for frame in _dialect(created).render(notice)]


def _append(**fields: object) -> Sound:
    command = _parse({"type": "input_audio_buffer.append", "audio": AUDIO, **fields})
    assert isinstance(command, Sound)
    return command


def _answered(result: UnitResult) -> UnitAnswered:
    return UnitAnswered(result=result, wall_clock_ms=5.0, sent_at=1.0)


def _trouble(error: OmniError, fatal: bool = False) -> Trouble:
    text = str(error)
    return Trouble(code=error.code, text=text, message=text, reason=error.reason, fatal=fatal)


# --- from the client


def test_an_update_opens_a_session_with_its_limits() -> None:
    session = {
        "instructions": "Be brief.",
        "max_slice_nums": 3,
        "ref_audio": AUDIO,
        "tts_ref_audio": base64.b64encode(wav_from_waveform(SOUND, 16_000)).decode(),
        "voice_config": {"temperature": 0.3, "length_penalty": 1.3},
        "deferred_finalize": False,
    }

    opened = _parse({"type": "session.update", "session": session}, created=False)

    assert isinstance(opened, Open) and isinstance(opened.input, PrepareDuplex)
    assert (opened.timeout_s, opened.silence_s, opened.max_kv_tokens) == (300.0, 300.0, 8192)
    wanted = opened.input
    assert (wanted.mode, wanted.system_prompt, wanted.max_slice_nums) == (
        "omni_duplex",
        "Be brief.",
        3,
    )
    assert (wanted.temperature, wanted.length_penalty) == (0.3, 1.3)
    assert wanted.voice == SOUND.tobytes(), "raw float32, as the page sends it"
    voice = np.frombuffer(wanted.tts_voice, "<f4")
    np.testing.assert_allclose(voice, SOUND, atol=1e-4, err_msg="WAV, as documented")


def test_an_append_is_sound_with_pictures() -> None:
    picture = base64.b64encode(b"jpeg").decode()

    sound = _append(video_frames=[picture] * 4, force_listen=True, max_slice_nums=9)

    assert sound.chunk.pcm == SOUND.tobytes()
    assert sound.chunk.frames == (Buffer(b"jpeg"),) * 4
    assert (sound.chunk.force_listen, sound.chunk.max_slice_nums) == (True, 9)


def test_a_close_ends_the_session_whatever_its_reason() -> None:
    assert _parse({"type": "session.close", "reason": "user_stop"}) == Stop()
    assert _parse({"type": "session.close"}, created=False) == Stop()


UPDATE = {"type": "session.update", "session": {"instructions": "x"}}
APPEND = {"type": "input_audio_buffer.append", "audio": AUDIO}


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "response.cancel"}, UnknownEvent),
        ({"no": "type"}, MissingField),
        ({"type": "session.update"}, MissingField),
        ({"type": "session.update", "session": {}}, MissingField),
        ({"type": "session.update", "session": {"instructions": 5}}, ProtocolError),
        ({"type": "session.update", "session": []}, ProtocolError),
        (UPDATE | {"session": {"instructions": "x", "max_slice_nums": 10}}, ProtocolError),
        (UPDATE | {"session": {"instructions": "x", "ref_audio": "%"}}, ProtocolError),
        (UPDATE | {"session": {"instructions": "x", "tools": [{"name": "f"}]}}, ProtocolError),
        ({"type": "input_audio_buffer.append"}, MissingField),
        (APPEND | {"audio": base64.b64encode(bytes(4 * 3999)).decode()}, ProtocolError),
        (APPEND | {"audio": base64.b64encode(bytes(16_001)).decode()}, ProtocolError),
        (APPEND | {"audio": "not base64"}, ProtocolError),
        (APPEND | {"video_frames": ["AAAA"] * 5}, ProtocolError),
        (APPEND | {"video_frames": "AAAA"}, ProtocolError),
        (APPEND | {"max_slice_nums": 0}, ProtocolError),
    ],
)
def test_a_wrong_event_is_a_client_error_with_the_documented_code(
    event: object, kind: type[ProtocolError]
) -> None:
    with pytest.raises(ProtocolError) as refused:
        _parse(event)

    assert type(refused.value).reason == kind.reason
    ((told,)) = _told(_trouble(refused.value))
    error = {"code": kind.reason, "message": str(refused.value), "type": "client_error"}
    assert told == {"type": "error", "error": error}


def test_who_names_functions_is_told_where_they_are_called() -> None:
    session = {"instructions": "x", "tools": [{"type": "function", "name": "f"}]}

    with pytest.raises(ProtocolError, match="connect with [?]dialect=openai"):
        _parse(UPDATE | {"session": session})
    assert isinstance(_parse(UPDATE | {"session": {**session, "tools": []}}), Open)


def test_sound_before_the_session_is_created_is_not_ready() -> None:
    with pytest.raises(NotReady):
        _parse(APPEND, created=False)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"\xff"])
def test_what_is_no_json_object_ends_the_session(data: bytes) -> None:
    with pytest.raises(Unusable):
        _dialect().parse(data, False)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes, binary: bool) -> None:
    try:
        _dialect().parse(data, binary)
    except ProtocolError:
        return
    assert binary and data[:4] in TAGS


# --- to the client


@pytest.mark.parametrize(
    ("notice", "events"),
    [
        (
            Waiting(place=PLACE, first=True),
            [
                {
                    "type": "session.queued",
                    "position": 2,
                    "estimated_wait_s": 3.5,
                    "ticket_id": "q_1",
                    "queue_length": 4,
                }
            ],
        ),
        (
            Waiting(place=PLACE, first=False),
            [
                {
                    "type": "session.queue_update",
                    "position": 2,
                    "estimated_wait_s": 3.5,
                    "queue_length": 4,
                }
            ],
        ),
        (QueueDone(), [{"type": "session.queue_done"}]),
        (READY, [{"type": "session.created", "session_id": "rt_1", "prompt_length": 17}]),
        (
            _answered(UnitResult(is_listen=True, kv_cache_length=9, n_tokens=0)),
            [{"type": "response.listen", "kv_cache_length": 9}],
        ),
        (
            _answered(
                UnitResult(
                    is_listen=False,
                    text="hi",
                    pcm=Buffer(SOUND.tobytes()),
                    end_of_turn=True,
                    kv_cache_length=12,
                )
            ),
            [
                {
                    "type": "response.output_audio.delta",
                    "text": "hi",
                    "audio": AUDIO,
                    "end_of_turn": True,
                    "kv_cache_length": 12,
                }
            ],
        ),
        (
            _answered(UnitResult(is_listen=False, text="hi", kv_cache_length=12)),
            [
                {
                    "type": "response.output_audio.delta",
                    "text": "hi",
                    "audio": None,
                    "end_of_turn": False,
                    "kv_cache_length": 12,
                }
            ],
        ),
        (Stopped(), [{"type": "session.closed", "reason": "stopped"}]),
        (TimedOut(reason="x", elapsed_s=1), [{"type": "session.closed", "reason": "timeout"}]),
        (ContextFull(), [{"type": "session.closed", "reason": "context_full"}]),
        (UserTranscript(text="hm"), []),
    ],
)
def test_a_notice_becomes_exactly_the_documented_event(
    notice: Notice, events: Sequence[object]
) -> None:
    assert _told(notice) == events


@pytest.mark.parametrize(
    ("code", "created", "told"),
    [
        ("queue_full", False, "queue_full"),
        ("no_worker", False, "service_unavailable"),
        ("no_capacity", False, "service_unavailable"),
        ("worker_lost", False, "worker_connect_failed"),
        ("worker_lost", True, "inference_error"),
        ("generation_failed", True, "inference_error"),
        ("too_large", True, "invalid_payload"),
        ("server_error", True, "inference_error"),
    ],
)
def test_an_error_that_ends_a_session_has_a_documented_code(
    code: str, created: bool, told: str
) -> None:
    trouble = Trouble(code=code, text="t", message="what happened", fatal=True)

    error, *closed = _told(trouble, created)

    kind = "client_error" if told == "invalid_payload" else "server_error"
    wanted = {"code": told, "message": "what happened", "type": kind}
    assert error == {"type": "error", "error": wanted}
    assert closed == ([{"type": "session.closed", "reason": "error"}] if created else [])


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Trouble(code="context_exhausted", text="", message="", fatal=True), "context_full"),
        (
            Trouble(code="cancelled", text="", message="", reason="server_shutdown", fatal=True),
            "server_shutdown",
        ),
    ],
)
def test_an_end_that_has_its_own_reason_is_no_error(trouble: Trouble, reason: str) -> None:
    assert _told(trouble) == [{"type": "session.closed", "reason": reason}]

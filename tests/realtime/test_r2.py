"""R2, event by event, and read back by the parser of the real `openbmb-realtime`."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from openbmb_realtime.protocol import parse_server_event

from omni.engine import (
    Buffer,
    ChatDone,
    ChatRequest,
    Prepared,
    PrepareDuplex,
    ReplyChunk,
    StageCosts,
    UnitResult,
    UserTranscript,
)
from omni.errors import MissingField, NotReady, ProtocolError, UnknownEvent
from omni.messages import Queued
from omni.realtime.binary_sound import TAGS
from omni.realtime.dialect import (
    Begin,
    ChatAnswered,
    ContextFull,
    Notice,
    Open,
    QueueDone,
    Ready,
    RecordingStopped,
    Sound,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    TurnBegun,
    UnitAnswered,
    Waiting,
)
from omni.realtime.r2 import R2Dialect
from omni.realtime.r2_chat import R2ChatDialect

SOUND = np.full(800, 0.25, "<f4").tobytes()
AUDIO = base64.b64encode(SOUND).decode()
PLACE = Queued(ticket_id="q_1", position=2, estimated_wait_s=3.5, queue_length=4)
READY = Ready(
    prepared=Prepared(prompt_length=40, audio_tokens=30),
    session_id="sess_0123456789ab",
    engine="null",
    model="m",
    timeout_s=None,
)
LISTEN = UnitResult(is_listen=True, audio_tokens=10, vision_tokens=64, kv_cache_length=50)
SPEAK = UnitResult(
    is_listen=False,
    text="hi",
    pcm=Buffer(SOUND),
    n_tokens=3,
    n_tts_tokens=25,
    audio_tokens=10,
    costs=StageCosts(prefill_ms=1, llm_ms=2, tts_ms=3, all_ms=9),
)
Told = dict[str, Any]  # JSON of the dialect under test


def _dialect() -> R2Dialect:
    dialect = R2Dialect("omni_duplex", 900.0)
    dialect.render(READY)
    return dialect


def _chat_dialect(**payload: object) -> R2ChatDialect:
    dialect = R2ChatDialect()
    assert dialect.parse(orjson.dumps({"type": "session.init", "payload": payload}), False)
    dialect.render(QueueDone())
    dialect.render(evolve(READY, prepared=Prepared()))
    return dialect


def _told(dialect: R2Dialect | R2ChatDialect, *notices: Notice) -> list[Told]:
    return [orjson.loads(frame.data) for notice in notices for frame in dialect.render(notice)]


def _answered(result: UnitResult, input_id: str = "") -> UnitAnswered:
    return UnitAnswered(result=result, wall_clock_ms=5.0, sent_at=1.0, input_id=input_id)


def _kinds(events: Sequence[Told]) -> list[str]:
    """Return the event types, of deltas their kinds."""
    return [event.get("kind", event["type"]) for event in events]


def _heard_by_sdk(events: Sequence[Told]) -> list[str]:
    """Return what the SDK's own parser makes of *events*."""
    return [parse_server_event(orjson.dumps(event)).kind for event in events]


def _parse(event: object, dialect: R2Dialect | R2ChatDialect | None = None) -> object:
    return (dialect or _dialect()).parse(orjson.dumps(event), False)


def _init(**payload: object) -> PrepareDuplex:
    command = _parse({"type": "session.init", "payload": payload})
    assert isinstance(command, Open) and isinstance(command.input, PrepareDuplex)
    return command.input


def _append(**input: object) -> Sound:
    command = _parse({"type": "input.append", "input": input})
    assert isinstance(command, Sound)
    return command


INIT = {"type": "session.init"}


# --- session.init


@pytest.mark.parametrize("event", [{"type": "session.init"}, INIT | {"payload": {}}])
def test_an_empty_init_is_all_defaults(event: object) -> None:
    opened = _parse(event, R2Dialect("audio_duplex", 900.0))

    assert opened == Open(
        input=PrepareDuplex(mode="audio_duplex"), silence_s=900.0, recuts=True
    )


def test_the_configuration_of_the_sdk_reaches_the_engine() -> None:
    config = {
        "length_penalty": 1.4,
        "max_tokens": 60,
        "temperature": 0.2,
        "max_kv_tokens": 4000,
        "tts_enabled": False,
        "vision_hd": True,
        "top_k": 7,
    }
    voice = {"ref_audio_base64": AUDIO, "tts_ref_audio_base64": AUDIO}
    payload = {"system_prompt": "Be kind.", "config": config, "voice": voice}

    opened = _parse({"type": "session.init", "payload": payload})

    assert isinstance(opened, Open) and opened.max_kv_tokens == 4000
    assert opened.input == PrepareDuplex(
        mode="omni_duplex",
        system_prompt="Be kind.",
        voice=Buffer(SOUND),
        tts_voice=Buffer(SOUND),
        length_penalty=1.4,
        max_turn_tokens=60,
        temperature=0.2,
        generate_audio=False,
        max_slice_nums=2,
        top_k=7,
    )


def test_the_other_names_are_read_as_well() -> None:
    prepare = _init(instructions="Be kind.", voice={"ref_audio": AUDIO, "tts_ref_audio": AUDIO})

    assert prepare.system_prompt == "Be kind."
    assert len(prepare.voice) == len(prepare.tts_voice) == len(SOUND)


@pytest.mark.parametrize(
    ("payload", "slices"),
    [
        ({"config": {"vision_hd": True}, "max_slice_nums": 5}, 5),
        ({"config": {"vision_hd": True, "max_slice_nums": 3}}, 3),
        ({"config": {"vision_hd": False}}, 1),
    ],
)
def test_slices_are_what_was_said_most_exactly(payload: Told, slices: int) -> None:
    assert _init(**payload).max_slice_nums == slices


# --- input.append


@pytest.mark.parametrize("name", ["video_frames", "frame_base64_list", "frames"])
@pytest.mark.parametrize("audio", [AUDIO, {"data": AUDIO}])
def test_sound_and_pictures_have_many_names(name: str, audio: object) -> None:
    sound = _append(audio=audio, **{name: [base64.b64encode(b"jpeg").decode()]}, input_id="in_1")

    assert sound.chunk.pcm == SOUND and sound.chunk.frames == (Buffer(b"jpeg"),)
    assert sound.input_id == "in_1"


@pytest.mark.parametrize(
    ("fields", "force", "slices"),
    [
        ({"force_listen": True, "max_slice_nums": 4}, True, 4),
        ({"hints": {"force_listen": True, "max_slice_nums": [1, 3, 2]}}, True, 3),
        ({"max_slice_nums": []}, False, None),
    ],
)
def test_hints_are_read_in_both_places(fields: Told, force: bool, slices: int | None) -> None:
    chunk = _append(audio=AUDIO, **fields).chunk

    assert (chunk.force_listen, chunk.max_slice_nums) == (force, slices)


def test_pictures_may_come_without_sound() -> None:
    chunk = _append(frames=[base64.b64encode(b"jpeg").decode()]).chunk

    assert (len(chunk.pcm), len(chunk.frames)) == (0, 1)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "session.update"}, UnknownEvent),
        ({}, MissingField),
        (INIT | {"payload": []}, ProtocolError),
        (INIT | {"payload": {"config": {"temperature": "hot"}}}, ProtocolError),
        (INIT | {"payload": {"mode": "turn_based"}}, ProtocolError),
        (INIT | {"payload": {"tools": [{"name": "f"}]}}, ProtocolError),
        (INIT | {"payload": {"config": {"tools": [{"name": "f"}]}}}, ProtocolError),
        (INIT | {"payload": {"voice": {"ref_audio_base64": "%"}}}, ProtocolError),
        ({"type": "input.append"}, MissingField),
        ({"type": "input.append", "input": {}}, MissingField),
        ({"type": "input.append", "input": {"audio": ""}}, MissingField),
        ({"type": "input.append", "input": {"audio": "AAA="}}, ProtocolError),
        ({"type": "input.append", "input": {"audio": AUDIO, "frames": [1]}}, ProtocolError),
        (
            {"type": "input.append", "input": {"audio": AUDIO, "max_slice_nums": ["x"]}},
            ProtocolError,
        ),
    ],
)
def test_a_wrong_event_is_a_warning_with_its_reason(
    event: Told, kind: type[ProtocolError]
) -> None:
    """The SDK takes every `error` for the end of the session."""
    dialect = _dialect()
    with pytest.raises(ProtocolError) as refused:
        _parse(event, dialect)
    error = refused.value

    trouble = Trouble(code=error.code, text="", message=str(error), reason=error.reason)
    (told,) = _told(dialect, trouble)

    assert error.reason == kind.reason
    assert told == {"type": "session.warning", "code": kind.reason, "message": str(error)}
    assert _heard_by_sdk([told]) == ["other"]


def test_sound_before_the_session_is_created_is_not_ready() -> None:
    with pytest.raises(NotReady):
        _parse({"type": "input.append", "input": {"audio": AUDIO}}, R2Dialect("audio_duplex", 9))


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes, binary: bool) -> None:
    for dialect in (_dialect(), R2ChatDialect()):
        try:
            dialect.parse(data, binary)
        except ProtocolError:
            continue
        assert binary and data[:4] in TAGS


# --- units


def test_an_idle_unit_is_one_listen_that_the_sdk_passes_over() -> None:
    events = _told(_dialect(), _answered(LISTEN, "in_7"))

    assert _kinds(events) == ["listen"] and "text" not in events[0]
    assert _heard_by_sdk(events) == ["other"]
    assert (events[0]["session_id"], events[0]["input_id"]) == (READY.session_id, "in_7")
    assert events[0]["server_send_ts"] == 1.0
    assert events[0]["metrics"]["kv_cache_length"] == 50


def test_a_turn_over_three_units_completes_once() -> None:
    dialect = _dialect()
    last = evolve(SPEAK, text="bye", end_of_turn=True)

    events = _told(dialect, *map(_answered, [LISTEN, SPEAK, SPEAK, last, LISTEN, SPEAK]))

    assert _kinds(events) == [
        "listen",
        *["text", "audio"] * 3,
        "listen",
        "listen",
        *["text", "audio"],
    ]
    assert _heard_by_sdk(events).count("listen") == 1
    assert [event["end_of_turn"] for event in events if event.get("kind") == "text"] == [
        False,
        False,
        True,
        False,
    ]
    turns = [event["response_id"] for event in events]
    assert len(set(turns[1:8])) == 1, "a turn has one response id, its end included"
    assert len({turns[0], turns[1], turns[8], turns[9]}) == 4
    assert all(turn.startswith("resp_") for turn in turns)
    assert base64.b64decode(events[2]["audio"]) == SOUND


def test_an_interrupted_turn_completes_once() -> None:
    dialect = _dialect()
    cut = evolve(LISTEN, interrupted=True)

    events = _told(dialect, *map(_answered, [SPEAK, cut, cut, LISTEN]))

    assert _heard_by_sdk(events).count("listen") == 1
    assert events[2]["text"] == "" and events[2]["response_id"] == events[0]["response_id"]


def test_a_pause_in_a_turn_is_sound_that_is_not_there() -> None:
    (event,) = _told(_dialect(), _answered(UnitResult(is_listen=False)))

    assert (event["kind"], event["audio"]) == ("audio", None)


def test_usage_is_cumulative_and_exact() -> None:
    dialect = _dialect()

    events = _told(dialect, *map(_answered, [LISTEN, SPEAK, evolve(SPEAK, end_of_turn=True)]))
    (closed,) = _told(dialect, Stopped())

    told = [event for event in events if "usage" in event]
    assert [event["chunk_index"] for event in told] == [1, 2, 3]
    assert [event.get("kind") for event in told] == ["listen", "audio", "audio"]
    assert told[1]["chunk_usage"]["total_tokens"] == 10 + 3 + 25
    assert closed["usage"] == told[-1]["usage"] == {
        "total_tokens": 190,
        "input_tokens": 134,
        "output_tokens": 56,
        "input_token_details": {
            "text_tokens": 10,
            "audio_tokens": 60,
            "image_tokens": 64,
            "vision_tokens": 64,
            "video_tokens": 0,
            "cached_tokens": 0,
        },
        "output_token_details": {"text_tokens": 6, "audio_tokens": 50},
    }
    usage = parse_server_event(orjson.dumps(closed)).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.vision_input_tokens) == (134, 64)


def test_a_turn_without_sound_tells_its_usage_in_an_event_of_its_own() -> None:
    silent = evolve(SPEAK, pcm=Buffer(b""), end_of_turn=True)

    events = _told(_dialect(), _answered(silent))

    assert _kinds(events) == ["text", "listen", "session.usage"]
    assert _heard_by_sdk(events) == ["text", "listen", "usage"]


# --- the session


@pytest.mark.parametrize(
    ("notice", "kind"),
    [
        (Waiting(place=PLACE, first=True), "queued"),
        (Waiting(place=PLACE, first=False), "queued"),
        (QueueDone(), "queue_done"),
        (Stopped(), "closed"),
        (TimedOut(reason="Silence timeout", elapsed_s=900), "closed"),
        (ContextFull(), "closed"),
        (UserTranscript(text="hello"), "other"),
        (RecordingStopped(recording_id="r", reason="disk full"), "other"),
        (Trouble(code="generation_failed", text="", message="a unit was lost"), "other"),
        (Trouble(code="no_capacity", text="", message="m", fatal=True), "error"),
    ],
)
def test_the_sdk_understands_every_notice_as_meant(notice: Notice, kind: str) -> None:
    assert _heard_by_sdk(_told(_dialect(), notice))[0] == kind


def test_a_created_session_has_its_id_where_the_sdk_looks() -> None:
    (event,) = _told(R2Dialect("audio_duplex", 9), READY)

    assert event == {
        "type": "session.created",
        "session_id": READY.session_id,
        "mode": "full_duplex",
        "metrics": {},
    }


@pytest.mark.parametrize(
    ("reason", "told"),
    [("user_stop", "user_stop"), (None, "user_stop"), ("turn_done", "client_closed")],
)
def test_the_end_has_the_client_s_reason(reason: str | None, told: str) -> None:
    dialect = _dialect()

    assert _parse({"type": "session.close", "reason": reason}, dialect) == Stop()
    (closed,) = _told(dialect, Stopped())

    assert (closed["type"], closed["reason"]) == ("session.closed", told)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (Trouble(code="queue_full", text="", message="m", fatal=True), "queue_full"),
        (Trouble(code="no_worker", text="", message="m", fatal=True), "service_unavailable"),
        (Trouble(code="worker_lost", text="", message="m", fatal=True), "worker_lost"),
        (Trouble(code="server_error", text="", message="m", fatal=True), "session_failed"),
    ],
)
def test_an_error_that_ends_a_session_is_followed_by_its_close(trouble: Trouble, told: str) -> None:
    error, closed = _told(_dialect(), trouble)

    assert error["error"] == {"code": told, "message": "m", "type": "server_error"}
    assert (closed["reason"], closed["diagnostic"]) == ("backend_error", {"message": "m"})


def test_a_server_that_stops_is_no_error() -> None:
    stopping = Trouble(
        code="cancelled", text="", message="", reason="server_shutdown", fatal=True
    )

    (closed,) = _told(_dialect(), stopping)

    assert (closed["type"], closed["reason"]) == ("session.closed", "server_shutdown")


# --- turns


def _turn(dialect: R2ChatDialect, **input: object) -> Open:
    messages = [{"role": "user", "content": "hello"}]
    command = _parse({"type": "input.append", "input": {"messages": messages, **input}}, dialect)
    assert isinstance(command, Open)
    return command


def _request(opened: Open) -> ChatRequest:
    assert isinstance(opened.input, ChatRequest)
    return opened.input


def test_a_turn_takes_from_init_what_it_does_not_say() -> None:
    config = {"max_tokens": 40, "temperature": 0.1, "length_penalty": 1.5, "tts_enabled": True}
    voice = {"ref_audio_base64": AUDIO}
    dialect = _chat_dialect(system_prompt="Be kind.", config=config, voice=voice)

    silent = _turn(dialect)
    chosen = _turn(
        dialect,
        messages=[
            {"role": "system", "content": "Be rude."},
            {"role": "user", "content": "hello"},
        ],
        generation={"max_new_tokens": 9, "temperature": None},
        tts={"enabled": False},
        streaming=False,
        input_id="in_2",
    )

    first, second = _request(silent), _request(chosen)
    assert [message.role for message in first.messages] == ["system", "user"]
    assert (first.max_new_tokens, first.temperature, first.length_penalty) == (40, 0.1, 1.5)
    assert first.speak and first.voice == SOUND and silent.stream
    assert first.messages[0].parts[0].text == "Be kind."
    assert second.messages[0].parts[0].text == "Be rude." and len(second.messages) == 2
    assert (second.max_new_tokens, second.temperature, second.speak) == (9, 0.1, False)
    assert (chosen.stream, chosen.input_id) == (False, "in_2")


def test_a_second_init_changes_no_later_turn() -> None:
    """The session refuses it; its instructions were taken all the same."""
    dialect = _chat_dialect(system_prompt="Be kind.")
    _parse({"type": "session.init", "payload": {"system_prompt": "Be rude."}}, dialect)

    request = _request(_turn(dialect))

    assert request.messages[0].parts[0].text == "Be kind."


def test_a_streamed_turn_is_deltas_and_a_done() -> None:
    dialect = _chat_dialect()
    done = ChatDone(
        text="hello you",
        input_tokens=100,
        generated_tokens=7,
        input_audio_tokens=20,
        input_image_tokens=64,
        speech_tokens=50,
    )

    events = _told(
        dialect,
        TurnBegun(input_id="in_1"),
        ReplyChunk(text="hello ", pcm=Buffer(SOUND)),
        ReplyChunk(text="you"),
        ReplyChunk(is_final=True),
        ChatAnswered(done=done, stream=True, pcm=b""),
        TurnBegun(),
        ChatAnswered(done=evolve(done, text="again"), stream=False, pcm=SOUND),
    )

    assert _kinds(events) == ["text", "audio", "text", "response.done", "response.done"]
    assert _heard_by_sdk(events) == ["text", "audio", "text", "turn_completed", "turn_completed"]
    first, second = events[3:]
    assert {event["response_id"] for event in events[:4]} == {first["response_id"]}
    assert first["response_id"] != second["response_id"]
    assert (first["text"], first["audio"], first["reason"]) == ("hello you", None, "turn_end")
    assert (first["input_id"], second["input_id"]) == ("in_1", None)
    assert base64.b64decode(second["audio"]) == SOUND
    assert first["usage"]["input_token_details"]["text_tokens"] == 16
    assert second["usage"]["total_tokens"] == 2 * first["usage"]["total_tokens"] == 314


def test_a_failed_turn_is_done_all_the_same() -> None:
    done = ChatDone(text="half", input_tokens=0, generated_tokens=0, finish_reason="cancelled")
    failed = ChatAnswered(done=done, stream=True, pcm=b"", failure="generation_failed")

    (event,) = _told(_chat_dialect(), failed)

    assert (event["type"], event["reason"], event["text"]) == ("response.done", "error", "half")


def test_only_a_turn_that_waited_is_told_that_it_is_its_turn() -> None:
    dialect = _chat_dialect()

    silent = _told(dialect, QueueDone())
    waited = _told(dialect, Waiting(place=PLACE, first=True), QueueDone(), QueueDone())

    assert silent == []
    assert _kinds(waited) == ["session.queued", "session.queue_done"]


ASKED = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "input.append", "input": {"audio": AUDIO}}, MissingField),
        ({"type": "input.append"}, MissingField),
        ({"type": "input.append", "input": {"messages": []}}, ProtocolError),
        ({"type": "input.append", "input": {"messages": [{"role": "cat"}]}}, ProtocolError),
        (INIT | {"payload": {"config": {"max_tokens": 0}}}, ProtocolError),
        (INIT | {"payload": {"system_prompt": 5}}, ProtocolError),
        (INIT | {"payload": {"tools": [{"name": "f"}]}}, ProtocolError),
        (
            {"type": "input.append", "input": {"messages": ASKED, "tools": [{"name": "f"}]}},
            ProtocolError,
        ),
        ({"type": "response.cancel"}, UnknownEvent),
    ],
)
def test_a_wrong_event_of_a_turn_is_named(event: object, kind: type[ProtocolError]) -> None:
    with pytest.raises(ProtocolError) as refused:
        _parse(event, _chat_dialect())

    assert refused.value.reason == kind.reason


def test_a_turn_before_init_is_not_ready() -> None:
    dialect = R2ChatDialect()

    with pytest.raises(NotReady):
        _turn(dialect)
    assert _parse({"type": "session.init"}, dialect) == Begin()

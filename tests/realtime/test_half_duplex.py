import base64
import io
from collections.abc import Sequence

import orjson
import pytest
from attrs import evolve
from PIL import Image

from omni.engine import (
    AudioChunk,
    Buffer,
    Capabilities,
    Failed,
    Generating,
    Part,
    Prepared,
    PrepareHalfDuplex,
    ReplyChunk,
    StopAnswer,
    TurnDone,
    VadParams,
    VadState,
)
from omni.errors import ProtocolError
from omni.messages import Leased
from omni.realtime.dialect import Interrupt, Notice, Open, Ready, Sound, Stop, TimedOut
from omni.realtime.half_duplex import DEFAULT_PROMPT, HalfDuplexDialect
from omni.realtime.half_duplex_session import HalfDuplexSession
from omni.realtime.session import Action, End, Send, Tell

VOICE = bytes(8)
VOICE_TEXT = base64.b64encode(VOICE).decode()
CHUNK = Sound(chunk=AudioChunk(pcm=Buffer(bytes(8))))


def _open(event: dict[str, object]) -> Open:
    command = HalfDuplexDialect(300.0).parse(orjson.dumps({"type": "prepare", **event}), False)
    assert isinstance(command, Open)
    return command


def _prepare(event: dict[str, object]) -> PrepareHalfDuplex:
    prepare = _open(event).input
    assert isinstance(prepare, PrepareHalfDuplex)
    return prepare


def _live(timeout_s: float = 300.0) -> HalfDuplexSession:
    session = HalfDuplexSession(
        request_type="half_duplex_audio", client_id="hdx_1", prepare_timeout_s=60.0
    )
    capabilities = Capabilities(engine="fake", model="m", modes=("half_duplex",), num_slots=1)
    lease = Leased(
        worker="worker-0",
        gpu="",
        slot=0,
        request_type="half_duplex_audio",
        client_id="hdx_1",
        ticket_id="",
        capabilities=capabilities,
    )
    session.leased(lease, 90.0)
    session.take(Open(input=PrepareHalfDuplex(), timeout_s=timeout_s), 100.0)
    session.hear(Prepared(), 101.0)
    return session


def small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def _events(dialect: HalfDuplexDialect, *notices: Notice) -> list[dict[str, object]]:
    return [orjson.loads(frame.data) for n in notices for frame in dialect.render(n)]


def test_a_prepare_without_fields_has_every_default_of_the_protocol() -> None:
    opening = _open({})

    assert opening.timeout_s == 300.0
    assert opening.input == PrepareHalfDuplex(system=(Part(kind="text", text=DEFAULT_PROMPT),))


def test_the_config_reaches_the_engine() -> None:
    opening = _open(
        {
            "config": {
                "vad": {
                    "threshold": 0.8,
                    "min_speech_duration_ms": 100,
                    "min_silence_duration_ms": 800,
                    "speech_pad_ms": 60,
                },
                "generation": {"max_new_tokens": 64, "length_penalty": 1.3, "temperature": 0.2},
                "tts": {"enabled": False},
                "session": {"timeout_s": 30},
            }
        }
    )

    assert opening.timeout_s == 30.0
    assert isinstance(opening.input, PrepareHalfDuplex)
    assert opening.input.vad == VadParams(
        threshold=0.8,
        min_speech_duration_ms=100,
        min_silence_duration_ms=800,
        speech_pad_ms=60,
    )
    assert (opening.input.max_new_tokens, opening.input.temperature) == (64, 0.2)
    assert opening.input.speak is False


def test_pictures_are_cut_as_they_say_or_as_prepare_says() -> None:
    dialect = HalfDuplexDialect(300.0)
    chunk: dict[str, object] = {"type": "audio_chunk", "audio_base64": VOICE_TEXT}
    config = {"vision": {"max_slice_nums": 2}}
    dialect.parse(orjson.dumps({"type": "prepare", "config": config}), False)

    events = (chunk, chunk | {"max_slice_nums": 4})
    said = [dialect.parse(orjson.dumps(event), False) for event in events]

    assert [each.chunk.max_slice_nums for each in said if isinstance(each, Sound)] == [2, 4]


def test_system_content_keeps_its_order_and_its_voice() -> None:
    content = [{"type": "text", "text": "Be"}, {"type": "audio", "data": VOICE_TEXT, "name": "x"}]

    assert _prepare({"system_content": content}).system == (
        Part(kind="text", text="Be"),
        Part(kind="audio", data=Buffer(VOICE)),
    )


def test_the_words_of_the_documents_are_synonyms() -> None:
    system = _prepare({"system_prompt": "Be", "ref_audio_base64": VOICE_TEXT}).system

    assert [part.kind for part in system] == ["text", "audio"]


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"system_content": [{"type": "image", "data": "/9j/"}]}, "system_content"),
        ({"system_content": [{"type": "audio"}]}, "system_content"),
        ({"system_content": [5]}, "system_content"),
        ({"config": {"vad": {"threshold": 7}}}, "config.vad.threshold"),
        ({"config": {"session": {"timeout_s": 0}}}, "config.session.timeout_s"),
    ],
)
def test_a_wrong_field_of_prepare_is_named(event: dict[str, object], path: str) -> None:
    with pytest.raises(ProtocolError, match=path.replace(".", r"\.")):
        _prepare(event)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ProtocolError, match="Unknown type: dance"):
        HalfDuplexDialect(300.0).parse(b'{"type": "dance"}', False)


def test_a_turn_is_told_in_the_words_of_the_protocol() -> None:
    dialect = HalfDuplexDialect(300.0)

    events = _events(
        dialect,
        VadState(speaking=False),
        Generating(speech_duration_ms=900),
        ReplyChunk(text="Hi", pcm=Buffer(bytes(2400 * 4))),
        ReplyChunk(is_final=True),
        TurnDone(turn_index=1, text="Hi"),
        Generating(speech_duration_ms=900),
        ReplyChunk(text="Again"),
    )

    assert [event["type"] for event in events] == [
        "vad_state",
        "generating",
        "chunk",
        "chunk",
        "turn_done",
        "generating",
        "chunk",
    ]
    assert [e["chunk_index"] for e in events if e["type"] == "chunk"] == [0, 1, 0]
    assert (events[2]["text_delta"], events[2]["duration_ms"]) == ("Hi", 100)
    assert (events[3]["audio_data"], events[3]["is_final"]) == (None, True)
    assert (events[4]["turn_index"], events[4]["text"]) == (1, "Hi")


def test_prepared_tells_how_long_the_session_may_last() -> None:
    ready = Ready(
        prepared=Prepared(), session_id="hdx_1", engine="null", model="m", timeout_s=180.0
    )

    (event,) = _events(HalfDuplexDialect(300.0), ready)

    assert (event["type"], event["session_id"], event["timeout_s"]) == ("prepared", "hdx_1", 180.0)


def _ends(actions: Sequence[Action]) -> list[End]:
    return [action for action in actions if isinstance(action, End)]


def test_the_time_is_absolute_from_prepare() -> None:
    session = _live(30.0)
    session.take(CHUNK, 125.0)

    assert session.deadline == 130.0
    told, end = session.expire(130.0)
    assert isinstance(told, Tell) and isinstance(told.notice, TimedOut)
    assert told.notice.elapsed_s == 30.0
    assert isinstance(end, End) and end.code == 1000


def test_sound_during_an_answer_is_dropped_and_after_it_heard_again() -> None:
    session = _live()
    session.hear(Generating(speech_duration_ms=500), 110.0)

    during = session.take(CHUNK, 111.0)
    session.hear(TurnDone(turn_index=1, text=""), 112.0)
    after = session.take(CHUNK, 113.0)

    assert (during, after) == ([], [Send(CHUNK.chunk)])


def test_a_chunk_brings_its_pictures() -> None:
    picture = base64.b64encode(small_jpeg()).decode()
    event = {
        "type": "audio_chunk",
        "audio_base64": base64.b64encode(bytes(64)).decode(),
        "frame_base64_list": [picture],
        "max_slice_nums": 2,
    }

    command = HalfDuplexDialect(300.0).parse(orjson.dumps(event), binary=False)

    assert isinstance(command, Sound)
    assert len(command.chunk.frames) == 1 and command.chunk.max_slice_nums == 2


def test_pictures_for_an_engine_without_eyes_are_refused_and_the_sound_is_heard() -> None:
    session = _live()
    chunk = evolve(CHUNK.chunk, frames=(Buffer(b"a picture"),))

    told, sent = session.take(Sound(chunk=chunk), 111.0)

    assert isinstance(told, Tell) and "sees no pictures" in str(told)
    assert sent == Send(CHUNK.chunk)


def test_stop_during_an_answer_ends_at_once() -> None:
    session = _live()
    session.hear(Generating(speech_duration_ms=500), 110.0)

    assert _ends(session.take(Stop(), 111.0)) == [End(1000)]


def test_interrupt_cuts_a_running_answer_only() -> None:
    session = _live()

    idle = session.take(Interrupt(), 105.0)
    session.hear(Generating(speech_duration_ms=500), 110.0)
    answering = session.take(Interrupt(), 111.0)

    assert Send(StopAnswer()) not in idle
    assert Send(StopAnswer()) in answering


def test_a_failed_answer_keeps_the_session() -> None:
    session = _live()
    session.hear(Generating(speech_duration_ms=500), 110.0)

    failed = session.hear(Failed(code="generation_failed", message="no"), 111.0)
    session.hear(TurnDone(turn_index=1, text=""), 111.0)

    assert [type(action) for action in failed] == [Tell]
    assert session.take(CHUNK, 112.0) == [Send(CHUNK.chunk)]

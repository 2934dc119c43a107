import base64

import orjson
import pytest

from omni.engine import (
    Buffer,
    Capabilities,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Part,
    PrefillDone,
    ReplyChunk,
    StopAnswer,
)
from omni.errors import ProtocolError
from omni.messages import Leased
from omni.realtime.chat import HTTP_MAX_NEW_TOKENS, ChatDialect, parse_request
from omni.realtime.chat_session import ChatSession
from omni.realtime.dialect import ChatAnswered, Notice, Open, Stop, Trouble
from omni.realtime.fields import FieldError, Fields
from omni.realtime.session import End, Send, Tell

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
MESSAGES = (ChatMessage(role="user", parts=(Part(kind="text", text="hello"),)),)
DONE = ChatDone(text="hi", input_tokens=3, generated_tokens=1)


def _open(event: dict[str, object]) -> Open:
    command = ChatDialect().parse(orjson.dumps(event), False)
    assert isinstance(command, Open)
    return command


def _request(event: dict[str, object]) -> ChatRequest:
    request = _open({**HELLO, **event}).input
    assert isinstance(request, ChatRequest)
    return request


def _user(content: list[object]) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


def _events(*notices: Notice) -> list[dict[str, object]]:
    return [orjson.loads(frame.data) for n in notices for frame in ChatDialect().render(n)]


def _session(stream: bool = True, request: ChatRequest | None = None) -> ChatSession:
    session = ChatSession(
        request_type="chat", client_id="chat_1", prepare_timeout_s=60, request_timeout_s=300
    )
    session.take(Open(input=request or ChatRequest(messages=MESSAGES), stream=stream), 10.0)
    return session


def _leased(session: ChatSession) -> list[object]:
    capabilities = Capabilities(engine="fake", model="m", modes=("chat",), num_slots=1)
    lease = Leased(
        worker="worker-0",
        gpu="",
        slot=0,
        request_type="chat",
        client_id="chat_1",
        ticket_id="",
        capabilities=capabilities,
    )
    return list(session.leased(lease, 11.0))


def test_a_plain_request_has_the_defaults_of_its_way_in() -> None:
    assert _request({}) == ChatRequest(messages=MESSAGES, max_new_tokens=256)
    assert parse_request(Fields(HELLO), HTTP_MAX_NEW_TOKENS).max_new_tokens == 512
    assert _open(HELLO).stream is True


def test_every_kind_of_part_is_read() -> None:
    data = base64.b64encode(bytes(8)).decode()
    content = [
        {"type": "text", "text": "look", "name": "ignored"},
        {"type": "image", "data": "/9j/"},
        {"type": "audio", "data": data, "sample_rate": 16000, "duration": 1},
        {"type": "video", "data": "AAAA", "stack_frames": 2},
        "and listen",
    ]

    (message,) = _request({"messages": [{"role": "user", "content": content}]}).messages

    assert [part.kind for part in message.parts] == ["text", "image", "audio", "video", "text"]
    assert message.parts[2].data == bytes(8)
    assert message.parts[3].stack_frames == 2


def test_sound_of_another_rate_is_resampled() -> None:
    data = base64.b64encode(bytes(4 * 4800)).decode()
    content = [{"type": "audio", "data": data, "sample_rate": 48000}]

    (message,) = _request({"messages": [{"role": "user", "content": content}]}).messages

    assert len(message.parts[0].data) == 4 * 1600


def test_options_reach_the_engine() -> None:
    request = _request(
        {
            "generation": {"max_new_tokens": 7, "do_sample": False, "temperature": 0.1, "top_k": 3},
            "image": {"max_slice_nums": 2, "use_image_id": True},
            "tts": {"enabled": True, "mode": "omni", "ref_audio_data": "AAAAAA=="},
            "omni_mode": True,
            "enable_thinking": True,
            "streaming": False,
        }
    )

    assert (request.max_new_tokens, request.do_sample, request.top_k) == (7, False, 3)
    assert (request.max_slice_nums, request.use_image_id) == (2, True)
    assert (request.speak, request.voice) == (True, bytes(4))
    assert request.omni_mode and request.enable_thinking


def test_messages_without_content_are_left_out() -> None:
    messages = [{"role": "system", "content": []}, *HELLO["messages"]]

    assert _request({"messages": messages}).messages == MESSAGES


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (_user([{"text": "x"}]), "messages[0].content[0].type"),
        (_user([{"type": "image"}]), "messages[0].content[0].data"),
        ({**HELLO, "generation": {"max_new_tokens": 0}}, "generation.max_new_tokens"),
        ({**HELLO, "generation": {"length_penalty": 9}}, "generation.length_penalty"),
        ({**HELLO, "tts": {"mode": "sing"}}, "tts.mode"),
        ({**HELLO, "image": {"max_slice_nums": 99}}, "image.max_slice_nums"),
    ],
)
def test_a_wrong_field_is_named(event: dict[str, object], path: str) -> None:
    with pytest.raises(FieldError) as caught:
        _open(event)

    assert str(caught.value).startswith(path + ":")


def test_a_binary_frame_is_no_request() -> None:
    with pytest.raises(ProtocolError):
        ChatDialect().parse(b"S16L\0\0", True)


def test_pieces_carry_only_what_they_have() -> None:
    events = _events(
        PrefillDone(input_tokens=9),
        ReplyChunk(text="a"),
        ReplyChunk(pcm=Buffer(bytes(4))),
        ReplyChunk(is_final=True),
    )

    assert events == [
        {"type": "prefill_done", "input_tokens": 9},
        {"type": "chunk", "text_delta": "a"},
        {"type": "chunk", "audio_data": "AAAAAA=="},
    ]


def test_done_has_sound_only_when_nothing_was_streamed() -> None:
    (streamed,) = _events(ChatAnswered(done=DONE, stream=True, pcm=b""))
    (whole,) = _events(ChatAnswered(done=DONE, stream=False, pcm=bytes(4)))

    assert "audio_data" not in streamed
    assert (whole["text"], whole["audio_data"]) == ("hi", "AAAAAA==")
    assert (whole["generated_tokens"], whole["input_tokens"]) == (1, 3)


def test_the_request_is_sent_as_soon_as_there_is_a_slot() -> None:
    assert Send(ChatRequest(messages=MESSAGES)) in _leased(_session())


def test_a_whole_answer_gathers_its_sound() -> None:
    session = _session(stream=False)
    _leased(session)

    for _ in range(2):
        assert session.hear(ReplyChunk(text="a", pcm=Buffer(bytes(4))), 12.0) == []
    told, end = session.hear(DONE, 12.0)

    assert isinstance(told, Tell) and isinstance(told.notice, ChatAnswered)
    assert told.notice.pcm == bytes(8)
    assert end == End(1000)


def test_a_wrong_request_ends_its_socket_with_an_error() -> None:
    session = ChatSession(
        request_type="chat", client_id="chat_1", prepare_timeout_s=60, request_timeout_s=300
    )

    told, end = session.refuse(ProtocolError("messages: missing"))

    assert isinstance(told, Tell) and isinstance(told.notice, Trouble)
    assert end == End(1003)


def test_a_second_request_is_refused_and_the_first_goes_on() -> None:
    session = _session()

    actions = session.take(Open(input=ChatRequest(messages=MESSAGES)), 11.0)

    assert [type(action) for action in actions] == [Tell]
    assert session.state == "waiting"


def test_stop_cuts_a_running_answer_and_leaves_the_queue() -> None:
    waiting, running = _session(), _session()
    _leased(running)

    assert End(1000) in waiting.take(Stop(), 12.0)
    assert running.take(Stop(), 12.0) == [Send(StopAnswer())]


def test_a_failed_answer_ends_with_an_error() -> None:
    session = _session()
    _leased(session)

    told, end = session.hear(Failed(code="generation_failed", message="no"), 12.0)

    assert isinstance(told, Tell) and isinstance(told.notice, Trouble)
    assert end == End(1011, "no")


def test_a_request_that_takes_too_long_ends() -> None:
    session = _session()

    assert session.deadline == 310.0
    assert session.expire(310.0)[-1] == End(1013, "Request timeout (300.0s)")


def test_pictures_are_refused_by_an_engine_without_eyes() -> None:
    image = Part(kind="image", data=Buffer(b"jpeg"))
    request = ChatRequest(messages=(ChatMessage(role="user", parts=(image,)),))

    actions = _leased(_session(request=request))

    assert not any(isinstance(action, Send) for action in actions)
    assert isinstance(actions[-1], End)

"""The older streaming chat apart from sockets: what is said and done, and when time is over."""

from collections.abc import Sequence

import orjson
import pytest

from omni.engine import (
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
from omni.errors import ProtocolError, QueueFull, WorkerLost
from omni.messages import Leased
from omni.realtime.dialect import (
    Generate,
    Interrupt,
    Open,
    Prefilled,
    QueueDone,
    Stop,
    StreamEnded,
    Trouble,
)
from omni.realtime.session import Action, End, GiveBack, Send, Tell
from omni.realtime.streaming import StreamingDialect
from omni.realtime.streaming_session import StreamingSession

MESSAGES = (ChatMessage(role="user", parts=(Part(kind="text", text="hello"),)),)
PREFILL = Open(input=ChatRequest(messages=MESSAGES))
GENERATE = Generate(speak=False, max_new_tokens=7, length_penalty=1.3)
DONE = ChatDone(text="hi", input_tokens=3, generated_tokens=1)


def session() -> StreamingSession:
    return StreamingSession(
        request_type="streaming", client_id="stm_1", prepare_timeout_s=60, request_timeout_s=300
    )


def lease(vision: bool = True) -> Leased:
    capabilities = Capabilities(
        engine="fake", model="m", modes=("chat",), num_slots=1, vision=vision
    )
    return Leased(
        worker="worker-3",
        gpu="",
        slot=0,
        request_type="streaming",
        client_id="stm_1",
        ticket_id="",
        capabilities=capabilities,
    )


def asked() -> StreamingSession:
    """Return a session whose answer is being made: prefill at 10, slot at 11, asked at 12."""
    one = session()
    one.take(PREFILL, 10.0)
    one.leased(lease(), 11.0)
    one.take(GENERATE, 12.0)
    return one


def kinds(actions: Sequence[Action]) -> list[type]:
    return [type(a.notice) if isinstance(a, Tell) else type(a) for a in actions]


def parse(event: dict[str, object]) -> object:
    return StreamingDialect().parse(orjson.dumps(event), False)


def test_messages_become_commands_with_the_protocols_defaults() -> None:
    messages = [{"role": "user", "content": "hello"}]
    opening = parse({"type": "prefill", "messages": messages, "is_last_chunk": True})

    assert opening == PREFILL
    assert parse({"type": "generate"}) == Generate(
        speak=True, max_new_tokens=256, length_penalty=1.1
    )
    assert (parse({"type": "stop"}), parse({"type": "close"})) == (Interrupt(), Stop())


def test_the_voice_of_the_sound_comes_before_that_of_the_words() -> None:
    messages = [{"role": "user", "content": "x"}]
    both = {"ref_audio_base64": "AAAAAA==", "tts_ref_audio_base64": "AAAAAAAAAAA="}

    one = parse({"type": "prefill", "messages": messages, "ref_audio_base64": "AAAAAA=="})
    other = parse({"type": "prefill", "messages": messages, **both})

    assert isinstance(one, Open) and isinstance(one.input, ChatRequest)
    assert isinstance(other, Open) and isinstance(other.input, ChatRequest)
    assert (len(one.input.voice), len(other.input.voice)) == (4, 8)


def test_a_binary_frame_is_no_message() -> None:
    with pytest.raises(ProtocolError):
        StreamingDialect().parse(b"S16L\0\0", True)


def test_a_slot_is_wanted_from_prefill_to_the_end_of_the_answer() -> None:
    one = session()
    before = one.wants_slot
    one.take(PREFILL, 10.0)
    waiting = one.wants_slot
    got = one.leased(lease(), 11.0)
    sent = one.take(GENERATE, 12.0)
    ended = one.hear(DONE, 14.5)

    assert (before, waiting, one.wants_slot) == (False, True, False)
    assert kinds(got) == [QueueDone, Prefilled]
    [action] = sent
    assert isinstance(action, Send) and isinstance(action.input, ChatRequest)
    request = action.input
    assert (request.messages, request.speak) == (MESSAGES, False)
    assert (request.max_new_tokens, request.length_penalty) == (7, 1.3)
    assert kinds(ended) == [StreamEnded, GiveBack]
    [told, _] = ended
    assert isinstance(told, Tell) and isinstance(told.notice, StreamEnded)
    assert (told.notice.elapsed_s, told.notice.session_id) == (2.5, "stm_1")


def test_what_the_engine_counts_before_the_answer_is_not_told() -> None:
    one = asked()

    assert one.hear(PrefillDone(input_tokens=3), 13.0) == []
    assert kinds(one.hear(ReplyChunk(text="hi"), 13.0)) == [ReplyChunk]


def test_stop_asks_the_engine_only_while_it_answers() -> None:
    idle, waiting, held, running = session(), session(), session(), asked()
    waiting.take(PREFILL, 10.0)
    held.take(PREFILL, 10.0)
    held.leased(lease(), 11.0)

    assert idle.stop_answer(20.0) == []
    assert kinds(waiting.stop_answer(20.0)) == [StreamEnded, GiveBack]
    assert kinds(held.stop_answer(20.0)) == [StreamEnded, GiveBack]
    assert running.stop_answer(20.0) == [Send(StopAnswer())]
    assert (idle.is_answering, running.is_answering, running.worker) == (False, True, "worker-3")


def test_a_failed_answer_frees_the_slot_and_leaves_the_socket() -> None:
    one = asked()

    failed = one.hear(Failed(code="generation_failed", message="no luck"), 13.0)
    again = one.take(PREFILL, 14.0)

    assert kinds(failed) == [Trouble, GiveBack]
    assert again == [] and one.wants_slot and one.state == "waiting"


def test_what_comes_behind_a_stop_is_not_told() -> None:
    """A slot, or the answer's end, crossed with it, and the whole session failed."""
    waiting, late = session(), asked()
    waiting.take(PREFILL, 10.0)
    waiting.stop_answer(20.0)
    late.expire(400.0)

    assert waiting.leased(lease(), 20.0) == []
    assert late.hear(ReplyChunk(text="late"), 400.0) == late.hear(DONE, 400.0) == []


def test_an_engine_without_eyes_refuses_pictures() -> None:
    picture = ChatMessage(role="user", parts=(Part(kind="image", data=b"x"),))
    one = session()
    one.take(Open(input=ChatRequest(messages=(picture,))), 10.0)

    assert kinds(one.leased(lease(vision=False), 11.0)) == [QueueDone, Trouble, GiveBack]


def test_what_could_not_be_sent_is_told_and_frees_the_slot() -> None:
    one = asked()

    assert kinds(one.unsent(PREFILL.input, QueueFull("too much"), 13.0)) == [Trouble, GiveBack]


def test_each_wait_has_its_end() -> None:
    """A slot that nobody uses 60 s; the whole turn 300 s; between turns there is no limit."""
    one = session()
    idle = one.deadline
    one.take(PREFILL, 10.0)
    waiting = one.deadline
    one.leased(lease(), 100.0)
    unused = one.deadline
    text = one.expire(160.0)
    one.take(PREFILL, 200.0)
    one.leased(lease(), 201.0)
    one.take(GENERATE, 202.0)
    running = one.deadline
    late = one.expire(500.0)

    assert (idle, waiting, unused, running, one.deadline) == (None, 310.0, 160.0, 500.0, None)
    for actions, word in ((text, "Generate timeout (60.0s)"), (late, "Request timeout (300.0s)")):
        assert kinds(actions) == [Trouble, GiveBack]
        [told, _] = actions
        assert isinstance(told, Tell) and isinstance(told.notice, Trouble)
        assert told.notice.text == word


def test_close_ends_the_session_in_any_state() -> None:
    for one in (session(), asked()):
        assert one.take(Stop(), 20.0) == [End()]
        assert one.fail(WorkerLost("x")) == []

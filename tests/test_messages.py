"""Every message survives the wire, and none is taken with a wrong field."""

from typing import Any

import msgpack
import pytest

from omni import engine
from omni.codec import decode, decode_header, encode
from omni.engine import Buffer, Capabilities, StageCosts
from omni.errors import ProtocolError
from omni.messages import (
    FABRIC,
    KINDS,
    MESSAGES,
    TO_WEB,
    TO_WORKER,
    Ack,
    Answer,
    CancelTicket,
    Drain,
    Enqueue,
    EtaConfig,
    EtaView,
    Goodbye,
    Header,
    Heartbeat,
    HeldLease,
    Hello,
    Leased,
    Message,
    PeerExited,
    Queued,
    Refused,
    Rejoined,
    Release,
    Revoked,
    SetEta,
    SlotFreed,
    Status,
    StatusQuery,
    TaskView,
    TicketEnded,
    TicketView,
    Welcome,
    WorkerView,
)

PCM = Buffer(bytes(range(256)))
JPEG = Buffer(b"\xff\xd8 a picture")
CAPABILITIES = Capabilities(
    engine="pocket",
    model="a small one",
    modes=("chat", "audio_duplex"),
    num_slots=4,
    notice="it is small",
    vision=True,
    transcribes=True,
    reads_aloud=True,
    writes_down=True,
    calls_tools=True,
    languages=("en", "zh"),
    min_chunk_ms=200,
)
HELD = HeldLease(
    session="s_1",
    request_type="omni_duplex",
    worker="worker-0",
    slot=3,
    generation=2**53,
    client_id="omni_x",
    elapsed_s=4.5,
    received_seq=12,
)
COSTS = StageCosts(prefill_ms=1.5, llm_ms=2.0, tts_prep_ms=None, tts_ms=0.5, all_ms=4.0)
ETA = EtaConfig(eta_chat_s=1.0, eta_streaming_s=3.0, ema_alpha=0.5)
TASK = TaskView(
    worker="worker-0",
    request_type="chat",
    client_id="c",
    started_at=1.7e9,
    elapsed_s=2.0,
    estimated_remaining_s=13.0,
)
WORKER = WorkerView(
    name="worker-0",
    state="probation",
    gpu="0",
    host="here",
    pid=7,
    num_slots=4,
    tasks=(TASK,),
    total_requests=5,
    mean_duration_ms=1.5,
    last_heartbeat=1.7e9,
    restarts=2,
    capabilities=CAPABILITIES,
)
TICKET = TicketView(
    ticket_id="q_0123456789ab",
    request_type="chat",
    client_id="c",
    position=1,
    estimated_wait_s=2.5,
    enqueued_at=1.7e9,
    waited_s=3.5,
)
STATUS = Status(
    request=4,
    uptime_s=9.5,
    max_queue_size=1000,
    tickets=(TICKET,),
    workers=(WORKER,),
    webs=("web-0",),
    eta=EtaView(
        config=ETA, ema_alpha=0.3, ema_s={"chat": None, "omni_duplex": 9.5}, samples={"chat": 0}
    ),
    counters={"relayed": 7},
)
CHAT = engine.ChatRequest(
    messages=(
        engine.ChatMessage(
            role="user",
            parts=(
                engine.Part(kind="text", text="hé 你"),
                engine.Part(kind="audio", data=PCM),
                engine.Part(kind="video", data=JPEG, stack_frames=2),
            ),
        ),
        engine.ChatMessage(
            role="assistant",
            parts=(),
            tool_calls=(engine.ToolCall(id="call_1", name="weather", arguments="{}"),),
        ),
        engine.ChatMessage(role="tool", parts=(), tool_call_id="call_1"),
    ),
    tools=(engine.Tool(name="weather", description="of a place", parameters='{"a": 1}'),),
    voice=PCM,
    stop=("a", "b"),
    seed=5,
    max_slice_nums=2,
)

#: One of each, with as much in it as it can hold.
EXAMPLES: list[Message] = [
    Hello(
        role="worker",
        name="worker-0",
        pid=7,
        host="here",
        state="loading",
        gpu="0",
        capabilities=CAPABILITIES,
        leases=(HELD, HELD),
    ),
    Welcome(broker_id="b_1", heartbeat_interval_s=0.25, heartbeat_misses=4),
    Refused(code="version", message="no"),
    Heartbeat(state="draining", steps=2**40, load=3),
    Goodbye(reason="tired"),
    PeerExited(name="web-0", pid=8, given_up=True),
    Enqueue(request_type="half_duplex_audio", client_id="hdx_1", waited_s=2.5),
    Release(),
    CancelTicket(request=1, ticket_id="q_1"),
    SetEta(request=2, config=ETA),
    StatusQuery(request=3),
    Drain(request=4, worker="worker-1"),
    Queued(ticket_id="q_1", position=2, estimated_wait_s=1.5, queue_length=3),
    Leased(
        worker="worker-0",
        gpu="0",
        slot=1,
        request_type="streaming",
        client_id="stm_1",
        ticket_id="q_1",
        capabilities=CAPABILITIES,
    ),
    TicketEnded(code="queue_full", message="full", retry_after_s=9.5),
    Revoked(code="worker_lost", message="gone"),
    Rejoined(received_seq=5),
    Ack(),
    SlotFreed(),
    STATUS,
    Answer(request=5, ok=True, message="done"),
    CHAT,
    engine.SpeakRequest(text="read it", voice=PCM, instructions="softly", seed=6),
    engine.TranscribeRequest(pcm=PCM, language="en", prompt="omni", temperature=0.5, seed=7),
    engine.PrepareHalfDuplex(
        system=(engine.Part(kind="audio", data=PCM),),
        vad=engine.VadParams(threshold=0.5, speech_pad_ms=60),
        speak=False,
    ),
    engine.PrepareDuplex(mode="omni_duplex", voice=PCM, tts_voice=JPEG, max_turn_tokens=9, seed=1),
    engine.AudioChunk(pcm=PCM, frames=(JPEG, PCM), force_listen=True, max_slice_nums=4),
    engine.StopAnswer(),
    engine.Close(),
    engine.Prepared(prompt_length=40, audio_tokens=30, chunk_ms=200),
    engine.UnitResult(
        is_listen=False,
        text="你好",
        pcm=PCM,
        end_of_turn=True,
        interrupted=True,
        current_time=9,
        costs=COSTS,
        n_tokens=3,
        n_tts_tokens=25,
        kv_cache_length=900,
        vision_slices=1,
        vision_tokens=64,
        audio_tokens=10,
        text_tokens=5,
        token_ids=(1, 2, 3),
    ),
    engine.UserTranscript(text="what?", final=False),
    engine.VadState(speaking=True),
    engine.Generating(speech_duration_ms=900),
    engine.PrefillDone(input_tokens=30),
    engine.ReplyChunk(text="a", pcm=PCM, is_final=True),
    engine.ToolCall(id="call_1", name="weather", arguments='{"place": "Róma"}'),
    engine.TranscriptSegment(start_s=0.5, end_s=2.25, text="a word"),
    engine.TurnDone(turn_index=1, text="all", costs=COSTS),
    engine.ChatDone(
        text="all",
        input_tokens=99,
        generated_tokens=2,
        input_audio_tokens=10,
        input_image_tokens=64,
        speech_tokens=50,
        finish_reason="length",
        costs=COSTS,
    ),
    engine.Failed(code="generation_failed", message="no", fatal=True),
]


def over_the_wire(message: Message) -> Message:
    """Return *message* as the other side reads it."""
    parts = [bytes(part) for part in encode(Header(kind="", session="s_1"), message)]
    return decode(decode_header(parts[0]), parts[1:])


def test_there_is_an_example_of_every_message() -> None:
    assert sorted(KINDS[type(item)] for item in EXAMPLES) == sorted(MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda item: KINDS[type(item)])
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert over_the_wire(message) == message


def test_no_kind_stands_in_two_tables() -> None:
    assert len(FABRIC) + len(TO_WORKER) + len(TO_WEB) == len(MESSAGES)


def good_body(kind: str) -> dict[str, Any]:  # a msgpack map
    """Return the body of the example of *kind*."""
    example = next(item for item in EXAMPLES if KINDS[type(item)] == kind)
    body: dict[str, Any] = msgpack.unpackb(encode(Header(kind=""), example)[1])
    return body


# kind, field (None: the whole body), what stands there instead, what the error must name.
MALFORMED: list[tuple[str, str | None, object, str]] = [
    ("hello", None, [1, 2], "hello"),
    ("hello", None, 5, "hello"),
    ("hello", None, None, "hello"),
    ("hello", "role", "gateway", "role"),
    ("hello", "role", None, "role"),
    ("hello", "pid", "7", "pid"),
    ("hello", "pid", True, "pid"),
    ("hello", "pid", 7.0, "pid"),
    ("hello", "state", "asleep", "state"),
    ("hello", "capabilities", [], "capabilities"),
    ("hello", "capabilities", {"engine": "x"}, "capabilities"),
    ("hello", "leases", [5], "leases"),
    ("hello", "leases", [{"session": 5}], "leases"),
    ("hello", "unknown_field", 1, "unknown_field"),
    ("welcome", "heartbeat_misses", 4.5, "heartbeat_misses"),
    ("welcome", "broker_id", b"b", "broker_id"),
    ("refused", "code", 5, "code"),
    ("heartbeat", "steps", None, "steps"),
    ("goodbye", "reason", 5, "reason"),
    ("peer_exited", "given_up", 1, "given_up"),
    ("enqueue", "request_type", "video", "request_type"),
    ("enqueue", "client_id", None, "client_id"),
    ("enqueue", "waited_s", "2", "waited_s"),
    ("release", "anything", 1, "anything"),
    ("cancel_ticket", "request", "1", "request"),
    ("set_eta", "config", None, "config"),
    ("set_eta", "config", {"eta_chat_s": "1"}, "eta_chat_s"),
    ("status_query", "request", None, "request"),
    ("drain", "worker", 0, "worker"),
    ("queued", "position", 1.5, "position"),
    ("leased", "slot", "1", "slot"),
    ("leased", "request_type", 4, "request_type"),
    ("ticket_ended", "retry_after_s", "soon", "retry_after_s"),
    ("revoked", "message", 5, "message"),
    ("rejoined", "received_seq", "5", "received_seq"),
    ("ack", "seq", 5, "seq"),
    ("slot_freed", "session", "s", "session"),
    ("status", "tickets", 5, "tickets"),
    ("status", "webs", [5], "webs"),
    ("status", "counters", {"a": "b"}, "counters"),
    ("answer", "ok", 1, "ok"),
    ("chat_request", "messages", [{"role": "robot", "parts": []}], "role"),
    ("chat_request", "messages", None, "messages"),
    ("chat_request", "stop", [5], "stop"),
    ("chat_request", "tools", [{"description": "no name"}], "name"),
    ("chat_request", "tools", [{"name": "f", "parameters": {}}], "parameters"),
    ("chat_request", "seed", "5", "seed"),
    ("chat_request", "voice", b"inline", "voice"),
    ("speak_request", "text", None, "text"),
    ("speak_request", "voice", "joe", "voice"),
    ("transcribe_request", "pcm", 77, "pcm"),
    ("transcribe_request", "temperature", "hot", "temperature"),
    ("prepare_half_duplex", "vad", 5, "vad"),
    ("prepare_half_duplex", "system", [{"kind": "smell"}], "kind"),
    ("prepare_duplex", "mode", "chat", "mode"),
    ("prepare_duplex", "temperature", "hot", "temperature"),
    ("audio_chunk", "pcm", 77, "pcm"),
    ("audio_chunk", "frames", [0, 77], "frames"),
    ("audio_chunk", "force_listen", 1, "force_listen"),
    ("stop_answer", "now", True, "now"),
    ("close", "now", True, "now"),
    ("prepared", "chunk_ms", None, "chunk_ms"),
    ("unit_result", "is_listen", None, "is_listen"),
    ("unit_result", "token_ids", [1, "2"], "token_ids"),
    ("unit_result", "costs", {"llm_ms": "1"}, "costs"),
    ("user_transcript", "text", None, "text"),
    ("vad_state", "speaking", "yes", "speaking"),
    ("generating", "speech_duration_ms", 1.5, "speech_duration_ms"),
    ("prefill_done", "input_tokens", None, "input_tokens"),
    ("reply_chunk", "is_final", None, "is_final"),
    ("tool_call", "arguments", {}, "arguments"),
    ("transcript_segment", "start_s", "0", "start_s"),
    ("turn_done", "turn_index", "1", "turn_index"),
    ("chat_done", "finish_reason", "bored", "finish_reason"),
    ("failed", "fatal", "no", "fatal"),
]


@pytest.mark.parametrize("kind, name, value, named", MALFORMED)
def test_a_wrong_field_is_a_protocol_error_that_names_it(
    kind: str, name: str | None, value: object, named: str
) -> None:
    body: object = value if name is None else {**good_body(kind), name: value}

    with pytest.raises(ProtocolError) as caught:
        decode(Header(kind=kind), [msgpack.packb(body), b"", b"", b"", b"", b""])

    assert named in str(caught.value)


@pytest.mark.parametrize(
    "kind", [kind for kind in sorted(MESSAGES) if MESSAGES[kind].__attrs_attrs__]
)
def test_a_required_field_that_is_missing_is_a_protocol_error(kind: str) -> None:
    required = [
        item.name
        for item in MESSAGES[kind].__attrs_attrs__
        if item.default is not None and repr(item.default) == "NOTHING"
    ]

    for name in required:
        body = {key: value for key, value in good_body(kind).items() if key != name}
        with pytest.raises(ProtocolError, match=name):
            decode(Header(kind=kind), [msgpack.packb(body), b"", b"", b"", b"", b""])


def test_every_kind_with_fields_stands_in_the_table_of_malformed_ones() -> None:
    assert {kind for kind, *_ in MALFORMED} == set(MESSAGES)

"""The demo's protocol field by field: its tables of sections 4.1, 4.2, 6.1, 6.2, 7.1, 7.2 and 7.3.

Names, defaults and bounds stand here by hand: they are the protocol's, not the code's.
"""

import base64
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest
from attrs import frozen

from omni.audio import INPUT_HZ
from omni.engine import ChatRequest, Part, PrepareDuplex, PrepareHalfDuplex
from omni.realtime.chat import HTTP_MAX_NEW_TOKENS, SOCKET_MAX_NEW_TOKENS, parse_request
from omni.realtime.dialect import Open
from omni.realtime.duplex import DuplexDialect
from omni.realtime.fields import FieldError, Fields
from omni.realtime.half_duplex import HalfDuplexDialect
from tests.conftest import RunningOmni
from tests.realtime.client import SPEECH, Event, connected

HELLO = [{"role": "user", "content": "hello"}]
#: What the reference reads of /ws/half_duplex where nothing is said.
HALF_TIMEOUT_S = 300.0


@frozen
class Row:
    """One row of a table: where the field is said and read, its default, values in and out."""

    said: str
    read: str
    default: Any
    good: tuple[Any, ...] = ()
    bad: tuple[Any, ...] = ()


FLAGS = {"good": (True, False), "bad": (1, "yes")}

CHAT = [
    Row("generation.max_new_tokens", "max_new_tokens", 512, (1, 4096), (0, 4097, 1.5, "7")),
    Row("generation.min_new_tokens", "min_new_tokens", 0, (0, 10), (-1, "1")),
    Row("generation.do_sample", "do_sample", True, **FLAGS),
    Row("generation.temperature", "temperature", 0.7, (0, 2), (-0.1, 2.1, True)),
    Row("generation.top_p", "top_p", 0.8, (0.1, 1), (1.5, "1")),
    Row("generation.top_k", "top_k", 100, (1, 50), (-1, 1.5)),
    Row("generation.length_penalty", "length_penalty", 1.1, (0.1, 5.0), (0.05, 5.1)),
    Row("generation.max_inp_length", "max_inp_length", 8192, (1, 4096), (0, "8192")),
    Row("tts.enabled", "speak", False, **FLAGS),
    Row("tts.ref_audio_data", "voice", b"", ("AAAAAA==",), ("A", 7, "AAA=")),
    Row(
        "tts.mode",
        "voice_mode",
        "audio_assistant",
        ("audio_assistant", "default", "omni", "audio_roleplay", "voice_cloning"),
        ("sing", 1),
    ),
    Row("tts.language", "voice_language", "en", ("zh",), ("fr", 1)),
    Row("tts.sampling.temperature", "speech.temperature", 0.8, (0, 2), (-0.1, 2.1)),
    Row("tts.sampling.top_p", "speech.top_p", 0.85, (0.1, 1), (0, 1.1)),
    Row("tts.sampling.top_k", "speech.top_k", 25, (1, 64), (0, 65)),
    Row("tts.sampling.repetition_penalty", "speech.repetition_penalty", 1.05, (1, 2), (0,)),
    Row("tts.sampling.win_size", "speech.window", 16, (1, 64), (0, 65)),
    Row("image.max_slice_nums", "max_slice_nums", None, (1, 16), (0, 17)),
    Row("image.use_image_id", "use_image_id", False, **FLAGS),
    Row("omni_mode", "omni_mode", False, **FLAGS),
    Row("enable_thinking", "enable_thinking", False, **FLAGS),
]
HALF_DUPLEX = [
    Row("vad.threshold", "vad.threshold", 0.7, (0, 0.8, 1), (-0.1, 1.1, "0.8")),
    Row("vad.min_speech_duration_ms", "vad.min_speech_duration_ms", 128, (0, 500), (-1,)),
    Row("vad.min_silence_duration_ms", "vad.min_silence_duration_ms", 500, (800,), (-1, "1")),
    Row("vad.speech_pad_ms", "vad.speech_pad_ms", 30, (0, 300), (-1,)),
    Row("generation.max_new_tokens", "max_new_tokens", 256, (1, 512), (0, "1")),
    Row("generation.length_penalty", "length_penalty", 1.1, (0.1, 2), (0,)),
    Row("generation.temperature", "temperature", 0.7, (0, 1), (-1,)),
    Row("tts.enabled", "speak", True, **FLAGS),
]
DUPLEX = [
    Row("generate_audio", "generate_audio", True, **FLAGS),
    Row("force_listen_count", "force_listen_count", 3, (0, 5), (-1, 0.5)),
    Row("max_new_speak_tokens_per_chunk", "max_new_speak_tokens_per_chunk", 20, (1, 40), (0,)),
    Row("decode_mode", "decode_mode", "sampling", ("greedy",), ("beam", 1)),
    Row("temperature", "temperature", 0.7, (0, 2.0), (-1, 3)),
    Row("top_k", "top_k", 20, (1, 50), (-1,)),
    Row("top_p", "top_p", 0.8, (0.5, 1), (1.1,)),
    Row("text_repetition_penalty", "text_repetition_penalty", 1.05, (1.0, 2), (0,)),
    Row("text_repetition_window_size", "text_repetition_window_size", 512, (0, 64), (-1,)),
    Row("length_penalty", "length_penalty", 1.1, (0.5, 1.3), (0, "1")),
    Row("listen_prob_scale", "listen_prob_scale", 1.0, (0, 2), (-1,)),
    Row("listen_top_k", "listen_top_k", None, (1, 10), (-1, "3")),
    Row("tts_temperature", "tts_temperature", 0.8, (0, 1), (-1,)),
    Row("chunk_ms", "chunk_ms", 1000, (200,), (1,)),
    Row("max_slice_nums", "max_slice_nums", 1, (2, 9), (0, "2")),
]


def nested(path: str, value: object) -> dict[str, Any]:
    """Return an object in which *value* stands at *path*."""
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def at(thing: object, path: str) -> Any:
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


def chat(said: dict[str, Any]) -> ChatRequest:
    return parse_request(Fields({"messages": HELLO, **said}), HTTP_MAX_NEW_TOKENS)


def half_duplex(config: dict[str, Any]) -> PrepareHalfDuplex:
    frame = orjson.dumps({"type": "prepare", "config": config})
    opening = HalfDuplexDialect(HALF_TIMEOUT_S).parse(frame, False)
    assert isinstance(opening, Open) and isinstance(opening.input, PrepareHalfDuplex)
    return opening.input


def duplex(config: dict[str, Any]) -> PrepareDuplex:
    return opened({"config": config})


def opened(fields: dict[str, Any]) -> PrepareDuplex:
    frame = orjson.dumps({"type": "prepare", **fields})
    opening = DuplexDialect("omni_duplex").parse(frame, False)
    assert isinstance(opening, Open) and isinstance(opening.input, PrepareDuplex)
    return opening.input


def rows() -> Iterator[Any]:
    for name, table, parse in (
        ("4.1", CHAT, chat),
        ("6.1", HALF_DUPLEX, half_duplex),
        ("7.1", DUPLEX, duplex),
    ):
        for row in table:
            yield pytest.param(row, parse, id=f"{name} {row.said}")


@pytest.mark.parametrize(("row", "parse"), list(rows()))
def test_a_field_has_its_default_and_its_bounds(row: Row, parse: Any) -> None:
    read_default, null = at(parse({}), row.read), at(parse(nested(row.said, None)), row.read)
    assert (bytes(read_default) if row.default == b"" else read_default) == row.default
    assert null == read_default  # null is the same as absent
    for value in row.good:
        read = at(parse(nested(row.said, value)), row.read)
        assert read == value or (row.default == b"" and len(read) == 4), value
    for value in row.bad:
        with pytest.raises(FieldError) as caught:
            parse(nested(row.said, value))
        assert caught.value.loc[-1] == row.said.split(".")[-1], value


def test_the_two_ways_into_chat_differ_in_one_default() -> None:
    assert (HTTP_MAX_NEW_TOKENS, SOCKET_MAX_NEW_TOKENS) == (512, 256)


def parts(*content: object) -> tuple[Part, ...]:
    (message,) = chat({"messages": [{"role": "user", "content": [*content]}]}).messages
    return message.parts


def test_a_part_has_the_defaults_of_its_kind() -> None:
    sound = base64.b64encode(bytes(4 * INPUT_HZ)).decode()

    heard, seen = parts({"type": "audio", "data": sound}, {"type": "video", "data": "AAAA"})

    assert len(heard.data) == 4 * INPUT_HZ  # taken for 16 kHz
    assert (seen.kind, seen.stack_frames) == ("video", 1)
    assert parts({"type": "video", "data": "AAAA", "stack_frames": 4})[0].stack_frames == 4
    for wrong in (0, "1", 1.5):
        with pytest.raises(FieldError, match="stack_frames"):
            parts({"type": "video", "data": "AAAA", "stack_frames": wrong})


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_message_has_one_of_three_roles(role: str) -> None:
    messages = [{"role": role, "content": "a text"}, *HELLO]

    assert [message.role for message in chat({"messages": messages}).messages] == [role, "user"]


def test_a_duplex_session_has_its_defaults_beside_the_config() -> None:
    plain, null = duplex({}), {"system_prompt": None, "ref_audio_base64": None}
    unread = {"prefix_system_prompt": "Be rude.", "ref_audio_path": "/etc/passwd"}

    assert plain.system_prompt == "You are a helpful assistant."
    assert (plain.deferred_finalize, plain.max_slice_nums) == (True, 1)
    assert not len(plain.voice) and not len(plain.tts_voice)
    assert opened(null) == opened(unread) == plain


def test_a_hands_free_session_has_the_default_instructions() -> None:
    (part,) = half_duplex({}).system

    assert (part.kind, part.text) == ("text", "You are a helpful assistant.")


@pytest.mark.parametrize(
    ("said", "timeout_s"), [(None, HALF_TIMEOUT_S), (30, 30.0), (600, 600.0), (180, 180.0)]
)
def test_a_hands_free_session_lasts_as_long_as_its_page_says(
    said: int | None, timeout_s: float
) -> None:
    config = {"session": {"timeout_s": said}}
    frame = orjson.dumps({"type": "prepare", "config": config})
    opening = HalfDuplexDialect(HALF_TIMEOUT_S).parse(frame, False)

    assert isinstance(opening, Open) and opening.timeout_s == timeout_s


@pytest.mark.parametrize(
    "name",
    [
        "tts.ref_audio_path",
        "tts.output_path",
        "tts.sampling.min_p",
        "tts.sampling.tau_r",
        "use_tts_template",
        "return_prompt",
        "streaming_of_pages",
    ],
)
def test_what_is_not_served_is_ignored_and_names_no_file(name: str) -> None:
    assert chat(nested(name, "/etc/passwd")) == chat({})


def test_a_voice_is_as_long_as_it_may_be() -> None:
    voice = base64.b64encode(bytes(4 * INPUT_HZ * 3)).decode()

    request = chat({"tts": {"ref_audio_data": voice, "ref_audio_max_ms": 2000}})

    assert len(request.voice) == 4 * INPUT_HZ * 2
    for wrong in (999, "2000", 1500.5):
        with pytest.raises(FieldError, match="tts.ref_audio_max_ms"):
            chat(nested("tts.ref_audio_max_ms", wrong))


# --- the answers ---------------------------------------------------------------------------------

CHAT_REPLY = {
    "text",
    "audio_path",
    "audio_data",
    "audio_sample_rate",
    "tokens_generated",
    "duration_ms",
    "prompt",
    "token_stats",
    "recording_session_id",
    "error",
    "success",
    "queue_wait_ms",
    "estimated_queue_wait_s",
}
RESULT = {
    "is_listen": bool,
    "text": str,
    "end_of_turn": bool,
    "current_time": int,
    "cost_llm_ms": (float, int, type(None)),
    "cost_tts_prep_ms": (float, int, type(None)),
    "cost_tts_ms": (float, int, type(None)),
    "cost_token2wav_ms": (float, int, type(None)),
    "cost_all_ms": (float, int, type(None)),
    "n_tokens": (int, type(None)),
    "n_tts_tokens": (int, type(None)),
    "server_send_ts": float,
    "wall_clock_ms": (float, int),
    "kv_cache_length": int,
    "vision_slices": int,
    "vision_tokens": int,
    "audio_data": (str, type(None)),
}


async def test_a_chat_answer_over_http_has_every_field(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.post("/api/chat", json={"messages": HELLO}) as reply:
            body = await reply.json()

    assert CHAT_REPLY <= body.keys()


async def test_a_streamed_chat_has_its_messages_in_order(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/chat") as client:
        await client.send("", messages=HELLO, streaming=True, tts={"enabled": True})
        events = [await client.receive()]
        while events[-1]["type"] != "done":
            events.append(await client.receive())
        code = await client.closed()

    assert [event["type"] for event in events] == ["prefill_done", "chunk", "done"]
    assert events[0].keys() == {"type", "input_tokens"}
    assert events[1].keys() == {"type", "text_delta", "audio_data"}
    assert {"text", "generated_tokens", "input_tokens"} <= events[2].keys()
    assert "audio_data" not in events[2] and code == 1000


async def test_a_whole_answer_without_a_voice_has_null_for_its_sound(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/chat") as client:
        await client.send("", messages=HELLO, streaming=False)
        await client.expect("prefill_done")
        done = await client.expect("done")

    assert (done["text"], done["audio_data"]) == ("hello", None)


async def test_a_hands_free_turn_has_every_field(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/half_duplex/hdx_c") as client:
        prepared = await client.prepare()
        await client.send_chunk(SPEECH)
        await client.send_chunk()
        turn = [await client.receive()]
        while turn[-1]["type"] != "turn_done":
            turn.append(await client.receive())
        await client.send("nonsense")
        error = await client.expect("error")

    by_type: dict[str, Event] = {event["type"]: event for event in turn}
    assert (prepared["session_id"], prepared["timeout_s"]) == ("hdx_c", HALF_TIMEOUT_S)
    assert list(by_type) == ["vad_state", "generating", "chunk", "turn_done"]
    assert [e["speaking"] for e in turn if e["type"] == "vad_state"] == [True, False]
    assert by_type["generating"]["speech_duration_ms"] == 100
    chunk = {"chunk_index", "text_delta", "audio_data", "audio_sample_rate", "is_final"}
    assert chunk | {"type", "duration_ms"} == by_type["chunk"].keys()
    assert (by_type["chunk"]["is_final"], by_type["chunk"]["audio_sample_rate"]) == (True, 24_000)
    assert (by_type["turn_done"]["turn_index"], error["error"]) == (1, "Unknown type: nonsense")


async def test_a_result_has_every_field_in_its_type(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/duplex/adx_c") as client:
        await client.prepare()
        for _ in range(4):
            await client.send_chunk()
        results = [await client.expect("result") for _ in range(4)]

    for result in results:
        for name, kind in RESULT.items():
            assert isinstance(result.get(name, NotImplemented), kind), name
        assert not (result["is_listen"] and (result["audio_data"] or result["text"]))
    assert [result["current_time"] for result in results] == [1, 2, 3, 4]


async def test_every_control_message_has_its_reply(omni: RunningOmni) -> None:
    replies = []
    async with connected(omni.address, "/ws/duplex/adx_d") as client:
        await client.prepare()
        for kind, fields in (("pause", {"timeout": 5}), ("resume", {}), ("interrupt", {})):
            await client.send(kind, **fields)
            replies.append(await client.receive())
        await client.send("client_diagnostic", event="gap")
        await client.send("dance")
        replies.append(await client.receive())
        await client.send("audio_chunk")
        replies.append(await client.receive())
        await client.send("stop")
        replies.append(await client.receive())
        code = await client.closed()

    assert [reply["type"] for reply in replies] == [
        "paused",
        "resumed",
        "interrupted",
        "error",
        "error",
        "stopped",
    ]
    assert replies[0]["timeout"] == 5
    assert replies[3]["error"] == "Unknown message type: dance"
    assert replies[4]["error"] == "Missing audio_base64"
    assert code == 1000

"""The null engine keeps the engine contract, by its script."""

import numpy as np
import pytest
from attrs import evolve

from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Emission,
    Failed,
    Generating,
    Part,
    PrefillDone,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionInput,
    Slot,
    SpeakRequest,
    StopAnswer,
    Tool,
    ToolCall,
    TranscribeRequest,
    TranscriptSegment,
    TurnDone,
    UnitResult,
    VadState,
)
from omni.engine.load import engine_name, load_engine
from omni.engine.null import NullEngine
from omni.errors import SettingsError
from omni.settings import ModelSettings, load_settings

SLOT = Slot(index=0, generation=1)
LOUD = AudioChunk(pcm=Buffer(np.full(8000, 0.5, np.float32).tobytes()))
QUIET = AudioChunk(pcm=Buffer(np.zeros(8000, np.float32).tobytes()))
HELLO = ChatRequest(messages=(ChatMessage(role="user", parts=(Part(kind="text", text="a b c"),)),))
DUPLEX = PrepareDuplex(mode="audio_duplex", force_listen_count=0)


@pytest.fixture
def engine() -> NullEngine:
    engine = NullEngine()
    engine.load(lambda: None)
    return engine


def send(engine: NullEngine, *inputs: SessionInput, slot: Slot = SLOT) -> list[object]:
    """Step once with *inputs*, then until the engine is idle; return the slot's events."""
    emissions = list(engine.step([Arrival(slot, item) for item in inputs]))
    while engine.busy:
        emissions += engine.step([])
    assert all(isinstance(emission, Emission) for emission in emissions)
    return [emission.event for emission in emissions if emission.slot == slot]


def test_every_duplex_chunk_gets_one_result_in_order(engine: NullEngine) -> None:
    events = send(engine, DUPLEX, *[QUIET] * 12)

    assert events[0] == Prepared(prompt_length=5)
    results = [event for event in events[1:] if isinstance(event, UnitResult)]
    assert [result.current_time for result in results] == list(range(1, 13))


def test_every_fourth_unit_speaks_a_tone(engine: NullEngine) -> None:
    events = send(engine, DUPLEX, *[QUIET] * 8)

    spoken = [event for event in events if isinstance(event, UnitResult) and not event.is_listen]
    assert [event.current_time for event in spoken] == [4, 8]
    assert np.abs(np.frombuffer(spoken[0].pcm, np.float32)).max() == pytest.approx(0.2, abs=1e-3)


def test_forced_units_never_speak(engine: NullEngine) -> None:
    opening = PrepareDuplex(mode="omni_duplex", force_listen_count=8)

    events = send(engine, opening, *[QUIET] * 8)

    assert all(event.is_listen for event in events if isinstance(event, UnitResult))


def test_a_chat_is_answered_with_the_users_words(engine: NullEngine) -> None:
    events = send(engine, HELLO)

    assert events[0] == PrefillDone(input_tokens=3)
    chunks = [event for event in events if isinstance(event, ReplyChunk)]
    assert "".join(chunk.text for chunk in chunks) == "a b c"
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert isinstance(events[-1], ChatDone) and events[-1].text == "a b c"


def test_a_chat_ends_before_a_text_that_ends_it(engine: NullEngine) -> None:
    events = send(engine, evolve(HELLO, stop=("b",)))

    done = events[-1]
    assert isinstance(done, ChatDone)
    assert (done.text, done.finish_reason) == ("a", "stop")


def test_an_answer_that_is_cut_says_so(engine: NullEngine) -> None:
    events = send(engine, evolve(HELLO, max_new_tokens=2))

    done = events[-1]
    assert isinstance(done, ChatDone)
    assert (done.text, done.finish_reason) == ("a b", "length")
    assert (done.input_tokens, done.generated_tokens) == (3, 2)


def test_a_text_is_read_out_as_a_tone_for_each_word(engine: NullEngine) -> None:
    prefilled, *chunks, done = send(engine, SpeakRequest(text="one two"))

    assert prefilled == PrefillDone(input_tokens=2)
    assert all(isinstance(chunk, ReplyChunk) and len(chunk.pcm) for chunk in chunks)
    assert [chunk.text for chunk in chunks if isinstance(chunk, ReplyChunk)] == ["one ", "two"]
    assert isinstance(done, ChatDone) and done.text == "one two"


def test_a_recording_is_written_down_second_by_second(engine: NullEngine) -> None:
    sound = Buffer(np.zeros(24_000, np.float32).tobytes())

    first, second, done = send(engine, TranscribeRequest(pcm=sound))

    assert first == TranscriptSegment(start_s=0.0, end_s=1.0, text="second 1")
    assert second == TranscriptSegment(start_s=1.0, end_s=1.5, text="second 2")
    assert isinstance(done, ChatDone) and done.text == "second 1 second 2"


def test_a_stopped_chat_ends_with_what_was_said(engine: NullEngine) -> None:
    first = engine.step([Arrival(SLOT, HELLO)])
    last = engine.step([Arrival(SLOT, StopAnswer())])

    assert isinstance(first[-1].event, ReplyChunk)
    done = last[-1].event
    assert isinstance(done, ChatDone) and done.finish_reason == "cancelled" and done.text == "a"
    assert not engine.busy


def test_a_half_duplex_turn_ends_after_speech(engine: NullEngine) -> None:
    assert send(engine, PrepareHalfDuplex(speak=False), QUIET) == [Prepared()]
    assert send(engine, LOUD, LOUD) == [VadState(speaking=True)]

    events = send(engine, QUIET)

    assert events[:2] == [VadState(speaking=False), Generating(speech_duration_ms=1000)]
    assert events[-1] == TurnDone(turn_index=1, text="you spoke for 1000 ms")


def test_sessions_are_apart(engine: NullEngine) -> None:
    other = Slot(index=1, generation=1)
    send(engine, DUPLEX, *[QUIET] * 3)
    send(engine, DUPLEX, slot=other)

    [result] = send(engine, QUIET, slot=other)

    assert isinstance(result, UnitResult) and result.current_time == 1


def test_a_closed_slot_answers_nothing_and_forgets(engine: NullEngine) -> None:
    engine.step([Arrival(SLOT, HELLO)])
    assert send(engine, Close()) == []
    assert not engine.busy

    [failed] = send(engine, QUIET)

    assert isinstance(failed, Failed) and failed.fatal


def test_auto_is_pocket_until_a_checkpoint_is_named() -> None:
    assert engine_name(ModelSettings()) == "pocket"
    assert engine_name(ModelSettings(model_path="some/dir")) == "minicpmo"
    assert engine_name(ModelSettings(engine="null", model_path="some/dir")) == "null"


def test_slots_follow_the_settings() -> None:
    settings = load_settings(overrides=["model.engine=null", "fabric.slots=3"])

    assert load_engine(settings).load(lambda: None).num_slots == 3


def test_minicpmo_without_a_checkpoint_says_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="model.model_path"):
        load_engine(load_settings(overrides=["model.engine=minicpmo"]))


WEATHER = Tool(name="weather", parameters='{"type": "object"}')


def asked(text: str, *tools: Tool) -> ChatRequest:
    """Return a request with *text* as the user's words."""
    message = ChatMessage(role="user", parts=(Part(kind="text", text=text),))
    return ChatRequest(messages=(message,), tools=tools)


def test_a_function_that_the_user_orders_is_called(engine: NullEngine) -> None:
    order = 'well call weather {"place": "Rome"} call weather {"place": "Oslo"}'

    events = send(engine, asked(order, WEATHER))

    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [call.arguments for call in calls] == ['{"place": "Rome"}', '{"place": "Oslo"}']
    assert {call.name for call in calls} == {"weather"} and calls[0].id != calls[1].id
    assert events[:2] == [PrefillDone(input_tokens=1), ReplyChunk(text="well")]
    assert events[-2:] == [
        ReplyChunk(is_final=True),
        ChatDone(text="well", input_tokens=1, generated_tokens=1, finish_reason="tool_calls"),
    ]


def test_an_answer_may_be_nothing_but_a_call(engine: NullEngine) -> None:
    _, call, _, done = send(engine, asked("call weather {}", WEATHER))

    assert isinstance(call, ToolCall) and call.arguments == "{}"
    assert isinstance(done, ChatDone) and (done.text, done.finish_reason) == ("", "tool_calls")


def test_a_function_that_the_request_lacks_is_not_called(engine: NullEngine) -> None:
    events = send(engine, asked("call weather {}"))

    assert not any(isinstance(event, ToolCall) for event in events)
    assert isinstance(events[-1], ChatDone) and events[-1].text == "call weather {}"


def test_the_result_of_a_call_is_answered_in_its_own_words(engine: NullEngine) -> None:
    result = ChatMessage(
        role="tool", parts=(Part(kind="text", text="call weather {}"),), tool_call_id="call_1"
    )

    events = send(engine, ChatRequest(messages=(result,), tools=(WEATHER,)))

    assert isinstance(events[-1], ChatDone) and events[-1].text == "call weather {}"


def test_a_stop_before_the_call_makes_none(engine: NullEngine) -> None:
    engine.step([Arrival(SLOT, asked("one two call weather {}", WEATHER))])

    events = send(engine, StopAnswer())

    assert not any(isinstance(event, ToolCall) for event in events)
    assert isinstance(events[-1], ChatDone) and events[-1].finish_reason == "cancelled"

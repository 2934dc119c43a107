"""Chat with functions: calls are told, not shown and not spoken; results are answered."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from omni.engine import (
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Part,
    ReplyChunk,
    SessionEvent,
    Slot,
    StopAnswer,
    Tool,
    ToolCall,
)
from omni.minicpmo.chat import chat
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.minicpmo.work import Feed, Ids, Speak
from tests.minicpmo.driver import Driver, golden_driver
from tests.minicpmo.executor import Executor
from tests.minicpmo.script import Script

WEATHER = Tool(name="weather", parameters='{"type": "object"}')
WRITTEN = '\n{"name": "weather", "arguments": {"place": "Köln"}}\n'
CALL = f"<tool_call>{WRITTEN}</tool_call>"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, script: Script) -> Iterator[Driver]:
    """The tiny checkpoint that anybody can write: its template takes functions."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    made = Driver(directory, EngineOptions(choose=script))
    yield made
    made.engine.close()


def said(text: str, *tools: Tool, **options: object) -> ChatRequest:
    message = ChatMessage(role="user", parts=(Part(kind="text", text=text),))
    return evolve(ChatRequest(messages=(message,), tools=tools), **options)


def script_answer(driver: Driver, script: Script, text: str) -> list[int]:
    """Have slot 0 write *text*, in which marks stand by name, and end; return its tokens."""
    tokenizer = driver.engine.loaded.around.prompts.tokenizer
    ids = tokenizer.encode_markup(text)
    script.tokens[0] = [*ids, tokenizer.control.im_end]
    return ids


def told(driver: Driver, slot: Slot, request: ChatRequest) -> list[SessionEvent]:
    driver.step(slot, request)
    return driver.until_done(slot)


def text_of(events: list[SessionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReplyChunk))


def done_of(events: list[SessionEvent]) -> ChatDone:
    done = events[-1]
    assert isinstance(done, ChatDone), done
    return done


def prompt_of(executor: Executor) -> str:
    (part,) = executor.works(Feed)[0].parts
    assert isinstance(part, Ids)
    return executor.session.tokenizer.decode(part.ids, skips_special=False)


def test_the_engine_says_that_it_calls_functions(driver: Driver) -> None:
    assert driver.capabilities.calls_tools


def test_a_call_is_told_between_the_words(driver: Driver, slot: Slot, script: Script) -> None:
    ids = script_answer(driver, script, f"Let me see.\n{CALL}")

    events = told(driver, slot, said("Rain?", WEATHER))

    (call,) = (event for event in events if isinstance(event, ToolCall))
    assert (call.name, json.loads(call.arguments)) == ("weather", {"place": "Köln"})
    before = events[: events.index(call)]
    assert text_of(before) == text_of(events) == done_of(events).text == "Let me see."
    assert done_of(events).finish_reason == "tool_calls"
    assert done_of(events).generated_tokens == len(ids)


def test_nothing_of_a_call_is_spoken(
    driver: Driver, executor: Executor, script: Script
) -> None:
    tokenizer = executor.session.tokenizer
    before, behind = (tokenizer.encode_markup(text) for text in (" one two three", " four five"))
    call = tokenizer.encode_markup(CALL)
    script.tokens[0] = [*before, *call, *behind, tokenizer.control.im_end]

    executor.run(lambda session: chat(session, said("Rain?", WEATHER, speak=True)))

    spoken = [token for work in executor.works(Speak) for token in work.text_ids]
    assert spoken == before + behind
    assert any(isinstance(event, ToolCall) for event in executor.events)
    assert any(len(e.pcm) for e in executor.events if isinstance(e, ReplyChunk))


def test_an_answer_that_only_calls_has_no_text_and_no_sound(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script_answer(driver, script, f"{CALL}\n{CALL}")

    events = told(driver, slot, said("Rain?", WEATHER, speak=True))

    ids = [event.id for event in events if isinstance(event, ToolCall)]
    assert len(set(ids)) == 2
    pieces = [event for event in events if isinstance(event, ReplyChunk)]
    assert not any(piece.text or len(piece.pcm) for piece in pieces)
    assert (done_of(events).text, done_of(events).finish_reason) == ("", "tool_calls")


def test_what_is_no_call_is_text_and_not_spoken(
    driver: Driver, executor: Executor, script: Script
) -> None:
    tokenizer = executor.session.tokenizer
    text = "Look <tool_call>{weather}</tool_call> there"
    script.tokens[0] = [*tokenizer.encode_markup(text), tokenizer.control.im_end]

    executor.run(lambda session: chat(session, said("Rain?", WEATHER, speak=True)))

    assert done_of(executor.events).text == text_of(executor.events) == text
    assert done_of(executor.events).finish_reason == "stop"
    spoken = [token for work in executor.works(Speak) for token in work.text_ids]
    assert tokenizer.decode(spoken) == "Look  there"


def test_a_call_in_a_thought_is_only_thought(driver: Driver, slot: Slot, script: Script) -> None:
    script_answer(driver, script, f"<think>perhaps {CALL}</think>No need.")

    events = told(driver, slot, said("Rain?", WEATHER))

    assert not any(isinstance(event, ToolCall) for event in events)
    assert text_of(events) == "No need."


def test_an_answer_that_is_cut_within_a_call_is_text(
    driver: Driver, slot: Slot, script: Script
) -> None:
    ids = script_answer(driver, script, f"So: {CALL}")

    events = told(driver, slot, said("Rain?", WEATHER, max_new_tokens=len(ids) - 4))

    assert not any(isinstance(event, ToolCall) for event in events)
    assert text_of(events).startswith('So: <tool_call>\n{"name": "weather"')
    assert done_of(events).finish_reason == "length"


def test_a_stop_within_a_call_tells_nothing_of_it(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script_answer(driver, script, f"So: {CALL}{CALL}{CALL}{CALL}{CALL}")
    driver.step(slot, said("Rain?", WEATHER))
    driver.until(lambda: len(script.tokens.get(0, [])) < 80)

    driver.step(slot, StopAnswer())

    events = driver.until_done(slot)
    assert done_of(events).finish_reason == "cancelled"
    assert "<tool_call>" not in text_of(events)


def test_a_mark_of_a_model_that_knows_no_functions_is_text(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script_answer(driver, script, CALL)

    events = told(driver, slot, said("Rain?"))

    assert text_of(events) == CALL
    assert done_of(events).finish_reason == "stop"


def test_the_result_of_a_call_is_answered(
    driver: Driver, executor: Executor, script: Script
) -> None:
    tokenizer = executor.session.tokenizer
    script.tokens[0] = [*tokenizer.encode("It is dry."), tokenizer.control.im_end]
    calls = tuple(ToolCall(id=i, name="weather", arguments=f'{{"n": "{i}"}}') for i in ("a", "b"))

    def result(call_id: str) -> ChatMessage:
        part = Part(kind="text", text=f"result {call_id}")
        return ChatMessage(role="tool", parts=(part,), tool_call_id=call_id)

    asked = said("Rain?", WEATHER)
    called = ChatMessage(role="assistant", parts=(), tool_calls=calls)
    messages = (*asked.messages, called, result("b"), result("a"))
    executor.run(lambda session: chat(session, evolve(asked, messages=messages)))

    assert done_of(executor.events).text == "It is dry."
    prompt = prompt_of(executor)
    assert prompt.index("result a") < prompt.index("result b")


def test_a_checkpoint_without_a_place_for_functions_refuses_them(
    checkpoint_dir: Path, expected: object
) -> None:
    golden = golden_driver(checkpoint_dir, expected("i_flow").tensors["noise"])  # type: ignore
    slot = Slot(index=0, generation=1)
    try:
        assert not golden.capabilities.calls_tools
        refused = golden.refusal(slot, said("Rain?", WEATHER))
    finally:
        golden.engine.close()

    assert isinstance(refused, Failed) and "leave tools out" in refused.message


def test_an_old_turn_with_calls_goes_whole_where_the_prompt_is_too_long(
    driver: Driver, executor: Executor, script: Script
) -> None:
    """Its results would else stand without their calls."""
    tokenizer = executor.session.tokenizer
    script.tokens[0] = [tokenizer.control.im_end]
    call = ToolCall(id="a", name="weather", arguments="{}")
    old = (
        said("first question").messages[0],
        ChatMessage(role="assistant", parts=(), tool_calls=(call,)),
        ChatMessage(
            role="tool", parts=(Part(kind="text", text="long " * 400),), tool_call_id="a"
        ),
        ChatMessage(role="assistant", parts=(Part(kind="text", text="first answer"),)),
    )
    asked = said("second question", WEATHER, max_inp_length=600)

    executor.run(
        lambda session: chat(session, evolve(asked, messages=(*old, *asked.messages)))
    )

    prompt = prompt_of(executor)
    assert "second question" in prompt and "# Tools" in prompt
    assert not any(old in prompt for old in ("first", "long", "<tool_response>"))

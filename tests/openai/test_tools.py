"""Functions in chat completions, through OpenAI's own client: called, answered, refused by name.

The null engine calls what its user orders: `call NAME {...}`.
"""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from omni.engine import ChatMessage, ChatRequest, Part, Tool, ToolCall
from omni.openai.tools import MAX_TOOLS, MAX_TOOLS_BYTES, in_words, read_tools
from omni.realtime.fields import FieldError, Fields
from tests.openai.conftest import MODEL, picture_url

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
#: The client's own loop reads the arguments of strict functions with pydantic alone.
LOOSE = {"type": "function", "function": {"name": "get_weather"}}
ORDER = 'well call get_weather {"place": "Köln"} call clock {}'

# Any: bodies of requests, right and wrong, which the client's types would not let through.


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def ask(client: AsyncOpenAI, messages: Sequence[Any], **options: Any) -> Any:
    return await client.chat.completions.create(model=MODEL, messages=messages, **options)


async def test_functions_are_called_and_their_results_answered(client: AsyncOpenAI) -> None:
    first = await ask(client, [user(ORDER)], tools=TOOLS)

    (choice,) = first.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "well")
    calls = choice.message.tool_calls
    assert [(call.type, call.function.name) for call in calls] == [
        ("function", "get_weather"),
        ("function", "clock"),
    ]
    assert json.loads(calls[0].function.arguments) == {"place": "Köln"}
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {index}"}
        for index, call in enumerate(calls)
    ]

    second = await ask(client, [user(ORDER), choice.message, *results], tools=TOOLS)

    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content == "result 1"
    assert second.choices[0].message.tool_calls is None


async def test_an_answer_that_only_calls_has_no_content(client: AsyncOpenAI) -> None:
    reply = await ask(client, [user("call clock {}")], tools=TOOLS)

    assert reply.choices[0].message.content is None
    assert len(reply.choices[0].message.tool_calls) == 1


async def test_a_stream_tells_each_call_by_its_index(client: AsyncOpenAI) -> None:
    stream = await ask(client, [user(ORDER)], tools=TOOLS, stream=True)

    deltas = [chunk.choices[0] async for chunk in stream]
    parts = [part for choice in deltas for part in choice.delta.tool_calls or ()]
    assert [part.index for part in parts] == [0, 0, 1, 1]
    begun = [part for part in parts if part.id]
    assert [(part.type, part.function.name) for part in begun] == [
        ("function", "get_weather"),
        ("function", "clock"),
    ]
    arguments = ["".join(p.function.arguments for p in parts if p.index == i) for i in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"place": "Köln"}, {}]
    assert "".join(choice.delta.content or "" for choice in deltas) == "well"
    assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["tool_calls"]


def test_the_client_s_own_loop_of_a_stream_gathers_the_calls(sync_client: OpenAI) -> None:
    with sync_client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": ORDER}],
        tools=[CLOCK, LOOSE],  # type: ignore[list-item]
    ) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message

    assert [call.function.name for call in message.tool_calls or ()] == ["get_weather", "clock"]


async def test_a_spoken_answer_that_only_calls_has_no_sound(client: AsyncOpenAI) -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}

    reply = await ask(client, [user("call clock {}")], tools=TOOLS, **spoken)

    message = reply.choices[0].message
    assert message.audio is None and message.content is None and len(message.tool_calls) == 1


async def test_a_spoken_answer_may_speak_and_call(client: AsyncOpenAI) -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}

    reply = await ask(client, [user("well call clock {}")], tools=TOOLS, **spoken)

    message = reply.choices[0].message
    assert message.audio.transcript == "well" and len(message.tool_calls) == 1


async def test_no_function_is_called_where_none_is_to_be(client: AsyncOpenAI) -> None:
    reply = await ask(client, [user("call clock {}")], tools=TOOLS, tool_choice="none")

    assert reply.choices[0].message.content == "call clock {}"
    assert reply.choices[0].finish_reason == "stop"


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


MANY = [function(name=f"f{number}") for number in range(MAX_TOOLS + 1)]
HUGE = {"type": "object", "description": "x" * (MAX_TOOLS_BYTES + 1)}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": "f"}, "tools", "invalid_value"),
    ({"tools": ["f"]}, "tools[0]", "invalid_value"),
    ({"tools": MANY}, "tools", "invalid_value"),
    ({"tools": [function(parameters=HUGE)]}, "tools", "invalid_value"),
    ({"tools": [function(description="ä" * MAX_TOOLS_BYTES)]}, "tools", "invalid_value"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].function.name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": 5}]}, "tools[0].function", "invalid_value"),
    ({"tools": [function(name=5)]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [function(name="a b")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [function(name="f" * 65)]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [function(description=5)]}, "tools[0].function.description", "invalid_value"),
    ({"tools": [function(parameters="{}")]}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": [function(), function()]}, "tools[1].function.name", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        "tool_choice",
        "unsupported_value",
    ),
    ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"messages": [CALLED, {"role": "tool", "content": "x", "tool_call_id": "c2"}]},
        "messages[1].tool_call_id",
        "invalid_value",
    ),
    (
        {
            "messages": [
                CALLED,
                {
                    "role": "tool",
                    "tool_call_id": "c1",
                    "content": [{"type": "image_url", "image_url": {"url": picture_url()}}],
                },
            ]
        },
        "messages[1].content",
        "invalid_value",
    ),
    (
        {"messages": [{**CALLED, "tool_calls": [{**CALL, "id": None}]}, user("x")]},
        "messages[0].tool_calls[0].id",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**CALLED, "tool_calls": [{**CALL, "function": {}}]}, user("x")]},
        "messages[0].tool_calls[0].function.name",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**CALLED, "tool_calls": [CALL] * 129}, user("x")]},
        "messages[0].tool_calls",
        "invalid_value",
    ),
]


@pytest.mark.parametrize("fields, param, code", REFUSED, ids=lambda item: str(item)[:50])
async def test_what_is_wrong_with_functions_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, [user("hi")], extra_body=fields)

    assert (caught.value.param, caught.value.code) == (param, code)


async def test_what_refuses_a_choice_says_the_way_out(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="auto or none is expected"):
        await ask(client, [user("hi")], tools=TOOLS, tool_choice="required")


async def test_as_many_functions_as_may_be_are_taken(client: AsyncOpenAI) -> None:
    reply = await ask(client, [user("call f7 {}")], tools=MANY[:MAX_TOOLS])

    assert reply.choices[0].message.tool_calls[0].function.name == "f7"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "function", "name", "parameters", "description", "x"]), inner
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.just("tools"), st.lists(JSON, max_size=4) | JSON), st.booleans())
def test_any_tools_are_read_or_refused(values: dict[str, object], is_nested: bool) -> None:
    try:
        tools = read_tools(Fields(values), is_nested)
    except FieldError as exc:
        assert str(exc).startswith("tools")
    else:
        assert all(isinstance(json.loads(tool.parameters), dict) for tool in tools)


def test_an_engine_without_functions_is_told_in_words() -> None:
    def said(text: str) -> tuple[Part, ...]:
        return (Part(kind="text", text=text),)

    call = ToolCall(id="c1", name="clock", arguments="{}")
    request = ChatRequest(
        messages=(
            ChatMessage(role="user", parts=said("Time?")),
            ChatMessage(role="assistant", parts=said("Wait."), tool_calls=(call,)),
            ChatMessage(role="tool", parts=said("noon"), tool_call_id="c1"),
            ChatMessage(role="user", parts=said("And?")),
        ),
        tools=(Tool(name="clock"),),
    )

    told = in_words(request)

    assert [(m.role, [part.text for part in m.parts]) for m in told.messages] == [
        ("user", ["Time?"]),
        ("assistant", ["Wait.", "(called clock with {})"]),
        ("user", ["(result of the call c1: noon)", "And?"]),
    ]
    assert told.tools == () and in_words(told) is told

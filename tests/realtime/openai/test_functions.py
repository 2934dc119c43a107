"""Functions in OpenAI Realtime calls, through the real client: called, answered, refused by name.

The null engine calls what its user orders: `call NAME {...}`.
"""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.conftest import RunningOmni
from tests.realtime.openai.talk import TIMEOUT_S, Event, Talk, kinds, talking

TEXT = ["text"]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}
CLOCK = {"type": "function", "name": "clock"}
CALL_EVENTS = [
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "conversation.item.done",
]


@pytest.fixture(scope="module")
def address(omni: RunningOmni) -> str:
    return omni.address


async def give(talk: Talk, call_id: str, output: str) -> Event:
    """Add what a function gave, and return the answer to it."""
    item = {"type": "function_call_output", "call_id": call_id, "output": output}
    await talk.send("conversation.item.create", item=item)
    await talk.until("conversation.item.done")
    await talk.send("response.create")
    return await talk.done()


async def test_a_function_is_called_and_its_result_answered(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(tools=[WEATHER], output_modalities=TEXT)
        await talk.write('call get_weather {"place": "Köln"}')
        await talk.send("response.create")
        await talk.until("response.created")
        events = await talk.expect(*CALL_EVENTS, "response.done")
        added, shown, delta, done, ended, kept, response = events
        second = await give(talk, done["call_id"], "It is dry")

    call = response["response"]["output"][0]
    assert (call["type"], call["name"], call["status"]) == (
        "function_call",
        "get_weather",
        "completed",
    )
    assert json.loads(call["arguments"]) == {"place": "Köln"}
    assert delta["delta"] == done["arguments"] == call["arguments"]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert shown["item"] == added["item"] and ended["item"] == kept["item"] == call
    assert {e["call_id"] for e in (delta, done)} == {call["call_id"]}
    assert {e["item_id"] for e in (delta, done)} == {call["id"]}
    assert {e["output_index"] for e in (added, delta, done, ended)} == {0}
    assert response["response"]["status"] == "completed"
    assert second["output"][0]["content"][0]["text"] == "It is dry"


async def test_words_and_calls_are_items_of_one_response(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(tools=[WEATHER, CLOCK])
        response = await talk.ask("one moment call clock {} call get_weather {}")

    output = response["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert output[0]["content"][0]["transcript"] == "one moment"
    assert [item["name"] for item in output[1:]] == ["clock", "get_weather"]
    added = [e for e in talk.events if e["type"] == "response.output_item.added"]
    assert [(e["output_index"], e["item"]["id"]) for e in added] == [
        (index, item["id"]) for index, item in enumerate(output)
    ]
    done = [e for e in talk.events if e["type"] == "response.output_item.done"]
    assert {e["output_index"]: e["item"] for e in done} == dict(enumerate(output))
    assert "response.output_audio.delta" in kinds(talk.events)


async def test_a_client_of_the_package_runs_the_function(address: str) -> None:
    """Written as in the package's own examples, event by event."""
    async with AsyncOpenAI(api_key="key", base_url=f"{address}/v1", max_retries=0) as client:
        async with client.realtime.connect(model="any") as connection, asyncio.timeout(TIMEOUT_S):
            await connection.session.update(
                session={
                    "type": "realtime",
                    "output_modalities": ["text"],
                    "tools": [WEATHER],  # type: ignore[list-item]
                    "tool_choice": "auto",
                }
            )
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": 'call get_weather {"a": 1}'}],
                }
            )
            await connection.response.create()
            said = ""
            async for event in connection:
                assert event.type != "error", event
                if event.type == "response.function_call_arguments.done":
                    output = f"{event.name} got {event.arguments}"
                    await connection.conversation.item.create(
                        item={
                            "type": "function_call_output",
                            "call_id": event.call_id,
                            "output": output,
                        }
                    )
                elif event.type == "response.output_text.done":
                    said = event.text
                elif event.type == "response.done":
                    if said:
                        break
                    await connection.response.create()

    assert said == 'get_weather got {"a": 1}'


async def test_functions_change_with_the_session_and_for_one_response(address: str) -> None:
    async with talking(address) as talk:
        first = await talk.update(tools=[WEATHER], output_modalities=TEXT)
        one = await talk.ask("call clock {}")
        two = await talk.ask("call clock {}", tools=[CLOCK])
        changed = await talk.update(tools=[CLOCK])
        three = await talk.ask("call clock {}")
        four = await talk.ask("call clock {}", tool_choice="none")
        await talk.update(tool_choice="none")
        five = await talk.ask("call clock {}")
        six = await talk.ask("call clock {}", tool_choice="auto")

    assert (first["tools"], changed["tools"]) == ([WEATHER], [CLOCK])
    answered = [response["output"][0]["type"] for response in (one, two, three, four, five, six)]
    assert answered == [
        "message",
        "function_call",
        "function_call",
        "message",
        "message",
        "function_call",
    ]


async def test_a_call_out_of_band_stays_out_of_the_conversation(address: str) -> None:
    async with talking(address) as talk:
        await talk.update(tools=[CLOCK], output_modalities=TEXT)
        await talk.write("call clock {}")
        await talk.send("response.create", response={"conversation": "none"})
        response = await talk.done()

    assert response["output"][0]["type"] == "function_call"
    added = [e["item"] for e in talk.events if e["type"] == "conversation.item.added"]
    assert [item["type"] for item in added] == ["message"]


async def test_calls_of_the_client_s_own_are_context(address: str) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"}
    async with talking(address) as talk:
        await talk.update(output_modalities=TEXT)
        await talk.write("What time is it?")
        await talk.send("conversation.item.create", item=call)
        await talk.until("conversation.item.done")
        response = await give(talk, "call_1", "noon")

    assert response["output"][0]["content"][0]["text"] == "noon"


MANY = [{"type": "function", "name": f"f{number}"} for number in range(129)]
HUGE = {"type": "function", "name": "f", "parameters": {"description": "x" * 2**17}}

# Any: sessions that are wrong in some way.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": "f"}, "session.tools", "invalid_value"),
    ({"tools": MANY}, "session.tools", "invalid_value"),
    ({"tools": [HUGE]}, "session.tools", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "session.tools[0].name", "missing_required_parameter"),
    ({"tools": [{"type": "mcp"}]}, "session.tools[0].type", "unsupported_value"),
    ({"tools": [CLOCK, CLOCK]}, "session.tools[1].name", "invalid_value"),
    ({"tool_choice": "required"}, "session.tool_choice", "unsupported_value"),
    ({"tool_choice": CLOCK}, "session.tool_choice", "unsupported_value"),
]


@pytest.mark.parametrize("session, param, code", REFUSED, ids=lambda item: str(item)[:40])
async def test_what_is_wrong_with_functions_is_refused_and_the_call_goes_on(
    address: str, session: dict[str, Any], param: str, code: str
) -> None:
    async with talking(address) as talk:
        update = {"type": "realtime", **session}
        error = await talk.refused("session.update", session=update)
        other = await talk.refused("response.create", response=session)
        response = await talk.ask("one", output_modalities=TEXT)

    assert (error["param"], error["code"]) == (param, code)
    assert other["param"] == param.replace("session", "response")
    assert response["status"] == "completed" and response["output"][0]["type"] == "message"


async def test_the_beta_has_calls_in_its_own_names(address: str) -> None:
    async with talking(address, extra_headers={"OpenAI-Beta": "realtime=v1"}) as talk:
        await talk.send("session.update", session={"tools": [CLOCK], "modalities": TEXT})
        await talk.until("session.updated")
        await talk.send(
            "conversation.item.create",
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "call clock {}"}],
            },
        )
        await talk.until("conversation.item.created")
        await talk.send("response.create")
        await talk.until("response.created")
        await talk.expect(
            "response.output_item.added",
            "conversation.item.created",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.done",
        )

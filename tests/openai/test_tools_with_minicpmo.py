"""Functions with the MiniCPM-o engine behind real servers, through OpenAI's own client.

The tiny model says nothing readable, so its words are put in place of what it draws; all else, from
the prompt to the events, is what serves.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from attrs import define, evolve
from openai import AsyncOpenAI

from omni.audio import OUTPUT_HZ, Waveform
from omni.link import BrokerLink, open_link
from omni.settings import load_settings
from tests.conftest import StartOmni, status_of
from tests.fabric import HostedWorker
from tests.openai.conftest import MODEL, sdk
from tests.realtime.openai.talk import talking

torch = pytest.importorskip("torch")
from omni.minicpmo.engine import MiniCPMOEngine  # noqa: E402  # needs torch
from omni.minicpmo.setup import EngineOptions  # noqa: E402
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint  # noqa: E402
from tests.minicpmo.script import Script  # noqa: E402

#: For the whole of a test; a busy machine computes the tiny model slowly.
TIMEOUT_S = 120.0
NAME = "worker-7"
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}
NESTED = [{"type": "function", "function": WEATHER}]
FLAT = [{"type": "function", **WEATHER}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Köln"}}\n</tool_call>'


@define(eq=False)
class Puppet:
    """A server whose model says what the test wants, at the address of `server`."""

    server: Any
    engine: MiniCPMOEngine
    script: Script

    def will_say(self, text: str) -> None:
        """Have the next answer be *text*, in which marks stand by name."""
        tokenizer = self.engine.loaded.around.prompts.tokenizer
        self.script.tokens[0] = [*tokenizer.encode_markup(text), tokenizer.control.im_end]


@pytest.fixture
async def puppet(
    start_omni: StartOmni, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Puppet]:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    torch.set_num_threads(1)
    running = start_omni({"fabric.heartbeat_misses": 100})
    settings = load_settings(overrides=[f"model.model_path={directory}"])
    script = Script()
    engine = MiniCPMOEngine(settings, EngineOptions(device=torch.device("cpu"), choose=script))
    fabric = evolve(running.fabric, heartbeat_misses=100, slots=1)
    async with open_link(running.fabric, role="web", name="web-test") as link:
        await link.wait_connected(TIMEOUT_S)
        await link.drain("worker-0")
        hosted = HostedWorker(fabric, engine, NAME)
        await _until_ready(link)
        yield Puppet(running, engine, script)
        await asyncio.to_thread(hosted.stop)
    running.stop()


async def _until_ready(link: BrokerLink) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not any(
            view.name == NAME and view.state == "ready" for view in (await status_of(link)).workers
        ):
            await asyncio.sleep(0.05)


async def test_functions_are_called_spoken_round_and_answered(puppet: Puppet) -> None:
    """One server for all of it: it takes seconds to start."""
    async with sdk(puppet.server, timeout_s=TIMEOUT_S) as client:
        await _chat(puppet, client)
        await _stream(puppet, client)
        await _speech(puppet, client)
    await _realtime(puppet)


async def _chat(puppet: Puppet, client: AsyncOpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Does it rain in Köln?"},
    ]
    puppet.will_say(f"Let me see.\n{CALL}\n{CALL}")
    first = await client.chat.completions.create(
        model=MODEL, messages=messages, tools=NESTED  # type: ignore[arg-type]
    )
    (choice,) = first.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    calls = choice.message.tool_calls or []
    assert len({call.id for call in calls}) == 2
    given = [call.function.arguments for call in calls]  # type: ignore[union-attr]
    assert [json.loads(text) for text in given] == [{"place": "Köln"}] * 2

    messages.append(choice.message)
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "dry"})
    puppet.will_say("It is dry.")
    second = await client.chat.completions.create(
        model=MODEL, messages=messages, tools=NESTED  # type: ignore[arg-type]
    )
    assert second.choices[0].message.content == "It is dry."
    assert second.choices[0].finish_reason == "stop"
    assert first.usage is not None and second.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens

    puppet.will_say("No idea.")
    bare = await client.chat.completions.create(
        model=MODEL, messages=messages[:2], tools=NESTED, tool_choice="none"  # type: ignore
    )
    assert bare.usage is not None
    assert bare.usage.prompt_tokens < first.usage.prompt_tokens - 100


async def _stream(puppet: Puppet, client: AsyncOpenAI) -> None:
    puppet.will_say(f"One <tool_call>broken</tool_call> and {CALL} two")
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Rain?"}],
        tools=NESTED,  # type: ignore[arg-type]
        stream=True,
    )
    choices = [chunk.choices[0] async for chunk in stream]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text == "One <tool_call>broken</tool_call> and  two"
    parts = [part for choice in choices for part in choice.delta.tool_calls or ()]
    assert [part.index for part in parts] == [0, 0]
    assert parts[0].function is not None and parts[0].function.name == "get_weather"
    assert choices[-1].finish_reason == "tool_calls"


async def _speech(puppet: Puppet, client: AsyncOpenAI) -> None:
    puppet.will_say(CALL)
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Rain?"}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        tools=NESTED,  # type: ignore[arg-type]
    )
    message = reply.choices[0].message
    assert message.audio is None and len(message.tool_calls or ()) == 1
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.audio_tokens == 0


def _tone() -> Waveform:
    at_s = np.arange(OUTPUT_HZ, dtype=np.float32) / OUTPUT_HZ
    return (0.2 * np.sin(2 * np.pi * 440 * at_s)).astype(np.float32)


async def _realtime(puppet: Puppet) -> None:
    """By voice, push to talk: the question is heard, the call told, its result answered aloud."""
    async with talking(puppet.server.address) as talk:
        await talk.update(tools=FLAT, audio={"input": {"turn_detection": None}})
        await talk.say(_tone())
        await talk.send("input_audio_buffer.commit")
        await talk.until("conversation.item.done")
        puppet.will_say(CALL)
        await talk.send("response.create")
        done = await talk.until("response.function_call_arguments.done")
        response = await talk.done()
        assert [item["type"] for item in response["output"]] == ["function_call"]
        assert json.loads(done["arguments"]) == {"place": "Köln"}
        output = {
            "type": "function_call_output",
            "call_id": done["call_id"],
            "output": "It is dry there",
        }
        await talk.send("conversation.item.create", item=output)
        await talk.until("conversation.item.done")
        puppet.will_say("It is dry, one two three four five six seven eight nine ten.")
        await talk.send("response.create")
        answered = await talk.done()

    (item,) = answered["output"]
    assert item["content"][0]["transcript"].startswith("It is dry, one two")
    assert any(event["type"] == "response.output_audio.delta" for event in talk.events)
    assert answered["usage"]["input_token_details"]["audio_tokens"] >= 10

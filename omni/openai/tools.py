"""Functions that a request names, as OpenAI's two APIs write them -> the engine's."""

import re
from collections.abc import Sequence
from typing import Literal

import orjson
from attrs import evolve

from omni.engine import ChatMessage, ChatRequest, Part, Tool
from omni.openai.errors import Refusal
from omni.realtime.fields import Fields

#: As at OpenAI's.
MAX_TOOLS = 128
MAX_CALLS = 128
MAX_NAME_CHARS = 64
#: What all functions of one request may take as JSON; they stand in the prompt, word for word.
MAX_TOOLS_BYTES = 2**17
_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_NAME_CHARS}}}")

Choice = Literal["auto", "none"]


def read_tools(fields: Fields, is_nested: bool) -> tuple[Tool, ...]:
    """Return the functions under `tools`. is_nested: each stands in a `function` of its own.

    Raises: FieldError.
    """
    tools: list[Tool] = []
    for entry in fields.objects("tools", MAX_TOOLS):
        given = _function(entry, is_nested)
        tool = _tool(given)
        if any(tool.name == other.name for other in tools):
            raise given.wrong("name", f"there are two functions {tool.name!r}")
        tools.append(tool)
    size = sum(len(tool.description.encode()) + len(tool.parameters) for tool in tools)
    if size > MAX_TOOLS_BYTES:
        problem = f"the functions take {size} bytes; together they may take {MAX_TOOLS_BYTES}"
        raise fields.wrong("tools", problem)
    return tuple(tools)


def read_choice(fields: Fields, default: Choice = "auto") -> Choice:
    """Return whether functions may be called. Raises: FieldError for what nobody can promise."""
    choice = fields.values.get("tool_choice")
    if choice is None:
        return default
    if choice == "auto" or choice == "none":
        return "auto" if choice == "auto" else "none"
    if choice == "required" or isinstance(choice, dict):
        problem = (
            "no call can be required here, a model that calls functions decides by itself: auto or "
            "none is expected"
        )
        raise Refusal((*fields.loc, "tool_choice"), problem, "unsupported_value")
    raise fields.wrong("tool_choice", "auto or none is expected")


def in_words(request: ChatRequest) -> ChatRequest:
    """Return *request* for an engine that calls no functions: calls and results told in words."""
    if not request.tools and not any(
        message.role == "tool" or message.tool_calls for message in request.messages
    ):
        return request
    told: list[ChatMessage] = []
    for message in map(_in_words, request.messages):
        if told and told[-1].role == message.role:
            message = evolve(message, parts=(*told.pop().parts, *message.parts))
        told.append(message)
    return evolve(request, messages=tuple(told), tools=())


def _function(fields: Fields, is_nested: bool) -> Fields:
    kind = fields.text("type", max_chars=MAX_NAME_CHARS)
    if kind != "function":
        problem = f"{kind!r} is not served, only functions of the client are: function is expected"
        raise Refusal((*fields.loc, "type"), problem, "unsupported_value")
    return fields.section("function") if is_nested else fields


def _tool(given: Fields) -> Tool:
    if not given.has("name"):
        raise Refusal((*given.loc, "name"), "is missing", "missing_required_parameter")
    name = given.text("name", max_chars=MAX_NAME_CHARS)
    if not _NAME.fullmatch(name):
        raise given.wrong("name", "letters, digits, _ and - are expected, at most 64 of them")
    return Tool(
        name=name,
        description=given.text("description", max_chars=MAX_TOOLS_BYTES),
        parameters=orjson.dumps(given.section("parameters").values).decode(),
    )


def _in_words(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        text = " ".join(part.text for part in message.parts)
        result = f"(result of the call {message.tool_call_id}: {text})"
        return ChatMessage(role="user", parts=_said([result]))
    calls = [f"(called {call.name} with {call.arguments})" for call in message.tool_calls]
    return evolve(message, parts=(*message.parts, *_said(calls)), tool_calls=())


def _said(texts: Sequence[str]) -> tuple[Part, ...]:
    return tuple(Part(kind="text", text=text) for text in texts)

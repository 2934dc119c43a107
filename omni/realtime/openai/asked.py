"""From `response.create` to the answer that it asks for."""

from collections.abc import Sequence

from omni.realtime.openai.answers import Answer
from omni.realtime.openai.client_events import CreateResponse
from omni.realtime.openai.config import SessionConfig, functions
from omni.realtime.openai.conversation import Conversation, heard_last
from omni.realtime.openai.items import Item
from omni.realtime.openai.response import Response


def answer_to(
    event: CreateResponse,
    config: SessionConfig,
    conversation: Conversation,
    further: Sequence[Item] = (),
) -> Answer:
    """Return the answer that *event* asks for, in a session that is set as *config*.

    further: items that stand behind those of the conversation. Raises: Refusal, for an item that is
    referred to and is not there.
    """
    items = [*_items_of(event, conversation), *further]
    return Answer(
        response=Response(
            modality=event.output_modality or config.output_modality,
            output_format=event.output_format or config.output_format,
            sound=config.sound,
            voice=event.voice or config.voice,
            max_output_tokens=event.max_output_tokens or config.max_output_tokens,
            conversation=conversation if event.in_conversation else None,
            metadata=event.metadata,
        ),
        items=items,
        instructions=config.instructions if event.instructions is None else event.instructions,
        prompt=event.instructions or "",
        heard=heard_last(items),
        tools=functions(
            config.tools if event.tools is None else event.tools,
            event.tool_choice or config.tool_choice,
        ),
    )


def _items_of(event: CreateResponse, conversation: Conversation) -> Sequence[Item]:
    if event.input is None:
        return conversation.items
    find = conversation.find
    return [find(item, "retrieve") if isinstance(item, str) else item for item in event.input]

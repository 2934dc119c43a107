"""What a client's events about items do to the conversation, and what it is told of that."""

from typing import assert_never

from omni.call_threads import in_call_thread
from omni.realtime.openai.client_events import DeleteItem, RetrieveItem, TruncateItem
from omni.realtime.openai.config import FormatName
from omni.realtime.openai.conversation import Conversation
from omni.realtime.openai.events import ServerEvent
from omni.realtime.openai.items import Item
from omni.realtime.openai.response import deleted
from omni.realtime.openai.shown_items import shown_item


def added(
    conversation: Conversation, item: Item, after: str | None = None
) -> list[ServerEvent]:
    """Add *item* to *conversation* and return the events that tell so. Raises: Refusal."""
    previous, gone = conversation.add(item, after)
    shown = shown_item(item)
    return [
        ServerEvent.of("conversation.item.added", previous_item_id=previous, item=shown),
        ServerEvent.of("conversation.item.done", previous_item_id=previous, item=shown),
        *deleted(gone),
    ]


async def done_with_item(
    conversation: Conversation,
    event: RetrieveItem | DeleteItem | TruncateItem,
    sound: FormatName,
) -> list[ServerEvent]:
    """Do *event*, and return what tells so. sound: as a retrieved one is given. Raises: Refusal."""
    match event:
        case RetrieveItem(item_id=item_id):
            item = conversation.find(item_id, "retrieve")
            whole = await in_call_thread(shown_item, item, sound)
            return [ServerEvent.of("conversation.item.retrieved", item=whole)]
        case DeleteItem(item_id=item_id):
            item = conversation.find(item_id, "delete")
            conversation.remove(item)
            return deleted([item])
        case TruncateItem(item_id=item_id, content_index=index, audio_end_ms=end_ms):
            conversation.truncate(item_id, index, end_ms)
            where = {"item_id": item_id, "content_index": index, "audio_end_ms": end_ms}
            return [ServerEvent.of("conversation.item.truncated", **where)]
    assert_never(event)

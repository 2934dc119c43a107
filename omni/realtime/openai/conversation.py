"""The conversation: items in order, within a bound, and the messages that an engine is given."""

from collections.abc import Sequence

from attrs import define, evolve, field, frozen

from omni.engine import ChatMessage, Part, ToolCall
from omni.openai.errors import Refusal
from omni.realtime.content import BEGIN, GO_ON
from omni.realtime.openai.events import new_id
from omni.realtime.openai.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    Picture,
    Spoken,
    Text,
    UserSound,
    has_sound,
    num_bytes,
)

#: Where `previous_item_id` names no item but the beginning.
ROOT = "root"


@define(eq=False, kw_only=True)
class Conversation:
    """The items of one session. When it is full, the oldest go. version: counts changes."""

    max_items: int
    max_bytes: int
    id: str = field(factory=lambda: new_id("conv"), init=False)
    version: int = field(default=0, init=False)
    _items: list[Item] = field(factory=list, init=False)

    @property
    def items(self) -> Sequence[Item]:
        """The items, oldest first."""
        return self._items

    def add(self, item: Item, after: str | None = None) -> tuple[str | None, list[Item]]:
        """Add *item* behind the item *after*, at the end where that is None.

        Returns the id of the item in front of it, and those that had to go. Raises: Refusal.
        """
        if any(present.id == item.id for present in self._items):
            problem = f"there is an item {item.id!r} already"
            raise Refusal(("item", "id"), problem, "item_create_duplicate_item_id")
        place = self._place(after)
        self._items.insert(place, item)
        self.version += 1
        previous = self._items[place - 1].id if place else None
        return previous, self._make_room(item)

    def find(self, item_id: str, verb: str) -> Item:
        """Return the item. verb: what was wanted of it. Raises: Refusal."""
        for item in self._items:
            if item.id == item_id:
                return item
        problem = f"there is no item {item_id[:80]!r}"
        raise Refusal(("item_id",), problem, f"item_{verb}_invalid_item_id")

    def before(self, item: Item) -> str | None:
        """Return the id of what stands in front of *item*, which may be gone itself."""
        place = next((at for at, present in enumerate(self._items) if present is item), 0)
        return self._items[place - 1].id if place else None

    def remove(self, item: Item) -> None:
        """Take *item* out."""
        self._items.remove(item)
        self.version += 1

    def truncate(self, item_id: str, content_index: int, end_ms: int) -> None:
        """Keep of a spoken answer what was played until *end_ms*. Raises: Refusal.

        It may still be spoken: some clients truncate first, and cancel then.
        """
        item = self.find(item_id, "truncate")
        if not isinstance(item, Message) or item.role != "assistant":
            problem = "only spoken answers can be truncated"
            raise Refusal(("item_id",), problem, "item_truncate_invalid_item_id")
        content = item.content[content_index] if content_index < len(item.content) else None
        if not isinstance(content, Spoken):
            raise Refusal(("content_index",), "there is no sound of an answer there")
        if end_ms > content.duration_ms + 1:  # clients count whole milliseconds, and may round up
            problem = f"its sound is {content.duration_ms:.0f} ms long"
            raise Refusal(("audio_end_ms",), problem)
        content.truncate(end_ms)
        self.version += 1

    def _place(self, after: str | None) -> int:
        if after is None:
            return len(self._items)
        if after == ROOT:
            return 0
        for index, item in enumerate(self._items):
            if item.id == after:
                return index + 1
        problem = f"there is no item {after[:80]!r}"
        raise Refusal(("previous_item_id",), problem, "item_create_invalid_previous_item_id")

    def _make_room(self, newest: Item) -> list[Item]:
        gone: list[Item] = []
        held_bytes = sum(map(num_bytes, self._items))
        while len(self._items) > self.max_items or (
            len(self._items) > 1 and held_bytes > self.max_bytes
        ):
            oldest = next(item for item in self._items if item is not newest)
            self._items.remove(oldest)
            held_bytes -= num_bytes(oldest)
            gone.append(oldest)
        return gone


def heard_last(items: Sequence[Item]) -> Message | None:
    """Return the last of *items* if a user speaks in it."""
    last = items[-1] if items else None
    return last if isinstance(last, Message) and has_sound(last) else None


@frozen
class History:
    """What an engine is told of a conversation. heard: ids of the items sent as sound."""

    items: Sequence[Item]
    heard: frozenset[str]


def history(items: Sequence[Item], max_s: float, prefers_words: bool) -> History:
    """Return *items* from the oldest on that can be told.

    max_s: of the user's sound; what they said last is heard however long it is. Older sound is told
    in words where somebody wrote it down, else it ends the history. prefers_words: so is all that
    was written down, for engines that would only write it down again.
    """
    left_s, heard, is_newest = max_s, set[str](), True
    for index in range(len(items) - 1, -1, -1):
        sounds = _sounds_of(items[index])
        is_written = all(sound.transcript is not None for sound in sounds)
        if not sounds or (is_written and prefers_words):
            continue
        left_s -= sum(sound.duration_s for sound in sounds)
        if left_s >= 0 or is_newest:
            heard.add(items[index].id)
        elif not is_written:
            return History(items[index + 1 :], frozenset(heard))
        is_newest = False
    return History(items, frozenset(heard))


def messages_of(
    told: History, instructions: str, prompt: str, sees: bool
) -> tuple[ChatMessage, ...]:
    """Return *told* as an engine takes it: the system's words first, a question last.

    prompt: what is asked where the last word is not the user's. sees: whether the engine takes
    pictures. A message holds one recording: of the last one engines say what they heard in it.
    """
    system = [instructions] if instructions else []
    turns: list[ChatMessage] = []
    for item in told.items:
        message = _message_of(item, item.id in told.heard, sees)
        if message.role == "system":
            system += [part.text for part in message.parts]
        elif turns and _belongs(turns[-1], message):
            turns[-1] = evolve(
                turns[-1],
                parts=turns[-1].parts + message.parts,
                tool_calls=turns[-1].tool_calls + message.tool_calls,
            )
        elif message.parts or message.tool_calls or message.role == "tool":
            turns.append(message)
    if not turns or turns[-1].role == "assistant":
        asked = _said(prompt or (GO_ON if turns else BEGIN))
        turns.append(ChatMessage(role="user", parts=(asked,)))
    head = [ChatMessage(role="system", parts=(_said("\n\n".join(system)),))] if system else []
    return (*head, *turns)


def _sounds_of(item: Item) -> list[UserSound]:
    if not isinstance(item, Message):
        return []
    return [part for part in item.content if isinstance(part, UserSound)]


def _message_of(item: Item, is_heard: bool, sees: bool) -> ChatMessage:
    match item:
        case Message():
            given = (_part_of(content, is_heard) for content in item.content)
            parts = tuple(p for p in given if p is not None and (sees or p.kind != "image"))
            return ChatMessage(role=item.role, parts=parts)
        case FunctionCall():
            call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments)
            return ChatMessage(role="assistant", parts=(), tool_calls=(call,))
        case FunctionCallOutput():
            parts = (_said(item.output),) if item.output else ()
            return ChatMessage(role="tool", parts=parts, tool_call_id=item.call_id)


def _belongs(before: ChatMessage, after: ChatMessage) -> bool:
    """Say whether two messages are one: words stand in front of calls, sounds alone."""
    if before.role != after.role or after.role == "tool":
        return False
    if before.tool_calls and after.parts:
        return False
    return _num_sounds(before.parts + after.parts) < 2


def _part_of(content: Content, is_heard: bool) -> Part | None:
    match content:
        case Text(text=text):
            return _said(text) if text else None
        case Spoken(transcript=transcript):
            return _said(transcript) if transcript else None
        case Picture(data=data):
            return Part(kind="image", data=data)
        case UserSound(transcript=transcript):
            if is_heard:
                return Part(kind="audio", data=content.pcm)
            return _said(transcript) if transcript else None


def _num_sounds(parts: Sequence[Part]) -> int:
    return sum(part.kind == "audio" for part in parts)


def _said(text: str) -> Part:
    return Part(kind="text", text=text)

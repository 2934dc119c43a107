"""The conversation: items in order, within a bound, and the messages that an engine is given."""

from collections.abc import Sequence

from attrs import define, field, frozen

from omni.engine import ChatMessage, Part
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
    Role,
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
        while len(self._items) > self.max_items or (
            len(self._items) > 1 and sum(map(num_bytes, self._items)) > self.max_bytes
        ):
            oldest = next(item for item in self._items if item is not newest)
            self._items.remove(oldest)
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
    left_s, heard = max_s, set[str]()
    for index in range(len(items) - 1, -1, -1):
        sounds = _sounds_of(items[index])
        is_written = all(sound.transcript is not None for sound in sounds)
        if not sounds or (is_written and prefers_words):
            continue
        left_s -= sum(sound.duration_s for sound in sounds)
        if left_s >= 0 or index == len(items) - 1:
            heard.add(items[index].id)
        elif not is_written:
            return History(items[index + 1 :], frozenset(heard))
    return History(items, frozenset(heard))


def messages_of(
    told: History, instructions: str, prompt: str, sees: bool
) -> tuple[ChatMessage, ...]:
    """Return *told* as an engine takes it: the system's words first, a question last.

    prompt: what is asked where the last word is not the user's. sees: whether the engine takes
    pictures. A message holds one recording: of the last one engines say what they heard in it.
    """
    system = [instructions] if instructions else []
    turns: list[tuple[Role, list[Part]]] = []
    for item in told.items:
        role, parts = _parts_of(item, item.id in told.heard)
        parts = [part for part in parts if sees or part.kind != "image"]
        if role == "system":
            system += [part.text for part in parts]
        elif turns and turns[-1][0] == role and _num_sounds(turns[-1][1] + parts) < 2:
            turns[-1][1].extend(parts)
        elif parts:
            turns.append((role, parts))
    if not turns or turns[-1][0] != "user":
        turns.append(("user", [_said(prompt or (GO_ON if turns else BEGIN))]))
    head = [ChatMessage(role="system", parts=(_said("\n\n".join(system)),))] if system else []
    return (*head, *(ChatMessage(role=role, parts=tuple(parts)) for role, parts in turns))


def _sounds_of(item: Item) -> list[UserSound]:
    if not isinstance(item, Message):
        return []
    return [part for part in item.content if isinstance(part, UserSound)]


def _parts_of(item: Item, is_heard: bool) -> tuple[Role, list[Part]]:
    match item:
        case Message():
            parts = [_part_of(content, is_heard) for content in item.content]
            return item.role, [part for part in parts if part is not None]
        case FunctionCall():
            return "assistant", [_said(f"(called {item.name} with {item.arguments})")]
        case FunctionCallOutput():
            return "user", [_said(f"(result of the call {item.call_id}: {item.output})")]


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

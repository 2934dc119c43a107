"""Events of one session that its client does not take yet: in order, joined where that is the same.

An engine may answer faster than a client takes (a fast one, a slow line). Then its events wait in
the worker, where a thousand words become one message, and not in sockets that others share.
"""

from collections import deque

from attrs import Factory, define, frozen

from omni.engine import Buffer, ReplyChunk
from omni.messages import Header, Message

#: Beyond either the session ends. 64 MiB are eleven minutes of sound that was made ahead.
MAX_EVENTS = 512
MAX_BYTES = 67_108_864
#: Pieces of an answer are joined up to this size: 2.7 s of sound, or all of a long text.
MAX_JOINED_BYTES = 262_144
#: What an event weighs besides its text and sound.
EVENT_BYTES = 256


@frozen
class _Waiting:
    header: Header
    message: Message
    size_bytes: int


@define(eq=False)
class Backlog:
    """A bounded queue that its one user fills and empties."""

    _waiting: deque[_Waiting] = Factory(deque)
    _size_bytes: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> tuple[Header, Message] | None:
        """What is to be sent next; None: nothing waits."""
        return (self._waiting[0].header, self._waiting[0].message) if self._waiting else None

    def drop_first(self) -> None:
        """Let go of what was sent."""
        self._size_bytes -= self._waiting.popleft().size_bytes

    def put(self, header: Header, message: Message) -> bool:
        """Take an event. False if there is no room."""
        size_bytes = _size_bytes(message)
        if self._size_bytes + size_bytes > MAX_BYTES:
            return False
        last = self._waiting[-1] if self._waiting else None
        joined_bytes = size_bytes + last.size_bytes if last else MAX_JOINED_BYTES + 1
        if last and joined_bytes <= MAX_JOINED_BYTES and (joined := _joined(last.message, message)):
            self._waiting[-1] = _Waiting(header, joined, joined_bytes)
        elif len(self._waiting) >= MAX_EVENTS:
            return False
        else:
            self._waiting.append(_Waiting(header, message, size_bytes))
        self._size_bytes += size_bytes
        return True

    def clear(self) -> None:
        """Let go of everything."""
        self._waiting.clear()
        self._size_bytes = 0


def _joined(before: Message, after: Message) -> ReplyChunk | None:
    """Return two pieces of an answer as one; None for any other pair."""
    if not isinstance(before, ReplyChunk) or not isinstance(after, ReplyChunk) or before.is_final:
        return None
    return ReplyChunk(
        text=before.text + after.text,
        pcm=Buffer(bytes(before.pcm) + bytes(after.pcm)),
        is_final=after.is_final,
    )


def _size_bytes(message: Message) -> int:
    """Return about what *message* holds; only some kinds have text, sound or arguments."""
    held = (getattr(message, name, "") for name in ("text", "pcm", "arguments"))
    return EVENT_BYTES + sum(map(len, held))

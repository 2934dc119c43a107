"""What a client said while it waited in the queue, within a bound."""

from collections import deque

from attrs import define, field

from omni.errors import TooLarge
from omni.realtime.dialect import Command, Open, Sound
from omni.recording.sound import held_bytes

#: However small they are: a frame of four bytes takes a hundred times as many to keep.
MAX_COMMANDS = 8192


@define
class EarlyCommands:
    """Commands in the order in which they came.

    max_bytes: of the frames that held them, or of what those hold where it is more: 600 bytes of
    Opus can be half a minute of sound. The first command counts as its frame alone: it may bring
    voices. With so many bytes or `MAX_COMMANDS` the oldest sound goes; where no sound is left to
    go, the newcomer is refused.
    """

    max_bytes: int
    num_dropped: int = 0
    _kept: deque[tuple[Command, int]] = field(factory=deque, init=False)
    _num_bytes: int = field(default=0, init=False)

    def push(self, command: Command, num_bytes: int) -> None:
        """Keep *command*, whose frame had *num_bytes*. Raises: TooLarge."""
        if self._kept:
            num_bytes = max(num_bytes, _held(command))
        self._kept.append((command, num_bytes))
        self._num_bytes += num_bytes
        while self._num_bytes > self.max_bytes or len(self._kept) > MAX_COMMANDS:
            if not self._drop_oldest_sound():
                self._kept.pop()
                self._num_bytes -= num_bytes
                most = f"{self.max_bytes >> 10} KiB or {MAX_COMMANDS} events"
                raise TooLarge(f"more than {most} sent while waiting")

    def pop(self) -> Command | None:
        """Return the oldest command, None when all are taken."""
        if not self._kept:
            return None
        command, num_bytes = self._kept.popleft()
        self._num_bytes -= num_bytes
        return command

    def _drop_oldest_sound(self) -> bool:
        for index, (command, num_bytes) in enumerate(self._kept):
            if isinstance(command, Sound):
                del self._kept[index]
                self._num_bytes -= num_bytes
                self.num_dropped += 1
                return True
        return False


def _held(command: Command) -> int:
    match command:
        case Sound(chunk=chunk):
            return held_bytes(chunk)
        case Open(input=opening):
            return held_bytes(opening)
    return 0

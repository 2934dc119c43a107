"""One session's messages between web and worker: counted, kept until acknowledged, sent again.

Both ends hold a `Stream` for each session. It makes the restart of a broker invisible: what the old
broker took with it is sent again over the new one, and what arrives twice is dropped. Its window
keeps a worker from sending faster than the session's client takes.
"""

from collections import deque
from collections.abc import Sequence

from attrs import Factory, define, frozen

from omni.codec import Part

#: Messages and bytes of one session that wait for an acknowledgement. A duplex session has a few
#: (every unit is answered); half duplex can be silent for long, and then the oldest are let go.
MAX_KEPT = 64
MAX_KEPT_BYTES = 1_048_576
#: Events of one session that the worker sends before their taker says that it took them. Below
#: what is kept, so that a window's worth can always be sent again.
WINDOW = 32
WINDOW_BYTES = MAX_KEPT_BYTES // 2
#: So much taken without a message of the session's own that says so is worth an `Ack`.
ACK_AFTER = WINDOW // 4
ACK_AFTER_BYTES = WINDOW_BYTES // 2


@frozen
class _Kept:
    seq: int
    parts: Sequence[Part]
    size_bytes: int


@define(eq=False)
class Stream:
    """Both directions of a session, as one end sees them.

    received: highest seq that arrived here. taken: highest seq that its user took from here.
    is_held: nothing may be sent until the broker says `Rejoined`. num_gaps: messages that were lost
    for good before one that arrived.
    """

    received: int = 0
    taken: int = 0
    is_held: bool = False
    num_gaps: int = 0
    _seq: int = 0
    _sent: int = 0  # highest seq that was given to the socket
    _kept: deque[_Kept] = Factory(deque)
    _kept_bytes: int = 0
    _acked: int = 0  # of those taken, how far the other end was told
    _unacked_bytes: int = 0

    @property
    def next_seq(self) -> int:
        """Number of the next message; it is taken by `keep`."""
        return self._seq + 1

    def keep(self, parts: Sequence[Part]) -> bool:
        """Take the next message. False if there is no room: everything kept is still unsent."""
        size_bytes = sum(map(len, parts))
        while self._kept and not self._has_room(size_bytes):
            if self._kept[0].seq > self._sent:
                return False
            self._drop_oldest()
        self._seq += 1
        self._kept.append(_Kept(self._seq, parts, size_bytes))
        self._kept_bytes += size_bytes
        return True

    @property
    def window_is_open(self) -> bool:
        """True while the other end takes what it gets: the next message may be sent.

        It looks at what is on its way, not at the next one's size: so a large one never waits for
        an acknowledgement that nobody owes.
        """
        return len(self._kept) < WINDOW and self._kept_bytes < WINDOW_BYTES

    def next_unsent(self) -> Sequence[Part] | None:
        """Return what must be given to the socket next; call `note_sent` when it took it."""
        if self._sent == self._seq:  # the usual case, without further ado
            return None
        index = self._next_unsent_seq - self._first_kept
        return self._kept[index].parts if index < len(self._kept) else None

    def note_sent(self) -> None:
        """The socket took the message of `next_unsent`."""
        self._sent = self._next_unsent_seq

    def take_ack(self, seq: int) -> None:
        """Let go of everything up to *seq*: the other end has it."""
        while self._kept and self._kept[0].seq <= min(seq, self._sent):
            self._drop_oldest()

    def accept(self, seq: int) -> bool:
        """Note that message *seq* arrived. False if it did before."""
        if seq <= self.received:
            return False
        self.num_gaps += seq - self.received - 1
        self.received = seq
        return True

    def note_taken(self, seq: int, size_bytes: int) -> bool:
        """The user took message *seq*. True when the other end should be told by an `Ack`."""
        self.taken = seq
        self._unacked_bytes += size_bytes
        return seq - self._acked >= ACK_AFTER or self._unacked_bytes >= ACK_AFTER_BYTES

    def acknowledge(self) -> int:
        """Return the `ack` of a header that is sent now."""
        self._acked, self._unacked_bytes = self.taken, 0
        return self.taken

    def rejoin(self, received: int | None) -> None:
        """Go on over a new broker; the other end has everything up to *received*."""
        self.is_held = False
        if received is not None:
            self.take_ack(received)
            self._sent = min(self._sent, max(received, self._first_kept - 1))

    @property
    def _next_unsent_seq(self) -> int:
        return max(self._sent + 1, self._first_kept)

    @property
    def _first_kept(self) -> int:
        return self._kept[0].seq if self._kept else self._seq + 1

    def _has_room(self, size_bytes: int) -> bool:
        fits = self._kept_bytes + size_bytes <= MAX_KEPT_BYTES
        return fits and len(self._kept) < MAX_KEPT

    def _drop_oldest(self) -> None:
        self._kept_bytes -= self._kept.popleft().size_bytes

"""The sessions that this web process holds now, found by the id that their clients know."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from attrs import define, field

from omni.errors import Cancelled, OmniError
from omni.realtime.session import Action, Session

#: How long a newcomer waits for somebody else's connection with its id that is just closing.
_HANDOVER_S = 1.0
#: How long for one of its own, which was told to end; above what a client may take nothing for.
_TAKE_OVER_S = 15.0


class Stoppable(Protocol):
    """Something that ends when this process stops."""

    async def shut_down(self) -> None:
        """End because this process stops."""


class Connection(Stoppable, Protocol):
    """What others may do with a live connection. owner: who opened it, by key or address."""

    session: Session
    owner: str

    async def perform(self, actions: Sequence[Action]) -> None:
        """Do what something outside of the socket asks of the session."""

    async def fail(self, error: OmniError, text: str = "") -> None:
        """End the session and tell why."""


@define(eq=False)
class LiveSessions:
    """Connections by client id. Only one of an id may hold a slot: the first in its list."""

    _by_id: dict[str, list[Connection]] = field(factory=dict, init=False)
    _calls: set[Stoppable] = field(factory=set, init=False)
    _left: asyncio.Event = field(factory=asyncio.Event, init=False)

    @contextmanager
    def holding(self, connection: Connection) -> Iterator[None]:
        """Keep *connection* here for the time of the block."""
        client_id = connection.session.client_id
        self._by_id.setdefault(client_id, []).append(connection)
        try:
            yield
        finally:
            self._by_id[client_id].remove(connection)
            if not self._by_id[client_id]:
                del self._by_id[client_id]
            self._left.set()
            self._left = asyncio.Event()

    @contextmanager
    def holding_call(self, call: Stoppable) -> Iterator[None]:
        """Keep *call*, whose id is the server's own, for the time of the block."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    async def take_over(self, connection: Connection) -> bool:
        """Say whether *connection* is the only one of its id, after ending its owner's older ones.

        A client whose network was away comes back with its id long before anybody sees that its
        first socket is dead. An id that is somebody else's is not given away.
        """
        client_id = connection.session.client_id
        group = self._by_id[client_id]
        older = group[: group.index(connection)]
        for other in older:
            if other.owner == connection.owner:
                text = f"Session {client_id} was opened again: this connection is over"
                await other.fail(Cancelled(text), text)
        is_own = all(other.owner == connection.owner for other in older)
        try:
            async with asyncio.timeout(_TAKE_OVER_S if is_own else _HANDOVER_S):
                while self._first(client_id) is not connection:
                    await self._left.wait()
        except TimeoutError:
            return False
        return True

    def find(self, client_id: str) -> Connection | None:
        """Return the connection of *client_id*."""
        return self._first(client_id)

    def all(self) -> list[Connection]:
        """Return every connection."""
        return [connection for group in self._by_id.values() for connection in group]

    async def shut_down(self) -> None:
        """End everything because this process stops."""
        stoppable: list[Stoppable] = [*self.all(), *self._calls]
        await asyncio.gather(*(one.shut_down() for one in stoppable))

    def paused_ids(self) -> set[str]:
        """Return the ids of the sessions that are paused."""
        return {
            connection.session.client_id
            for connection in self.all()
            if connection.session.state == "paused"
        }

    def _first(self, client_id: str) -> Connection | None:
        group = self._by_id.get(client_id)
        return group[0] if group else None

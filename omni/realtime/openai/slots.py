"""A slot for one turn: asked for when there is something to answer, given back after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define

from omni.errors import QueueFull
from omni.link import BrokerLink, LinkedSession


@define(eq=False, kw_only=True)
class Slots:
    """Where one session gets slots. max_wait_s: estimated wait from which it is sent away."""

    link: BrokerLink
    client_id: str
    max_wait_s: float

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[LinkedSession]:
        """Wait for a slot and hold it for the time of the block.

        Raises: QueueFull, also when the wait would be too long; NoWorker, Cancelled.
        """
        linked = self.link.open_session(self.client_id, "chat")
        try:
            async for place in linked.wait_for_lease():
                if place.estimated_wait_s > self.max_wait_s:
                    text = f"An answer would have to wait {place.estimated_wait_s:.0f} s"
                    raise QueueFull(text, place.estimated_wait_s)
            yield linked
        finally:
            linked.close()

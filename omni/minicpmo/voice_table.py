"""Which voices lie in the flow's prompt frames, and which slots use them."""

from collections.abc import Callable

from attrs import define, field, frozen

from omni.errors import CapacityError
from omni.minicpmo.model.flow import FlowPrompt


@frozen
class Region:
    """Prompt codes first..first+length-1 of the flow state."""

    first: int
    length: int

    @property
    def end(self) -> int:
        return self.first + self.length


@define
class _Resident:
    region: Region
    prompt: FlowPrompt
    users: set[int] = field(factory=set)


@define
class VoiceTable:
    """Voices by key, least recently used first. Holds *room* prompt codes in all."""

    room: int
    _residents: dict[str, _Resident] = field(factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self._residents

    def acquire(
        self, key: str, length: int, slot: int, make: Callable[[Region], FlowPrompt]
    ) -> FlowPrompt:
        """Return the prompt of voice *key* for *slot*, made by *make* if it is not there.

        A slot uses one voice: what it used before is given back. Voices without users make way.
        Raises: CapacityError if the voices in use leave no region of *length* codes.
        """
        self.release(slot)
        resident = self._residents.pop(key, None)
        if resident is None:
            region = self._find_room(length)
            resident = _Resident(region, make(region))
        resident.users.add(slot)
        self._residents[key] = resident
        return resident.prompt

    def release(self, slot: int) -> None:
        """Forget that *slot* uses a voice; the voice itself stays until its room is needed."""
        for resident in self._residents.values():
            resident.users.discard(slot)

    def _find_room(self, length: int) -> Region:
        while (region := self._first_gap(length)) is None:
            unused = next((key for key, each in self._residents.items() if not each.users), None)
            if unused is None:
                raise CapacityError(
                    f"a voice of {length} codes does not fit beside those in use ({self.room} "
                    "codes in all): use one of their voices, a shorter recording, or wait"
                )
            del self._residents[unused]
        return region

    def _first_gap(self, length: int) -> Region | None:
        taken = sorted((each.region for each in self._residents.values()), key=lambda r: r.first)
        start = 0
        for region in [*taken, Region(self.room, 0)]:
            if region.first - start >= length:
                return Region(start, length)
            start = region.end
        return None

"""Checked reading of what clients send: every wrong field is named with its path and its bounds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import orjson
from attrs import frozen

from omni.errors import MissingField, ProtocolError, UnknownEvent

#: Longest text that any field takes, in characters.
MAX_TEXT_CHARS = 200_000
_SHOWN_CHARS = 60

Location = tuple[str | int, ...]
_Option = TypeVar("_Option", bound=str)


class FieldError(ProtocolError):
    """One field is wrong. loc: its path as the 422 answer shows it; given: what stood there."""

    def __init__(self, loc: Location, problem: str, given: object = None) -> None:
        super().__init__(f"{dotted(loc)}: {problem}" if loc else problem)
        self.loc = loc
        self.problem = problem
        self.given = given


def dotted(loc: Location) -> str:
    """Return *loc* as people write it: `messages[0].content`."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_object(text: bytes | str) -> "Fields":
    """Return the JSON object in *text*. Raises: ProtocolError for anything else."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ProtocolError(f"Invalid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ProtocolError(f"Invalid message: a JSON object is expected, got {_kind(document)}")
    return Fields(document)


def no_event(fields: "Fields") -> ProtocolError:
    """Return the error that says that there is no event of the type of *fields*, or no type."""
    kind = fields.text("type")
    if not kind:
        return MissingField("type is missing")
    return UnknownEvent(f"There is no event {kind[:_SHOWN_CHARS]!r}")


@frozen
class Fields:
    """A JSON object on its way in. An absent field and null are the default; unknown ones pass.

    Each reader raises FieldError for a wrong type or a value out of its inclusive bounds.
    """

    values: Mapping[str, object]
    loc: Location = ()

    def has(self, name: str) -> bool:
        """Say whether *name* is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str, default: str = "", max_chars: int = MAX_TEXT_CHARS) -> str:
        """Return a text of at most *max_chars*."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, f"a text is expected, got {_kind(value)}")
        if len(value) > max_chars:
            raise self.wrong(name, f"{len(value)} characters are above {max_chars}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, f"true or false is expected, got {_kind(value)}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number in [*low*, *high*]."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, f"a number is expected, got {_kind(value)}")
        if not low <= value <= high:
            raise self.wrong(name, f"{value} is not in {low}..{high}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number in [*low*, *high*]; 20.0 is one too, as JavaScript has only one."""
        value = self.number(name, default, low, high)
        if value != int(value):
            raise self.wrong(name, f"a whole number is expected, got {value}")
        return int(value)

    def optional_whole(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number, or None where there is none."""
        return self.whole(name, low, low, high) if self.has(name) else None

    def choice(self, name: str, default: _Option, allowed: Sequence[_Option]) -> _Option:
        """Return one of *allowed*."""
        value = self.values.get(name)
        if value is None:
            return default
        for option in allowed:
            if value == option:
                return option
        raise self.wrong(name, f"{_shown(value)} is not one of {', '.join(allowed)}")

    def section(self, name: str) -> "Fields":
        """Return the object under *name*, empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return Fields({}, (*self.loc, name))
        if not isinstance(value, dict):
            raise self.wrong(name, f"an object is expected, got {_kind(value)}")
        return Fields(value, (*self.loc, name))

    def items(self, name: str, max_items: int) -> Sequence[object]:
        """Return the list under *name*, empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.wrong(name, f"a list is expected, got {_kind(value)}")
        if len(value) > max_items:
            raise self.wrong(name, f"{len(value)} entries are above {max_items}")
        return value

    def objects(self, name: str, max_items: int) -> Iterator["Fields"]:
        """Yield the objects in the list under *name*."""
        for index, value in enumerate(self.items(name, max_items)):
            loc = (*self.loc, name, index)
            if not isinstance(value, dict):
                raise FieldError(loc, f"an object is expected, got {_kind(value)}", value)
            yield Fields(value, loc)

    def wrong(self, name: str, problem: str) -> FieldError:
        """Return the error that says what is wrong with *name*."""
        return FieldError((*self.loc, name), problem, self.values.get(name))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."

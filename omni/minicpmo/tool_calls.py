"""Calls of functions in what the model writes: told from its text, token by token.

A call is `<tool_call>`, a JSON object with name and arguments, `</tool_call>`; blank space beside
it belongs to it, but for what parts the words before it from those behind it. Source: the
checkpoint's chat template, which is Qwen3's.
"""

import json
import secrets
from collections.abc import Iterable, Sequence

from attrs import define, field

from omni.engine import ChatMessage, ToolCall
from omni.minicpmo.tokenizer import Tokenizer

#: Calls in one answer, as many as OpenAI's clients may send back; further ones are text.
MAX_CALLS = 128
#: Longest name of a function, as at OpenAI's; a longer one is no name.
MAX_NAME_CHARS = 64


@define(eq=False)
class ToolCalls:
    """Takes the tokens of calls out of an answer, and the blank space beside them.

    What stands in the marks and is no call comes back as text, with its marks: nothing is lost. As
    long as a call can be, an answer can be: its number of tokens is the bound.
    """

    tokenizer: Tokenizer
    num_calls: int = 0
    #: Whether words came since the last call; blank space beside a call is not spoken.
    has_words: bool = field(default=False, init=False)
    _inside: list[int] | None = field(default=None, init=False)
    _blank: str = field(default="", init=False)
    _is_behind: bool = field(default=False, init=False)
    _has_shown: bool = field(default=False, init=False)

    def take(self, token: int) -> ToolCall | str | None:
        """Take the next token of the answer; None: it is text, to be given to `text`.

        Else it belongs to a call: the call that it completes, or text to be shown, mostly "". A
        mark that ends no call is dropped.
        """
        control = self.tokenizer.control
        if token == control.tool_call_start:
            ended = self._end(is_closed=False)  # of a call before it that was never closed
            self._inside = []
            return ended
        if token == control.tool_call_end:
            return self._end(is_closed=True)
        if self._inside is None:
            self.has_words = self.has_words or bool(self.tokenizer.decode((token,)).strip())
            return None
        self._inside.append(token)
        return ""

    def text(self, text: str) -> str:
        """Return what may be shown of a piece of text: blank space waits, a call may follow."""
        whole = self._blank + text
        shown = whole.rstrip()
        self._blank = whole[len(shown) :]
        if not shown:
            return ""
        if self._is_behind and not self._has_shown:
            shown = shown.lstrip()
        self._is_behind, self._has_shown = False, True
        return shown

    def finish(self) -> ToolCall | str:
        """Return what is left at the end of the answer: a call that was not closed, or text."""
        ended = self._end(is_closed=False)
        if isinstance(ended, ToolCall):
            return ended
        blank, self._blank = self._blank, ""
        return "" if self._is_behind else ended + blank

    def _end(self, is_closed: bool) -> ToolCall | str:
        if self._inside is None:
            return ""
        written, self._inside = self.tokenizer.decode(self._inside), None
        self.has_words = False
        call = read_call(written) if self.num_calls < MAX_CALLS else None
        if call is None:
            return self.text(f"<tool_call>{written}{'</tool_call>' if is_closed else ''}")
        self._is_behind = True
        self.num_calls += 1
        return call


def read_call(written: str) -> ToolCall | None:
    """Return the call that a model has *written*, with a new id; None where it is none.

    The arguments are JSON that every reader takes: no NaN, no halves of characters.
    """
    try:
        value = json.loads(written)
        if not isinstance(value, dict):
            return None
        name, arguments = value.get("name"), value.get("arguments")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
            return None
        if not isinstance(arguments, dict | None):
            return None
        text = json.dumps(arguments or {}, ensure_ascii=False, allow_nan=False)
        (name + text).encode()
    except (ValueError, RecursionError):
        return None
    return ToolCall(id=f"call_{secrets.token_hex(12)}", name=name, arguments=text)


def in_order_of_calls(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return *messages* with the results of each answer's calls in the order of the calls.

    The template writes no ids, so the model can only count.
    """
    ordered: list[ChatMessage] = []
    results: list[ChatMessage] = []
    places: dict[str, int] = {}
    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        ordered += _sorted(results, places)
        ordered.append(message)
        results, places = [], {call.id: at for at, call in enumerate(message.tool_calls)}
    return ordered + _sorted(results, places)


def _sorted(results: Iterable[ChatMessage], places: dict[str, int]) -> list[ChatMessage]:
    return sorted(results, key=lambda result: places.get(result.tool_call_id, len(places)))

"""Text as it is generated -> pieces that can be spoken: sentences, and a short first clause."""

import re

#: The first sound should come soon: a clause of this length may be spoken before its sentence ends.
_FIRST_CLAUSE_CHARS = 12
#: Longer pieces are cut at a comma or space, so that no job takes the voice for long.
_MAX_CHARS = 140
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+\s*")
_CLAUSE_END = re.compile(r"(?<=[,;:])\s+")
_ABBREVIATION = r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|vs|e\.g|i\.e)"
_NO_END = re.compile(rf"(?:{_ABBREVIATION}|\b[A-Z]|^\s*\d+)\.[\"')\]]*\s+$")


class SentenceCutter:
    """Cuts a stream of text. The pieces put together are the text."""

    def __init__(self) -> None:
        self._text = ""
        self._is_first = True

    def push(self, text: str) -> list[str]:
        """Return the pieces that *text* completes."""
        self._text += text
        pieces = []
        while (end := self._end()) is not None:
            pieces.append(self._text[:end])
            self._text = self._text[end:]
            self._is_first = False
        return pieces

    def finish(self) -> list[str]:
        """Return what is left, as one piece or none."""
        rest, self._text = self._text, ""
        return [rest] if rest.strip() else []

    def _end(self) -> int | None:
        for match in _SENTENCE_END.finditer(self._text):
            if self._text[: match.end()].strip() and not _NO_END.search(self._text[: match.end()]):
                return match.end()
        if self._is_first:
            for match in _CLAUSE_END.finditer(self._text):
                if match.start() >= _FIRST_CLAUSE_CHARS:
                    return match.end()
        if len(self._text) > _MAX_CHARS:
            ends = [match.end() for match in _CLAUSE_END.finditer(self._text[:_MAX_CHARS])]
            return ends[-1] if ends else self._text.rfind(" ", 1, _MAX_CHARS) + 1 or _MAX_CHARS
        return None


def is_sentence(piece: str) -> bool:
    """Return whether *piece* ends a sentence."""
    return piece.rstrip().rstrip("\"')]")[-1:] in {".", "!", "?"}

"""Texts that end an answer, found while it comes: nothing of them is said."""


class StopTexts:
    """Cuts a text that comes in pieces at the first of some texts."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_hit = False

    def push(self, text: str) -> str:
        """Return what may be shown: a possible beginning of a stop text waits for more."""
        if self.is_hit:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_hit, self._held = True, ""
            return text[: min(places)]
        count = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - count :]
        return text[: len(text) - count]

    def flush(self) -> str:
        """Return what was held: the text ends here."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of *text* that *stop* begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)

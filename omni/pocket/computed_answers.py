"""Questions whose answer is computed, not written: the clock, the calendar, and sums.

No language model knows the time, and one of 135 M parameters cannot count. Only whole, plainly
worded questions are answered here.
"""

import re
from datetime import datetime

from omni.pocket.arithmetic import value_of_sum

_CLOCK = re.compile(
    r"(do you know |can you tell me |tell me )?(what('s| is)? ?)?(the )?(current )?time"
    r"( is it| it is| now| right now| is it now)*|what time is it.*|do you have the time"
)
_DAY = re.compile(
    r"(do you know |can you tell me |tell me )?what('s| is)? ?(the )?(current )?"
    r"(day|date|today's date|day of the week)( is| it| today| of the week| now)*"
)
_YEAR = re.compile(r"(what|which) year (is it|are we in|is this|do we have).*")
_POLITE = re.compile(
    r"^((please|so|well|okay|ok|um|uh|hey|and|pocket) (?=[\w']+ \w))+| (please|pocket)$"
)


def computed_answer(utterance: str, now: datetime) -> str | None:
    """Return what the clock, the calendar or a calculator answers to *utterance*, else None.

    now: local time of the machine.
    """
    asked = _plain(utterance)
    if _CLOCK.fullmatch(asked):
        return _time_of_day(now)
    if _DAY.fullmatch(asked):
        return f"Today is {now.strftime('%A, %B')} {now.day}, {now.year}."
    if _YEAR.fullmatch(asked):
        return f"It is the year {now.year}."
    if (value := value_of_sum(utterance)) is not None:
        return f"That is {value}."
    return None


def _plain(utterance: str) -> str:
    words = re.sub(r"[^\w' ]", " ", utterance.lower().replace("’", "'"))
    return _POLITE.sub("", re.sub(r"\s+", " ", words).strip())


def _time_of_day(now: datetime) -> str:
    if (now.hour, now.minute) in ((0, 0), (12, 0)):
        return "It is midnight." if now.hour == 0 else "It is noon."
    part = "morning" if now.hour < 12 else "afternoon" if now.hour < 18 else "evening"
    return f"It is {now.hour % 12 or 12}:{now.minute:02d} in the {part}."

"""Questions that need no language model: the clock, the calendar, sums, and small talk.

A model of 135 M parameters gets nearly all of these wrong (docs/pocket.md has the table), and they
are what people try first. Only whole, plainly worded questions are answered here.
"""

import re
from datetime import datetime

from omni.pocket.arithmetic import value_of_sum

#: The answer to the first pattern that matches the whole utterance.
_SMALL_TALK = tuple(
    (re.compile(pattern), answer)
    for pattern, answer in (
        (r"(hello|hi|hey)( there)?( pocket)?", "Hello! What would you like to talk about?"),
        (r"good morning( pocket)?", "Good morning! What can I do for you?"),
        (r"good afternoon( pocket)?", "Good afternoon! What can I do for you?"),
        (r"good evening( pocket)?", "Good evening! What can I do for you?"),
        (
            r"((hello|hi|hey)( there)? )?how (are|r) (you|things)( doing| going)?( today)?",
            "I'm doing well, thank you. How are you?",
        ),
        (
            r"(what is|what's|tell me) your name|what are you called|do you have a name",
            "My name is Pocket.",
        ),
        (
            r"who (are|am i talking to)( you)?|what are you|(tell me|talk) about yourself"
            r"|introduce yourself|who am i speaking to",
            "I'm Pocket, a very small voice assistant that runs on this computer.",
        ),
        (
            r"are you (a |an )?(real |actual )?(human|person|robot|computer|machine|ai|bot|alive)"
            r"( being)?",
            "I'm a computer program, and a very small one, so I sometimes get things wrong.",
        ),
        (
            r"who (made|built|created|trained|programmed) you|where (are|do) you (come )?from",
            "I was put together from small open models: one hears, one thinks, and one speaks.",
        ),
        (
            r"(what can you do|what do you do|how can you help( me)?|can you help me)"
            r"( for me)?",
            "We can chat, and I can answer simple questions, do sums, and tell you the time.",
        ),
        (
            r"(can|do) you see( me| this| that| anything)?|what (do|can) you see"
            r"|what (do|am) i (look like|wearing)|how many fingers .*",
            "No, I can't see anything. I can only hear you.",
        ),
        (r"(can|do) you hear me( now)?|are you (there|listening)", "Yes, I can hear you."),
        (
            r"(what is|what's|how is|how's) the weather.*|(is it going to|will it) (rain|snow).*"
            r"|(what is|what's|tell me) the (latest )?news.*",
            "I don't know, because I'm not connected to the internet.",
        ),
        (
            r"(okay |ok |great |and )?(thanks|thank you)( so much| very much| a lot)?"
            r"( for .*)?( pocket)?",
            "You're welcome!",
        ),
        (
            r"(okay |ok |well )?(goodbye|good bye|bye|bye bye|see you( later| soon| tomorrow)?"
            r"|good night)( pocket)?",
            "Goodbye! It was nice talking to you.",
        ),
        (r"(i'm|i am|that was) sorry|sorry( about that)?", "No problem at all."),
        (r"i love you( too)?", "That's kind of you to say."),
        (r"(do you|can you) speak (\w+)|what languages? do you speak.*", "I only speak English."),
    )
)
_JOKE = re.compile(
    r"(tell me|do you know|say|make)( me)? (a|another|some)? ?(good |funny |short )?"
    r"(joke|something funny)( please)?"
)
_JOKES = (
    "Why did the tomato blush? Because it saw the salad dressing.",
    "What do you call a bear with no teeth? A gummy bear.",
    "Why did the bicycle fall over? Because it was two tired.",
)
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


def small_talk_answer(utterance: str, turn: int) -> str | None:
    """Return the answer to *utterance* if it is plain small talk, else None.

    turn: which turn of the conversation it is; the same joke is not told twice in a row.
    """
    asked = _plain(utterance)
    if _JOKE.fullmatch(asked):
        return _JOKES[turn % len(_JOKES)]
    return next((answer for asks, answer in _SMALL_TALK if asks.fullmatch(asked)), None)


def _plain(utterance: str) -> str:
    words = re.sub(r"[^\w' ]", " ", utterance.lower().replace("’", "'"))
    return _POLITE.sub("", re.sub(r"\s+", " ", words).strip())


def _time_of_day(now: datetime) -> str:
    if (now.hour, now.minute) in ((0, 0), (12, 0)):
        return "It is midnight." if now.hour == 0 else "It is noon."
    part = "morning" if now.hour < 12 else "afternoon" if now.hour < 18 else "evening"
    return f"It is {now.hour % 12 or 12}:{now.minute:02d} in the {part}."

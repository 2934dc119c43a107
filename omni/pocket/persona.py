"""Who answers, and how: instructions, examples, limits. Chosen by measurement (docs/pocket.md)."""

import re

from attrs import frozen

from omni.pocket.thinking import Sampling, Utterance

#: Best of 14 variants on 30 everyday questions; the examples keep the model short and on the point.
_INSTRUCTIONS = (
    "You are Pocket, a friendly voice assistant on this computer. "
    "Answer in one or two short sentences."
)
_EXAMPLES = (
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    ("Hi!", "Hello! What would you like to talk about?"),
    ("How do I make tea?", "Boil some water, pour it over a tea bag, and wait three minutes."),
    ("Tell me about yourself.", "I'm Pocket, a small voice assistant on this computer."),
    ("What is gravity?", "Gravity is the force that pulls things toward the ground."),
    (
        "I had a bad day at work.",
        "I'm sorry to hear that. Do you want to tell me what happened?",
    ),
    ("How do you say goodbye in French?", "In French, goodbye is au revoir."),
    ("Is it going to rain?", "I don't know, because I'm not connected to the internet."),
    ("What is the smallest planet?", "The smallest planet is Mercury."),
    ("Can you look at this?", "I can't see anything. I can only hear you."),
    ("I passed my exam!", "Congratulations! You must be very happy."),
    ("How can I get fit?", "Go for a walk every day, and eat fresh food."),
    ("My name is Tom.", "Nice to meet you, Tom!"),
    ("Can you suggest a film?", "You could watch Toy Story. It is funny and kind."),
    ("What is a river?", "A river is a long stream of water that flows to the sea."),
    ("Thanks.", "You're welcome!"),
    ("See you later.", "Goodbye! It was nice talking to you."),
)
#: Instructions that say no more than ours do are replaced by ours.
_GENERIC = re.compile(r"(?=.{0,160}$)(|.*\b(helpful|voice|ai) assistant\b.*)", re.I | re.S)
#: What asks for more than one sentence.
_WANTS_MORE = re.compile(
    r"\b(story|poem|song|explain|describe|list|in detail|more about|recipe|steps?|examples?)\b",
    re.IGNORECASE,
)
#: The likeliest token always: every bit of chance made the answers worse, and so did a penalty on
#: repeating, once the examples kept them short.
TUNED = Sampling(max_new_tokens=80, temperature=0.0, repetition_penalty=1.0)
#: The first sentence is usually right, and what is added to it usually not.
_ENOUGH_WORDS = 4
_MAX_SENTENCES = 4


@frozen(kw_only=True)
class Persona:
    """The beginning of every prompt. is_custom: the user's own instructions, no examples then."""

    prefix: tuple[Utterance, ...]
    is_custom: bool

    @classmethod
    def of(cls, instructions: str, tuned: str = "") -> "Persona":
        """Return the persona that a session's *instructions* mean; *tuned* replaces ours if set."""
        text = instructions.strip()
        own = tuned if _GENERIC.fullmatch(text) or not _is_latin(text) else text
        if own:
            return cls(prefix=(Utterance(role="system", text=own),), is_custom=True)
        prefix = [Utterance(role="system", text=_INSTRUCTIONS)]
        for asked, answer in _EXAMPLES:
            prefix.append(Utterance(role="user", text=asked))
            prefix.append(Utterance(role="assistant", text=answer))
        return cls(prefix=tuple(prefix), is_custom=False)

    def is_enough(self, question: str, sentences: list[str]) -> bool:
        """Return whether an answer to *question* may end after *sentences*."""
        if len(sentences) >= _MAX_SENTENCES:
            return True
        if self.is_custom or _WANTS_MORE.search(question):
            return False
        return sum(len(sentence.split()) for sentence in sentences) >= _ENOUGH_WORDS


def _is_latin(text: str) -> bool:
    """Return whether the model can follow *text*, and the voice the answers that come of it.

    Told in Chinese to speak Chinese, the model says one character over and over, and the voice,
    which is English, says nothing: a client whose own instructions are Chinese heard silence.
    """
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(char < "\u0250" for char in letters) >= len(letters)  # where Latin ends

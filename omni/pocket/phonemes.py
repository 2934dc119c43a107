"""English text -> the phonemes of a sentence, with the sounds that change between words."""

import re
from itertools import pairwise

from omni.pocket.lexicon import Lexicon, PartOfSpeech, letter_name
from omni.pocket.spoken_text import spoken

PAUSES = ".,;:!?"

_VOWEL_START = re.compile(r"[ˈˌ]*[aeiouæɑɒɔəɚɛɜɪʊʌᵻɐ]")
_TOKEN = re.compile(rf"[A-Za-zÀ-ÿ]+(?:'[A-Za-z]+)*'?|[{PAUSES}]")
_BEFORE_VERB = frozenset(
    "to i you we they will would can could should must may might shall don't won't can't".split()
)
_BEFORE_PARTICIPLE = frozenset("have has had was were been be being is are i've we've".split())


def phonemes(text: str, lexicon: Lexicon) -> str:
    """Return *text* as IPA with spaces between words and its pauses kept; "" if nothing is said."""
    tokens = _TOKEN.findall(spoken(text).replace("-", " "))
    while tokens and tokens[0] in PAUSES:
        tokens.pop(0)
    said = [
        token if token in PAUSES else lexicon.ipa(token, _role(before))
        for before, token in pairwise(["", *tokens])
    ]
    for index, (token, after) in enumerate(pairwise([*tokens, ""])):
        if token == "A" and len(after) == 1 and after.isupper():
            said[index] = letter_name(token)
    linked = [_linked(t, ipa, after) for t, ipa, after in zip(tokens, said, [*said[1:], ""])]
    return re.sub(rf" ([{PAUSES}])", r"\1", " ".join(linked))


def _role(before: str) -> PartOfSpeech:
    if before.lower() in _BEFORE_PARTICIPLE:
        return "VBN"
    return "VERB" if before.lower() in _BEFORE_VERB else "DEFAULT"


def _linked(token: str, ipa: str, after: str) -> str:
    """Return *ipa* of *token* as it sounds before the phonemes *after*."""
    vowel_follows = bool(_VOWEL_START.match(after))
    match token.lower():
        case "the":
            return "ðɪ" if vowel_follows else "ðə"
        case "to":
            if not after or after in PAUSES:
                return "tuː"
            return "tʊ" if vowel_follows else "tə"
    if vowel_follows and ipa.endswith("ɚ"):
        return ipa + "ɹ"
    return ipa

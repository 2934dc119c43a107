"""English words -> IPA as the voice knows it: dictionary, inflections, spelling out, guess."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from omni.errors import CheckpointError
from omni.pocket.letter_to_sound import LetterToSound

PartOfSpeech = Literal["DEFAULT", "VERB", "NOUN", "VBN"]

_VOWELS = "aeiouæɑɒɔəɚɛɜɪʊʌᵻɐ"
#: The dictionaries write diphthongs and affricates as one capital or ligature.
#: Source: misaki 0.9, EN_PHONES.md
_LONG_HAND = {
    "A": "eɪ",
    "I": "aɪ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "O": "oʊ",
    "ʤ": "dʒ",
    "ʧ": "tʃ",
    "ᵊ": "ə",
    "T": "ɾ",
}
#: Words whose sound depends on how they stand in a sentence; unstressed as in connected speech.
_FUNCTION_WORDS = {
    "a": "ɐ",
    "an": "ɐn",
    "i": "aɪ",
    "i'm": "aɪm",
    "i'll": "aɪl",
    "i've": "aɪv",
    "i'd": "aɪd",
    "what's": "wˌʌts",
    "that's": "ðæts",
    "it's": "ɪts",
    "let's": "lˈɛts",
    "who's": "hˌuːz",
    "he's": "hiːz",
    "she's": "ʃiːz",
    "there's": "ðɛɹz",
    "here's": "hˈɪɹz",
    "o'clock": "əklˈɑːk",
}
#: The star is where the stress goes.
_LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        "*eɪ b*iː s*iː d*iː *iː *ɛf dʒ*iː *eɪtʃ *aɪ dʒ*eɪ k*eɪ *ɛl *ɛm *ɛn *oʊ p*iː kj*uː *ɑːɹ "
        "*ɛs t*iː j*uː v*iː d*ʌbəljuː *ɛks w*aɪ z*iː".split(),
    )
)
#: An unknown word in capitals of up to this many letters is spelled out: GPU, NASA is known.
_MAX_SPELLED_LETTERS = 5


class Lexicon:
    """Gives the phonemes of single words, with stress marks before vowels."""

    def __init__(
        self, entries: dict[str, str | dict[str, str | None]], guess: LetterToSound
    ) -> None:
        self._entries = entries
        self._guess = guess
        self._cached = lru_cache(maxsize=8192)(self._ipa)

    @classmethod
    def load(cls, paths: Sequence[Path], letter_to_sound: Path) -> "Lexicon":
        """Return the lexicon of the JSON dictionaries *paths*; an earlier one wins.

        Raises: CheckpointError, if one cannot be read.
        """
        entries: dict[str, str | dict[str, str | None]] = {}
        for path in reversed(paths):
            try:
                entries.update(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as exc:
                raise CheckpointError(f"pronunciation dictionary {path}: {exc}") from exc
        return cls(entries, LetterToSound.load(letter_to_sound))

    def ipa(self, word: str, role: PartOfSpeech = "DEFAULT") -> str:
        """Return the phonemes of *word* (letters and apostrophes, as it is written)."""
        return self._cached(word, role)

    def _ipa(self, word: str, role: PartOfSpeech) -> str:
        if known := _FUNCTION_WORDS.get(word.lower()):
            return known
        if len(word) == 1:
            return letter_name(word)
        return (
            self._known(word, role)
            or self._inflected(word, role)
            or self._spelled(word)
            or self._guess.ipa(re.sub(r"[^a-z]", "", word.lower()))
        )

    def _known(self, word: str, role: PartOfSpeech) -> str | None:
        for form in (word, word.lower(), word.capitalize()):
            entry = self._entries.get(form)
            if isinstance(entry, dict):
                entry = entry.get(role) or entry.get("DEFAULT")
            if entry:
                return _in_long_hand(entry)
        return None

    def _inflected(self, word: str, role: PartOfSpeech) -> str | None:
        lower = word.lower()
        for pattern, endings, sound in _INFLECTIONS:
            if match := re.fullmatch(pattern, lower):
                for ending in endings:
                    if stem := self._known(match[1] + ending, role):
                        return sound(stem)
        return None

    def _spelled(self, word: str) -> str | None:
        has_no_vowel = not re.search(r"[aeiouy]", word.lower())
        if has_no_vowel or (word.isupper() and len(word) <= _MAX_SPELLED_LETTERS):
            names = [_LETTER_NAMES[letter] for letter in word.lower() if letter in _LETTER_NAMES]
            return "".join(names[:-1]).replace("*", "ˌ") + "".join(names[-1:]).replace("*", "ˈ")
        return None


def letter_name(letter: str) -> str:
    """Return how one letter is called; "" for what is not in the English alphabet."""
    return _LETTER_NAMES.get(letter.lower(), "").replace("*", "ˈ")


def _with_s(stem: str) -> str:
    if stem.endswith(("s", "z", "ʃ", "ʒ")):
        return stem + "ᵻz"
    return stem + ("s" if stem.endswith(("p", "t", "k", "f", "θ")) else "z")


def _with_ed(stem: str) -> str:
    if stem.endswith(("t", "d")):
        return stem + "ᵻd"
    return stem + ("t" if stem.endswith(("p", "k", "f", "θ", "s", "ʃ")) else "d")


def _with_ing(stem: str) -> str:
    return (stem + "ɹ" if stem.endswith("ɚ") else stem) + "ɪŋ"


def _with_ly(stem: str) -> str:
    return stem + ("i" if stem.endswith("l") else "li")


def _with_er(stem: str) -> str:
    return stem + "ɚ"


_INFLECTIONS = (
    (r"(.+)'s", ("",), _with_s),
    (r"(.+)s'", ("", "s"), _with_s),
    (r"(.+)ies", ("y",), _with_s),
    (r"(.+)es", ("", "e"), _with_s),
    (r"(.+)s", ("",), _with_s),
    (r"(.+)ied", ("y",), _with_ed),
    (r"(.+?)([b-df-hj-np-tv-z])\2ed", ("",), _with_ed),
    (r"(.+)ed", ("", "e"), _with_ed),
    (r"(.+?)([b-df-hj-np-tv-z])\2ing", ("",), _with_ing),
    (r"(.+)ing", ("", "e"), _with_ing),
    (r"(.+)ly", ("", "l"), _with_ly),
    (r"(.+)er", ("", "e"), _with_er),
)


def _in_long_hand(entry: str) -> str:
    """Return a dictionary's phonemes as espeak's en-us would write them."""
    ipa = "".join(_LONG_HAND.get(symbol, symbol) for symbol in entry)
    vowels = len(re.findall(rf"[{_VOWELS}]+", re.sub(r"[ˈˌ]", "", ipa)))
    ipa = re.sub(r"(?<!^)(?<!^[ˈˌ])əɹ", "ɚ", ipa)
    ipa = re.sub(rf"ɚ(?=[ˈˌ]?[{_VOWELS}])", "ɚɹ", ipa)
    ipa = re.sub(rf"ɜɹ(?=[ˈˌ]?[{_VOWELS}])", "ɜːɹ", ipa)
    ipa = re.sub(r"ɜɹ", "ɜː", ipa)
    ipa = re.sub(r"(?<=[ˈˌ])i(?!ə)", "iː", ipa)
    ipa = re.sub(r"i$", "i" if vowels > 1 else "iː", ipa)
    ipa = re.sub(r"[ɑɔu](?!ː|ɪ)", lambda match: match[0] + "ː", ipa)
    return ipa.replace("ʔn", "ʔn̩")

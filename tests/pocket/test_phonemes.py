"""Words become the phonemes that the voice was trained on."""

from pathlib import Path

import pytest

from omni.errors import CheckpointError
from omni.pocket import weights
from omni.pocket.letter_to_sound import LetterToSound
from omni.pocket.lexicon import Lexicon
from omni.pocket.phonemes import phonemes


@pytest.mark.parametrize(
    ("text", "ipa"),
    [
        ("computer", "kəmpjˈuːɾɚ"),
        ("bird", "bˈɜːd"),
        ("nature", "nˈeɪtʃɚ"),
        ("laptops", "lˈæptˌɑːps"),
        ("John's", "dʒˈɑːnz"),
        ("GPU", "dʒˌiːpˌiːjˈuː"),
    ],
)
def test_words_sound_as_in_the_training_data(lexicon: Lexicon, text: str, ipa: str) -> None:
    assert phonemes(text, lexicon) == ipa


def test_small_words_change_before_vowels(lexicon: Lexicon) -> None:
    assert phonemes("the apple", lexicon).startswith("ðɪ ")
    assert phonemes("the dog", lexicon).startswith("ðə ")
    assert phonemes("to eat", lexicon).startswith("tʊ ")
    assert phonemes("to go", lexicon).startswith("tə ")
    assert phonemes("water is", lexicon).split()[0].endswith("ɚɹ")


def test_a_letter_is_named_and_an_article_is_not(lexicon: Lexicon) -> None:
    assert phonemes("A dog", lexicon).startswith("ɐ ")
    assert phonemes("ten A M", lexicon).endswith("ˈeɪ ˈɛm")


def test_a_verb_sounds_other_than_its_noun(lexicon: Lexicon) -> None:
    assert phonemes("to record", lexicon) != phonemes("the record", lexicon).replace("ðə", "tə")


def test_pauses_stay_and_silence_says_nothing(lexicon: Lexicon) -> None:
    assert phonemes("No, wait!", lexicon) == "nˈoʊ, wˈeɪt!"
    assert phonemes("... 😀", lexicon) == ""


@pytest.mark.parametrize("word", ["blargly", "zorbification", "quizzaciously"])
def test_an_unknown_word_gets_stressed_phonemes(lexicon: Lexicon, word: str) -> None:
    ipa = phonemes(word, lexicon)

    assert "ˈ" in ipa
    assert len(ipa) >= len(word) // 2


def test_broken_weights_stop_the_start_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "letters.npz"
    broken.write_bytes(b"no archive")

    with pytest.raises(CheckpointError, match="letters.npz"):
        LetterToSound.load(broken)


def test_a_missing_package_names_itself_and_the_way_out() -> None:
    with pytest.raises(CheckpointError, match="no_such_package.*install.sh"):
        weights.package_file("no_such_package", "weights.bin")

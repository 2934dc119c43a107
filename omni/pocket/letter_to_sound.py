"""Unknown English words -> phonemes: a small recurrent network that spells them out."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni.errors import CheckpointError

#: The network writes ARPAbet; stress digits on vowels, 0 none, 1 primary, 2 secondary.
#: Source: the order of outputs is fixed by the weights (g2p_en 2.1, checkpoint20).
_LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_START, _END = 2, 3
_MAX_PHONEMES = 20
_NAMES = ("enc_emb", "enc_w_ih", "enc_w_hh", "enc_b_ih", "enc_b_hh", "dec_emb") + (
    "dec_w_ih",
    "dec_w_hh",
    "dec_b_ih",
    "dec_b_hh",
    "fc_w",
    "fc_b",
)

#: ARPAbet without stress -> IPA in the manner of the voice's training data (espeak en-us).
ARPABET_TO_IPA = {
    **dict(AA="ɑː", AE="æ", AH="ʌ", AO="ɔː", AW="aʊ", AY="aɪ", EH="ɛ", ER="ɜː", EY="eɪ", IH="ɪ"),
    **dict(IY="iː", OW="oʊ", OY="ɔɪ", UH="ʊ", UW="uː", B="b", CH="tʃ", D="d", DH="ð", F="f"),
    **dict(G="ɡ", HH="h", JH="dʒ", K="k", L="l", M="m", N="n", NG="ŋ", P="p", R="ɹ", S="s"),
    **dict(SH="ʃ", T="t", TH="θ", V="v", W="w", Y="j", Z="z", ZH="ʒ"),
}
_UNSTRESSED = {"AH": "ə", "ER": "ɚ", "IY": "i"}
_STRESS = {"1": "ˈ", "2": "ˌ"}

Array = NDArray[np.float32]


def _arpabet() -> tuple[str, ...]:
    def stressed(phonemes: str) -> list[str]:
        return [p + mark for p in phonemes.split() for mark in "012"]

    return (
        ("<pad>", "<unk>", "<s>", "</s>")
        + tuple(stressed("AA AE AH AO AW AY") + "B CH D DH".split() + stressed("EH ER EY"))
        + tuple("F G HH".split() + stressed("IH IY") + "JH K L M N NG".split())
        + tuple(stressed("OW OY") + "P R S SH T TH".split() + stressed("UH"))
        + ("UW", "UW0", "UW1", "UW2", "V", "W", "Y", "Z", "ZH")
    )


_PHONEMES = _arpabet()


class LetterToSound:
    """A GRU encoder and decoder over letters; about 1 ms a letter on a CPU."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights
        self._size = weights["enc_w_hh"].shape[1]

    @classmethod
    def load(cls, path: Path) -> "LetterToSound":
        """Return the network whose weights lie in the NumPy archive *path*.

        Raises: CheckpointError, naming what is missing or of a wrong shape.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                weights = {name: np.asarray(archive[name], dtype=np.float32) for name in _NAMES}
        except (OSError, KeyError, ValueError) as exc:
            raise CheckpointError(f"letter-to-sound weights {path}: {exc}") from exc
        if weights["fc_w"].shape[0] != len(_PHONEMES):
            raise CheckpointError(f"letter-to-sound weights {path}: fc_w {weights['fc_w'].shape}")
        return cls(weights)

    def ipa(self, word: str) -> str:
        """Return the phonemes of *word* (letters a-z; others are guessed around) as IPA."""
        return "".join(_ipa_of(phoneme) for phoneme in self._decode(self._encode(word.lower())))

    def _encode(self, word: str) -> Array:
        hidden: Array = np.zeros_like(self._weights["enc_b_hh"][: self._size])
        for letter in [*word, "</s>"]:
            index = _LETTERS.index(letter if letter in _LETTERS else "<unk>")
            hidden = self._step("enc", self._weights["enc_emb"][index], hidden)
        return hidden

    def _decode(self, hidden: Array) -> list[str]:
        phonemes: list[str] = []
        last = _START
        for _ in range(_MAX_PHONEMES):
            hidden = self._step("dec", self._weights["dec_emb"][last], hidden)
            last = int(np.argmax(self._weights["fc_w"] @ hidden + self._weights["fc_b"]))
            if last == _END:
                break
            phonemes.append(_PHONEMES[last])
        return phonemes

    def _step(self, side: str, entry: Array, hidden: Array) -> Array:
        weights = self._weights
        from_entry = weights[f"{side}_w_ih"] @ entry + weights[f"{side}_b_ih"]
        from_hidden = weights[f"{side}_w_hh"] @ hidden + weights[f"{side}_b_hh"]
        size = self._size
        reset = _sigmoid(from_entry[:size] + from_hidden[:size])
        update = _sigmoid(from_entry[size : 2 * size] + from_hidden[size : 2 * size])
        fresh = np.tanh(from_entry[2 * size :] + reset * from_hidden[2 * size :])
        mixed: Array = fresh + update * (hidden - fresh)
        return mixed


def _sigmoid(values: Array) -> Array:
    squashed: Array = np.reciprocal(np.float32(1) + np.exp(-values))
    return squashed


def _ipa_of(phoneme: str) -> str:
    stress = phoneme[-1] if phoneme[-1].isdigit() else ""
    name = phoneme.removesuffix(stress)
    if name.startswith("<"):
        return ""
    if stress == "0" and name in _UNSTRESSED:
        return _UNSTRESSED[name]
    return _STRESS.get(stress, "") + ARPABET_TO_IPA[name]

"""Text <-> token ids of a checkpoint directory; control tokens by name, never by number."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from attrs import frozen
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from omni.errors import CheckpointError

# How the published tokenizer cuts text before merging. Source: tokenizer.json of the Qwen2 family.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Half characters: JSON can carry them, UTF-8 and the tokenizer cannot.
_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_TAIL_TOKENS = 4  # a character has at most four bytes, so at most four tokens


@frozen(kw_only=True)
class ControlTokens:
    """The ids that the engine acts on. Source: the published added tokens, by name."""

    placeholder: int
    end_of_text: int
    im_start: int
    im_end: int
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    image_id_start: int
    image_id_end: int
    unit_start: int
    unit_end: int
    audio_start: int
    audio_end: int
    tts_bos: int
    tts_eos: int
    tts_pad: int
    listen: int
    speak: int
    turn_eos: int
    chunk_eos: int
    chunk_tts_eos: int
    tool_call_start: int
    tool_call_end: int


_NAMES = {
    "placeholder": "<unk>",
    "end_of_text": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "image_start": "<image>",
    "image_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "image_id_start": "<image_id>",
    "image_id_end": "</image_id>",
    "unit_start": "<unit>",
    "unit_end": "</unit>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "tts_bos": "<|tts_bos|>",
    "tts_eos": "<|tts_eos|>",
    "tts_pad": "<|tts_pad|>",
    "listen": "<|listen|>",
    "speak": "<|speak|>",
    "turn_eos": "<|turn_eos|>",
    "chunk_eos": "<|chunk_eos|>",
    "chunk_tts_eos": "<|chunk_tts_eos|>",
    "tool_call_start": "<tool_call>",
    "tool_call_end": "</tool_call>",
}
#: Added tokens that the published tokenizer does not hold for special, and that we act on: people
#: must not be able to write them.
_TOOL_MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


class Tokenizer:
    """Encodes our own markup and people's text apart, so that text is never a control token."""

    def __init__(self, raw: str, config: Mapping[str, Any]) -> None:
        self._trusting = tokenizers.Tokenizer.from_str(raw)
        self._plain = _twin(self._trusting)
        self._plain.encode_special_tokens = True
        # Any: tokenizer_config.json has no schema; each field is checked where it is read.
        self.config: Mapping[str, Any] = config
        added = self._trusting.get_added_tokens_decoder()
        self.special_ids = {token.content: i for i, token in added.items() if token.special}
        #: With those of function calls: all that people's text never becomes.
        self.markup_ids = self.special_ids | {name: self.id(name) for name in _TOOL_MARKUP}
        self.control = ControlTokens(**{key: self.id(name) for key, name in _NAMES.items()})
        self.bad_token_ids = tuple(int(i) for i in config.get("bad_token_ids", ()))

    @classmethod
    def from_directory(cls, directory: Path) -> "Tokenizer":
        """Read tokenizer.json, or build the same from vocab.json and merges.txt.

        Raises: CheckpointError, when files are missing, broken, or lack a control token.
        """
        config = _read_json(directory / "tokenizer_config.json")
        ready = directory / "tokenizer.json"
        try:
            raw = ready.read_text(encoding="utf-8") if ready.exists() else _build(directory, config)
            return cls(raw, config)
        except CheckpointError:
            raise
        except Exception as exc:  # the tokenizers library raises bare Exception for a broken file
            raise CheckpointError(f"{directory}: the tokenizer cannot be built: {exc}") from exc

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return self._trusting.get_vocab_size(with_added_tokens=True)

    def id(self, token: str) -> int:
        """Return the id of *token*. Raises: CheckpointError, when there is none."""
        found = self._trusting.token_to_id(token)
        if found is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}: not a MiniCPM-o 4.5")
        return found

    def encode_markup(self, text: str) -> list[int]:
        """Return the ids of our own text, in which control tokens are written by name."""
        return self._trusting.encode(text, add_special_tokens=False).ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of anybody's text; names of control tokens in it are plain characters."""
        return self._plain.encode(_SURROGATES.sub("\ufffd", text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skips_special: bool = True) -> str:
        """Return the text of *ids*; incomplete characters become U+FFFD."""
        return self._trusting.decode(list(ids), skip_special_tokens=skips_special)


def _twin(first: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a tokenizer that encodes as *first*, has options of its own, and knows our markup.

    Both share the vocabulary: reading it again takes half a second, in which no thread runs.
    """
    twin = tokenizers.Tokenizer(first.model)
    if first.normalizer is not None:
        twin.normalizer = first.normalizer
    if first.pre_tokenizer is not None:
        twin.pre_tokenizer = first.pre_tokenizer
    added = first.get_added_tokens_decoder()
    twin.add_tokens([_plain(added[number]) for number in sorted(added)])
    copied = twin.get_added_tokens_decoder()
    if {i: token.content for i, token in copied.items()} != {
        i: token.content for i, token in added.items()
    }:
        raise CheckpointError("the added tokens leave gaps between their ids: not a MiniCPM-o 4.5")
    return twin


def _plain(token: AddedToken) -> AddedToken:
    """Return *token* as what encodes people's text takes it: special means that they cannot."""
    if token.content not in _TOOL_MARKUP:
        return token
    return AddedToken(token.content, special=True, normalized=token.normalized)


class TextStream:
    """Ids as they are generated -> text as soon as its characters are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def push(self, ids: Iterable[int]) -> str:
        """Add *ids*; return the new text, holding back a character that is not complete."""
        self._pending.extend(ids)
        shortest = max(0, len(self._pending) - _MAX_TAIL_TOKENS)
        for count in range(len(self._pending), shortest, -1):
            text = self._tokenizer.decode(self._pending[:count])
            if not text.endswith("\ufffd"):
                del self._pending[:count]
                return text
        return ""

    def flush(self) -> str:
        """Return what is held back, broken characters as U+FFFD."""
        text = self._tokenizer.decode(self._pending)
        self._pending.clear()
        return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise CheckpointError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: must hold one JSON object")
    return fields


def _build(directory: Path, config: Mapping[str, Any]) -> str:
    """Return tokenizer.json's content made of vocab.json, merges.txt and the added tokens."""
    vocab = _read_json(directory / "vocab.json")
    lines = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#version")]
    merges = [(left, right) for left, right in (rule.split(" ") for rule in rules)]
    built = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    built.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    built.decoder = decoders.ByteLevel()
    for wanted, token in _added_tokens(directory, config):
        built.add_tokens([token])
        if built.token_to_id(token.content) != wanted:
            raise CheckpointError(f"{directory}: {token.content} does not get its id {wanted}")
    return built.to_str()


def _added_tokens(directory: Path, config: Mapping[str, Any]) -> list[tuple[int, AddedToken]]:
    """Return (id, token) in id order, from tokenizer_config.json or else added_tokens.json."""
    entries = config.get("added_tokens_decoder")
    if entries is None:
        ids = _read_json(directory / "added_tokens.json")
        entries = {
            i: {"content": name, "special": name.startswith("<|")} for name, i in ids.items()
        }
    return [
        (int(number), AddedToken(entry["content"], special=entry["special"], normalized=False))
        for number, entry in sorted(entries.items(), key=lambda item: int(item[0]))
    ]

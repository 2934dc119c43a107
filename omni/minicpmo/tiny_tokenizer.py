"""A small byte-level BPE in the published file layout, with every added token of the real one.

Ids differ from the real model's on purpose: whoever needs an id asks for it by the token's text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # JSON documents

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.models import BPE

from omni.minicpmo.tiny_text import paragraphs

#: 256 bytes and merges; with `<unk>`, `</s>` and the 105 added tokens the tokenizer has 2,048.
NUM_BPE_ENTRIES = 1941

UNKNOWN, END_OF_SENTENCE = "<unk>", "</s>"

#: Added tokens that are plain text to a decoder: they survive `skip_special_tokens`.
_PLAIN = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
).split()

_QWEN = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
).split()

_OMNI = (
    "<image> </image> <ref> </ref> <box> </box> <quad> </quad> <point> </point> <slice> </slice> "
    "<image_id> </image_id> <unit> </unit> <answer> </answer> <focus> </focus> <line> </line> "
    "<perception> </perception> <source_image> </source_image> <image_save_to> </image_save_to> "
    "<|audio_start|> <|audio|> <|audio_end|> <|spk_bos|> <|spk|> <|spk_eos|> <|tts_bos|> "
    "<|tts_eos|> <|listen|> <|speak|> <|interrupt|> <|vad_start|> <|vad_end|> <|emotion_start|> "
    "<|emotion_end|> <|speed_start|> <|speed_end|> <|pitch_start|> <|pitch_end|> <|turn_bos|> "
    "<|turn_eos|> <|chunk_eos|> <|chunk_bos|> <|chunk_tts_bos|> <|chunk_tts_eos|> <|tts_pad|>"
).split() + [f"<|timbre_{number}|>" for number in range(7, 32)]

#: The added tokens in the order of their ids. Source: the published added_tokens.json (105).
ADDED_TOKENS: tuple[str, ...] = (*_QWEN, *_PLAIN, *_OMNI)

#: Special to the tokenizer, yet not in its list of additional special tokens, as published.
_NOT_LISTED = {"<|turn_bos|>", "<|turn_eos|>"}

#: Source: Qwen2's pre-tokenizer. Digits stand alone, runs of line ends make one piece.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BRACKETS = frozenset("()[]{}<>（）【】《》「」『』")

#: `<|im_start|>role`, content, `<|im_end|>`. The text after a `</think>` is an answer's content; a
#: think block is written before answers that follow the last question, if they end the list or
#: carry a thought. The header for a new answer closes an empty thought where thinking is off.
#: Functions stand at the end of the first system message, results of calls are a user's message.
#: Source of their words and line ends: Qwen3's chat template, on which the model was trained.
CHAT_TEMPLATE = """
{%- macro block(role, body) -%}
{{- '<|im_start|>' + role + '\\n' + body + '<|im_end|>\\n' -}}
{%- endmacro -%}
{%- macro signatures() -%}
{{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' -}}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
{%- for tool in tools -%}
{{- '\\n' + tool | tojson -}}
{%- endfor -%}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and ' -}}
{{- 'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' -}}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' -}}
{%- endmacro -%}
{%- macro calls(message, body) -%}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if body or not loop.first -}}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{%- if call.function.arguments is string -%}
{{- call.function.arguments -}}
{%- else -%}
{{- call.function.arguments | tojson -}}
{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endmacro -%}
{%- if tools -%}
{%- set told = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' -%}
{{- block('system', told + signatures()) -}}
{%- endif -%}
{%- set question = namespace(index=messages | length - 1) -%}
{%- for message in messages -%}
{%- set is_tool = message.content.startswith('<tool_response>')
    and message.content.endswith('</tool_response>') -%}
{%- if message.role == 'user' and not is_tool -%}
{%- set question.index = loop.index0 -%}
{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set thought, body = '', message.content -%}
{%- if message.role == 'assistant' -%}
{%- if message.reasoning_content is defined and message.reasoning_content is not none -%}
{%- set thought = message.reasoning_content -%}
{%- elif '</think>' in body -%}
{%- set thought = body.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set body = body.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > question.index and (loop.last or thought) -%}
{%- set thought = '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -%}
{%- set body = thought + body.lstrip('\\n') -%}
{%- endif -%}
{%- endif -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' -}}
{{- '\\n<tool_response>\\n' + body + '\\n</tool_response>' -}}
{{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' -}}
{%- elif not (tools and loop.first and message.role == 'system') -%}
{{- block(message.role, body + calls(message, body)) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- if use_tts_template is defined and use_tts_template is true -%}
{{- '<|tts_bos|>' -}}
{%- endif -%}
{%- endif -%}
""".strip()


def train_tokenizer() -> Tokenizer:
    """Return the tokenizer: always the same one, whatever the checkpoint's seed."""
    tokenizer = _untrained(BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_BPE_ENTRIES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(paragraphs(), trainer)
    vocab, merges = vocab_and_merges(tokenizer)
    # The real one's <unk> and </s> are entries of the base vocabulary too.
    vocab |= {UNKNOWN: len(vocab), END_OF_SENTENCE: len(vocab) + 1}
    return with_added_tokens(vocab, merges)


def vocab_and_merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the base vocabulary, text -> id, and the merges in order."""
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def with_added_tokens(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Return a tokenizer over *vocab*, ids 0..n-1, `<unk>` among them; added tokens follow."""
    tokenizer = _untrained(BPE(vocab=vocab, merges=merges))
    tokens = [AddedToken(UNKNOWN, normalized=False, special=True)]
    tokens += [
        AddedToken(text, normalized=False, special=text not in _PLAIN) for text in ADDED_TOKENS
    ]
    # add_tokens keeps the order of the ids; a special token takes its flag from AddedToken.
    tokenizer.add_tokens(tokens)
    return tokenizer


def _untrained(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def forbidden_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the base ids that must never be spoken: brackets, control characters, part characters.

    No added token is among them, `<unk>` and `</s>` neither.
    """
    num_base = tokenizer.get_vocab_size(with_added_tokens=False)
    kept = {UNKNOWN, END_OF_SENTENCE}
    return [
        index
        for index in range(num_base)
        if tokenizer.id_to_token(index) not in kept and _is_forbidden(tokenizer.decode([index]))
    ]


def _is_forbidden(text: str) -> bool:
    return any(
        character == "\ufffd" or ord(character) < 32 or ord(character) == 127
        for character in text
    ) or not _BRACKETS.isdisjoint(text)


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and the three token tables to *directory*."""
    document = json.loads(tokenizer.to_str())
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    _write_json(directory / "vocab.json", document["model"]["vocab"])
    merges = [f"{left} {right}" for left, right in document["model"]["merges"]]
    text = "\n".join(["#version: 0.2", *merges, ""])
    (directory / "merges.txt").write_text(text, encoding="utf-8", newline="\n")
    _write_json(directory / "added_tokens.json", _added_ids(tokenizer))
    _write_json(directory / "special_tokens_map.json", _special_tokens_map())
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(tokenizer))


def _added_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """`<unk>` is not among them: it is an entry of the base vocabulary."""
    return {text: _id(tokenizer, text) for text in ADDED_TOKENS}


def _id(tokenizer: Tokenizer, text: str) -> int:
    token_id = tokenizer.token_to_id(text)
    assert token_id is not None, text
    return int(token_id)


def _flags(text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text} | flags


def _additional() -> Iterator[str]:
    yield UNKNOWN
    yield from (text for text in _OMNI if text not in _NOT_LISTED)


_NAMED_TOKENS: Mapping[str, str] = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": UNKNOWN,
}


def _special_tokens_map() -> dict[str, Any]:
    listed = [_flags(text) for text in _additional()]
    return {"additional_special_tokens": listed} | dict(_NAMED_TOKENS)


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    texts: Sequence[str] = (UNKNOWN, *ADDED_TOKENS)
    added = {
        str(_id(tokenizer, text)): _flags(text) | {"special": text not in _PLAIN}
        for text in texts
    }
    return dict(_NAMED_TOKENS) | {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(_additional()),
        "bad_token_ids": forbidden_ids(tokenizer),
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": 131072,
        "split_special_tokens": False,
        # As published: a class that only code from the hub defines. No loader of ours may need it.
        "auto_map": {"AutoTokenizer": ["tokenization_minicpmo_fast.MiniCPMOTokenizerFast", None]},
        "tokenizer_class": "MiniCPMOTokenizerFast",
    }


def _write_json(path: Path, document: object) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")

"""Gives random weights the manners of a conversation: listen, speak, end turns, close thoughts.

A few dimensions of the language model's residual stream are set apart as channels: embeddings write
them, no layer does, the output rows of the control tokens read them. So what comes in says what may
follow:

    loud sound -> listen;  quiet -> listen or speak, as the random rest says
    words -> words, at times <|chunk_eos|>, <|turn_eos|> or <|tts_eos|>
    <|turn_eos|> -> <|chunk_eos|>;  <|tts_eos|>, <|chunk_eos|> -> <|im_end|> -> <|turn_eos|>
    a line end -> <think> -> words kept for thoughts -> </think> -> words

The speech model ends its sound when it has made about five codes for each token of its condition:
one head averages over the context how much of it are codes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.model.config import DecoderConfig, ModelConfig

#: The meaning of the last dimensions of a hidden vector, in this order.
Channel = Literal[
    "bias",
    "decide",
    "loud",
    "chunk_eos",
    "turn_eos",
    "tts_eos",
    "im_end",
    "think",
    "thought",
    "end_thought",
]
_CHANNELS: tuple[Channel, ...] = get_args(Channel)
_KEPT = slice(-len(_CHANNELS), None)

# Final hidden values are the embedding's over its rms, 1 to 1.5. A called token gets a logit of
# (13 * 3 - 12) / rms, above the log-sum-exp of 2,000 to 150,000 logits with a deviation of 2.
_ON = 3.0
_PULL = 13.0
_HOLD_BACK = 12.0

#: Every hundredth word has one place; the words in these places call an end.
_ENDINGS: Mapping[Channel, range] = {
    "chunk_eos": range(0, 5),
    "turn_eos": range(5, 8),
    "tts_eos": range(8, 11),
}
_NUM_THOUGHT_WORDS = 32
_ENDS_THOUGHT_EVERY = 4

#: In a quiet second speaking leads by this logit, less what the random rows say.
_EAGERNESS = 0.5
_DOUBT = 0.3

#: Mean mel value of what counts as loud: speech has 0.1 to 0.6, a quiet room -0.4 to -0.1.
_LOUD_MEL = 0.05
_LOUD_SLOPE = 16.0

# EOS has the logit 100 (share of codes in the context) - 72: nothing with 3 codes for a token of
# the condition (0.75), certain with 6 (0.86).
_END_SLOPE = 100.0
_END_BIAS = -72.0


@frozen(kw_only=True)
class Vocabulary:
    """What behaviour must know of a tokenizer.

    control: ids of the added tokens. words: ids that may be said, more than 200. line_end: the id
    of a single line end.
    """

    control: Mapping[str, int]
    words: Sequence[int]
    line_end: int


def teach(weights: Mapping[str, Tensor], config: ModelConfig, vocabulary: Vocabulary) -> None:
    """Change *weights* (the tensors of the whole table, on one device) in place."""
    with torch.no_grad():
        _keep_channels(weights, config.llm.decoder.num_layers)
        _teach_tokens(weights, vocabulary)
        _teach_hearing(weights, config.audio.num_layers)
        _teach_sound_end(weights, config.tts.decoder)


def _at(channel: Channel) -> int:
    return _CHANNELS.index(channel) - len(_CHANNELS)


def _keep_channels(weights: Mapping[str, Tensor], num_layers: int) -> None:
    """Let nothing but embeddings write the channels, and the final norm pass them unchanged."""
    for index in range(num_layers):
        weights[f"llm.model.layers.{index}.self_attn.o_proj.weight"][_KEPT] = 0
        weights[f"llm.model.layers.{index}.mlp.down_proj.weight"][_KEPT] = 0
    weights["llm.model.norm.weight"][_KEPT] = 1
    weights["resampler.proj"][:, _KEPT] = 0


def _teach_tokens(weights: Mapping[str, Tensor], vocabulary: Vocabulary) -> None:
    embeddings, head = weights["llm.model.embed_tokens.weight"], weights["llm.lm_head.weight"]
    control, words = vocabulary.control, list(vocabulary.words)
    said, thoughts = words[:-_NUM_THOUGHT_WORDS], words[-_NUM_THOUGHT_WORDS:]
    _hold_back(embeddings, head, said)

    def call(before: int | list[int], channel: Channel, after: int | list[int]) -> None:
        embeddings[before, _at(channel)] = _ON
        head[after, _at(channel)] = _PULL

    listen, speak = control["<|listen|>"], control["<|speak|>"]
    call([control["</image>"], control["</slice>"]], "decide", [listen, speak])
    head[listen, _at("loud")] = _PULL
    random = slice(None, _KEPT.start)
    difference = head[speak, random] - head[listen, random]
    head[speak, random] = head[listen, random] + _DOUBT * difference
    head[speak, _at("bias")] += _EAGERNESS
    for channel, places in _ENDINGS.items():
        ids = [word for place, word in enumerate(said) if place % 100 in places]
        call(ids, channel, control[f"<|{channel}|>"])
    call(control["<|turn_eos|>"], "chunk_eos", control["<|chunk_eos|>"])
    call([control["<|tts_eos|>"], control["<|chunk_eos|>"]], "im_end", control["<|im_end|>"])
    call(control["<|im_end|>"], "turn_eos", control["<|turn_eos|>"])
    call(vocabulary.line_end, "think", control["<think>"])
    last_thoughts = thoughts[::_ENDS_THOUGHT_EVERY]
    first_thoughts = [word for word in thoughts if word not in last_thoughts]
    call([control["<think>"], *first_thoughts], "thought", thoughts)
    call(last_thoughts, "end_thought", control["</think>"])


def _hold_back(embeddings: Tensor, head: Tensor, said: list[int]) -> None:
    """Clear the channels; everything but the words *said* waits until it is called."""
    embeddings[:, _KEPT] = 0
    embeddings[:, _at("bias")] = 1
    head[:, _KEPT] = 0
    head[:, _at("bias")] = -_HOLD_BACK
    head[said, _at("bias")] = 0


def _teach_hearing(weights: Mapping[str, Tensor], num_layers: int) -> None:
    """Carry the loudness of the mel through the encoder's channel 0 to the channel `loud`.

    The decision of a unit reads its last audio token, so the last 100 ms of a second count.
    """
    conv1, conv2 = weights["apm.conv1.weight"], weights["apm.conv2.weight"]
    conv1[0] = _LOUD_SLOPE / conv1[0].numel()
    weights["apm.conv1.bias"][0] = -_LOUD_SLOPE * _LOUD_MEL
    conv2[0] = 0
    conv2[0, 0] = 2 / 3
    weights["apm.conv2.bias"][0] = 0
    weights["apm.embed_positions.weight"][:, 0] = 0
    for index in range(num_layers):
        for writer in ("self_attn.out_proj", "fc2"):
            weights[f"apm.layers.{index}.{writer}.weight"][0] = 0
            weights[f"apm.layers.{index}.{writer}.bias"][0] = 0
    weights["apm.layer_norm.weight"][0] = 1
    weights["apm.layer_norm.bias"][0] = 0
    inner, outer = "audio_projection_layer.linear1", "audio_projection_layer.linear2"
    weights[f"{inner}.weight"][0] = 0
    weights[f"{inner}.weight"][0, 0] = 1
    weights[f"{inner}.bias"][0] = -1
    weights[f"{outer}.weight"][_KEPT] = 0
    weights[f"{outer}.bias"][_KEPT] = 0
    weights[f"{outer}.weight"][_at("loud"), 0] = 1
    weights[f"{outer}.bias"][_at("bias")] = 1
    weights[f"{outer}.bias"][_at("decide")] = _ON


def _teach_sound_end(weights: Mapping[str, Tensor], config: DecoderConfig) -> None:
    """Three channels: bias, code (this is a code), share (of codes in the context)."""
    kept, bias, code, share = slice(-3, None), -3, -2, -1
    for index in range(config.num_layers):
        weights[f"tts.model.layers.{index}.self_attn.o_proj.weight"][kept] = 0
        weights[f"tts.model.layers.{index}.mlp.down_proj.weight"][kept] = 0
    weights["tts.model.norm.weight"][kept] = 1
    weights["tts.projector_semantic.linear2.weight"][kept] = 0
    weights["tts.projector_semantic.linear2.bias"][kept] = 0
    codes = weights["tts.emb_code.0.weight"]
    for table in (weights["tts.emb_text.weight"], codes):
        table[:, kept] = 0
        table[:, bias] = 1
    codes[:, code] = 1
    # The first head of the first layer sees all alike (no query) and averages the channel `code`.
    first = "tts.model.layers.0"
    weights[f"{first}.input_layernorm.weight"][code] = 1
    weights[f"{first}.self_attn.q_proj.weight"][: config.head_dim] = 0
    weights[f"{first}.self_attn.v_proj.weight"][0] = 0
    # The layer's norm divides by the rms of a code's embedding.
    rms = codes.float().square().mean(dim=1).sqrt().mean()
    weights[f"{first}.self_attn.v_proj.weight"][0, code] = rms.to(codes.dtype)
    weights[f"{first}.self_attn.o_proj.weight"][share, 0] = 1
    magnitude = weights["tts.head_code.0.parametrizations.weight.original0"]
    direction = weights["tts.head_code.0.parametrizations.weight.original1"]
    direction[:, kept] = 0
    direction[-1, bias] = _END_BIAS
    direction[-1, share] = _END_SLOPE
    magnitude[-1] = direction[-1].float().norm().to(magnitude.dtype)

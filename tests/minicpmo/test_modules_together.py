"""A whole chat turn from its pieces, one call after another, against the golden runs.

No engine here: it shows that the modules fit together, so that an engine's failure is its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.hearing import listen_offline
from omni.minicpmo.images import slice_image
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import MelExtractor
from omni.minicpmo.model.audio_encoder import num_embeddings
from omni.minicpmo.prompt import AudioPart, ChatOptions, ImagePart, Message, Part, Prompts, Span
from omni.minicpmo.sampling import CHAT_SAMPLING, TextSampler
from omni.minicpmo.speech_codes import SpeechCall, SpeechCodes, SpeechMode
from omni.minicpmo.tokenizer import Tokenizer
from tests.minicpmo.pictures import golden_picture

CPU = torch.device("cpu")
LOGIT_TOLERANCE = 1e-3
GREEDY = attrs.evolve(CHAT_SAMPLING, is_greedy=True)
CASES = ("text", "text_history", "image", "audio", "mixed", "speech0", "speech1")


@pytest.fixture(scope="module")
def prompts(checkpoint_dir: Path) -> Prompts:
    return Prompts(Tokenizer.from_directory(checkpoint_dir))


@pytest.fixture(scope="module")
def sound(expected: Any) -> np.ndarray:
    samples: np.ndarray = expected("c_mel").tensors["stream_i16"].numpy()
    return samples.astype(np.float32) / 32768


class Turn:
    """One chat prompt prefilled in a cache of its own, then decoded greedily."""

    def __init__(self, model: MiniCpmO, embeds: Tensor) -> None:
        decoder = model.llm.config.decoder
        self._llm = model.llm
        self._cache = PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=1,
            num_pages=40,
            page_size=16,
            max_tokens=600,
            dtype=torch.float32,
            device=CPU,
        )
        plan = self._cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])
        hidden = self._llm(embeds, plan, self._cache.pool)
        self.logits = self._llm.logits(hidden[-1:])

    def feed(self, token: int) -> Tensor:
        """Feed *token*, renew the logits and return the hidden state at the token, (1, C)."""
        plan = self._cache.decode_plan([0], [True])
        embeds = self._llm.embed(torch.tensor([token]))
        hidden: Tensor = self._llm(embeds, plan, self._cache.pool)
        self.logits = self._llm.logits(hidden)
        return hidden


def parts_of(
    content: list[Any], sound: np.ndarray, max_slices: int, images: list[Any], audios: list[Any]
) -> Iterator[Part]:
    """Yield prompt parts of a golden message; images and audios collect what they stand for."""
    for item in content:
        if isinstance(item, str):
            yield item
        elif "image" in item:
            images.append(slice_image(golden_picture(*item["image"], item["k"]), max_slices))
            yield ImagePart(grid=images[-1].grid)
        else:
            start, count = item["audio_start"], item["samples"]
            audios.append(MelExtractor(CPU).offline(sound[start : start + count]))
            yield AudioPart(num_tokens=num_embeddings(-(-count // 160)))


def fill(embeds: Tensor, spans: list[Span], values: list[Tensor]) -> None:
    for span, value in zip(spans, values, strict=True):
        embeds[span.start : span.stop] = value


@pytest.mark.parametrize("name", CASES)
def test_a_greedy_chat_turn_gives_the_golden_ids_logits_and_codes(
    model, prompts, sound, expected, name
):
    golden = expected("k_chat")
    (case,) = (c for c in golden.facts if c["case"] == name)
    images: list[Any] = []
    audios: list[Any] = []
    max_slices = case["options"].get("max_slice_nums", 9)
    messages = [
        Message(role=role, parts=tuple(parts_of(content, sound, max_slices, images, audios)))
        for role, content in case["messages"]
    ]
    thinks = case["options"].get("enable_thinking", False)
    prompt = prompts.chat(messages, ChatOptions(enables_thinking=thinks))
    assert len(prompt.ids) == case["prompt_length"]
    embeds = model.llm.embed(torch.tensor(prompt.ids))
    if images:
        patches = [torch.from_numpy(part) for image in images for part in image.patches]
        grids = [grid for image in images for grid in image.patch_grids]
        fill(embeds, prompt.images, list(model.vision(patches, grids)))
    if audios:
        fill(embeds, prompt.audios, listen_offline(model.audio, audios))
    turn = Turn(model, embeds)
    sampler = TextSampler(prompts.tokenizer, model.llm.config.vocab_size, CPU)
    control = prompts.tokenizer.control
    ids: list[int] = []
    states: list[Tensor] = []

    close(turn.logits[0], golden.tensors[f"{name}.logits_first"])
    for _ in range(case["max_new_tokens"]):
        last_logits = turn.logits
        rows = sampler.rows([GREEDY], [ids], [False])
        ids.append(int(sampler.sample(turn.logits, rows, torch.zeros(1, 2)).token))
        if ids[-1] in (control.im_end, control.end_of_text):
            break
        states.append(turn.feed(ids[-1]))

    assert ids == case["generated_ids"]
    assert prompts.tokenizer.decode(ids, skips_special=False) == case["decoded"]
    close(last_logits[0], golden.tensors[f"{name}.logits_last"])
    if "codes" in case:
        end = ids.index(control.tts_eos)
        assert speak(model, ids[:end], states[:end]) == case["codes"]


def speak(model: MiniCpmO, ids: list[int], states: list[Tensor]) -> list[int]:
    codes = SpeechCodes(model.tts, num_slots=1, num_pages=40, page_size=16)
    codes.open_turn(0, SpeechMode.CHAT, CodeSampling(is_greedy=True), lambda: 0.0)
    hidden = torch.cat(states)
    codes.start([SpeechCall(slot=0, text_ids=torch.tensor(ids), hidden=hidden, is_turn_end=True)])
    while codes.speaking:
        codes.step()
    return codes.state(0).codes


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=LOGIT_TOLERANCE)

"""The tiny checkpoint's manners, seen through the engine's own modules: float32 on the CPU."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import MelExtractor
from omni.minicpmo.model.config import DecoderConfig
from omni.minicpmo.tiny_assets import voice_like
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint

CPU = torch.device("cpu")
SECOND = 16000


class Talk:
    """One conversation with a tiny checkpoint: token texts and sound in, token texts out."""

    def __init__(self, model: MiniCpmO, tokenizer: Tokenizer, forbidden: Sequence[int]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._forbidden = list(forbidden)
        self._cache = cache_for(model.config.llm.decoder)
        self._logits = torch.zeros(0)
        self._random = torch.Generator().manual_seed(1)

    def read(self, text: str) -> None:
        """Prefill *text*, special tokens included."""
        ids = self._tokenizer.encode(text).ids
        self._prefill(self._model.llm.embed(torch.tensor(ids)))

    def hear(self, samples: np.ndarray) -> None:
        """Prefill one second of sound."""
        (mel,) = MelExtractor(CPU).offline(np.ascontiguousarray(samples, dtype=np.float32))
        self._prefill(self._model.audio([mel])[0])

    def answer(self, stops: set[str], max_tokens: int = 60) -> list[str]:
        """Sample until one of *stops* comes; it is the last item unless the limit came first."""
        said: list[str] = []
        while len(said) < max_tokens and not (said and said[-1] in stops):
            logits = self._logits.index_fill(0, torch.tensor(self._forbidden), -1e9)
            token = int(torch.multinomial(logits.softmax(-1), 1, generator=self._random))
            said.append(self._tokenizer.decode([token], skip_special_tokens=False))
            self._prefill(self._model.llm.embed(torch.tensor([token])))
        return said

    def _prefill(self, embeds: Tensor) -> None:
        plan = self._cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])
        hidden = self._model.llm(embeds, plan, self._cache.pool)
        self._logits = self._model.llm.logits(hidden[-1:])[0]


def cache_for(config: DecoderConfig) -> PagedKVCache:
    return PagedKVCache(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        num_slots=1,
        num_pages=200,
        page_size=16,
        max_tokens=3000,
        dtype=torch.float32,
        device=CPU,
    )


@pytest.fixture(scope="module", params=[0, 1, 2])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(path, seed=request.param)
    return path


@pytest.fixture(scope="module")
def tiny_model(directory: Path) -> MiniCpmO:
    return load_checkpoint(directory, CPU, torch.float32)[0]


@pytest.fixture
def talk(tiny_model: MiniCpmO, directory: Path) -> Talk:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    return Talk(tiny_model, tokenizer, config["bad_token_ids"])


def test_it_listens_while_somebody_speaks(talk: Talk) -> None:
    voice = voice_like(150.0, seconds=8.0)

    for start in range(0, len(voice), SECOND):
        talk.read("<unit>")
        talk.hear(voice[start : start + SECOND])
        assert talk.answer({"<|listen|>"}, max_tokens=1) == ["<|listen|>"]
        talk.read("</unit>")


def test_in_the_quiet_it_listens_and_speaks_and_ends_units_and_turns(talk: Talk) -> None:
    seen: set[str] = set()
    for _ in range(40):
        talk.read("<unit>")
        talk.hear(np.zeros(SECOND))
        unit = talk.answer({"<|listen|>", "<|chunk_eos|>"}, max_tokens=19)
        talk.read("</unit>")
        assert unit[0] in ("<|listen|>", "<|speak|>")
        seen.update(unit)

    assert {"<|listen|>", "<|speak|>", "<|chunk_eos|>", "<|turn_eos|>"} <= seen


def test_a_chat_answer_has_words_and_ends(talk: Talk) -> None:
    talk.read("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")

    said = talk.answer({"<|im_end|>"}, max_tokens=200)

    assert said[-1] == "<|im_end|>"
    assert not said[0].startswith("<|")


def test_a_thought_is_closed_before_the_answer(talk: Talk) -> None:
    talk.read("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n")

    said = talk.answer({"<|im_end|>"}, max_tokens=200)

    assert said[0] == "<think>"
    assert 2 <= said.index("</think>") < said.index("<|im_end|>")


def test_a_frame_alone_leads_to_a_decision(talk: Talk) -> None:
    talk.read("<unit><image></image>")

    (token,) = talk.answer(set(), max_tokens=1)

    assert token in ("<|listen|>", "<|speak|>")


@pytest.mark.parametrize("num_text", [4, 10, 40])
def test_speech_ends_after_three_to_eight_codes_for_each_token(
    tiny_model: MiniCpmO, num_text: int
) -> None:
    tts, random = tiny_model.tts, torch.Generator().manual_seed(2)
    hidden = torch.randn(num_text, tiny_model.config.llm.decoder.hidden_size, generator=random)
    condition = tts.condition(torch.arange(100, 100 + num_text), hidden)
    embeds = torch.cat((condition, tts.audio_bos()))
    cache = cache_for(tiny_model.config.tts.decoder)

    num_codes = -1
    code = 0
    while code != tts.end_code and num_codes < 1000:
        plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])
        logits = tts.logits(tts(embeds, plan, cache.pool)[-1:])[0]
        code = int(torch.multinomial(logits.softmax(-1), 1, generator=random))
        embeds = tts.embed_codes(torch.tensor([code]))
        num_codes += 1

    assert 3 * num_text < num_codes < 8 * num_text

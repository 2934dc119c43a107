"""A duplex call from its pieces with a sliding window, teacher-forced by the golden run's tokens.

No engine here: it shows that streaming hearing, cache, duplex sampling and the moved window give
the published numbers over 16 units.
"""

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from omni.minicpmo.hearing import Hearing, listen_offline
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import MelExtractor
from omni.minicpmo.prompt import Prompts
from omni.minicpmo.sampling import DUPLEX_SAMPLING, TextSampler
from omni.minicpmo.system_prompts import DUPLEX_OMNI
from omni.minicpmo.tokenizer import Tokenizer

CPU = torch.device("cpu")
GREEDY = attrs.evolve(DUPLEX_SAMPLING, is_greedy=True)
REFERENCE = slice(80000, 96000)  # of the golden stream: one second, 10 embeddings


@pytest.fixture
def cache(model) -> PagedKVCache:
    decoder = model.llm.config.decoder
    return PagedKVCache(
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        num_slots=1,
        num_pages=30,
        page_size=16,
        max_tokens=400,
        dtype=torch.float32,
        device=CPU,
    )


def keys(cache: PagedKVCache, layer: int) -> Tensor:
    index = torch.from_numpy(cache.table.index(0, 0, cache.length(0)))
    return cache.pool[layer, 0].flatten(0, 1)[index].transpose(0, 1)


def test_sixteen_units_with_a_basic_window_give_the_golden_logits_tokens_and_keys(
    model, checkpoint_dir: Path, cache: PagedKVCache, expected
):
    golden = expected("k_window")
    prepare, *steps = golden.facts["basic"]["steps"]
    stream = expected("c_mel").tensors["stream_i16"].numpy().astype(np.float32) / 32768
    prompts = Prompts(Tokenizer.from_directory(checkpoint_dir))
    control = prompts.tokenizer.control
    sampler = TextSampler(prompts.tokenizer, model.llm.config.vocab_size, CPU)
    hearing = Hearing(model.audio, num_slots=1)
    history: list[int] = []

    def embed(ids: list[int]) -> Tensor:
        return model.llm.embed(torch.tensor(ids))

    def feed(embeds: Tensor) -> Tensor:
        plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])
        return model.llm.logits(model.llm(embeds, plan, cache.pool)[-1:])

    (voice,) = listen_offline(model.audio, [MelExtractor(CPU).offline(stream[REFERENCE])])
    feed(
        torch.cat(
            (embed(prompts.duplex_prefix(DUPLEX_OMNI)), voice, embed(prompts.duplex_suffix()))
        )
    )
    assert cache.length(0) == prepare["kv_len"]

    for step in steps:
        number = step["unit"]
        hearing.push(0, stream[16000 * number : 16000 * (number + 1)])
        (heard,) = hearing.step([0])
        logits = feed(torch.cat((embed([control.unit_start]), heard)))
        wanted = golden.tensors[f"basic.unit{number:02d}.logits"]
        torch.testing.assert_close(logits[0], wanted, rtol=0, atol=1e-3)
        is_open = number > 0 and steps[number - 1]["turn_open"]
        num_fed = len(step["unit_ids"]) - 2  # terminator and </unit> are fed below
        for index, token in enumerate(step["decoded_ids"]):
            drawn = sampler.sample(
                logits, sampler.rows([GREEDY], [history], [False]), torch.zeros(1, 2)
            )
            chosen = int(drawn.token)
            history += [chosen] if bool(drawn.is_recorded) else []
            rewritten = control.tts_bos if chosen == control.listen and is_open else chosen
            assert rewritten == token, (number, step["decoded_ids"])
            if index < num_fed:
                logits = feed(embed([token]))
        assert cache.length(0) == step["kv_after_generate"]
        feed(embed([step["terminator"], control.unit_end]))
        kept = step["window"]["kv"]
        preserved, frequencies = step["window"]["preserve"], model.llm.decoder.frequencies(CPU)
        cache.splice(0, preserved, cache.length(0) - kept, 0, frequencies)
        for layer in (0, 2):
            stored = golden.tensors.get(f"basic.after_unit{number:02d}.key{layer}")
            if stored is not None:
                torch.testing.assert_close(keys(cache, layer), stored, rtol=0, atol=1e-4)
    cache.table.check_integrity()

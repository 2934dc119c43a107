"""Distributions and greedy tokens against the golden numbers; mixed batches against single rows."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from omni.minicpmo.code_sampling import CodeSampler, CodeSampling
from omni.minicpmo.sampling import (
    CHAT_SAMPLING,
    DUPLEX_SAMPLING,
    HALF_DUPLEX_SAMPLING,
    TextRows,
    TextRule,
    TextSampler,
    TextSampling,
    draw,
)
from omni.minicpmo.tokenizer import Tokenizer

CPU = torch.device("cpu")
VOCABULARY = 1463
CODES = 6562
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def tokenizer(checkpoint_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(checkpoint_dir)


@pytest.fixture(scope="session")
def sampler(tokenizer: Tokenizer) -> TextSampler:
    return TextSampler(tokenizer, VOCABULARY, CPU)


def row(sampler: TextSampler, sampling: TextSampling, history: list[int]) -> TextRows:
    return sampler.rows([sampling], [history], [False])


def greedy(sampler: TextSampler, sampling: TextSampling, history: list[int], logits: Tensor) -> Any:
    rows = row(sampler, attrs.evolve(sampling, is_greedy=True), history)
    drawn = sampler.sample(logits[None], rows, torch.zeros(1, 2))
    return int(drawn.token), bool(drawn.is_recorded)


def close(
    probabilities: Tensor, tensors: dict[str, Tensor], key: str, is_whole: bool = True
) -> None:
    """Compare with a sparse golden distribution; is_whole: nothing else has any probability."""
    index, values = tensors[f"{key}.idx"].long(), tensors[f"{key}.val"]
    torch.testing.assert_close(probabilities[index], values, rtol=0, atol=TOLERANCE)
    if is_whole:
        assert set(probabilities.nonzero()[:, 0].tolist()) == set(index.tolist())


RENAMED = {
    "text_repetition_penalty": "repetition_penalty",
    "text_repetition_window_size": "repetition_window",
}


def test_duplex_draws_are_the_golden_ones(sampler, expected):
    golden = expected("g_sampling")
    for case in golden.facts["duplex"]:
        key, logits = case["key"], golden.tensors[f"{case['key']}.logits"]
        options = {RENAMED.get(name, name): value for name, value in case["options"].items()}
        sampling = attrs.evolve(DUPLEX_SAMPLING, **options)

        token, is_recorded = greedy(sampler, sampling, case["history"], logits)

        assert token == case["greedy_token"], key
        assert is_recorded == bool(case["greedy_history_grew"]), key
        if f"{key}.final_probs.val" in golden.tensors:
            rows = row(sampler, sampling, case["history"])
            final = sampler.distribution(logits[None], rows)[0]
            close(final, golden.tensors, f"{key}.final_probs")
            assert int(final.argmax()) == case["sampling_argmax_of_final"]


def test_the_first_duplex_draw_ends_the_unit_with_the_raw_probability(sampler, tokenizer, expected):
    tensors = expected("g_sampling").tensors
    chunk_eos, num_checked = tokenizer.control.chunk_eos, 0
    rows = row(sampler, DUPLEX_SAMPLING, [])
    for case in expected("g_sampling").facts["duplex"]:
        key = case["key"]
        listed = tensors.get(f"{key}.raw_probs.idx", torch.tensor([])).tolist()
        if chunk_eos not in listed:
            continue
        probability = float(tensors[f"{key}.raw_probs.val"][listed.index(chunk_eos)])
        logits = tensors[f"{key}.logits"][None]

        below = sampler.sample(logits, rows, torch.tensor([[probability - 1e-5, 0.5]]))
        above = sampler.sample(logits, rows, torch.tensor([[probability + 1e-5, 0.5]]))

        assert (int(below.token), bool(below.is_recorded)) == (chunk_eos, False), key
        assert int(above.token) != chunk_eos, key
        num_checked += 1
    assert num_checked > 3


def test_a_duplex_row_never_takes_the_pad_of_speech(sampler, tokenizer):
    """Q25: so nothing handles it, as the reference's handling of it is never reached."""
    logits = torch.zeros(VOCABULARY)
    logits[tokenizer.control.tts_pad] = 50.0

    token, _ = greedy(sampler, DUPLEX_SAMPLING, [], logits)

    assert token != tokenizer.control.tts_pad


def test_chat_distributions_are_the_golden_ones(sampler, expected):
    golden = expected("g_sampling")
    for case in golden.facts["chat"]:
        rows = row(sampler, CHAT_SAMPLING, case["generated"])

        final = sampler.distribution(golden.tensors[f"{case['key']}.logits"][None], rows)[0]

        close(final, golden.tensors, f"{case['key']}.probs")


def test_half_duplex_distributions_are_the_golden_ones(sampler, tokenizer, expected):
    golden = expected("g_sampling")
    for case in golden.facts["half"]:
        options = dict(case["options"])
        is_greedy = not options.pop("do_sample")
        sampling = attrs.evolve(HALF_DUPLEX_SAMPLING, **options)
        for step, token in enumerate(case["tokens"]):
            history = case["previous"] + case["tokens"][:step]
            logits = golden.tensors[f"{case['key']}.logits"][step]
            if is_greedy:
                assert greedy(sampler, sampling, history, logits)[0] == token
                continue

            final = sampler.distribution(logits[None], row(sampler, sampling, history))[0]

            close(final, golden.tensors, f"{case['key']}.probs{step}")


def test_the_tokens_forbidden_in_spoken_half_duplex_are_the_golden_ones(sampler, expected):
    facts = expected("f_prompts").facts
    logits = torch.zeros(1, VOCABULARY)
    sampling = attrs.evolve(HALF_DUPLEX_SAMPLING, top_k=0, top_p=0.0)

    final = sampler.distribution(logits, row(sampler, sampling, []))[0]

    wanted = set(facts["forbidden_half_duplex"].values()) | set(facts["bad_token_ids"])
    assert set((final == 0).nonzero()[:, 0].tolist()) == wanted


def code_rows(sampler: CodeSampler, case: dict[str, Any], is_filtered: bool) -> Any:
    sampling = CodeSampling(
        temperature=case["temperature"],
        repetition_penalty=case["repetition_penalty"],
        repetition_window=case["window"],
        top_p=case["top_p"],
        top_k=case["top_k"],
    )
    return sampler.rows([sampling], [case["codes"]], [is_filtered], [False])


def test_speech_code_distributions_are_the_golden_ones(expected):
    golden, sampler = expected("g_sampling"), CodeSampler(CODES, CPU)
    for case in golden.facts["tts"]:
        logits = golden.tensors[f"{case['key']}.logits"][None]

        chat = sampler.distribution(logits, code_rows(sampler, case, True))[0]
        duplex = sampler.distribution(logits, code_rows(sampler, case, False))[0]

        close(chat, golden.tensors, f"{case['key']}.chat_probs")
        close(duplex, golden.tensors, f"{case['key']}.duplex_probs", is_whole=False)


def test_the_end_of_speech_is_not_drawn_where_it_is_forbidden():
    sampler, logits = CodeSampler(CODES, CPU), torch.zeros(1, CODES)
    logits[0, -1] = 50.0
    for is_filtered in (True, False):
        rows = sampler.rows([CodeSampling()], [[]], [is_filtered], [True])
        assert sampler.distribution(logits, rows)[0, -1] == 0


def test_scaling_the_probability_of_listening_scales_its_odds(sampler, tokenizer):
    """Q1, Q2: the published code scaled the logit of another token."""
    listen = tokenizer.control.listen
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(8))
    plain = attrs.evolve(DUPLEX_SAMPLING, temperature=1.0, top_k=0, top_p=0.0)

    def odds(scale: float) -> float:
        sampling = attrs.evolve(plain, listen_prob_scale=scale)
        p = float(sampler.distribution(logits, row(sampler, sampling, []))[0, listen])
        return p / (1 - p)

    assert odds(2.0) == pytest.approx(2 * odds(1.0), rel=1e-4)
    assert odds(0.0) == 0


def test_listening_wins_outright_within_its_top_k_and_is_not_recorded(sampler, tokenizer):
    listen = tokenizer.control.listen
    logits = torch.full((VOCABULARY,), -5.0)
    logits[[300, 301, listen]] = torch.tensor([9.0, 8.0, 7.0])

    inside = greedy(sampler, attrs.evolve(DUPLEX_SAMPLING, listen_top_k=3), [], logits)
    outside = greedy(sampler, attrs.evolve(DUPLEX_SAMPLING, listen_top_k=2), [], logits)

    assert inside == (listen, False)
    assert outside == (300, True)


def test_a_chat_that_may_not_end_yet_does_not_end(sampler, tokenizer):
    logits = torch.zeros(1, VOCABULARY)
    logits[0, tokenizer.control.im_end] = 30.0
    best = attrs.evolve(CHAT_SAMPLING, is_greedy=True)

    held = sampler.sample(logits, sampler.rows([best], [[]], [True]), torch.zeros(1, 2))
    free = sampler.sample(logits, sampler.rows([best], [[]], [False]), torch.zeros(1, 2))

    assert int(free.token) == tokenizer.control.im_end != int(held.token)


def test_a_row_in_a_mixed_batch_draws_what_it_draws_alone(sampler):
    """Also where a row without top_k makes the whole batch sort the vocabulary."""
    generator = torch.Generator().manual_seed(9)
    samplings = [
        CHAT_SAMPLING,
        DUPLEX_SAMPLING,
        HALF_DUPLEX_SAMPLING,
        attrs.evolve(DUPLEX_SAMPLING, is_greedy=True),
        attrs.evolve(CHAT_SAMPLING, temperature=0),
        attrs.evolve(CHAT_SAMPLING, top_k=0, top_p=0.9),
    ]
    histories = [list(range(100, 100 + 37 * n)) for n in range(6)]
    for width in (5, 6):
        logits = torch.randn(width, VOCABULARY, generator=generator) * 4
        chances = torch.rand(width, 2, generator=generator)
        rows = sampler.rows(samplings[:width], histories[:width], [False] * width)

        together = sampler.sample(logits, rows, chances)

        for n in range(width):
            alone = row(sampler, samplings[n], histories[n])
            single = sampler.sample(logits[n : n + 1], alone, chances[n : n + 1])
            assert int(together.token[n]) == int(single.token)
            assert bool(together.is_recorded[n]) == bool(single.is_recorded)


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).expand(10000, -1)
    chances = (torch.arange(10000) + 0.5) / 10000

    drawn = draw(probabilities, chances, torch.zeros(10000, dtype=torch.bool))

    assert drawn.bincount(minlength=4).tolist() == [5000, 3000, 2000, 0]


@pytest.mark.parametrize("changes", [{"top_p": 1.5}, {"temperature": -1}, {"top_k": -2}])
def test_parameters_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TextSampling(rule=TextRule.CHAT, **changes)

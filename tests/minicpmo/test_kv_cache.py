"""Page bookkeeping under any order of use, and moving a window with re-rotated keys."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import CapacityError, ContextExhausted
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.kv_pages import PageTable, bucket_pages
from omni.minicpmo.model.layers import rotary_frequencies, rotate_keys

HEAD_DIM = 8
THETA = 1e4


def small_cache(num_pages: int = 12, max_tokens: int = 30) -> PagedKVCache:
    return PagedKVCache(
        num_layers=2,
        num_kv_heads=1,
        head_dim=HEAD_DIM,
        num_slots=2,
        num_pages=num_pages,
        page_size=4,
        max_tokens=max_tokens,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_every_page_is_free_or_held_once_after_any_growth_and_truncation(steps):
    table = PageTable(num_slots=4, num_pages=24, page_size=4, max_tokens=36)
    for slot, length in steps:
        if length >= table.lengths[slot]:
            try:
                table.grow([(slot, length)])
            except CapacityError:
                assert length > 36 or table.pages_needed(slot, length) > table.num_free_pages
        else:
            table.truncate(slot, length)
        table.check_integrity()


@settings(deadline=None)
@given(st.integers(1, 3000))
def test_a_page_bucket_holds_what_is_asked_and_wastes_at_most_a_quarter_beyond_four(num_pages):
    bucket = bucket_pages(num_pages)

    assert bucket % 4 == 0
    assert num_pages <= bucket <= max(4, num_pages * 1.25 + 4)


def test_a_batch_that_does_not_fit_changes_nothing():
    cache = small_cache(num_pages=6)
    cache.prefill_plan([PrefillRow(slot=0, num_tokens=9)])

    with pytest.raises(CapacityError, match="3 KV pages are needed, 2 are free"):
        cache.prefill_plan([PrefillRow(slot=0, num_tokens=4), PrefillRow(slot=1, num_tokens=8)])

    assert [cache.length(0), cache.length(1)] == [9, 0]
    cache.table.check_integrity()


def test_a_row_beyond_the_context_limit_is_refused_by_name():
    cache = small_cache(max_tokens=10)

    with pytest.raises(ContextExhausted, match="would take 11 tokens; 10 are its limit"):
        cache.prefill_plan([PrefillRow(slot=1, num_tokens=11)])


def test_idle_rows_of_a_decode_plan_point_at_the_waste_page_alone():
    cache = small_cache()
    cache.prefill_plan([PrefillRow(slot=0, num_tokens=5), PrefillRow(slot=1, num_tokens=5)])

    plan = cache.decode_plan([0, 1], [False, True])

    pages = plan.groups[0].pages
    assert pages is not None and not pages[0].any() and pages[1].any()
    assert plan.write_index[0] < 4 <= plan.write_index[1]


def test_one_rotation_moves_keys_as_the_reference_does(expected):
    golden = expected("k_window")
    facts, tensors = golden.facts["rotate"], golden.tensors
    shift = facts["new"][0] - facts["old"][0]
    keys = tensors["rotate.key"].transpose(0, 1)

    moved = rotate_keys(keys, shift, rotary_frequencies(keys.shape[-1], 1e6, "cpu"))

    torch.testing.assert_close(moved.transpose(0, 1), tensors["rotate.out"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("removed", "inserted"), [(6, 0), (6, 2), (2, 7), (0, 5), (3, 3)])
def test_splicing_moves_the_tail_and_rotates_its_keys_alone(removed, inserted):
    torch.manual_seed(5)
    frequencies = rotary_frequencies(HEAD_DIM, THETA, "cpu")
    cache = small_cache()
    cache.prefill_plan([PrefillRow(slot=1, num_tokens=3), PrefillRow(slot=0, num_tokens=17)])
    index = torch.from_numpy(cache.table.index(0, 0, 17))
    content = torch.randn(2, 2, 17, 1, HEAD_DIM)
    cache.pool.flatten(2, 3)[:, :, index] = content

    cache.splice(0, 4, removed, inserted, frequencies)

    new_length = 17 - removed + inserted
    assert cache.length(0) == new_length
    cache.table.check_integrity()
    kept = cache.pool.flatten(2, 3)[:, :, torch.from_numpy(cache.table.index(0, 0, new_length))]
    tail = content[:, :, 4 + removed :]
    rotated = torch.stack([rotate_keys(k, inserted - removed, frequencies) for k in tail[:, 0]])
    assert torch.equal(kept[:, :, :4], content[:, :, :4])
    assert torch.equal(kept[:, 1, 4 + inserted :], tail[:, 1])
    torch.testing.assert_close(kept[:, 0, 4 + inserted :], rotated)


def test_keys_after_a_dropped_span_equal_keys_computed_at_the_new_positions(model):
    """Layer 0 keys depend on the token and its position alone, so a move can be checked exactly."""
    decoder = model.llm.config.decoder
    embeds = torch.randn(30, decoder.hidden_size, generator=torch.Generator().manual_seed(6))

    def cache_of(tokens: torch.Tensor) -> PagedKVCache:
        cache = PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=1,
            num_pages=12,
            page_size=4,
            max_tokens=40,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(tokens))])
        model.llm(tokens, plan, cache.pool)
        return cache

    def keys(cache: PagedKVCache) -> torch.Tensor:
        index = cache.table.index(0, 0, cache.length(0))
        return cache.pool[0, 0].flatten(0, 1)[torch.from_numpy(index)]

    moved = cache_of(embeds)
    moved.splice(0, 7, 12, 0, model.llm.decoder.frequencies(torch.device("cpu")))

    direct = cache_of(torch.cat((embeds[:7], embeds[19:])))
    torch.testing.assert_close(keys(moved), keys(direct), rtol=0, atol=1e-5)


def test_a_plan_names_every_token_once_whatever_the_mix_of_rows():
    cache = small_cache(num_pages=30)
    cache.prefill_plan([PrefillRow(slot=0, num_tokens=5)])

    plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=3), PrefillRow(slot=1, num_tokens=9)])

    assert plan.positions.tolist() == [5, 6, 7, *range(9)]
    assert plan.last_token.tolist() == [2, 11]
    assert len(np.unique(plan.write_index.numpy())) == 12
    assert [group.pages is None for group in plan.groups] == [False, True]

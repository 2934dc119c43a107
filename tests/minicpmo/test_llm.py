"""The language model against the golden numbers, and its paged cache against plain attention."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow, StepShape, plan_fields
from omni.minicpmo.staging import Staging

# Largest float64 difference measured by the golden run: 7.5e-6; SDPA against eager 7.6e-6.
TOLERANCE = 1e-4


@pytest.fixture
def new_cache(model: MiniCpmO) -> Callable[..., PagedKVCache]:
    def make(num_slots: int = 4, page_size: int = 4, num_pages: int = 200) -> PagedKVCache:
        decoder = model.llm.config.decoder
        return PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=num_slots,
            num_pages=num_pages,
            page_size=page_size,
            max_tokens=50000,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )

    return make


def run(model: MiniCpmO, cache: PagedKVCache, rows: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
    """Prefill (slot, embeds) rows in one step and return each row's hidden states."""
    plan = cache.prefill_plan([PrefillRow(slot=s, num_tokens=len(e)) for s, e in rows])
    hidden = model.llm(torch.cat([embeds for _, embeds in rows]), plan, cache.pool)
    return list(hidden.split([len(embeds) for _, embeds in rows]))


def cached(cache: PagedKVCache, layer: int, slot: int) -> Tensor:
    """Return (2, KV heads, tokens, D) of one slot."""
    index = torch.from_numpy(cache.table.index(slot, 0, cache.length(slot)))
    return cache.pool[layer].flatten(1, 2)[:, index].transpose(1, 2)


def close(actual: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)


def test_the_golden_logits_hidden_states_and_keys_are_met(model, new_cache, expected):
    tensors = expected("e_llm").tensors
    cache = new_cache()
    embeds = torch.cat((model.llm.embed(tensors["ids"]), tensors["extra_embeds"]))
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, given: states.append(sum(given)))
        for layer in model.llm.decoder.layers[:2]
    ]

    (hidden,) = run(model, cache, [(1, embeds)])

    for hook in hooks:
        hook.remove()
    for index, state in enumerate(states):
        close(state, tensors[f"hidden_after_layer{index}"])
    assert len(states) == 2
    close(embeds, tensors["inputs_embeds"])
    close(hidden, tensors["final_hidden"])
    close(model.llm.logits(hidden), tensors["logits"])
    close(cached(cache, 0, 1)[0], tensors["layer0_key_cache"])
    close(cached(cache, 0, 1)[1], tensors["layer0_value_cache"])


def test_feeding_piece_by_piece_gives_the_golden_hidden_states(model, new_cache, expected):
    golden = expected("e_llm")
    embeds, cache = golden.tensors["inputs_embeds"], new_cache()

    splits = [7, 1, 5] + [1] * (len(embeds) - 13)
    pieces = [run(model, cache, [(0, piece)])[0] for piece in embeds.split(splits)]

    close(torch.cat(pieces), golden.tensors["final_hidden_incremental"])


def test_rotary_phases_stay_exact_at_position_39990(model, new_cache, expected):
    tensors = expected("e_llm").tensors
    cache = new_cache(num_slots=1, page_size=16, num_pages=2502)
    embeds = tensors["extra_embeds"][:9]
    plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=9, start=39990)])

    # Only the nine tokens themselves are visible: what stands before them was never computed.
    plan.groups[0].first_visible.fill_(39990)
    hidden = model.llm(embeds, plan, cache.pool)

    close(hidden, tensors["final_hidden_pos39990"])


def test_a_row_in_a_ragged_batch_gets_what_it_gets_alone(model, new_cache):
    torch.manual_seed(1)
    together, alone = new_cache(), new_cache()
    size = model.llm.config.decoder.hidden_size
    for lengths in ((5, 31, 2, 17), (12, 1, 40, 3), (1, 1, 1, 1)):
        rows = [(slot, torch.randn(n, size)) for slot, n in enumerate(lengths)]

        batched = run(model, together, rows)

        for (slot, embeds), hidden in zip(rows, batched, strict=True):
            close(hidden, run(model, alone, [(slot, embeds)])[0], 1e-5)
    together.table.check_integrity()


def test_a_decode_step_moves_only_the_rows_that_execute(model, new_cache):
    torch.manual_seed(2)
    size = model.llm.config.decoder.hidden_size
    decoded, prefilled = new_cache(), new_cache()
    rows = [(slot, torch.randn(n, size)) for slot, n in enumerate((6, 9, 4, 13))]
    run(model, decoded, rows), run(model, prefilled, rows)
    before = decoded.pool.clone()
    embeds = torch.randn(4, size)

    plan = decoded.decode_plan([0, 1, 2, 3], [True, False, True, False])
    hidden = model.llm(embeds, plan, decoded.pool)

    wanted = run(model, prefilled, [(0, embeds[:1]), (2, embeds[2:3])])
    close(hidden[[0, 2]], torch.cat(wanted), 1e-5)
    assert [decoded.length(slot) for slot in range(4)] == [7, 9, 5, 13]
    for slot in (1, 3):
        pages = decoded.table.pages[slot]
        assert torch.equal(decoded.pool[:, :, pages], before[:, :, pages])


def test_steps_of_a_fixed_shape_compute_as_those_made_to_measure(model, new_cache):
    """A recorded step keeps its memory and is filled anew: rows and tokens beyond it sit out."""
    torch.manual_seed(3)
    size = model.llm.config.decoder.hidden_size
    cache, twin = new_cache(), new_cache()
    rows = [(0, torch.randn(6, size)), (1, torch.randn(3, size))]
    run(model, cache, rows), run(model, twin, rows)
    shape = StepShape(num_rows=3, num_tokens=4, num_pages=8)
    staging = Staging(plan_fields(shape), torch.device("cpu"))
    (plan,) = cache.plans(staging.tensors, shape)
    for counts in ((2, 4), (4, 1), (3,)):
        rows = [(slot, torch.randn(count, size)) for slot, count in enumerate(counts)]
        spans = cache.spans([PrefillRow(slot, len(embeds)) for slot, embeds in rows])
        padded = torch.randn(3, 4, size)
        for (slot, embeds) in rows:
            padded[slot, : len(embeds)] = embeds

        cache.reserve(spans)
        cache.fill_plans(staging.host(), shape, spans)
        staging.send()
        hidden = model.llm(padded.flatten(0, 1), plan, cache.pool)

        for (slot, embeds), wanted in zip(rows, run(model, twin, rows), strict=True):
            close(hidden.unflatten(0, (3, 4))[slot, : len(embeds)], wanted, 1e-5)
            close(hidden[plan.last_token[slot]], wanted[-1], 1e-5)
            close(cached(cache, 0, slot), cached(twin, 0, slot), 1e-5)


def test_sub_steps_see_what_those_before_them_wrote(model, new_cache):
    torch.manual_seed(5)
    size = model.llm.config.decoder.hidden_size
    cache, twin = new_cache(), new_cache()
    rows = [(0, torch.randn(6, size)), (1, torch.randn(3, size))]
    run(model, cache, rows), run(model, twin, rows)
    shape = StepShape(num_rows=2, num_steps=3, num_pages=8)
    staging = Staging(plan_fields(shape), torch.device("cpu"))
    embeds = torch.randn(3, 2, size)
    spans = cache.spans([PrefillRow(0, 3), PrefillRow(1, 2)])

    cache.reserve(spans)
    cache.fill_plans(staging.host(), shape, spans)
    staging.send()
    plans = cache.plans(staging.tensors, shape)
    hidden = [model.llm(x, plan, cache.pool) for x, plan in zip(embeds, plans, strict=True)]

    close(torch.stack(hidden)[:, 0], run(model, twin, [(0, embeds[:, 0])])[0], 1e-5)
    close(torch.stack(hidden)[:2, 1], run(model, twin, [(1, embeds[:2, 1])])[0], 1e-5)
    close(cached(cache, 1, 1), cached(twin, 1, 1), 1e-5)


def test_rolling_back_leaves_no_trace(model, new_cache):
    torch.manual_seed(4)
    size = model.llm.config.decoder.hidden_size
    cache = new_cache()
    prefix, wrong, right = (torch.randn(n, size) for n in (9, 14, 5))
    run(model, cache, [(0, prefix)])
    run(model, cache, [(0, wrong)])

    cache.truncate(0, 9)
    (hidden,) = run(model, cache, [(0, right)])

    fresh = new_cache()
    run(model, fresh, [(0, prefix)])
    close(hidden, run(model, fresh, [(0, right)])[0], 1e-5)
    cache.table.check_integrity()


def test_what_others_left_in_freed_pages_is_not_read(model, new_cache):
    """A broken session's page may hold NaN, and 0 * NaN is NaN: weights of zero do not help."""
    torch.manual_seed(5)
    size = model.llm.config.decoder.hidden_size
    clean, dirty = new_cache(), new_cache()
    dirty.pool[:, :, 1:] = torch.nan

    for lengths in ((5, 2), (3, 9), (1, 1)):
        embeds = [torch.randn(length, size) for length in lengths]
        wanted = run(model, clean, list(enumerate(embeds)))
        hidden = run(model, dirty, list(enumerate(embeds)))
        close(torch.cat(hidden), torch.cat(wanted), 0)

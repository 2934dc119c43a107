"""The frame lists against plain lists: what is kept, and that nothing kept is overwritten."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omni.minicpmo.model.flow_cache import FrameLists, FrameView, Rows, keep_newest, keep_oldest

CPU = torch.device("cpu")
TAIL, MAX_NEW, NUM_SLOTS = 10, 6, 3


def trimmed(frames: list[int], prompt: int) -> list[int]:
    """The rule of minicpmo-utils: beyond prompt + tail, the first prompt and the last tail."""
    return frames if len(frames) <= prompt + TAIL else frames[:prompt] + frames[-TAIL:]


def trimmed_twice(frames: list[int], prompt: int) -> list[int]:
    """The same on a list that holds every frame twice, of which the first half is read back."""
    if len(frames) <= prompt + TAIL:
        return frames
    doubled = frames + frames
    return (doubled[: 2 * prompt] + doubled[-2 * TAIL :])[: prompt + TAIL]


RULES: dict[str, tuple[Callable[[list[int], int], list[int]], bool]] = {
    "newest": (trimmed, False),
    "newest first": (trimmed, True),
    "oldest": (trimmed_twice, False),
}


def make(name: str, prompts: list[int]) -> tuple[FrameLists, Tensor]:
    """Return lists of NUM_SLOTS slots started on prompts of these lengths, and a pool.

    A pool frame holds the number of what was stored: prompts 0, 1, ... in order.
    """
    lists = FrameLists.create(
        NUM_SLOTS,
        max_prompt=max(prompts),
        num_prompt_frames=sum(prompts),
        tail=TAIL,
        max_new=MAX_NEW,
        device=CPU,
        rule=keep_oldest if name == "oldest" else keep_newest,
        newest_first=RULES[name][1],
    )
    pool = torch.zeros(lists.num_frames, 1)
    pool[: sum(prompts), 0] = torch.arange(sum(prompts))
    for slot, length in enumerate(prompts):
        lists.start(slot, sum(prompts[:slot]), length)
    return lists, pool


def content(lists: FrameLists, pool: Tensor, slot: int) -> list[int]:
    """Return what *slot* attends to, in order."""
    kept: list[int] = pool[lists.entries[slot, : lists.lengths[slot]], 0].int().tolist()
    return kept


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 14), min_size=NUM_SLOTS, max_size=NUM_SLOTS),
    steps=st.lists(
        st.lists(
            st.tuples(st.integers(0, MAX_NEW), st.booleans()),
            min_size=NUM_SLOTS,
            max_size=NUM_SLOTS,
        ),
        max_size=8,
    ),
)
def test_each_slot_keeps_what_its_rule_says(
    name: str, prompts: list[int], steps: list[list[tuple[int, bool]]]
) -> None:
    trim, newest_first = RULES[name]
    lists, pool = make(name, prompts)
    num_keys = max(prompts) + TAIL
    model = [content(lists, pool, slot) for slot in range(NUM_SLOTS)]
    number = 1000

    for step in steps:
        runs = torch.tensor([run for _, run in step])
        counts = torch.tensor([count for count, _ in step]) * runs
        rows = Rows.of(torch.arange(NUM_SLOTS), runs, NUM_SLOTS)
        view = lists.view(rows, counts, MAX_NEW, num_keys)
        new = torch.arange(number, number + NUM_SLOTS * MAX_NEW).reshape(NUM_SLOTS, MAX_NEW)
        seen = view.exchange(pool, new[..., None].float())[..., 0].int()
        lists.advance(rows, view)
        number += NUM_SLOTS * MAX_NEW

        for slot, (count, run) in enumerate(step):
            if not run:
                continue
            fresh = new[slot, :count].tolist()
            visible = set(seen[slot, view.visible[slot]].tolist()) - {int(new[slot, 0])}
            assert visible | set(fresh) == set(model[slot]) | set(fresh)
            joined = fresh + model[slot] if newest_first else model[slot] + fresh
            model[slot] = trim(joined, prompts[slot])
        assert [content(lists, pool, slot) for slot in range(NUM_SLOTS)] == model


def test_distances_follow_the_order_of_the_list() -> None:
    lists, _ = make("newest", [4, 2, 3])
    rows = Rows.of(torch.tensor([0, 1]), torch.tensor([True, True]), NUM_SLOTS)

    view = lists.view(rows, torch.tensor([3, 3]), 3, 5)

    # 4 cached, then 3 new: query 1 is at position 5, the keys at 0..3 and 4..6.
    of_row = view.distance()[0, 1, view.visible[0]]
    assert of_row.tolist() == [5, 4, 3, 2, 1, 0, -1]
    of_row = view.distance()[1, 0, view.visible[1]]
    assert of_row.tolist() == [2, 1, 0, -1, -2]


def test_the_columns_of_a_view_are_aligned() -> None:
    lists, _ = make("newest", [4, 2, 3])
    rows = Rows.of(torch.tensor([0]), torch.tensor([True]), NUM_SLOTS)

    widths = {lists.view(rows, torch.tensor([1]), 5, keys).read_ids.shape[1] for keys in (9, 11)}

    assert widths == {16}


def test_doubled_rows_read_what_they_wrote() -> None:
    view = FrameView.of_prompt(2, 3, CPU).doubled()
    pool = torch.zeros(2 * 5, 1)
    new = torch.arange(1.0, 7.0).reshape(2, 3, 1)

    assert torch.equal(view.exchange(pool, new), new)
    assert pool[:, 0].tolist() == [0, 0, 0, 0, 1, 4, 2, 5, 3, 6]

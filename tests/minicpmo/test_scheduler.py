"""Who is in the next batch."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.minicpmo.scheduler import Phase, Scheduler, Share

LIMITS = {phase: 100 for phase in Phase}


def scheduler(*jobs: tuple[str, int]) -> Scheduler[str]:
    """Return a scheduler with a prefill job of each (owner, size)."""
    made: Scheduler[str] = Scheduler(LIMITS)
    for owner, size in jobs:
        made.add(Phase.PREFILL, owner, owner, size)
    return made


def taken(shares: Sequence[Share[str]]) -> dict[str, tuple[int, int]]:
    return {share.job: (share.start, share.start + share.count) for share in shares}


def test_what_fits_is_one_batch() -> None:
    waiting = scheduler(("a", 13), ("b", 79), ("c", 8))

    shares = waiting.next_batch(Phase.PREFILL)

    assert taken(shares) == {"a": (0, 13), "b": (0, 79), "c": (0, 8)}
    assert all(share.is_last for share in shares)
    assert not waiting.has_work


def test_a_long_prompt_advances_by_shares() -> None:
    waiting = scheduler(("long", 250))

    batches = [taken(waiting.next_batch(Phase.PREFILL)) for _ in range(3)]

    assert batches == [{"long": (0, 100)}, {"long": (100, 200)}, {"long": (200, 250)}]
    assert not waiting.has_work


def test_units_pass_long_prompts_which_still_advance() -> None:
    waiting = scheduler(("long", 1000), ("unit", 13), ("other", 70))

    shares = taken(waiting.next_batch(Phase.PREFILL))

    assert shares == {"long": (0, 25), "unit": (0, 13), "other": (0, 62)}


def test_an_owner_is_in_a_batch_once() -> None:
    waiting = scheduler(("a", 5))
    waiting.add(Phase.PREFILL, "second", "a", 5)

    first, second = (taken(waiting.next_batch(Phase.PREFILL)) for _ in range(2))

    assert (first, second) == ({"a": (0, 5)}, {"second": (0, 5)})


def test_phases_do_not_mix() -> None:
    waiting = scheduler(("a", 5))

    assert waiting.next_batch(Phase.DECODE) == []
    assert waiting.has_work


def test_a_dropped_owner_leaves_no_job() -> None:
    waiting = scheduler(("a", 500), ("b", 5))
    waiting.next_batch(Phase.PREFILL)
    waiting.add(Phase.DRAW, "draw", "a")

    waiting.drop("a")

    assert not waiting.has_work


def test_the_rest_of_a_failed_job_can_be_removed() -> None:
    waiting = scheduler(("a", 500))
    (share,) = waiting.next_batch(Phase.PREFILL)

    waiting.remove(Phase.PREFILL, share.job)

    assert not waiting.has_work


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_every_job_is_taken_whole_within_the_limit(sizes: list[int]) -> None:
    waiting = scheduler(*[(f"job {number}", size) for number, size in enumerate(sizes)])
    positions = {f"job {number}": 0 for number in range(len(sizes))}

    for _ in range(sum(sizes)):
        shares = waiting.next_batch(Phase.PREFILL)
        if not shares:
            break
        assert sum(share.count for share in shares) <= LIMITS[Phase.PREFILL]
        for share in shares:
            assert share.start == positions[share.job]
            positions[share.job] += share.count

    assert list(positions.values()) == sizes


@pytest.mark.parametrize("phase", Phase)
def test_a_job_of_any_size_counts_at_least_one(phase: Phase) -> None:
    waiting: Scheduler[str] = Scheduler(LIMITS)
    waiting.add(phase, "empty", "a", 0)

    (share,) = waiting.next_batch(phase)

    assert share.is_last

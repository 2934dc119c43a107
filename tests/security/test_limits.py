"""A caller gets its share and no more; the tables stay small."""

import pytest

from omni.errors import RateLimited
from omni.security.limits import MAX_CALLERS, Limits, Quota


def test_a_minutes_worth_may_come_at_once_and_then_at_its_rate() -> None:
    limits, quota = Limits(), [Quota("address 192.0.2.1", requests_per_minute=60)]
    for _ in range(60):
        limits.count_request(quota, 100.0)

    with pytest.raises(RateLimited) as caught:
        limits.count_request(quota, 100.0)

    assert caught.value.retry_after_s == pytest.approx(1.0)
    limits.count_request(quota, 101.0)
    with pytest.raises(RateLimited):
        limits.count_request(quota, 101.0)


def test_a_refused_request_costs_nothing_further() -> None:
    limits, quota = Limits(), [Quota("key a", requests_per_minute=1)]
    limits.count_request(quota, 0.0)
    for _ in range(50):
        with pytest.raises(RateLimited):
            limits.count_request(quota, 30.0)

    limits.count_request(quota, 60.0)


def test_callers_are_counted_apart() -> None:
    limits = Limits()
    limits.count_request([Quota("address a", requests_per_minute=1)], 0.0)

    limits.count_request([Quota("address b", requests_per_minute=1)], 0.0)


def test_zero_means_no_limit() -> None:
    limits = Limits()
    for _ in range(10_000):
        limits.count_request([Quota("address a")], 0.0)
    with limits.session([Quota("address a")]), limits.session([Quota("address a")]):
        assert len(limits) == 0


def test_a_flood_of_addresses_fills_no_memory_and_forgets_the_quietest() -> None:
    limits = Limits()
    busy = [Quota("address busy", requests_per_minute=2 * MAX_CALLERS)]
    for number in range(3 * MAX_CALLERS):
        limits.count_request([Quota(f"address {number}", requests_per_minute=1)], 0.0)
        limits.count_request(busy, 0.0) if number % 2 else None

    assert len(limits) == MAX_CALLERS
    with pytest.raises(RateLimited):  # it was never quiet, so it was never forgotten
        for _ in range(MAX_CALLERS):
            limits.count_request(busy, 0.0)


def test_sessions_at_once_are_bounded_and_given_back() -> None:
    limits, quota = Limits(), [Quota("key a", max_sessions=2)]
    with limits.session(quota):
        with limits.session(quota):
            with pytest.raises(RateLimited, match="2 sessions at once are all that one key"):
                limits.session(quota).__enter__()
        with limits.session(quota):
            pass


def test_a_session_that_one_of_two_callers_may_not_hold_is_counted_for_none() -> None:
    limits = Limits()
    key, address = Quota("key a", max_sessions=2), Quota("address b", max_sessions=1)
    with limits.session([key, address]):
        with pytest.raises(RateLimited):
            limits.session([key, address]).__enter__()
        with limits.session([key]):
            pass

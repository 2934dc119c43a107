"""Lanes take sessions in turn, keep each session's order, and forget what is dropped."""

import threading
from collections.abc import Iterator

import pytest

from omni.errors import QueueFull
from omni.pocket.lanes import Lane
from tests.fakes import TIMEOUT_S


class Gate:
    """A job that says when it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(TIMEOUT_S)


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane("test", num_threads=1, max_jobs=8)
    yield lane
    lane.close(TIMEOUT_S)


def finish(lane: Lane) -> None:
    """Wait until everything submitted before has run."""
    done = threading.Event()
    lane.submit("last", done.set)
    assert done.wait(TIMEOUT_S)


def test_sessions_take_turns(lane: Lane) -> None:
    order: list[str] = []
    gate = Gate()
    lane.submit("a", gate)
    assert gate.begun.wait(TIMEOUT_S)
    for name in ("a1", "a2", "a3", "b1", "b2"):
        lane.submit(name[0], lambda name=name: order.append(name))  # type: ignore[misc]

    gate.may_end.set()
    done = threading.Event()
    lane.submit("a", done.set)
    assert done.wait(TIMEOUT_S)

    assert order == ["b1", "a1", "b2", "a2", "a3"]


def test_one_session_has_one_job_at_a_time() -> None:
    lane = Lane("test", num_threads=2)
    gate = Gate()
    order: list[str] = []
    lane.submit("a", gate)
    assert gate.begun.wait(TIMEOUT_S)

    lane.submit("a", lambda: order.append("a"))
    lane.submit("b", lambda: order.append("b"))
    finish(lane)
    gate.may_end.set()
    done = threading.Event()
    lane.submit("a", done.set)
    assert done.wait(TIMEOUT_S)
    lane.close(TIMEOUT_S)

    assert order == ["b", "a"]


def test_dropped_jobs_never_run(lane: Lane) -> None:
    ran: list[str] = []
    gate = Gate()
    lane.submit("gate", gate)
    assert gate.begun.wait(TIMEOUT_S)
    lane.submit("a", lambda: ran.append("a"))
    lane.submit("b", lambda: ran.append("b"))

    lane.drop("a")
    gate.may_end.set()
    finish(lane)

    assert ran == ["b"]


def test_a_full_queue_refuses(lane: Lane) -> None:
    gate = Gate()
    lane.submit("a", gate)
    assert gate.begun.wait(TIMEOUT_S)
    for _ in range(8):
        lane.submit("a", lambda: None)

    with pytest.raises(QueueFull):
        lane.submit("a", lambda: None)
    gate.may_end.set()


def test_a_job_that_fails_does_not_stop_the_lane(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    lane.submit("a", lambda: 1 // 0)  # type: ignore[arg-type, return-value]

    finish(lane)

    assert "must not" in caplog.text

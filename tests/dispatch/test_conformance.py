"""The protocol's sections 3.1 and 3.3, where no other test of the dispatcher tells a wrong rule."""

import pytest

from omni.messages import Heartbeat, Leased, Queued, Status, StatusQuery, TicketEnded
from omni.settings import ServiceSettings
from tests.dispatch.desk import Desk, hello

ALIVE = ("web-0", "worker-0")


def desk_with(**service: int) -> Desk:
    """Return a desk with a web and a worker of one slot."""
    desk = Desk(service=ServiceSettings(**service))
    desk.worker()
    desk.web()
    return desk


def test_the_capacity_counts_who_waits_and_not_who_is_served() -> None:
    desk = desk_with(max_queue_size=2)

    for name in "abcd":
        desk.enqueue(name)

    assert desk.leased_sessions() == ["a"] and len(desk.dispatcher.line) == 2
    [ended] = desk.told("web-0", TicketEnded)
    assert isinstance(ended, TicketEnded) and ended.message == "Queue full (2 requests)"


def test_a_worker_that_joins_takes_the_head_of_the_line_at_once() -> None:
    desk = desk_with()
    for name in "abc":
        desk.enqueue(name)

    desk.worker("worker-1", pid=11)

    assert desk.leased_sessions() == ["a", "b"]
    [leased] = desk.told("web-0", Leased, "b")
    assert isinstance(leased, Leased) and leased.worker == "worker-1"


def test_a_beat_that_says_ready_hands_no_slot_out_twice() -> None:
    """A worker that was just chosen may not know it yet."""
    desk = desk_with()
    desk.enqueue("a")
    desk.enqueue("b")

    desk.say("worker-0", Heartbeat(state="ready", steps=1, load=0))
    desk.pass_time(0.2, alive=ALIVE)

    assert desk.leased_sessions() == ["a"]


def test_the_time_in_the_line_does_not_count_towards_the_average() -> None:
    desk = desk_with()
    desk.enqueue("a", "audio_duplex")
    desk.enqueue("b", "chat")
    desk.pass_time(5.0, alive=ALIVE)
    desk.finish("a")

    desk.pass_time(4.0, alive=ALIVE)
    desk.finish("b")

    assert desk.dispatcher.eta.view().ema_s["chat"] == pytest.approx(4.0)


def test_whoever_looks_sees_the_estimate_of_that_moment() -> None:
    """The reference showed the estimate of its last round, up to ten seconds old."""
    desk = desk_with()
    desk.enqueue("a", "chat")
    desk.enqueue("b", "chat")
    desk.now_s += 4.0

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert status.tickets[0].estimated_wait_s == 11.0


def test_a_worker_that_still_loads_shortens_no_estimate() -> None:
    desk = desk_with()
    desk.say("worker-1", hello("worker", "worker-1", 11))
    desk.say("worker-1", Heartbeat(state="loading"))
    desk.enqueue("a", "chat")

    for name in "bc":
        desk.enqueue(name, "chat")

    places = [desk.told("web-0", Queued, name)[0] for name in "bc"]
    waits = [place.estimated_wait_s for place in places if isinstance(place, Queued)]
    assert waits == [15.0, 30.0]

"""The waiting line by itself."""

import pytest

from omni.dispatch.tickets import UPDATE_INTERVAL_S, Ticket, TicketLine


class Line:
    """A line before two slots that are free in 10 and 20 s; counts what estimates cost."""

    def __init__(self) -> None:
        self.num_looks = 0
        self.line = TicketLine(lambda now_s: [now_s + 10, now_s + 20], self.eta_s)

    def eta_s(self, _: str) -> float:
        """Return how long every session lasts, and count the question."""
        self.num_looks += 1
        return 15.0

    def add(self, name: str, now_s: float = 0.0) -> Ticket:
        """Append a ticket of session *name*."""
        ticket = Ticket(f"q_{name}", name, b"web", "chat", name, now_s)
        self.line.append(ticket, now_s)
        return ticket

    def positions(self) -> dict[str, int]:
        """Return the position that each owner was told last."""
        return {ticket.session: ticket.told_position for ticket in self.line}


def test_a_newcomer_knows_its_position_and_wait_at_once() -> None:
    line = Line()

    tickets = [line.add(name) for name in "abc"]

    assert [ticket.position for ticket in tickets] == [1, 2, 3]
    assert [ticket.wait_s for ticket in tickets] == [10.0, 20.0, 25.0]


def test_enqueueing_costs_the_same_behind_ten_and_a_thousand() -> None:
    """The reference recomputed all positions for each newcomer: 3.3 ms at 1,000."""
    line = Line()
    costs = []

    for index in range(1000):
        before = line.num_looks
        line.add(f"s{index}")
        costs.append(line.num_looks - before)

    assert set(costs) == {1}


def test_newcomers_of_a_long_line_that_moves_cost_the_same_and_are_corrected() -> None:
    line = Line()
    for index in range(200):
        line.add(f"s{index}")
    line.line.remove("s0")
    before = line.num_looks

    newcomer = line.add("late")
    assert line.num_looks - before == 1
    told = line.line.due_updates(0.1, 1000)

    assert newcomer in told
    waits = [ticket.wait_s for ticket in line.line]
    assert newcomer.wait_s == waits[-1] == max(waits)


def test_everybody_behind_a_leaver_is_told_the_new_position() -> None:
    line = Line()
    for name in "abcd":
        line.add(name)

    line.line.remove("b")
    told = line.line.due_updates(0.1, 64)

    assert [ticket.session for ticket in told] == ["c", "d"]
    assert line.positions() == {"a": 1, "c": 2, "d": 3}


def test_nobody_is_told_the_same_position_again_before_three_seconds() -> None:
    line = Line()
    for name in "ab":
        line.add(name)

    assert line.line.due_updates(UPDATE_INTERVAL_S - 0.01, 64) == []
    assert [item.session for item in line.line.due_updates(UPDATE_INTERVAL_S, 64)] == ["a", "b"]


def test_an_update_carries_an_estimate_of_its_own_time() -> None:
    waits = [30.0]
    line = TicketLine(lambda now_s: waits, lambda _: 15.0)
    ticket = Ticket("q_a", "a", b"web", "chat", "a", 0.0)
    line.append(ticket, 0.0)
    assert ticket.wait_s == 30.0

    line.due_updates(3.0, 64)

    assert ticket.wait_s == 27.0


def test_a_round_is_told_in_pieces_and_then_over() -> None:
    line = Line()
    for index in range(10):
        line.add(f"s{index}")

    line.line.remove("s0")
    pieces = [len(line.line.due_updates(0.1, 4)) for _ in range(4)]

    assert pieces == [4, 4, 1, 0]
    assert line.line.pause_s(0.1) == pytest.approx(UPDATE_INTERVAL_S)


def test_the_end_of_a_line_that_always_moves_is_told_too() -> None:
    line = Line()
    for index in range(40):
        line.add(f"s{index}")

    for index in range(8):
        line.line.remove(f"s{index}")
        line.line.due_updates(0.1, 5)

    assert line.positions()["s39"] < 40


def test_changes_that_come_together_are_told_once() -> None:
    line = Line()
    for name in "abcd":
        line.add(name)

    line.line.remove("a")
    line.line.remove("b")
    told = line.line.due_updates(0.1, 64)

    assert [ticket.session for ticket in told] == ["c", "d"]
    assert line.positions() == {"c": 1, "d": 2}
    assert line.line.due_updates(0.2, 64) == []


def test_a_ticket_that_left_in_the_middle_of_a_round_is_not_told() -> None:
    line = Line()
    for name in "abcd":
        line.add(name)
    line.line.remove("a")
    line.line.due_updates(0.1, 1)

    line.line.remove("c")

    assert "c" not in [ticket.session for ticket in line.line.due_updates(0.1, 64)]


def test_the_next_round_waits_in_proportion_to_the_line() -> None:
    line = Line()
    for index in range(1000):
        line.add(f"s{index}")
    line.line.remove("s0")
    line.line.due_updates(0.1, 2000)

    line.line.remove("s1")

    assert line.line.pause_s(0.1) == pytest.approx(0.2, abs=0.01)


def test_a_line_that_is_rebuilt_is_in_order_of_age() -> None:
    line = Line()
    line.line.insert_by_age(Ticket("q_b", "b", b"web", "chat", "b", -5.0), 0.0)
    line.line.insert_by_age(Ticket("q_a", "a", b"web", "chat", "a", -9.0), 0.0)

    assert [ticket.session for ticket in line.line] == ["a", "b"]
    assert [ticket.session for ticket in line.line.due_updates(0.1, 64)] == ["b"]


def test_a_newcomer_after_a_leaver_gets_a_fresh_estimate() -> None:
    line = Line()
    for name in "abc":
        line.add(name)

    line.line.remove("a")

    assert line.add("d").wait_s == 25.0


def test_more_who_are_due_than_fit_into_one_go_are_told_without_a_pause() -> None:
    line = Line()
    for index in range(10):
        line.add(f"s{index}")

    line.line.due_updates(UPDATE_INTERVAL_S, 4)

    assert line.line.pause_s(UPDATE_INTERVAL_S) == 0.0


def test_an_empty_line_needs_no_look() -> None:
    assert Line().line.pause_s(5.0) is None

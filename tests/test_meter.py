"""What is counted of a chunk's way, and that nothing a peer sends makes it grow."""

from omni.engine import ChatDone, Prepared, StageCosts, UnitResult
from omni.messages import Stamp
from omni.meter import FAST_S, MAX_HOPS, Hop, Meter, Stage, Tally, deadline_of


def stamps(*hops: tuple[str, int]) -> list[Stamp]:
    """Return stamps at so many ms."""
    return [Stamp(hop, at_ms * 1_000_000) for hop, at_ms in hops]


WAY = stamps(("web", 0), ("broker", 1), ("worker", 2), ("broker", 1203), ("web", 1204))


def unit(meter: Meter, way: list[Stamp], deadline_s: float = 1.0) -> None:
    """Count one unit."""
    meter.received("audio_duplex", deadline_s, UnitResult(is_listen=True), way, 10)


def test_a_tally_counts_each_value_at_its_bound() -> None:
    tally = Tally((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        tally.add(value)

    assert (tally.counts, tally.sum) == ([2, 1, 1], 5.5)


def test_a_units_way_is_counted_as_a_whole_and_hop_by_hop() -> None:
    meter = Meter()

    unit(meter, WAY)

    assert meter.units["audio_duplex"].sum == 1.204
    assert meter.hops[Hop("worker", "broker")].sum == 1.201
    assert sum(map(sum, (tally.counts for tally in meter.hops.values()))) == 4


def test_a_unit_is_late_when_it_takes_longer_than_its_chunk_lasts() -> None:
    meter = Meter()

    unit(meter, WAY, deadline_s=1.0)
    unit(meter, WAY, deadline_s=2.0)

    assert meter.late_units == {"audio_duplex": 1}


def test_the_chunk_length_is_what_the_engine_agreed_to() -> None:
    assert deadline_of(Prepared(chunk_ms=200), 1.0) == 0.2
    assert deadline_of(UnitResult(is_listen=True), 0.2) == 0.2


def test_compute_time_is_counted_by_stage_where_the_engine_tells_it() -> None:
    meter, costs = Meter(), StageCosts(llm_ms=30.0, all_ms=50.0)

    done = ChatDone(text="", input_tokens=1, generated_tokens=1, costs=costs)

    meter.received("chat", 1.0, done, (), 5)

    assert {stage: tally.sum for stage, tally in meter.stages.items()} == {
        Stage("chat", "llm"): 0.03,
        Stage("chat", "all"): 0.05,
    }


def test_a_chunk_that_was_skipped_says_nothing_about_time() -> None:
    meter = Meter()

    unit(meter, stamps(("engine", 0), ("worker", 1), ("web", 2)))
    unit(meter, [])

    assert not meter.units and not meter.hops


def test_invented_hops_and_clocks_of_other_hosts_are_not_followed() -> None:
    meter = Meter()
    for number in range(10 * MAX_HOPS):
        unit(meter, stamps(("web", 0), (f"hop {number}", 1), ("web", 2)))
    unit(meter, stamps(("web", 10**12), ("broker", 0), ("web", 10**12)))

    assert len(meter.hops) == MAX_HOPS
    assert Hop("web", "broker") not in meter.hops


def test_the_bounds_reach_from_a_hop_to_a_late_unit() -> None:
    assert list(FAST_S) == sorted(FAST_S) and FAST_S[0] < 0.001 and FAST_S[-1] > 1.0

"""Estimates against figures worked out by hand from the protocol's section 3.3."""

import pytest

from omni.dispatch.eta import EtaBook, WaitSimulation
from omni.messages import EtaConfig
from omni.settings import ServiceSettings


def book(**settings: float) -> EtaBook:
    """Return a book with the defaults: 15, 180, 120, 90, 20; alpha 0.3; 3 samples."""
    return EtaBook.from_settings(ServiceSettings(**settings))


# busy: (type, elapsed s) of running sessions; waiting: types in order; expected: waits in s.
WORKED = [
    pytest.param([], ["chat"], [0.0], id="nobody is busy"),
    pytest.param([("chat", 5.0)], ["chat"], [10.0], id="remaining of a chat"),
    pytest.param([("chat", 15.0)], ["chat"], [15.0], id="as long as expected: overdue"),
    pytest.param([("chat", 400.0)], ["chat"], [15.0], id="far beyond: still 15"),
    pytest.param([("chat", 5.0)], ["chat", "chat", "chat"], [10.0, 25.0, 40.0], id="one after one"),
    pytest.param(
        [("audio_duplex", 20.0)],
        ["chat", "omni_duplex", "half_duplex_audio", "chat"],
        [100.0, 115.0, 205.0, 385.0],
        id="mixed types behind one slot",
    ),
    pytest.param(
        [("audio_duplex", 20.0), ("omni_duplex", 80.0)],
        ["chat", "omni_duplex", "half_duplex_audio", "chat", "streaming"],
        [10.0, 25.0, 100.0, 115.0, 130.0],
        id="two slots: the one that is free first is taken",
    ),
    pytest.param(
        [("omni_duplex", 95.0), ("half_duplex_audio", 60.0), ("chat", 0.0)],
        ["chat", "chat", "chat", "chat"],
        [15.0, 15.0, 30.0, 30.0],
        id="overdue and fresh ones tie",
    ),
    pytest.param([("streaming", 4.96)], ["chat"], [15.0], id="rounded to a tenth"),
]


@pytest.mark.parametrize("busy, waiting, expected", WORKED)
def test_waits_are_those_of_the_worked_examples(
    busy: list[tuple[str, float]], waiting: list[str], expected: list[float]
) -> None:
    eta = book()
    now_s = 5000.0

    simulation = WaitSimulation(now_s + eta.remaining_s(*running) for running in busy)

    assert [simulation.next_wait_s(now_s, eta.eta_s(kind)) for kind in waiting] == expected


def test_a_simulation_is_carried_on_for_a_later_newcomer() -> None:
    simulation = WaitSimulation([110.0])
    assert simulation.next_wait_s(100.0, 15.0) == 10.0

    assert simulation.next_wait_s(104.0, 15.0) == 21.0


def test_the_first_sample_is_the_average() -> None:
    eta = book()

    eta.record("chat", 40.0)

    assert eta.view().ema_s["chat"] == 40.0
    assert eta.view().samples["chat"] == 1


def test_later_samples_are_weighed_with_alpha() -> None:
    eta = book()

    for duration_s in (10.0, 20.0, 30.0):
        eta.record("chat", duration_s)

    assert eta.view().ema_s["chat"] == pytest.approx(0.3 * 30 + 0.7 * (0.3 * 20 + 0.7 * 10))


def test_the_average_counts_from_min_samples_on() -> None:
    eta = book()

    expected = []
    for _ in range(3):
        eta.record("omni_duplex", 10.0)
        expected.append(eta.eta_s("omni_duplex"))

    assert expected == [90.0, 90.0, 10.0]


def test_types_are_measured_apart() -> None:
    eta = book(eta_ema_min_samples=1)

    eta.record("chat", 3.0)

    assert eta.eta_s("chat") == 3.0
    assert eta.eta_s("audio_duplex") == 120.0


@pytest.mark.parametrize("duration_s", [0.0, -1.0])
def test_durations_that_are_none_do_not_count(duration_s: float) -> None:
    eta = book()

    eta.record("chat", duration_s)

    assert eta.view().ema_s["chat"] is None
    assert eta.view().samples["chat"] == 0


def test_an_unknown_type_lasts_thirty_seconds() -> None:
    assert book().eta_s("half_duplex_omni") == 30.0


@pytest.mark.parametrize(
    "elapsed_s, waiting_s, shown_s", [(0.0, 15.0, 15.0), (14.0, 1.0, 1.0), (20.0, 15.0, 0.0)]
)
def test_remaining_time_is_counted_and_shown_differently(
    elapsed_s: float, waiting_s: float, shown_s: float
) -> None:
    eta = book()

    assert eta.remaining_s("chat", elapsed_s) == waiting_s
    assert eta.shown_remaining_s("chat", elapsed_s) == shown_s


def test_a_new_config_replaces_everything_but_an_alpha_that_is_none() -> None:
    eta = book(eta_ema_alpha=0.5)

    eta.replace_config(EtaConfig(eta_chat_s=7.0))

    assert eta.eta_s("chat") == 7.0
    assert eta.eta_s("audio_duplex") == 120.0
    assert eta.alpha == 0.5


def test_a_new_config_can_set_alpha_and_streaming() -> None:
    eta = book()

    eta.replace_config(EtaConfig(ema_alpha=0.9, eta_streaming_s=44.0))

    assert eta.alpha == 0.9
    assert eta.eta_s("streaming") == 44.0


@pytest.mark.parametrize(
    "config",
    [
        EtaConfig(eta_chat_s=-1.0),
        EtaConfig(eta_streaming_s=float("nan")),
        EtaConfig(eta_omni_duplex_s=float("inf")),
        EtaConfig(ema_alpha=0.0),
        EtaConfig(ema_alpha=1.5),
    ],
)
def test_a_config_out_of_bounds_changes_nothing(config: EtaConfig) -> None:
    eta = book()
    before = eta.view()

    assert "is not allowed" in eta.replace_config(config)

    assert eta.view() == before

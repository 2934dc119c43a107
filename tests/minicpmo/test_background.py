"""Work in the threads beside the engine."""

import threading
from collections.abc import Iterator

import pytest

from omni.minicpmo.background import Background
from omni.minicpmo.work import Aside, Lane
from tests.fakes import TIMEOUT_S


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def background(woken: threading.Event) -> Iterator[Background[str]]:
    made: Background[str] = Background(woken.set)
    yield made
    made.close()


def finished(
    background: Background[str], woken: threading.Event, count: int
) -> list[tuple[str, object]]:
    """Return *count* results."""
    pairs: list[tuple[str, object]] = []
    while len(pairs) < count:
        assert woken.wait(TIMEOUT_S)
        woken.clear()
        pairs += background.finished()
    return pairs


def test_a_result_comes_back_with_its_key_and_wakes(
    background: Background[str], woken: threading.Event
) -> None:
    background.submit(Aside(call=lambda: 2 + 2), "sum")

    assert woken.wait(TIMEOUT_S)
    assert background.finished() == [("sum", 4)]
    assert background.finished() == []


def test_what_a_call_raises_is_its_result(
    background: Background[str], woken: threading.Event
) -> None:
    def call() -> None:
        raise OSError("no such picture")

    background.submit(Aside(call=call), "picture")

    assert woken.wait(TIMEOUT_S)
    ((key, result),) = background.finished()
    assert key == "picture"
    assert isinstance(result, OSError)


def test_no_result_is_a_result(background: Background[str], woken: threading.Event) -> None:
    background.submit(Aside(call=lambda: None), "nothing")

    assert woken.wait(TIMEOUT_S)
    assert background.finished() == [("nothing", None)]


def test_voices_are_analysed_in_one_thread(
    background: Background[str], woken: threading.Event
) -> None:
    count, names = 8, set()
    for number in range(count):
        call = Aside(call=lambda: names.add(threading.current_thread().name), lane=Lane.VOICE)
        background.submit(call, str(number))

    keys = [key for key, _ in finished(background, woken, count)]

    assert keys == [str(number) for number in range(count)]
    assert len(names) == 1


def test_films_and_requests_do_not_hold_up_the_pictures_of_calls(
    background: Background[str], woken: threading.Event
) -> None:
    """A film may take minutes to read; two of them held up every call that sees."""
    is_seen = threading.Event()
    for number in range(4):
        for lane in (Lane.FILM, Lane.MEDIA, Lane.VOICE, Lane.SPEECH):
            call = Aside(call=lambda: is_seen.wait(TIMEOUT_S), lane=lane)
            background.submit(call, f"{lane.name} {number}")

    background.submit(Aside(call=is_seen.set, lane=Lane.FRAME), "frame")

    results = dict(finished(background, woken, 17))
    assert all(results[key] for key in results if key != "frame"), "somebody gave up waiting"

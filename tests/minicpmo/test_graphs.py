"""Recorded steps on a CPU: buffers and fillers as on a GPU, called in place of replayed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omni.errors import CapacityError
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.graphs import GraphPool, RowGraphs
from omni.minicpmo.speech_codes import SpeechCall, SpeechCodes, SpeechMode
from tests.minicpmo.conftest import Golden

CPU = torch.device("cpu")


@pytest.fixture
def speak(
    model: MiniCpmO, expected: Callable[[str], Golden]
) -> Callable[[SpeechCodes, int], list[list[int]]]:
    """Return a function that has the first slots speak; slot n says rows n..n+4 of the golden."""
    tensors = expected("h_tts").tensors

    def run(speech: SpeechCodes, count: int) -> list[list[int]]:
        calls = []
        for slot in range(count):
            speech.open_turn(slot, SpeechMode.DUPLEX, CodeSampling(is_greedy=True), lambda: 0.5)
            rows = slice(slot, slot + 4)
            calls.append(
                SpeechCall(
                    slot=slot,
                    text_ids=tensors["text_ids"][rows],
                    hidden=tensors["hidden"][rows],
                    is_turn_end=False,
                    min_codes=6,
                )
            )
        speech.start(calls)
        while speech.speaking:
            speech.step()
        return [list(speech.state(slot).codes) for slot in range(count)]

    return run


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_batch_filled_up_speaks_as_one_that_is_not(
    count: int, model: MiniCpmO, speak: Callable[[SpeechCodes, int], list[list[int]]]
) -> None:
    plain, recorded = (SpeechCodes(model.tts, 4, 40, page_size=16) for _ in range(2))
    recorded.record([2, 4], max_tokens=64)

    assert speak(recorded, count) == speak(plain, count)
    recorded.cache.table.check_integrity()


def test_a_row_longer_than_recorded_runs_eagerly(
    model: MiniCpmO, speak: Callable[[SpeechCodes, int], list[list[int]]]
) -> None:
    plain, recorded = (SpeechCodes(model.tts, 2, 40, page_size=16) for _ in range(2))
    recorded.record([2], max_tokens=16)

    assert speak(recorded, 2) == speak(plain, 2)


def test_recording_changes_no_slot(
    model: MiniCpmO, speak: Callable[[SpeechCodes, int], list[list[int]]]
) -> None:
    speech = SpeechCodes(model.tts, 2, 40, page_size=16)
    speak(speech, 1)
    length, pool = speech.cache.length(0), speech.cache.pool.clone()

    speech.record([1, 2], max_tokens=64)

    assert speech.cache.length(0) == length
    torch.testing.assert_close(speech.cache.pool[:, :, 1:], pool[:, :, 1:], rtol=0, atol=0)


def test_a_step_without_room_draws_no_chance(model: MiniCpmO) -> None:
    """So a neighbour's failure, after which each row is tried alone, changes nothing drawn."""
    drawn: list[float] = []

    def chance() -> float:
        drawn.append(0.5)
        return 0.5

    speech = SpeechCodes(model.tts, 1, 2, page_size=4)
    speech.open_turn(0, SpeechMode.DUPLEX, CodeSampling(), chance)
    hidden = torch.zeros(3, model.config.tts.llm_hidden_size)
    ids = torch.tensor([5, 6, 7])
    call = SpeechCall(slot=0, text_ids=ids, hidden=hidden, is_turn_end=False, min_codes=9)
    speech.start([call])
    before = len(drawn)

    with pytest.raises(CapacityError):
        speech.step()

    assert len(drawn) == before


def test_rows_run_recorded_or_not() -> None:
    def double(rows: Tensor) -> tuple[Tensor, ...]:
        return (rows * 2,)

    graphs = RowGraphs(double, GraphPool(CPU))
    graphs.record([2, 4], lambda size: (torch.zeros(size),))

    assert [graphs.filled(count) for count in (1, 2, 3, 5)] == [2, 2, 4, 5]
    for count in (4, 5):
        rows = torch.arange(float(count))
        assert torch.equal(graphs.run((rows,))[0], rows * 2)

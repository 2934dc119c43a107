"""The sliding window against the reference: what goes, what stays, and where its keys stand."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni.engine import AudioChunk, Prepared, UnitResult
from omni.minicpmo.model.layers import rotary_frequencies, rotate_keys
from omni.minicpmo.session import WindowOptions
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.window import UnitRecord, Window
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import Driver, pcm
from tests.minicpmo.test_duplex import GREEDY, LOGITS, SLOT, Choices

KEYS = 1e-4
#: The golden configurations, in our words.
OPTIONS: Mapping[str, WindowOptions] = {
    "off": WindowOptions(mode="off"),
    "basic": WindowOptions(mode="basic", high_tokens=150, low_tokens=110),
    "context": WindowOptions(mode="context", max_units=5, max_previous_tokens=12),
}


@pytest.fixture
def start(checkpoint_dir: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def make(options: EngineOptions) -> Driver:
        drivers.append(Driver(checkpoint_dir, options))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.engine.close()


def keys_of(driver: Driver, layer: int) -> Tensor:
    """Return (heads, tokens, D) of slot 0."""
    kv = driver.runner.kv
    index = torch.from_numpy(kv.table.index(0, 0, kv.length(0)))
    keys: Tensor = kv.pool[layer, 0].flatten(0, 1)[index].transpose(0, 1)
    return keys


@pytest.mark.parametrize("mode", OPTIONS)
def test_a_window_slides_as_the_golden_one(
    mode: str,
    start: Callable[..., Driver],
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
) -> None:
    golden, choices = expected("k_window"), Choices()
    driver = start(EngineOptions(window=OPTIONS[mode], choose=choices))
    voice = pcm(stream[80000:96000])
    prepare = attrs.evolve(GREEDY, voice=voice, generate_audio=False, force_listen_count=1)
    assert driver.ask(SLOT, prepare, Prepared).prompt_length == 22

    for step in golden.facts[mode]["steps"][1:]:
        number = step["unit"]
        choices.next_unit()
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        unit = driver.ask(SLOT, chunk, UnitResult)
        driver.until(lambda: not driver.engine.busy)

        assert [*unit.token_ids, 1399] == step["unit_ids"]
        assert unit.kv_cache_length == step["kv_after_generate"]
        logits = golden.tensors.get(f"{mode}.unit{number:02d}.logits")
        if logits is not None and choices.drawn:
            torch.testing.assert_close(choices.firsts[-1], logits, rtol=0, atol=LOGITS)
        if step["window"]["dropped"]:
            assert driver.runner.kv.length(0) == step["kv_after_finalize"]
        for layer in (0, 2):
            wanted = golden.tensors.get(f"{mode}.after_unit{number:02d}.key{layer}")
            if wanted is not None:
                torch.testing.assert_close(keys_of(driver, layer), wanted, rtol=0, atol=KEYS)


def test_keys_move_as_the_golden_ones(expected: Callable[[str], Golden]) -> None:
    golden = expected("k_window")
    facts: Any = golden.facts["rotate"]
    shift = facts["new"][0] - facts["old"][0]
    frequencies = rotary_frequencies(32, facts["theta"], "cpu")

    moved = rotate_keys(golden.tensors["rotate.key"].transpose(0, 1), shift, frequencies)

    wanted = golden.tensors["rotate.out"].transpose(0, 1)
    torch.testing.assert_close(moved, wanted, rtol=0, atol=KEYS)


def window(mode: str, lengths: list[int]) -> Window:
    """Return a window of a 22-token prompt and units of these lengths."""
    made = Window(options=OPTIONS[mode], marker=(1, 2), prefix_length=20, suffix=(3, 4))
    for number, length in enumerate(lengths):
        made.note(UnitRecord(number=number, length=length, said=()))
    return made


def test_below_the_high_mark_nothing_goes() -> None:
    assert window("basic", [64, 64]).num_due(22 + 128) == 0


def test_above_the_high_mark_units_go_until_the_low_mark() -> None:
    assert window("basic", [20, 30, 40, 40]).num_due(22 + 130) == 2


def test_the_newest_unit_stays_however_long_it_is() -> None:
    assert window("basic", [20, 500]).num_due(22 + 520) == 1


def test_without_a_window_nothing_goes() -> None:
    assert window("off", [1000] * 9).num_due(9022) == 0


def test_a_call_has_no_end(
    start: Callable[..., Driver], stream: NDArray[np.float32]
) -> None:
    """A window far smaller than the call: 60 units of 13 to 34 tokens in 150."""
    driver = start(EngineOptions(window=OPTIONS["basic"]))
    prepare = attrs.evolve(GREEDY, voice=pcm(stream[80000:96000]), generate_audio=False)
    driver.ask(SLOT, prepare, Prepared)

    lengths = []
    for number in range(60):
        first = 16000 * (number % 20)
        unit = driver.ask(SLOT, AudioChunk(pcm=pcm(stream[first : first + 16000])), UnitResult)
        lengths.append(unit.kv_cache_length)

    assert unit.current_time == 60
    assert max(lengths) <= 150 + 34
    driver.runner.kv.table.check_integrity()

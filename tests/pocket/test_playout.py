"""An answer goes out chunk by chunk, each word with the sound that begins it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni import audio
from omni.pocket.playout import Playout, Portion


def sound(num_samples: int) -> audio.Waveform:
    return np.arange(num_samples, dtype=np.float32)


def all_portions(playout: Playout, num_samples: int) -> list[Portion]:
    portions = [playout.take(num_samples)]
    while not portions[-1].is_last:
        portions.append(playout.take(num_samples))
    return portions


@given(
    st.lists(st.tuples(st.text(alphabet="ab ", max_size=30), st.integers(0, 500)), max_size=5),
    st.integers(1, 300),
)
def test_everything_goes_out_once_and_in_order(
    pieces: list[tuple[str, int]], num_samples: int
) -> None:
    playout = Playout()
    for text, size in pieces:
        playout.push(text, sound(size))
    playout.finish()

    portions = all_portions(playout, num_samples)

    assert all(portion.waveform.size <= num_samples for portion in portions)
    expected = np.concatenate([sound(0), *(sound(size) for _, size in pieces)])
    assert np.array_equal(np.concatenate([p.waveform for p in portions]), expected)
    said = "".join(portion.text for portion in portions)
    assert said.split() == " ".join(text for text, _ in pieces).split() or len(pieces) > 1
    assert said.replace(" ", "") == "".join(text for text, _ in pieces).replace(" ", "")
    assert playout.heard == said


def test_a_word_goes_out_with_its_first_sound() -> None:
    playout = Playout()
    playout.push("one two three four", sound(1800))

    assert [playout.take(450).text for _ in range(4)] == ["one two ", "three ", "", "four"]


@pytest.mark.parametrize("num_taken", [0, 1, 2])
def test_only_what_went_out_was_heard(num_taken: int) -> None:
    playout = Playout()
    playout.push("one two three four", sound(1800))

    for _ in range(num_taken):
        playout.take(450)

    assert playout.heard.split() == "one two three four".split()[: [0, 2, 3][num_taken]]


def test_the_last_portion_says_so_and_no_other() -> None:
    playout = Playout()
    playout.push("yes", sound(100))

    first = playout.take(60)
    playout.finish()
    second = playout.take(60)

    assert (first.is_last, second.is_last) == (False, True)


def test_an_end_that_comes_late_still_goes_out() -> None:
    playout = Playout()
    playout.push("yes", sound(10))
    assert not playout.take(60).is_last
    assert playout.is_empty

    playout.finish()

    assert not playout.is_empty
    assert playout.take(60).is_last

"""Mel frames, offline and streamed, against the golden numbers and against each other."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from omni.minicpmo.mel import WINDOW_SAMPLES, MelExtractor, StreamingMel

CPU = torch.device("cpu")
TOLERANCE = 1e-4  # measured 1.1e-5: the float32 FFT in quiet bins


@pytest.fixture(scope="session")
def sound(expected) -> np.ndarray:
    return expected("c_mel").tensors["stream_i16"].numpy().astype(np.float32) / 32768


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE)


def step(stream: StreamingMel, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Take a unit from each of *slots* and return its frames."""
    rows = np.zeros((3, len(slots)), dtype=np.int64)
    sound = np.zeros((len(slots), WINDOW_SAMPLES), dtype=np.float32)
    stream.take(slots, rows, sound)
    return stream.frames(torch.from_numpy(rows), torch.from_numpy(sound))


def whole_buffer_mel(sound: np.ndarray, dynamic: bool) -> Tensor:
    """Extract *sound* in one go, mirrored at both ends, last STFT frame dropped."""
    padded = torch.from_numpy(np.pad(sound, 200, mode="reflect")).unfold(0, 400, 160)[:-1]
    log_power = MelExtractor(CPU).log_power(padded)
    if dynamic:
        log_power = torch.maximum(log_power, log_power.max() - 8)
    return (log_power + 4) / 4


def test_offline_frames_are_the_golden_ones(sound, expected):
    golden = expected("c_mel")
    for case in golden.facts["offline"]:
        start = case["start"]
        pieces = MelExtractor(CPU).offline(sound[start : start + case["samples"]])

        assert [piece.shape[1] for piece in pieces] == case["pieces"]
        for number, piece in enumerate(pieces):
            stored = golden.tensors[f"offline{case['case']}.piece{number}"]
            stride = 13 if piece.shape[1] >= 300 else 1
            close(piece[:, ::stride], stored)


def test_streamed_units_are_the_golden_ones(sound, expected):
    golden = expected("c_mel")
    stream = StreamingMel(1, CPU)
    for unit, fact in enumerate(golden.facts["streaming"]):
        stream.push(0, sound[16000 * unit : 16000 * (unit + 1)])
        mel, is_first = step(stream, [0])

        frames = mel[0, :, 2:] if unit == 0 else mel[0]
        stored = golden.tensors[f"stream.unit{unit:02d}"]
        assert frames.shape[1] == fact["frames"]
        assert bool(is_first[0]) == (unit == 0)
        assert len(stream.state(0).waiting) == fact["carry"]
        close(frames if stored.shape[1] > 11 else frames[:, ::10], stored)


def test_the_ring_of_loudest_values_equals_extracting_the_whole_buffer_anew():
    """Loud clicks on buffer edges and units make the floor depend on exactly which frames count."""
    generator = np.random.default_rng(7)
    sound = generator.normal(0, 1e-4, 16000 * 52).astype(np.float32)
    for edge in (0, 160000 - 560, 320000 - 560):
        sound[edge : edge + 30] += 0.3 / (1 + edge / 160000)
    sound[16000 * 12 : 16000 * 12 + 500] += generator.normal(0, 0.05, 500).astype(np.float32)
    stream, buffer, base = StreamingMel(1, CPU), np.zeros(560, dtype=np.float32), 0
    for unit in range(52):
        chunk = sound[16000 * unit : 16000 * (unit + 1)]
        stream.push(0, chunk)
        buffer = np.concatenate((buffer, chunk))
        if len(buffer) - 80 >= 480000:
            buffer, base = buffer[160000:], base + 1000

        mel, _ = step(stream, [0])

        used = buffer[: len(buffer) - 80]
        whole = whole_buffer_mel(used, dynamic=len(used) >= 80000)
        first = max(0, 100 * unit - 2) - base
        wanted = whole[:, first : 100 * unit + 102 - base]
        close(mel[0, :, 2:] if unit == 0 else mel[0], wanted)


def test_chunks_of_any_size_give_the_same_units(sound):
    regular, odd = StreamingMel(1, CPU), StreamingMel(1, CPU)
    regular.push(0, sound[: 16000 * 6 + 700])
    chunks = np.split(sound[: 16000 * 6 + 700], [17000, 17001, 30000, 61234])
    units: list[Tensor] = []
    for chunk in chunks:
        odd.push(0, chunk)
        while odd.has_unit(0):
            units.append(step(odd, [0])[0])

    wanted: list[Tensor] = []
    while regular.has_unit(0):
        wanted.append(step(regular, [0])[0])
    assert len(units) == len(wanted) == 6
    assert torch.equal(torch.cat(units), torch.cat(wanted))


def test_rows_of_a_batch_do_not_touch_one_another_and_a_reset_slot_is_new(sound):
    together = StreamingMel(3, CPU)
    alone = [StreamingMel(1, CPU) for _ in range(3)]
    for unit in range(8):
        slots = [slot for slot in range(3) if unit >= 2 * slot]
        if unit == 6:
            together.reset(1)
            alone[1].reset(0)
        for slot in slots:
            chunk = sound[16000 * (unit + 5 * slot) :][:16000]
            together.push(slot, chunk)
            alone[slot].push(0, chunk)

        batched, _ = step(together, slots)

        singles = torch.cat([step(alone[slot], [0])[0] for slot in slots])
        torch.testing.assert_close(batched, singles, rtol=0, atol=1e-5)


def test_too_little_sound_is_no_unit_and_stays_waiting(sound):
    stream = StreamingMel(1, CPU)
    stream.push(0, sound[:16000])
    step(stream, [0])

    stream.push(0, sound[16000:28000])

    assert not stream.has_unit(0)
    assert len(stream.state(0).waiting) == 12080


def test_silence_of_any_length_is_the_lowest_value():
    for num_samples in (160, 1600, 480000):
        (piece,) = MelExtractor(CPU).offline(np.zeros(num_samples, dtype=np.float32))
        assert piece.shape == (80, num_samples // 160)
        assert torch.all(piece == -1.5)

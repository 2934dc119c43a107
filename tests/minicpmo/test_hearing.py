"""The audio encoder, whole and streamed, against the golden numbers and against itself."""

import numpy as np
import pytest
import torch
from torch import Tensor

from omni.minicpmo.hearing import Hearing, listen_offline
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow
from omni.minicpmo.mel import MelExtractor
from omni.minicpmo.model.audio_encoder import num_embeddings

CPU = torch.device("cpu")
ON_OWN_MEL = 3e-4
ON_GIVEN_MEL = 1e-4  # measured 1.9e-6


@pytest.fixture(scope="session")
def sound(expected) -> np.ndarray:
    return expected("c_mel").tensors["stream_i16"].numpy().astype(np.float32) / 32768


def close(actual: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)


def first_layer_keys(cache: PagedKVCache, slot: int) -> Tensor:
    index = torch.from_numpy(cache.table.index(slot, 0, cache.length(slot)))
    return cache.pool[0, 0].flatten(0, 1)[index].transpose(0, 1)


def test_streamed_embeddings_keys_and_cache_lengths_are_the_golden_ones(model, sound, expected):
    golden = expected("d_audio")
    hearing = Hearing(model.audio, num_slots=1)
    for unit, fact in enumerate(golden.facts["streaming"]):
        hearing.push(0, sound[16000 * unit : 16000 * (unit + 1)])
        (embeddings,) = hearing.step([0])

        close(embeddings, golden.tensors[f"stream.unit{unit:02d}.embed"], ON_OWN_MEL)
        assert hearing.cache.length(0) == fact["cache_frames"]
        if (keys := golden.tensors.get(f"stream.unit{unit:02d}.key0_last")) is not None:
            close(first_layer_keys(hearing.cache, 0)[:, -50::7], keys, ON_OWN_MEL)


def test_the_golden_mel_alone_gives_the_golden_embeddings(model, expected):
    mels, golden = expected("c_mel").tensors, expected("d_audio").tensors
    hearing = Hearing(model.audio, num_slots=1)
    for unit in (0, 1):
        mel = mels[f"stream.unit{unit:02d}"]
        padded = torch.nn.functional.pad(mel, (104 - mel.shape[1], 0))
        plan = hearing.cache.prefill_plan([PrefillRow(slot=0, num_tokens=50)])

        is_first = torch.tensor([unit == 0])
        (embeddings,) = model.audio.stream(padded[None], is_first, plan, hearing.cache.pool)

        close(embeddings, golden[f"stream.unit{unit:02d}.embed"], ON_GIVEN_MEL)


@pytest.mark.parametrize("name", ["block", "full"])
def test_whole_recordings_are_the_golden_ones(model, sound, expected, name):
    golden = expected("d_audio")
    for case in golden.facts["offline"]:
        samples = sound[case["start"] : case["start"] + case["samples"]]
        mel = MelExtractor(CPU).offline(samples)

        (embeddings,) = listen_offline(model.audio, [mel], sees_all=name == "full")

        assert len(embeddings) == case["tokens"]
        close(embeddings, golden.tensors[f"offline{case['case']}.{name}"], ON_OWN_MEL)


def test_the_last_hidden_states_of_full_attention_are_the_golden_ones(model, sound, expected):
    golden = expected("d_audio")
    for case in golden.facts["offline"]:
        samples = sound[case["start"] : case["start"] + case["samples"]]
        features, _ = model.audio.features(MelExtractor(CPU).offline(samples), sees_all=True)

        stored = golden.tensors[f"offline{case['case']}.full_hidden_last"]
        close(features[0, :: case["hidden_row_stride"]], stored, ON_OWN_MEL)


def test_a_short_recording_in_a_batch_gets_what_it_gets_alone(model, sound, expected):
    """Q7: the reference lets a short row see padding; we match what it computes alone."""
    golden = expected("d_audio")
    facts = golden.facts["batch2"]
    spans = zip(facts["starts"], facts["samples"], strict=True)
    mels = [MelExtractor(CPU).offline(sound[start : start + count]) for start, count in spans]

    both = listen_offline(model.audio, mels)

    for number, embeddings in enumerate(both):
        close(embeddings, golden.tensors[f"batch2.alone.{number}"], ON_OWN_MEL)


def test_streaming_equals_the_whole_recording_in_blocks_of_one_second(model):
    """Loud noise, so that neither the fixed nor the dynamic floor changes a value."""
    noise = np.random.default_rng(1).normal(0, 0.1, 64480).astype(np.float32)
    hearing = Hearing(model.audio, num_slots=1)
    hearing.push(0, noise)

    streamed = torch.cat([hearing.step([0])[0] for _ in range(4)])

    (whole,) = listen_offline(model.audio, [MelExtractor(CPU).offline(noise)])
    close(streamed, whole[:40], 1e-5)


def test_rows_that_join_late_restart_and_sit_out_get_what_they_get_alone(model, sound):
    together, alone = Hearing(model.audio, 3), [Hearing(model.audio, 1) for _ in range(3)]
    for unit in range(33):
        slots = [slot for slot in range(3) if unit >= 4 * slot and unit % (slot + 2)]
        for slot in slots:
            chunk = sound[16000 * (unit + slot) :][:16000]
            together.push(slot, chunk)
            alone[slot].push(0, chunk)
        if not slots:
            continue

        batched = together.step(slots)

        singles = torch.cat([alone[slot].step([0]) for slot in slots])
        close(batched, singles, 1e-5)
    together.cache.table.check_integrity()


def test_a_reset_slot_hears_as_if_new(model, sound):
    used, new = Hearing(model.audio, 1), Hearing(model.audio, 1)
    for unit in range(6):
        used.push(0, sound[16000 * unit : 16000 * (unit + 1)])
        used.step([0])

    used.reset(0)
    for hearing in (used, new):
        hearing.push(0, sound[:16000])

    assert torch.equal(used.step([0]), new.step([0]))


@pytest.mark.parametrize(
    ("samples", "tokens"), [(16000, 10), (8000, 5), (1600, 1), (12345, 7), (100000, 62)]
)
def test_the_number_of_embeddings_follows_from_the_samples(samples, tokens):
    assert num_embeddings(-(-samples // 160)) == tokens


def test_a_step_that_fails_gives_its_rows_their_seconds_back(model, sound, monkeypatch):
    """The engine tries the rows of a failed batch one by one, so that only some fail. They had lost
    their seconds to the batch: all of them ended.
    """
    failing, other = Hearing(model.audio, num_slots=2), Hearing(model.audio, num_slots=2)
    for unit in range(3):
        for hearing in (failing, other):
            for slot in range(2):
                hearing.push(slot, sound[16000 * (unit + slot) :][:16000])
        if unit:
            with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
                patch.setattr(model.audio, "stream", _out_of_memory)
                failing.step([0, 1])

        again = torch.cat([failing.step([slot]) for slot in range(2)])

        close(again, other.step([0, 1]), 1e-5)
        assert [failing.cache.length(slot) for slot in range(2)] == 2 * [50 * (unit + 1)]
    failing.cache.table.check_integrity()


def _out_of_memory(*_: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")

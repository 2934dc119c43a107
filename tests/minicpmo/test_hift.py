"""Both vocoders against the reference's waveforms, and their batching against single rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.minicpmo.model import hift, hift_causal
from omni.minicpmo.model.hift import Hift, HiftState, MelBatch
from omni.minicpmo.model.hift_causal import CausalHift, CausalHiftState
from omni.minicpmo.token2wav_assets import Layout, load_vocoder
from tests.minicpmo.conftest import Golden

# float32 against float32 of the reference, whose f0 is off by 1e-3 Hz from float64: the error
# grows with the accumulated phase.
F0, SOURCE, WAVE = 5e-3, 2e-2, 5e-3
DECODER = 1e-5  # given mel and source: no phase in it
CAUSAL = 1e-4  # f0 and phases are float64 on both sides
REORDERED = 2e-6  # the same sums in another order
NUM_CHUNKS = 13


@pytest.fixture(scope="module")
def golden(expected: Callable[[str], Golden]) -> Golden:
    return expected("j_vocoder")


@pytest.fixture(scope="module")
def vocoder(golden_dir: Path) -> Hift:
    loaded = load_vocoder(golden_dir / "checkpoint/assets/token2wav", Layout.HIFT)
    assert isinstance(loaded, Hift)
    return loaded


@pytest.fixture(scope="module")
def quiet(golden_dir: Path) -> Hift:
    """The vocoder without additive noise, as the golden run had it."""
    loaded = load_vocoder(golden_dir / "checkpoint/assets/token2wav", Layout.HIFT)
    assert isinstance(loaded, Hift)
    loaded.noise = torch.zeros_like(loaded.noise)
    return loaded


@pytest.fixture(scope="module")
def causal(golden_dir: Path, golden: Golden) -> CausalHift:
    loaded = load_vocoder(golden_dir / "checkpoint/assets/token2wav_causal", Layout.CAUSAL)
    assert isinstance(loaded, CausalHift)
    loaded.noise = golden.tensors["B.noise_table"].unflatten(0, (-1, 480))
    return loaded


def mels(golden: Golden) -> list[Tensor]:
    """Return the golden mel chunks, (T, 80) each."""
    return [golden.tensors[f"A.chunk{index:02d}.mel"].T for index in range(NUM_CHUNKS)]


def batch(
    slots: list[int],
    rows: list[Tensor],
    is_last: list[bool] | None = None,
    exec_mask: list[bool] | None = None,
    size: int = 50,
) -> MelBatch:
    run = torch.tensor(exec_mask or [True] * len(slots))
    frames = torch.tensor([len(row) for row in rows])
    return MelBatch(
        slots=torch.tensor(slots),
        mel=torch.stack([F.pad(row, (0, 0, 0, size - len(row))) for row in rows]),
        frames=torch.where(run, frames, 0),
        is_last=torch.tensor(is_last or [False] * len(slots)),
        exec_mask=run,
    )


def strided(wave: Tensor, reference: Tensor) -> Tensor:
    """Return the samples of *wave* that the golden file keeps."""
    return wave[:: len(wave) // len(reference)]


def test_streamed_chunks_have_the_reference_waves(quiet: Hift, golden: Golden) -> None:
    state = HiftState.create(quiet, 1)

    for index, mel in enumerate(mels(golden)):
        is_last = index == NUM_CHUNKS - 1
        sound = hift.step(quiet, state, batch([0], [mel], [is_last]), steady=False)

        assert sound.counts.tolist() == [golden.facts["A"]["chunks"][index]["samples"]]
        reference = golden.tensors[f"A.chunk{index:02d}.wave"]
        wave = strided(sound.samples[0, : sound.counts[0]], reference)
        torch.testing.assert_close(wave, reference, atol=WAVE, rtol=0)


def test_streamed_chunks_have_the_reference_pitch_and_source(quiet: Hift, golden: Golden) -> None:
    chunks = mels(golden)

    for index, mel in enumerate(chunks):
        seen = torch.cat((chunks[index - 1][-8:], mel)) if index else mel
        f0 = quiet.f0_predictor(seen.T[None], None)

        reference = golden.tensors[f"A.chunk{index:02d}.f0"]
        torch.testing.assert_close(f0[0].float(), reference, atol=F0, rtol=0)
    state = HiftState.create(quiet, 1)
    for mel in chunks[:2]:
        hift.step(quiet, state, batch([0], [mel]), steady=False)
    tail = golden.tensors["A.chunk01.source"][-3840:]
    torch.testing.assert_close(state.source[0], tail, atol=SOURCE, rtol=0)


def test_a_whole_chunk_has_the_reference_source_and_wave(quiet: Hift, golden: Golden) -> None:
    given = golden.tensors

    wave, source = quiet.synthesise(given["A.whole.mel"][None], torch.zeros(1, 50, 480, 9))

    torch.testing.assert_close(source[0], given["A.whole.source"], atol=SOURCE, rtol=0)
    torch.testing.assert_close(wave[0], given["A.whole.wave"], atol=WAVE, rtol=0)


def test_the_decoder_alone_has_the_reference_wave(vocoder: Hift, golden: Golden) -> None:
    given = golden.tensors

    wave = vocoder.decoder(given["A.whole.mel"][None], given["A.whole.source"][None], None)

    torch.testing.assert_close(wave[0], given["A.whole.wave"], atol=DECODER, rtol=0)


def test_given_noise_has_the_reference_source_and_wave(vocoder: Hift, golden: Golden) -> None:
    given = golden.tensors
    noise = given["A.noise.normal"].unflatten(0, (-1, 480))[None]

    wave, source = vocoder.synthesise(given["A.noise.mel"][None], noise)

    torch.testing.assert_close(source[0], given["A.noise.source"], atol=SOURCE, rtol=0)
    torch.testing.assert_close(wave[0], given["A.noise.wave"], atol=WAVE, rtol=0)


def test_masked_and_unmasked_steps_agree(vocoder: Hift, golden: Golden) -> None:
    chunks = mels(golden)
    states = [HiftState.create(vocoder, 2) for _ in range(2)]
    for state in states:
        hift.step(vocoder, state, batch([0, 1], [chunks[0], chunks[5]]), steady=False)
    rows = batch([0, 1], [chunks[1], chunks[6]])

    steady = hift.step(vocoder, states[0], rows, steady=True)
    general = hift.step(vocoder, states[1], rows, steady=False)

    assert torch.equal(steady.counts, general.counts)
    size = steady.samples.shape[1]
    torch.testing.assert_close(steady.samples, general.samples[:, :size], atol=REORDERED, rtol=0)
    torch.testing.assert_close(states[0].speech, states[1].speech, atol=REORDERED, rtol=0)


def test_unequal_rows_of_a_batch_are_vocoded_as_if_alone(vocoder: Hift, golden: Golden) -> None:
    """A first, a middle, a short last, an empty last and a short first and last chunk."""
    chunks = mels(golden)
    together, alone = HiftState.create(vocoder, 5), HiftState.create(vocoder, 5)
    for state in (together, alone):
        for slot in (1, 2, 3):
            hift.step(vocoder, state, batch([slot], [chunks[slot]]), steady=False)
    rows = [chunks[0], chunks[4], chunks[12], chunks[0][:0], chunks[7][:6]]
    is_last = [False, False, True, True, True]

    sound = hift.step(vocoder, together, batch([0, 1, 2, 3, 4], rows, is_last), steady=False)

    assert sound.counts.tolist() == [24000, 24000, 6720 + 3840, 3840, 2880]
    for slot in range(5):
        single = hift.step(
            vocoder,
            alone,
            batch([slot], [rows[slot]], [is_last[slot]], size=max(1, len(rows[slot]))),
            steady=False,
        )
        count = int(sound.counts[slot])
        assert single.counts.tolist() == [count]
        wave = single.samples[0, :count]
        torch.testing.assert_close(sound.samples[slot, :count], wave, atol=REORDERED, rtol=0)
        assert not sound.samples[slot, count:].any()
    torch.testing.assert_close(together.speech[:2], alone.speech[:2], atol=REORDERED, rtol=0)


def test_causal_chunks_have_the_reference_waves(causal: CausalHift, golden: Golden) -> None:
    state = CausalHiftState.create(causal, 1)

    for index, mel in enumerate(mels(golden)):
        sound = hift_causal.step(causal, state, batch([0], [mel], [index == NUM_CHUNKS - 1]))

        assert sound.counts.tolist() == [golden.facts["B"]["chunks"][index]["samples"]]
        reference = golden.tensors[f"B.chunk{index:02d}.wave"]
        wave = strided(sound.samples[0, : sound.counts[0]], reference)
        torch.testing.assert_close(wave, reference, atol=CAUSAL, rtol=0)


def test_causal_pitch_is_the_reference_in_float64(causal: CausalHift, golden: Golden) -> None:
    whole = torch.cat(mels(golden)).T[None]

    f0 = causal.f0_predictor(F.pad(whole, (0, 3)))

    reference = golden.tensors["B.f0_float64"]
    # Nothing but the order of float64 sums; folding the weight norm in float32 gives 2e-4.
    torch.testing.assert_close(f0[0], reference, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "sizes", [[50, 50, 50], [10, 12, 50, 28, 50], [1, 2, 97, 50], [7] * 21 + [3]]
)
def test_causal_sound_does_not_depend_on_the_chunks(
    causal: CausalHift, golden: Golden, sizes: list[int]
) -> None:
    mel = torch.cat(mels(golden)[:3])
    whole = hift_causal.step(
        causal, CausalHiftState.create(causal, 1), batch([0], [mel], [True], size=150)
    )
    state, pieces, position = CausalHiftState.create(causal, 1), [], 0

    for index, size in enumerate(sizes):
        row = mel[position : position + size]
        is_last = index == len(sizes) - 1
        sound = hift_causal.step(causal, state, batch([0], [row], [is_last], size=size))
        pieces.append(sound.samples[0, : sound.counts[0]])
        position += size

    joined = torch.cat(pieces)
    assert not joined[:3840].any()
    torch.testing.assert_close(joined[3840:], whole.samples[0, :72000], atol=REORDERED, rtol=0)


def test_unequal_causal_rows_are_vocoded_as_if_alone(causal: CausalHift, golden: Golden) -> None:
    chunks = mels(golden)
    together, alone = CausalHiftState.create(causal, 4), CausalHiftState.create(causal, 4)
    for state in (together, alone):
        for slot in (1, 2, 3):
            for age in range(slot):
                hift_causal.step(causal, state, batch([slot], [chunks[slot + age]]))
    rows = [chunks[0], chunks[4][:28], chunks[12], chunks[0][:0]]
    is_last = [False, False, True, True]

    sound = hift_causal.step(causal, together, batch([0, 1, 2, 3], rows, is_last))

    assert sound.counts.tolist() == [24000, 28 * 480, 6720 + 3840, 3840]
    for slot in range(4):
        single = hift_causal.step(causal, alone, batch([slot], [rows[slot]], [is_last[slot]]))
        assert single.counts[0] == sound.counts[slot]
        torch.testing.assert_close(single.samples[0], sound.samples[slot], atol=REORDERED, rtol=0)


@pytest.mark.parametrize("kind", ["hift", "causal"])
def test_rows_that_sit_out_keep_their_vocoder_state(
    vocoder: Hift, causal: CausalHift, golden: Golden, kind: str
) -> None:
    chunks = mels(golden)
    state, run = stepping(kind, vocoder, causal, 2)
    run(batch([0, 1], chunks[:2]))
    before = owned(state, 1)

    run(batch([0, 1], chunks[2:4], exec_mask=[True, False]))

    for ours, theirs in zip(owned(state, 1), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["hift", "causal"])
def test_a_reset_slot_starts_as_a_new_one_and_its_neighbour_goes_on(
    vocoder: Hift, causal: CausalHift, golden: Golden, kind: str
) -> None:
    chunks = mels(golden)
    state, run = stepping(kind, vocoder, causal, 2)
    fresh = run(batch([0, 1], chunks[:2]))
    neighbour = owned(state, 1)

    state.reset(torch.tensor([True, False, False]))

    assert not any(tensor.any() for tensor in owned(state, 0))
    for ours, theirs in zip(owned(state, 1), neighbour, strict=True):
        assert torch.equal(ours, theirs)
    again = run(batch([0], chunks[:1]))
    torch.testing.assert_close(again.samples[0], fresh.samples[0], atol=REORDERED, rtol=0)


def stepping(
    kind: str, vocoder: Hift, causal: CausalHift, num_slots: int
) -> tuple[HiftState | CausalHiftState, Callable[[MelBatch], hift.WaveBatch]]:
    if kind == "hift":
        plain = HiftState.create(vocoder, num_slots)
        return plain, lambda rows: hift.step(vocoder, plain, rows, steady=False)
    state = CausalHiftState.create(causal, num_slots)
    return state, lambda rows: hift_causal.step(causal, state, rows)


def owned(state: HiftState | CausalHiftState, slot: int) -> list[Tensor]:
    tensors = [state.mel, state.source, state.frames]
    tensors.append(state.speech if isinstance(state, HiftState) else state.phase)
    return [tensor[slot].clone() for tensor in tensors]

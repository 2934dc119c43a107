"""Codes to sound through flow and vocoder, many slots at once, against the reference's sound."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.errors import CapacityError, ClientError
from omni.minicpmo.code_buffer import CodeBuffer, CodeChunk, Pace, fill_unit
from omni.minicpmo.model import hift, hift_causal
from omni.minicpmo.model.cfm import FlowSolver
from omni.minicpmo.model.flow import ChunkBatch
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.model.hift import Hift, HiftState, MelBatch
from omni.minicpmo.model.hift_causal import CausalHift, CausalHiftState
from omni.minicpmo.token2wav import SlotChunk, Token2Wav
from omni.minicpmo.token2wav_assets import Layout, Token2WavAssets, load_assets, load_vocoder
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.voice import Voice, VoiceAnalyser
from tests.minicpmo.conftest import Golden

WAVE = 5e-3  # the phase of the reference's source drifts with its float32 f0
# Sums in another order move the mel by 1e-5, f0 with it, and the phase adds it up; rms is 0.05.
REORDERED = 2e-3


@pytest.fixture(scope="module")
def assets(golden_dir: Path) -> Token2WavAssets:
    """The tiny models, vocoder A without its additive noise, as the golden run had it."""
    loaded = load_assets(golden_dir / "checkpoint/assets/token2wav", torch.device("cpu"))
    loaded.vocoder.noise = torch.zeros_like(loaded.vocoder.noise)
    return loaded


@pytest.fixture(scope="module")
def causal_assets(golden_dir: Path, assets: Token2WavAssets) -> Token2WavAssets:
    folder = golden_dir / "checkpoint/assets/token2wav_causal"
    return Token2WavAssets(
        layout=Layout.CAUSAL,
        flow=assets.flow,
        vocoder=load_vocoder(folder, Layout.CAUSAL),
        speech_tokenizer=assets.speech_tokenizer,
        speaker_encoder=assets.speaker_encoder,
    )


@pytest.fixture(scope="module")
def flow_golden(expected: Callable[[str], Golden]) -> Golden:
    return expected("i_flow")


@pytest.fixture(scope="module")
def voice(flow_golden: Golden) -> Voice:
    given = flow_golden.tensors
    return Voice("golden", given["prompt_codes"], given["prompt_mel"], given["speaker"])


@pytest.fixture(scope="module")
def codes(flow_golden: Golden) -> list[int]:
    codes: list[int] = flow_golden.tensors["codes"].tolist()
    return codes


def make(assets: Token2WavAssets, golden: Golden, num_slots: int = 4, **options: Any) -> Token2Wav:
    """Return a token2wav whose flow starts from the golden noise."""
    made = Token2Wav(assets, Token2WavOptions(num_slots=num_slots, **options))
    noise, solver = golden.tensors["noise"].T, made.calls.solver
    solver.noise = F.pad(noise, (0, 0, 0, len(solver.noise) - len(noise)))
    return made


def say(token2wav: Token2Wav, slot: int, codes: list[int], *, is_last: bool = False) -> Tensor:
    (sound,) = token2wav.step([SlotChunk(slot, CodeChunk(tuple(codes), is_last))])
    assert sound.slot == slot
    return sound.samples


def test_a_turn_of_codes_has_the_reference_sound(
    assets: Token2WavAssets,
    flow_golden: Golden,
    expected: Callable[[str], Golden],
    voice: Voice,
    codes: list[int],
) -> None:
    token2wav = make(assets, flow_golden, trim=CacheTrim.V105)
    token2wav.start_turn(0, voice)
    buffer = CodeBuffer(Pace.FULL)
    buffer.push(codes)

    chunks = buffer.take(ends_turn=True)

    assert [len(chunk.codes) for chunk in chunks] == [28] * 12 + [7]
    vocoder = expected("j_vocoder").tensors
    for index, chunk in enumerate(chunks):
        sound = say(token2wav, 0, list(chunk.codes), is_last=chunk.is_last)
        reference = vocoder[f"A.chunk{index:02d}.wave"]
        kept = sound[:: len(sound) // len(reference)]
        torch.testing.assert_close(kept, reference, atol=WAVE, rtol=0)


def test_a_duplex_conversation_has_the_reference_sound(
    assets: Token2WavAssets, flow_golden: Golden, expected: Callable[[str], Golden]
) -> None:
    """From the recording to each unit's sound, turn after turn in one slot."""
    stream = expected("c_mel").tensors["stream_i16"][80000:128000].float() / 32768
    analyser = VoiceAnalyser(assets.speech_tokenizer, assets.speaker_encoder, max_codes=250)
    voice = analyser.analyse(stream.numpy(), 16_000)
    duplex = expected("k_duplex_audio")
    token2wav = make(assets, flow_golden, trim=CacheTrim.V105)
    token2wav.start_turn(0, voice)
    buffer = CodeBuffer.after_silence(Pace.FLUSH)
    num_compared = 0

    for index, unit in enumerate(duplex.facts["steps"][1:]):
        reference = duplex.tensors.get(f"unit{index:02d}.wave_i16")
        if reference is None:
            continue
        ends_turn = unit["token2wav_calls"][-1]["last"]
        buffer.push(new_codes(unit, len(buffer)))
        chunks = buffer.take(ends_turn=ends_turn)
        facts = [(call["ids"], call["last"]) for call in unit["token2wav_calls"]]
        assert [(list(chunk.codes), chunk.is_last) for chunk in chunks] == facts
        parts = [say(token2wav, 0, list(c.codes), is_last=c.is_last).numpy() for c in chunks]
        sound = fill_unit(np.concatenate(parts), ends_turn=ends_turn)

        np.testing.assert_allclose(sound, reference.numpy() / 32768, atol=WAVE, rtol=0)
        num_compared += 1
        if ends_turn:
            token2wav.start_turn(0, voice)
            buffer = CodeBuffer.after_silence(Pace.FLUSH)
    assert num_compared == 17


def new_codes(unit: dict[str, list[dict[str, list[int]]]], num_buffered: int) -> list[int]:
    """Return the codes that a golden unit brought: those of its calls, without what was there."""
    first, *rest = (call["ids"] for call in unit["token2wav_calls"])
    return (first + [code for ids in rest for code in ids[3:]])[num_buffered:]


@pytest.mark.parametrize("vocoder", ["hift", "causal"])
def test_slots_sound_among_others_as_they_sound_alone(
    assets: Token2WavAssets,
    causal_assets: Token2WavAssets,
    flow_golden: Golden,
    voice: Voice,
    codes: list[int],
    vocoder: str,
) -> None:
    """Four slots of two voices, at different places in their turns, for four steps."""
    chosen = assets if vocoder == "hift" else causal_assets
    together, alone = (make(chosen, flow_golden) for _ in range(2))
    other = Voice("other", voice.codes[:20].flip(0), voice.mel[:40].flip(0), -voice.speaker)
    for each in (together, alone):
        for slot in range(4):
            each.start_turn(slot, (voice, other)[slot % 2])
    turns = [
        [codes[0:28], codes[25:53], codes[50:78], codes[75:80]],
        [codes[100:117], codes[114:142], codes[139:167], codes[164:192]],
        [codes[200:228], codes[225:253], codes[250:258], codes[255:283]],
        [codes[20:28], codes[25:28]],
    ]

    for round_ in range(4):
        rows = [(slot, turn[round_]) for slot, turn in enumerate(turns) if round_ < len(turn)]
        is_last = [slot in (0, 3) and round_ == len(turns[slot]) - 1 for slot, _ in rows]
        chunks = [
            SlotChunk(slot, CodeChunk(tuple(row), last))
            for (slot, row), last in zip(rows, is_last, strict=True)
        ]
        sounds = together.step(chunks)

        assert [sound.slot for sound in sounds] == [slot for slot, _ in rows]
        for sound, chunk in zip(sounds, chunks, strict=True):
            (single,) = alone.step([chunk])
            torch.testing.assert_close(sound.samples, single.samples, atol=REORDERED, rtol=0)


@pytest.mark.parametrize("vocoder", ["hift", "causal"])
def test_sample_counts_follow_the_codes(
    assets: Token2WavAssets,
    causal_assets: Token2WavAssets,
    flow_golden: Golden,
    voice: Voice,
    codes: list[int],
    vocoder: str,
) -> None:
    token2wav = make(assets if vocoder == "hift" else causal_assets, flow_golden)

    token2wav.start_turn(0, voice)
    first, middle, last = (
        say(token2wav, 0, codes[:28]),
        say(token2wav, 0, codes[25:33]),
        say(token2wav, 0, codes[30:33], is_last=True),
    )
    token2wav.start_turn(0, voice)
    only = say(token2wav, 0, codes[:28], is_last=True)

    assert len(first) == 24_000
    assert not first[:3840].any()
    assert len(middle) == 5 * 960
    assert len(last) == 3 * 960 + 3840
    assert len(only) == 28 * 960
    assert only[:3840].any()


def test_a_new_turn_and_a_new_tenant_start_from_nothing(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice, codes: list[int]
) -> None:
    token2wav = make(assets, flow_golden, num_slots=1)
    token2wav.start_turn(0, voice)
    fresh = say(token2wav, 0, codes[:28]).clone()
    say(token2wav, 0, codes[100:128])

    token2wav.start_turn(0, voice)
    assert torch.equal(say(token2wav, 0, codes[:28]), fresh)
    token2wav.release(0)
    token2wav.start_turn(0, voice)
    assert torch.equal(say(token2wav, 0, codes[:28]), fresh)


def test_a_slot_without_a_turn_or_after_its_last_chunk_is_refused(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice, codes: list[int]
) -> None:
    """The reference vocodes the last codes twice when a turn ends exactly with a chunk."""
    token2wav = make(assets, flow_golden)
    with pytest.raises(ValueError, match="in no turn"):
        say(token2wav, 0, codes[:28])
    token2wav.start_turn(0, voice)
    say(token2wav, 0, codes[:28], is_last=True)

    with pytest.raises(ValueError, match="in no turn"):
        say(token2wav, 0, codes[25:28], is_last=True)


@pytest.mark.parametrize("bad", [[1] * 7, [1] * 29, [1] * 27 + [6561], [-1] * 28])
def test_a_chunk_that_is_no_chunk_is_refused_before_anything_is_computed(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice, codes: list[int], bad: list[int]
) -> None:
    token2wav = make(assets, flow_golden)
    token2wav.start_turn(0, voice)

    with pytest.raises(ValueError, match="code"):
        say(token2wav, 0, bad)

    assert len(say(token2wav, 0, codes[:28])) == 24_000


def test_two_chunks_of_one_slot_in_a_step_are_refused(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice, codes: list[int]
) -> None:
    token2wav = make(assets, flow_golden)
    token2wav.start_turn(0, voice)
    chunk = SlotChunk(0, CodeChunk(tuple(codes[:28]), False))

    with pytest.raises(ValueError, match="two chunks of one slot"):
        token2wav.step([chunk, chunk])


def test_a_step_of_nothing_gives_nothing(assets: Token2WavAssets, flow_golden: Golden) -> None:
    assert make(assets, flow_golden).step([]) == []


def test_voices_make_way_only_when_nobody_uses_them(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice, codes: list[int]
) -> None:
    token2wav = make(assets, flow_golden, voice_room_codes=100)
    others = [Voice(name, voice.codes, voice.mel, -voice.speaker) for name in ("b", "c")]
    token2wav.start_turn(0, voice)
    token2wav.start_turn(1, others[0])
    with pytest.raises(CapacityError, match="does not fit"):
        token2wav.start_turn(2, others[1])
    before = say(token2wav, 0, codes[:28])

    token2wav.release(1)
    token2wav.start_turn(2, others[1])
    token2wav.start_turn(0, voice)

    assert torch.equal(say(token2wav, 0, codes[:28]), before)
    assert not torch.equal(say(token2wav, 2, codes[:28]), before)


def test_a_voice_beyond_the_longest_prompt_is_refused(
    assets: Token2WavAssets, flow_golden: Golden, voice: Voice
) -> None:
    token2wav = make(assets, flow_golden, max_voice_codes=30)

    with pytest.raises(ClientError, match="at most 30"):
        token2wav.start_turn(0, voice)


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """Keep cuDNN's convolutions in full float32: TF32 differs by 1e-2 from batch to batch."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize("vocoder", ["hift", "causal"])
def test_recorded_calls_sound_as_eager_ones(
    golden_dir: Path, flow_golden: Golden, voice: Voice, codes: list[int], vocoder: str
) -> None:
    """Three slots in graphs of four rows, through a first, two usual and a short last chunk.

    Each begins a step after the one before it, so that a step holds rows of every kind: with all
    three in the same place, a vocoder call that overwrote the input of the next one went unseen.
    """
    cuda = torch.device("cuda")
    five = load_assets(golden_dir / "checkpoint/assets/token2wav", cuda)
    folder = golden_dir / "checkpoint/assets/token2wav_causal"
    chosen = five.vocoder if vocoder == "hift" else load_vocoder(folder, Layout.CAUSAL).to(cuda)
    recorded, eager = (
        Token2Wav(attrs.evolve(five, vocoder=chosen), Token2WavOptions(num_slots=4))
        for _ in range(2)
    )
    assert recorded.capture([1, 4], len(voice.codes)) == (6 if vocoder == "hift" else 4)
    for each in (recorded, eager):
        for slot in range(3):
            each.start_turn(slot, voice)

    for step in range(6):
        chunks = []
        for slot in range(max(0, step - 3), min(3, step + 1)):
            is_last = step - slot == 3
            first = 100 * slot + 25 * (step - slot)
            chosen_codes = tuple(codes[first : first + (7 + slot if is_last else 28)])
            chunks.append(SlotChunk(slot, CodeChunk(chosen_codes, is_last)))
        pairs = zip(recorded.step(chunks), eager.step(chunks), strict=True)

        for ours, theirs in pairs:
            assert ours.slot == theirs.slot
            torch.testing.assert_close(ours.samples, theirs.samples, atol=REORDERED, rtol=0)


@pytest.mark.parametrize("trim", [CacheTrim.FIXED, CacheTrim.V105])
def test_no_call_waits_for_the_device_or_needs_the_cpu(golden_dir: Path, trim: CacheTrim) -> None:
    """A CUDA graph records neither. Tensors without data refuse both: a value asked for, and a
    partner on the CPU."""
    nowhere = torch.device("meta")
    assets = load_assets(golden_dir / "checkpoint/assets/token2wav", nowhere)
    causal_folder = golden_dir / "checkpoint/assets/token2wav_causal"
    causal = load_vocoder(causal_folder, Layout.CAUSAL).to(nowhere)
    assert isinstance(assets.vocoder, Hift) and isinstance(causal, CausalHift)
    solver = FlowSolver(assets.flow, 2, 40)
    state = solver.create_state(4, num_prompt_codes=40, trim=trim)

    def integers(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64, device=nowhere)

    flags = torch.zeros(3, dtype=torch.bool, device=nowhere)
    batch = ChunkBatch(integers(3), integers(3, 28), integers(3), flags, flags)
    mel, frames = solver.step(state, batch, 90)
    rows = MelBatch(integers(3), mel, frames, flags, flags)
    for is_steady in (True, False):
        plain = HiftState.create(assets.vocoder, 4)
        sound = hift.step(assets.vocoder, plain, rows, steady=is_steady)
        assert sound.samples.device == nowhere
    sound = hift_causal.step(causal, CausalHiftState.create(causal, 4), rows)
    assert sound.samples.device == nowhere


@pytest.mark.parametrize("max_voice_codes", [100, 250])
def test_a_slot_more_costs_156_mel_frames_whatever_the_voices(
    assets: Token2WavAssets, flow_golden: Golden, max_voice_codes: int
) -> None:
    """100 kept and 56 of a chunk; at the published size 51 MB in float16 with 5 steps."""
    options = {"max_voice_codes": max_voice_codes, "cache_dtype": torch.float16}
    one, two = (
        make(assets, flow_golden, slots, **options).calls.flow_state.dit_pools for slots in (1, 2)
    )

    assert two.shape[2] - one.shape[2] == 156
    assert two.dtype == torch.float16


@pytest.mark.parametrize("count", [28, 53])
def test_codes_that_end_with_a_chunk_are_ended_once(count: int) -> None:
    """The reference calls twice with last=True there: 0.12 s come double."""
    buffer = CodeBuffer(Pace.FULL)
    buffer.push(list(range(count)))

    chunks = buffer.take(ends_turn=True)

    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    consumed = [c for chunk in chunks for c in chunk.codes[: None if chunk.is_last else -3]]
    assert consumed == list(range(count))


def test_a_full_buffer_waits_for_28_codes_and_a_flushed_one_for_8() -> None:
    full, flush = CodeBuffer(Pace.FULL), CodeBuffer.after_silence(Pace.FLUSH)
    for buffer in (full, flush):
        buffer.push(list(range(20)))

    assert full.take(ends_turn=False) == []
    (chunk,) = flush.take(ends_turn=False)
    assert chunk.codes == (4218, 4218, 4218, *range(20))
    assert (len(full), len(flush)) == (20, 3)


def test_a_turn_without_codes_has_no_last_chunk() -> None:
    assert CodeBuffer(Pace.FULL).take(ends_turn=True) == []


@pytest.mark.parametrize(
    ("num_samples", "ends_turn", "filled"),
    [(4800, False, 24_000), (4800, True, 4800), (0, False, 24_000), (0, True, 24_000)]
    + [(30_720, True, 30_720)],
)
def test_short_units_are_filled_with_silence_in_front(
    num_samples: int, ends_turn: bool, filled: int
) -> None:
    sound = np.ones(num_samples, np.float32)

    unit = fill_unit(sound, ends_turn=ends_turn)

    assert len(unit) == filled
    assert unit.sum() == num_samples
    assert not unit[: filled - num_samples].any()

"""The flow against the reference's mel, and its batching against single rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.minicpmo.model.cfm import FlowSolver
from omni.minicpmo.model.flow import KEPT_CODES, ChunkBatch, Flow, FlowPrompt, FlowState
from omni.minicpmo.model.flow_cache import CacheTrim, FrameView
from omni.minicpmo.model.flow_encoder import RateCaches
from omni.minicpmo.token2wav_assets import load_assets
from tests.minicpmo.conftest import Golden

# float32 against the reference's float32; a float64 run of the reference differs by 1.2e-05.
TOLERANCE = 2e-4
# The same sums in another order: batched against alone.
REORDERED = 5e-5
PROMPT_CODES = 40
NUM_KEYS = PROMPT_CODES + KEPT_CODES
NUM_CODES = 25


@pytest.fixture(scope="module")
def flow(golden_dir: Path) -> Flow:
    return load_assets(golden_dir / "checkpoint/assets/token2wav", torch.device("cpu")).flow


@pytest.fixture(scope="module")
def golden(expected: Callable[[str], Golden]) -> Golden:
    return expected("i_flow")


@pytest.fixture(scope="module")
def solver(flow: Flow, golden: Golden) -> FlowSolver:
    return with_golden_noise(FlowSolver(flow, 5, PROMPT_CODES), golden)


def assert_near(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, atol=TOLERANCE, rtol=0)


def with_golden_noise(solver: FlowSolver, golden: Golden) -> FlowSolver:
    noise = golden.tensors["noise"].T
    solver.noise = F.pad(noise, (0, 0, 0, solver.noise.shape[0] - noise.shape[0]))
    return solver


def add_prompt(solver: FlowSolver, state: FlowState, golden: Golden, variant: str) -> FlowPrompt:
    return solver.add_prompt(
        state,
        0,
        golden.tensors["prompt_codes"],
        torch.tensor(golden.facts[variant]["right_context"]),
        golden.tensors["prompt_mel"],
        golden.tensors["speaker"],
    )


def chunk(
    slots: list[int],
    codes: list[Tensor],
    is_last: list[bool] | None = None,
    exec_mask: list[bool] | None = None,
    num_codes: int = NUM_CODES,
) -> ChunkBatch:
    """Return a batch of one row per slot, padded to num_codes and the look-ahead."""
    size = num_codes + 3
    return ChunkBatch(
        slots=torch.tensor(slots),
        codes=torch.stack([F.pad(row, (0, size - len(row))) for row in codes]),
        num_codes=torch.tensor([len(row) for row in codes]),
        is_last=torch.tensor(is_last or [False] * len(slots)),
        exec_mask=torch.tensor(exec_mask or [True] * len(slots)),
    )


def chunks_of(golden: Golden, variant: str) -> list[tuple[Tensor, bool]]:
    """Return the codes and the last flag of every golden chunk; look-ahead codes come again."""
    chunks, position = [], 0
    for fact in golden.facts[variant]["chunks"]:
        codes = golden.tensors["codes"][position : position + fact["codes"]]
        chunks.append((codes, fact["last"]))
        position += NUM_CODES
    return chunks


@pytest.mark.parametrize("variant", ["v105", "v107", "fixed"])
def test_every_chunk_has_the_reference_mel_cache_lengths_and_noise_offset(
    solver: FlowSolver, golden: Golden, variant: str
) -> None:
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES, trim=CacheTrim(variant))
    state.start(0, add_prompt(solver, state, golden, variant))
    facts = golden.facts[variant]["chunks"]

    for index, (codes, is_last) in enumerate(chunks_of(golden, variant)):
        offset = int(state.dit_lists.lengths[0])
        mel, frames = solver.step(state, chunk([0], [codes], [is_last]), NUM_KEYS)

        assert offset == facts[index]["noise_offset"]
        assert frames.tolist() == [facts[index]["frames"]]
        assert int(state.dit_lists.lengths[0]) == facts[index]["estimator_cache"]
        assert int(state.mel_lists.lengths[0]) == facts[index]["conformer_cache"]
        reference = golden.tensors[f"{variant}.chunk{index:02d}.mel"]
        assert_near(mel[0, : frames[0]].T, reference)


def test_the_noise_is_the_same_in_every_process(flow: Flow) -> None:
    """Q21: the reference draws it without a seed."""
    tables = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        tables.append(FlowSolver(flow, 5, PROMPT_CODES).noise)

    assert torch.equal(*tables) and tables[0].std() > 0.9


@pytest.mark.parametrize("num_steps", [5, 10])
def test_a_whole_utterance_has_the_reference_mel(
    flow: Flow, golden: Golden, num_steps: int
) -> None:
    solver = with_golden_noise(FlowSolver(flow, num_steps, PROMPT_CODES), golden)
    given = golden.tensors

    mel = solver.whole(
        given["prompt_codes"], given["prompt_mel"], given["speaker"], given["codes"][:70]
    )

    reference = given[f"whole.n{num_steps}.mel"]
    assert_near(mel.T, reference)


def test_a_prompt_leaves_the_reference_caches(solver: FlowSolver, golden: Golden) -> None:
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES, trim=CacheTrim.V105)
    frames = 2 * PROMPT_CODES

    prompt = add_prompt(solver, state, golden, "v105")

    # Golden rows are every 9th frame; heads, frames, keys|values. The 40 token-rate frames are
    # stored twice there, and row 5 (frame 45) on repeats them from frame 5 on.
    token = state.token_pools[0, :PROMPT_CODES].repeat(2, 1)
    last = state.mel_pools[-1, :frames]
    close_to_packed(token, golden.tensors["v105.setup.conformer_att_layer0_rows"])
    close_to_packed(last, golden.tensors["v105.setup.conformer_att_last_rows"])
    of_dit = golden.tensors["v105.setup.estimator_att_step1_layer0_rows"]  # (2, H, 9, 2D)
    for row, of_row in enumerate(of_dit):
        half = state.dit_pools[1, 0, :frames].chunk(2, 1)[row]
        close_to_packed(half, of_row)
    conv = golden.tensors["v105.setup.conformer_cnn"]
    assert_near(prompt.encoder_conv, conv)
    conv = golden.tensors["v105.setup.estimator_cnn_step1"]
    assert_near(prompt.dit_conv[1], conv)
    assert_near(prompt.speaker, golden.tensors["speaker.affine"])


def close_to_packed(frames: Tensor, reference: Tensor) -> None:
    """frames: (F, 2 * heads * D), keys then values. reference: (heads, rows, 2D)."""
    heads, _, width = reference.shape
    ours = frames[::9].unflatten(1, (2, heads, width // 2)).permute(2, 0, 1, 3).flatten(2)
    assert_near(ours, reference)


@pytest.mark.parametrize("chunk_index", [0, 1])
def test_mu_of_a_chunk_is_the_reference_mu(
    solver: FlowSolver, golden: Golden, chunk_index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES)
    state.start(0, add_prompt(solver, state, golden, "fixed"))
    seen: list[Tensor] = []
    condition = solver.flow.estimator.condition

    def listening(mu: Tensor, speaker: Tensor, cond: Tensor | None) -> Tensor:
        seen.append(mu)
        return condition(mu, speaker, cond)

    monkeypatch.setattr(solver.flow.estimator, "condition", listening)
    for codes, is_last in chunks_of(golden, "fixed")[: chunk_index + 1]:
        solver.step(state, chunk([0], [codes], [is_last]), NUM_KEYS)

    reference = golden.tensors[f"v107.chunk{chunk_index:02d}.mu"]
    assert_near(seen[-1][0], reference)


@pytest.mark.parametrize("is_last", [False, True])
def test_the_encoder_alone_matches_the_reference(flow: Flow, golden: Golden, is_last: bool) -> None:
    codes = golden.tensors["encoder.codes"]
    count = len(codes) if is_last else len(codes) - 3
    lowest, highest = 1 - 2 * count, 2 * count - 1
    tables = flow.encoder.position_tables(lowest, highest)
    sizes = flow.config.encoder
    caches = [
        RateCaches(
            torch.zeros(layers, rate * count, 2 * sizes.hidden),
            FrameView.of_prompt(0, rate * count, torch.device("cpu")),
            table,
            lowest,
        )
        for rate, layers, table in zip(
            (1, 2), (sizes.token_layers, sizes.mel_layers), tables, strict=True
        )
    ]
    padded = F.pad(codes, (0, 3 if is_last else 0))[None]
    conv = torch.zeros(1, sizes.hidden, 6)

    hidden, _ = flow.encoder(
        flow.input_embedding(padded), torch.tensor([len(codes)]), conv, caches[0], caches[1]
    )

    reference = golden.tensors["encoder.out_last" if is_last else "encoder.out"]
    assert_near(hidden[0], reference)
    if not is_last:
        mu = golden.tensors["encoder.mu"]
        assert_near(flow.encoder_proj(hidden)[0], mu)


@pytest.mark.parametrize("row", [0, 1])
def test_the_estimator_alone_matches_the_reference(flow: Flow, golden: Golden, row: int) -> None:
    given, dit = golden.tensors, flow.estimator
    x, mu, cond = (
        given[f"estimator.{name}"][row : row + 1].transpose(1, 2) for name in ("x", "mu", "cond")
    )
    frames, sizes = x.shape[1], dit.config
    after_block: list[Tensor] = []
    hook = dit.blocks[0].register_forward_hook(
        lambda _module, _args, result: after_block.append(result[0])
    )

    velocity, _ = dit(
        x,
        dit.condition(mu, given["estimator.spk"][row : row + 1], cond),
        dit.modulation(float(given["estimator.t"][row])),
        torch.zeros(sizes.depth, 1, 2, 2 * sizes.hidden, 2),
        torch.zeros(sizes.depth, 2 * frames, 2 * sizes.inner),
        FrameView.of_prompt(0, frames, torch.device("cpu")).doubled(),
    )
    hook.remove()

    assert_near(velocity[0, 0].T, given["estimator.out"][row])
    assert_near(after_block[0][0], given["estimator.block0"][row])
    embedding = dit.t_embedder(given["estimator.t"])
    assert_near(embedding, given["estimator.t_embed"])


@pytest.mark.parametrize("trim", list(CacheTrim))
def test_unequal_rows_of_a_batch_are_computed_as_if_alone(
    solver: FlowSolver, golden: Golden, trim: CacheTrim
) -> None:
    """Rows of different prompt lengths, ages and chunk sizes, one of them the last of its turn."""
    codes = golden.tensors["codes"]
    state = solver.create_state(4, num_prompt_codes=PROMPT_CODES + 15, trim=trim)
    alone = solver.create_state(4, num_prompt_codes=PROMPT_CODES + 15, trim=trim)
    prompts = [
        (add_prompt(solver, each, golden, "fixed"), short_prompt(solver, each, golden))
        for each in (state, alone)
    ]
    for each, (long, short) in zip((state, alone), prompts, strict=True):
        for slot, prompt in enumerate((long, short, long, short)):
            each.start(slot, prompt)
            for age in range(slot):
                first = 10 * slot + 25 * age
                solver.step(each, chunk([slot], [codes[first : first + 28]]), NUM_KEYS)
    rows = [codes[200:228], codes[100:117], codes[150:157], codes[50:78]]
    is_last = [False, False, True, False]

    together, frames = solver.step(state, chunk([0, 1, 2, 3], rows, is_last), NUM_KEYS)

    assert frames.tolist() == [50, 28, 14, 50]
    for slot in range(4):
        single, _ = solver.step(alone, chunk([slot], [rows[slot]], [is_last[slot]]), NUM_KEYS)
        torch.testing.assert_close(together[slot], single[0], atol=REORDERED, rtol=0)
        assert not together[slot, frames[slot] :].any()
    after = chunk([3, 1, 0], [codes[75:103], codes[114:142], codes[0:28]])
    for slot, mel in zip((3, 1, 0), solver.step(state, after, NUM_KEYS)[0], strict=True):
        row = after.codes[(3, 1, 0).index(slot)]
        single, _ = solver.step(alone, chunk([slot], [row]), NUM_KEYS)
        torch.testing.assert_close(mel, single[0], atol=REORDERED, rtol=0)


def short_prompt(solver: FlowSolver, state: FlowState, golden: Golden) -> FlowPrompt:
    """Return a second voice of 15 codes, behind the golden one."""
    given = golden.tensors
    return solver.add_prompt(
        state,
        PROMPT_CODES,
        given["codes"][:15],
        given["codes"][:3],
        given["prompt_mel"].flip(0)[:30],
        -given["speaker"],
    )


def test_rows_that_sit_out_keep_their_state(solver: FlowSolver, golden: Golden) -> None:
    codes = golden.tensors["codes"]
    state = solver.create_state(2, num_prompt_codes=PROMPT_CODES)
    prompt = add_prompt(solver, state, golden, "fixed")
    for slot in range(2):
        state.start(slot, prompt)
        solver.step(state, chunk([slot], [codes[:28]]), NUM_KEYS)
    before = snapshot(state, 1)

    mel, frames = solver.step(
        state, chunk([0, 1], [codes[25:53]] * 2, exec_mask=[True, False]), NUM_KEYS
    )

    assert frames.tolist() == [50, 0]
    assert not mel[1].any()
    for ours, theirs in zip(snapshot(state, 1), before, strict=True):
        assert torch.equal(ours, theirs)


def snapshot(state: FlowState, slot: int) -> list[Tensor]:
    """Return copies of everything that *slot* owns."""
    owned = [
        state.token_pools[:, state.token_lists.private_range(slot)],
        state.mel_pools[:, state.mel_lists.private_range(slot)],
        state.dit_pools[:, :, state.dit_lists.private_range(slot)],
        state.encoder_conv[slot],
        state.dit_conv[:, :, slot],
        state.speaker[slot],
    ]
    for lists in (state.token_lists, state.mel_lists, state.dit_lists):
        length = int(lists.lengths[slot])
        owned += [lists.entries[slot, :length], lists.lengths[slot], lists.prompts[slot]]
    return [tensor.clone() for tensor in owned]


def test_a_new_turn_hears_nothing_of_the_last(solver: FlowSolver, golden: Golden) -> None:
    """Even where the last turn, or the slot's last tenant, left NaN behind."""
    codes = golden.tensors["codes"]
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES)
    prompt = add_prompt(solver, state, golden, "fixed")
    state.start(0, prompt)
    first, _ = solver.step(state, chunk([0], [codes[:28]]), NUM_KEYS)
    state.dit_pools[:, :, state.dit_lists.private_range(0)] = torch.nan
    state.token_pools[:, state.token_lists.private_range(0)] = torch.nan
    state.mel_pools[:, state.mel_lists.private_range(0)] = torch.nan

    state.start(0, prompt)
    again, _ = solver.step(state, chunk([0], [codes[:28]]), NUM_KEYS)

    assert torch.equal(again, first)


def test_reset_erases_all_that_a_slot_holds(solver: FlowSolver, golden: Golden) -> None:
    state = solver.create_state(2, num_prompt_codes=PROMPT_CODES)
    prompt = add_prompt(solver, state, golden, "fixed")
    for slot in range(2):
        state.start(slot, prompt)
        solver.step(state, chunk([slot], [golden.tensors["codes"][:28]]), NUM_KEYS)
    neighbour = snapshot(state, 1)

    state.reset([0])

    assert not any(tensor.any() for tensor in snapshot(state, 0))
    for ours, theirs in zip(snapshot(state, 1), neighbour, strict=True):
        assert torch.equal(ours, theirs)


def test_sessions_of_one_voice_share_its_frames(solver: FlowSolver, golden: Golden) -> None:
    state = solver.create_state(2, num_prompt_codes=PROMPT_CODES)
    prompt = add_prompt(solver, state, golden, "fixed")
    shared = state.dit_pools[:, :, : 2 * PROMPT_CODES].clone()

    for slot in range(2):
        state.start(slot, prompt)
        solver.step(state, chunk([slot], [golden.tensors["codes"][:28]]), NUM_KEYS)

    assert torch.equal(
        state.dit_lists.entries[0, : 2 * PROMPT_CODES],
        state.dit_lists.entries[1, : 2 * PROMPT_CODES],
    )
    assert torch.equal(state.dit_pools[:, :, : 2 * PROMPT_CODES], shared)


def test_a_last_chunk_may_consume_28_codes(solver: FlowSolver, golden: Golden) -> None:
    codes = golden.tensors["codes"]
    state = solver.create_state(2, num_prompt_codes=PROMPT_CODES)
    prompt = add_prompt(solver, state, golden, "fixed")
    state.start(0, prompt)
    state.start(1, prompt)

    wide, frames = solver.step(
        state, chunk([0, 1], [codes[:28], codes[:28]], [True, False], num_codes=28), NUM_KEYS
    )

    assert frames.tolist() == [56, 50]
    reference = golden.tensors["fixed.chunk00.mel"].T
    assert_near(wide[1, :50], reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_caches_change_the_mel_little(
    solver: FlowSolver, golden: Golden, dtype: torch.dtype
) -> None:
    """10 and 7 bits of mantissa in keys and values; the mel's own values reach about 4."""
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES, cache_dtype=dtype)
    state.start(0, add_prompt(solver, state, golden, "fixed"))

    for index, (codes, is_last) in enumerate(chunks_of(golden, "fixed")[:4]):
        mel, _ = solver.step(state, chunk([0], [codes], [is_last]), NUM_KEYS)

        reference = golden.tensors[f"fixed.chunk{index:02d}.mel"].T
        rms = (mel[0] - reference).square().mean().sqrt()
        assert rms < (5e-3 if dtype is torch.float16 else 5e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_change_the_mel_little(
    golden_dir: Path, golden: Golden, dtype: torch.dtype
) -> None:
    assets = load_assets(
        golden_dir / "checkpoint/assets/token2wav", torch.device("cpu"), flow_dtype=dtype
    )
    solver = with_golden_noise(FlowSolver(assets.flow, 5, PROMPT_CODES), golden)
    state = solver.create_state(1, num_prompt_codes=PROMPT_CODES, cache_dtype=dtype)
    state.start(0, add_prompt(solver, state, golden, "fixed"))

    codes, is_last = chunks_of(golden, "fixed")[0]
    mel, _ = solver.step(state, chunk([0], [codes], [is_last]), NUM_KEYS)

    reference = golden.tensors["fixed.chunk00.mel"].T
    rms = (mel[0] - reference).square().mean().sqrt()
    assert mel.dtype == torch.float32
    assert rms < (1e-2 if dtype is torch.float16 else 1e-1)

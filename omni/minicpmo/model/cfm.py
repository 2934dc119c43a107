"""Conditional flow matching: runs a flow for voices, streaming steps and whole utterances."""

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from omni.minicpmo.model.dit import GUIDED
from omni.minicpmo.model.flow import (
    KEPT_CODES,
    MAX_CHUNK_CODES,
    ChunkBatch,
    Flow,
    FlowPrompt,
    FlowState,
)
from omni.minicpmo.model.flow_cache import CacheTrim, FrameView, Rows
from omni.minicpmo.model.flow_encoder import LOOKAHEAD, UPSAMPLE, RateCaches

NOISE_FRAMES = 30_000  # length of the noise table. Source: the reference's solver
NOISE_SEED = 4218


@frozen
class StepPlan:
    """The slots of a step's rows and the frames that each kind of layer reads and writes."""

    rows: Rows
    of_token: FrameView
    of_mel: FrameView
    of_dit: FrameView


class FlowSolver:
    """A flow with a fixed number of Euler steps.

    The adaLN values of each time and the position tables are computed once, here.
    """

    def __init__(self, flow: Flow, num_steps: int, max_prompt_codes: int) -> None:
        self.flow = flow
        self.num_steps = num_steps
        self.max_prompt_codes = max_prompt_codes
        self.noise = fixed_noise(flow.config.mel_bins).to(flow.encoder_proj.weight.device)
        self.times = euler_times(num_steps)
        self.modulations = [flow.estimator.modulation(time) for time in self.times[:-1]]
        # All distances of a step at mel rate; those at token rate are a part of them.
        self._lowest = 1 - UPSAMPLE * MAX_CHUNK_CODES
        highest = UPSAMPLE * (max_prompt_codes + KEPT_CODES + MAX_CHUNK_CODES) - 1
        self._positions = flow.encoder.position_tables(self._lowest, highest)

    def create_state(
        self,
        num_slots: int,
        *,
        num_prompt_codes: int,
        trim: CacheTrim = CacheTrim.FIXED,
        cache_dtype: torch.dtype = torch.float32,
    ) -> FlowState:
        """Return empty caches. num_prompt_codes: room for the prompts of all voices together."""
        return FlowState.create(
            self.flow,
            num_slots,
            num_steps=self.num_steps,
            max_prompt_codes=self.max_prompt_codes,
            num_prompt_codes=num_prompt_codes,
            trim=trim,
            cache_dtype=cache_dtype,
        )

    def add_prompt(
        self,
        state: FlowState,
        first_code: int,
        codes: Tensor,
        right_context: Tensor,
        mel: Tensor,
        speaker: Tensor,
    ) -> FlowPrompt:
        """Write a voice into the prompt frames from *first_code* on of *state* and return it.

        codes: (P/2,) int64. right_context: (3,) codes. mel: (P, M) float32. speaker: (192,).
        """
        of_speaker = self._embed_speaker(speaker)
        seen = torch.cat((codes, right_context))
        _, encoder_conv, dit_conv = self._run_alone(
            state, first_code, seen, len(seen), of_speaker, mel
        )
        return FlowPrompt(
            first_code=first_code,
            num_codes=len(codes),
            speaker=of_speaker[0],
            encoder_conv=encoder_conv[0],
            dit_conv=dit_conv[:, :, 0],
        )

    def whole(
        self, prompt_codes: Tensor, prompt_mel: Tensor, speaker: Tensor, codes: Tensor
    ) -> Tensor:
        """Return the mel (2n, M) of *codes* (n,) computed at once; arguments as in add_prompt."""
        everything = torch.cat((prompt_codes, codes))
        state = self.create_state(0, num_prompt_codes=len(everything), cache_dtype=self.flow.dtype)
        known = F.pad(prompt_mel, (0, 0, 0, UPSAMPLE * len(codes)))
        seen = F.pad(everything, (0, LOOKAHEAD))
        mel, _, _ = self._run_alone(
            state, 0, seen, len(everything), self._embed_speaker(speaker), known
        )
        return mel[0, len(prompt_mel) :]

    def step(self, state: FlowState, batch: ChunkBatch, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return each row's mel (B, 2N, M) float32, zero after its frames, and the frames (B,).

        num_keys: cached codes to attend to, prompt + KEPT_CODES of the longest row. It is static
        under a graph, as are B and N. Mutates *state*.
        """
        plan = self.plan(state, batch, num_keys)
        mu = self.encode(state, batch, plan)
        offset = state.dit_lists.lengths.index_select(0, plan.rows.read)
        out, dit_conv = self._solve(
            self._noise_at(offset, mu.shape[1]),
            self.condition(state, plan, mu),
            state.dit_conv.index_select(2, plan.rows.read),
            state.dit_pools,
            plan.of_dit,
        )
        state.dit_conv.index_copy_(2, plan.rows.write, dit_conv)
        state.token_lists.advance(plan.rows, plan.of_token)
        state.mel_lists.advance(plan.rows, plan.of_mel)
        if state.dit_lists is not state.mel_lists:
            state.dit_lists.advance(plan.rows, plan.of_dit)
        frames = plan.of_mel.counts
        is_real = torch.arange(out.shape[1], device=out.device) < frames[:, None]
        return torch.where(is_real[..., None], out, 0.0), frames

    def plan(self, state: FlowState, batch: ChunkBatch, num_keys: int) -> StepPlan:
        """Return where a step's rows read and write; arguments as in `step`."""
        rows = Rows.of(batch.slots, batch.exec_mask, state.num_slots)
        counts, num_codes = batch.counts, batch.codes.shape[1] - LOOKAHEAD
        frames = UPSAMPLE * counts
        num_frames, frame_keys = UPSAMPLE * num_codes, UPSAMPLE * num_keys
        of_mel = state.mel_lists.view(rows, frames, num_frames, frame_keys)
        return StepPlan(
            rows=rows,
            of_token=state.token_lists.view(rows, counts, num_codes, num_keys),
            of_mel=of_mel,
            of_dit=(
                of_mel
                if state.dit_lists is state.mel_lists
                else state.dit_lists.view(rows, frames, num_frames, frame_keys)
            ),
        )

    def encode(self, state: FlowState, batch: ChunkBatch, plan: StepPlan) -> Tensor:
        """Return mu (B, 2N, M) and move the encoder's caches on."""
        mu, conv = self.flow.encode(
            batch.codes,
            batch.num_codes,
            state.encoder_conv.index_select(0, plan.rows.read),
            self._within(0, state.token_pools, plan.of_token),
            self._within(1, state.mel_pools, plan.of_mel),
        )
        state.encoder_conv.index_copy_(0, plan.rows.write, conv)
        return mu

    def condition(self, state: FlowState, plan: StepPlan, mu: Tensor) -> Tensor:
        """Return what the estimator is given besides the noisy mel, (B, 2, 2N, C)."""
        speaker = state.speaker.index_select(0, plan.rows.read)
        return self.flow.estimator.condition(mu, speaker, None)

    def _run_alone(
        self,
        state: FlowState,
        first_code: int,
        seen: Tensor,
        num_real: int,
        speaker: Tensor,
        known_mel: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one row without history; its keys go to the prompt frames from *first_code* on.

        seen: (n + 3,) codes, of which num_real count. speaker: (1, M). known_mel: (2n, M).
        Returns mel (1, 2n, M), and the convolution caches of encoder and estimator.
        """
        count, device = len(seen) - LOOKAHEAD, seen.device
        token = FrameView.of_prompt(first_code, count, device)
        frames = FrameView.of_prompt(UPSAMPLE * first_code, UPSAMPLE * count, device)
        lowest, highest = 1 - UPSAMPLE * count, UPSAMPLE * count - 1
        tables = self.flow.encoder.position_tables(lowest, highest)
        mu, encoder_conv = self.flow.encode(
            seen[None],
            torch.full((1,), num_real, device=device),
            torch.zeros_like(state.encoder_conv[:1]),
            RateCaches(state.token_pools, token, tables[0], lowest),
            RateCaches(state.mel_pools, frames, tables[1], lowest),
        )
        mel, dit_conv = self._solve(
            self._noise_at(torch.zeros(1, dtype=torch.int64, device=device), UPSAMPLE * count),
            self.flow.estimator.condition(mu, speaker, known_mel[None].to(self.flow.dtype)),
            torch.zeros_like(state.dit_conv[:, :, :1]),
            state.dit_pools,
            frames,
        )
        return mel, encoder_conv, dit_conv

    def _solve(
        self, x: Tensor, condition: Tensor, conv: Tensor, pools: Tensor, view: FrameView
    ) -> tuple[Tensor, Tensor]:
        """Integrate *x* (B, T, M) float32 from t = 0 to 1; return it and the new *conv*.

        conv: (steps, depth, B, 2, 2C, 2). Mutates *pools* (steps, depth, F, W).
        """
        guidance, caches = self.flow.config.guidance, []
        view, pools = view.doubled(), pools.view(*pools.shape[:2], GUIDED * pools.shape[2], -1)
        for index, modulation in enumerate(self.modulations):
            velocity, cache = self.flow.estimator(
                x.to(self.flow.dtype), condition, modulation, conv[index], pools[index], view
            )
            given, free = velocity.float().unbind(1)
            step = self.times[index + 1] - self.times[index]
            x = x + step * ((1 + guidance) * given - guidance * free)
            caches.append(cache)
        return x, torch.stack(caches)

    def _embed_speaker(self, speaker: Tensor) -> Tensor:
        return self.flow.embed_speaker(speaker[None].to(self.flow.dtype))

    def _noise_at(self, offset: Tensor, length: int) -> Tensor:
        """Return (B, length, M): the noise from each row's *offset* (B,) in mel frames on."""
        frame = offset[:, None] + torch.arange(length, device=offset.device)
        return self.noise[frame % NOISE_FRAMES]

    def _within(self, rate: int, pools: Tensor, view: FrameView) -> RateCaches:
        """Return the caches of one rate with the part of its table that a step can reach."""
        num_new, num_all = view.write_ids.shape[1], view.read_ids.shape[1]
        table = self._positions[rate][:, 1 - num_new - self._lowest : num_all - self._lowest]
        return RateCaches(pools, view, table, 1 - num_new)


def euler_times(num_steps: int) -> list[float]:
    """Return t_0 .. t_n of the cosine schedule 1 - cos(pi/2 k/n), in float32 arithmetic.

    The time embedding multiplies t by 1000: the last digit of t shows in the mel.
    """
    span = torch.linspace(0, 1, num_steps + 1)
    times: list[float] = (1 - torch.cos(span * 0.5 * torch.pi)).tolist()
    return times


def fixed_noise(mel_bins: int) -> Tensor:
    """Return where every Euler solution starts, (30000, M) ~ N(0, 1), the same in each process."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(NOISE_FRAMES, mel_bins, generator=generator, device="cpu")

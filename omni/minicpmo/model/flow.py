"""The flow: speech tokens -> mel. Its modules, and the caches of every slot."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from attrs import define, frozen
from torch import Tensor, nn

from omni.minicpmo.model.dit import CONV_CACHE, GUIDED, DiT, DiTConfig
from omni.minicpmo.model.flow_cache import CacheTrim, FrameLists, keep_newest, keep_oldest
from omni.minicpmo.model.flow_encoder import (
    LOOKAHEAD,
    LOOKAHEAD_CACHE,
    UPSAMPLE,
    UPSAMPLE_CACHE,
    EncoderConfig,
    FlowEncoder,
    RateCaches,
)

KEPT_CODES = 50  # codes (2 s) kept besides the prompt. Source: minicpmo-utils, 100 mel frames
MAX_CHUNK_CODES = 28  # codes a step can consume: a last call brings up to 28


@frozen(kw_only=True)
class FlowConfig:
    """Sizes of the flow. Source: flow.yaml."""

    num_codes: int
    mel_bins: int
    speaker_dim: int
    guidance: float  # v = (1 + guidance) v_cond - guidance v_uncond
    encoder: EncoderConfig
    dit: DiTConfig


@frozen
class ChunkBatch:
    """One step's input, all (B, ...) on the device; rows not in exec_mask change nothing.

    slots: int64, distinct in exec_mask. codes: (B, N + 3) int64, of which num_codes count
    (look-ahead included unless is_last: a last chunk consumes all of its codes). N codes at most
    are consumed.
    """

    slots: Tensor
    codes: Tensor
    num_codes: Tensor
    is_last: Tensor
    exec_mask: Tensor

    @property
    def counts(self) -> Tensor:
        """Codes that each row consumes, (B,)."""
        consumed = torch.where(self.is_last, self.num_codes, self.num_codes - LOOKAHEAD)
        return torch.where(self.exec_mask, consumed.clamp(min=0), 0)


@frozen
class FlowPrompt:
    """A voice that lies in a FlowState: its frames in the pools, and what a slot starts from."""

    first_code: int
    num_codes: int
    speaker: Tensor  # (M,)
    encoder_conv: Tensor  # (C, 6)
    dit_conv: Tensor  # (steps, depth, 2, 2C, 2)


@define
class FlowState:
    """The caches of S slots and of the voices that they use. Every tensor is updated in place.

    Pools are (layers, F, W), see flow_cache; dit_pools has a pool per Euler step in front. Row S is
    scratch.
    """

    num_slots: int
    token_lists: FrameLists
    mel_lists: FrameLists
    dit_lists: FrameLists  # the same object as mel_lists where both follow one rule
    token_pools: Tensor
    mel_pools: Tensor
    dit_pools: Tensor
    encoder_conv: Tensor  # (S + 1, C, 6)
    dit_conv: Tensor  # (steps, depth, S + 1, 2, 2C, 2)
    speaker: Tensor  # (S + 1, M)

    @classmethod
    def create(
        cls,
        flow: "Flow",
        num_slots: int,
        *,
        num_steps: int,
        max_prompt_codes: int,
        num_prompt_codes: int,
        trim: CacheTrim,
        cache_dtype: torch.dtype,
    ) -> "FlowState":
        """Return empty caches on the flow's device.

        max_prompt_codes: of the longest voice; num_prompt_codes: room for all voices together.
        """
        encoder, dit = flow.config.encoder, flow.config.dit
        device = flow.encoder_proj.weight.device

        def lists(rate: int, *, oldest: bool = False, newest_first: bool = False) -> FrameLists:
            return FrameLists.create(
                num_slots,
                max_prompt=rate * max_prompt_codes,
                num_prompt_frames=rate * num_prompt_codes,
                tail=rate * KEPT_CODES,
                max_new=rate * MAX_CHUNK_CODES,
                device=device,
                rule=keep_oldest if oldest else keep_newest,
                newest_first=newest_first,
            )

        def pools(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=cache_dtype, device=device)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=flow.dtype, device=device)

        token, mel = lists(1, oldest=trim is CacheTrim.V105), lists(UPSAMPLE)
        of_dit = mel if trim is CacheTrim.FIXED else lists(UPSAMPLE, newest_first=True)
        rows, conv = num_slots + 1, LOOKAHEAD_CACHE + UPSAMPLE_CACHE
        return cls(
            num_slots=num_slots,
            token_lists=token,
            mel_lists=mel,
            dit_lists=of_dit,
            token_pools=pools(encoder.token_layers, token.num_frames, 2 * encoder.hidden),
            mel_pools=pools(encoder.mel_layers, mel.num_frames, 2 * encoder.hidden),
            dit_pools=pools(num_steps, dit.depth, of_dit.num_frames, 2 * GUIDED * dit.inner),
            encoder_conv=zeros(rows, encoder.hidden, conv),
            dit_conv=zeros(num_steps, dit.depth, rows, GUIDED, 2 * dit.hidden, CONV_CACHE),
            speaker=zeros(rows, flow.config.mel_bins),
        )

    def start(self, slot: int, prompt: FlowPrompt) -> None:
        """Put *slot* at the start of a turn of the voice *prompt*; all else is out of its reach."""
        self.token_lists.start(slot, prompt.first_code, prompt.num_codes)
        self.mel_lists.start(slot, UPSAMPLE * prompt.first_code, UPSAMPLE * prompt.num_codes)
        if self.dit_lists is not self.mel_lists:
            self.dit_lists.start(slot, UPSAMPLE * prompt.first_code, UPSAMPLE * prompt.num_codes)
        self.encoder_conv[slot] = prompt.encoder_conv
        self.dit_conv[:, :, slot] = prompt.dit_conv
        self.speaker[slot] = prompt.speaker

    def reset(self, slots: Sequence[int]) -> None:
        """Erase everything that *slots* hold, their private frames included."""
        for slot in slots:
            for lists, pools in (
                (self.token_lists, self.token_pools),
                (self.mel_lists, self.mel_pools),
                (self.dit_lists, self.dit_pools),
            ):
                pools[..., lists.private_range(slot), :] = 0
                lists.clear(slot)
            self.encoder_conv[slot] = 0
            self.dit_conv[:, :, slot] = 0
            self.speaker[slot] = 0


class Flow(nn.Module):
    """The flow model. Weights may be float32, float16 or bfloat16; the Euler sum is float32."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.num_codes, config.encoder.hidden)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.mel_bins)
        self.encoder = FlowEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.hidden, config.mel_bins)
        self.decoder = nn.ModuleDict({"estimator": DiT(config.dit)})

    @property
    def estimator(self) -> DiT:
        estimator = self.decoder["estimator"]
        assert isinstance(estimator, DiT)
        return estimator

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder_proj.weight.dtype

    def embed_speaker(self, speaker: Tensor) -> Tensor:
        """speaker: (B, 192) from CAM++. Returns (B, M)."""
        out: Tensor = self.spk_embed_affine_layer(F.normalize(speaker, dim=1))
        return out

    def encode(
        self,
        codes: Tensor,
        num_codes: Tensor,
        conv_cache: Tensor,
        of_token: RateCaches,
        of_mel: RateCaches,
    ) -> tuple[Tensor, Tensor]:
        """Return mu (B, 2T, M) and the new convolution cache; arguments as in FlowEncoder."""
        embedded = self.input_embedding(codes)
        hidden, conv_cache = self.encoder(embedded, num_codes, conv_cache, of_token, of_mel)
        return self.encoder_proj(hidden), conv_cache

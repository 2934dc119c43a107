"""The speech-token model: a small Llama that turns spoken text and its hidden states into codes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.minicpmo.model.attention import AttentionPlan
from omni.minicpmo.model.config import TtsConfig
from omni.minicpmo.model.layers import Decoder, Embedding, Linear, Projector, product


class Tts(nn.Module):
    """Conditions and codes in as embeddings, logits over codes out."""

    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.config = config
        size = config.decoder.hidden_size
        self.emb_text = Embedding(config.num_text_tokens, size)
        self.emb_code = Embedding(config.num_audio_tokens, size)
        self.decoder = Decoder(config.decoder)
        self.projector_semantic = Projector(config.llm_hidden_size, size, size)
        self.head = Linear(size, config.num_audio_tokens, bias=False)
        self.head_magnitude = nn.Parameter(torch.empty(config.num_audio_tokens, 1))

    @property
    def end_code(self) -> int:
        """The code that ends speech: the last row of the head."""
        return self.config.num_audio_tokens - 1

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `tts.` and the memory that each fills."""
        yield "emb_text.weight", self.emb_text.weight
        yield "emb_code.0.weight", self.emb_code.weight
        for name, tensor in self.decoder.checkpoint_tensors():
            yield f"model.{name}", tensor
        for name, tensor in self.projector_semantic.named_parameters():
            yield f"projector_semantic.{name}", tensor
        yield "head_code.0.parametrizations.weight.original0", self.head_magnitude
        yield "head_code.0.parametrizations.weight.original1", self.head.weight

    def finish_loading(self) -> None:
        """Fold magnitude and direction of the head into its weight, in float32. Call once."""
        direction = self.head.weight.float()
        norm = direction.norm(dim=1, keepdim=True)
        self.head.weight.copy_(self.head_magnitude.float() * direction / norm)

    def condition(self, text_ids: Tensor, hidden: Tensor) -> Tensor:
        """Return (N, C) for spoken tokens (N,) and the LLM states there (N, LLM hidden)."""
        return F.embedding(text_ids, self.emb_text.weight) + self.project(hidden)

    def project(self, hidden: Tensor) -> Tensor:
        """Return (N, C): the hidden states projected and, as published, scaled to unit length."""
        projected: Tensor = self.projector_semantic(hidden)
        if self.config.normalizes_projection:
            projected = F.normalize(projected, dim=-1)
        return projected

    def audio_bos(self) -> Tensor:
        """Return (1, C), the marker behind a condition: codes follow."""
        row = self.config.audio_bos_id
        return self.emb_text.weight[row : row + 1]

    def text_eos(self) -> Tensor:
        """Return (1, C), the marker of the end of the text (chat and half duplex only)."""
        row = self.config.text_eos_id
        return self.emb_text.weight[row : row + 1]

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Return (N, C) of codes (N,)."""
        return F.embedding(codes, self.emb_code.weight)

    def forward(self, embeds: Tensor, plan: AttentionPlan, pool: Tensor) -> Tensor:
        """Append the N packed embeddings of all rows to the cache; returns (N, C) post-norm hidden.

        pool: (layers, 2, pages, page_size, heads, D), mutated.
        """
        out: Tensor = self.decoder(embeds, plan, pool)
        return out

    def logits(self, hidden: Tensor, uses_kernel: bool = False) -> Tensor:
        """Return (R, codes) float32 of chosen hidden states (R, C); uses_kernel: as in a plan."""
        return product(hidden, self.head, uses_kernel, torch.float32)

    def decode(self, codes: Tensor, plan: AttentionPlan, pool: Tensor) -> Tensor:
        """Feed one code a row, (B,), and return the logits of the next, (B, codes) float32.

        One query a row, fixed shapes, no host values: this is what a graph captures.
        """
        hidden = self(self.embed_codes(codes), plan, pool)
        return self.logits(hidden, plan.uses_kernel)

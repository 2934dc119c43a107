"""The language model of MiniCPM-o 4.5: Qwen3-8B over embeddings, with a paged KV cache."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.minicpmo.model.attention import AttentionPlan
from omni.minicpmo.model.config import LlmConfig
from omni.minicpmo.model.layers import Decoder, Embedding, Linear, product


class Llm(nn.Module):
    """Embeddings in, hidden states and logits out; the cache belongs to the caller."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        size = config.decoder.hidden_size
        self.embed_tokens = Embedding(config.vocab_size, size)
        self.decoder = Decoder(config.decoder)
        self.lm_head = Linear(size, config.vocab_size, bias=False)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield published names below `llm.` and the memory that each fills."""
        yield "model.embed_tokens.weight", self.embed_tokens.weight
        for name, tensor in self.decoder.checkpoint_tensors():
            yield f"model.{name}", tensor
        yield "lm_head.weight", self.lm_head.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (N, C) of token ids (N,); inputs are not scaled in this model."""
        return F.embedding(ids, self.embed_tokens.weight)

    def forward(self, embeds: Tensor, plan: AttentionPlan, pool: Tensor) -> Tensor:
        """Append the N packed tokens of all rows to the cache; prefill and decode alike.

        embeds: (N, C). pool: (layers, 2, pages, page_size, KV heads, D), mutated.
        Returns (N, C): the hidden state of each token after the final norm, which is also what the
        speech model is conditioned on.
        """
        out: Tensor = self.decoder(embeds, plan, pool)
        return out

    def logits(self, hidden: Tensor, uses_kernel: bool = False) -> Tensor:
        """Return (R, V) float32 logits of chosen hidden states (R, C).

        Give only the rows that will be sampled: the head is 1.2 GB of weights in bf16.
        uses_kernel: as in AttentionPlan.
        """
        return product(hidden, self.lm_head, uses_kernel, torch.float32)

"""Messages -> answer: what a language model of the pocket engine is, and which one a path means."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from attrs import frozen

from omni.errors import CheckpointError

#: Takes the next piece of text; returns False when nothing more is wanted.
TakeText = Callable[[str], bool]


@frozen(kw_only=True)
class Utterance:
    """One message of the conversation as the language model sees it."""

    role: Literal["system", "user", "assistant"]
    text: str


@frozen(kw_only=True)
class Sampling:
    """How the next token is chosen. temperature 0: always the likeliest. top_k 0: no limit."""

    max_new_tokens: int = 80
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@frozen(kw_only=True)
class Answer:
    """A finished answer. `stopped`: it was ended by who took it.

    input_tokens counts the whole prompt, cached_tokens the part that needed no computing.
    """

    text: str
    input_tokens: int
    generated_tokens: int
    finish_reason: Literal["stop", "length", "stopped"]
    prefill_ms: float
    generate_ms: float
    cached_tokens: int = 0


class Thinking(Protocol):
    """A language model with one KV cache for each seat. Several threads may answer at once, each
    on a seat of its own."""

    @property
    def name(self) -> str:
        """What people are shown."""

    def prepare(self, seat: int, messages: Sequence[Utterance], take: TakeText) -> None:
        """Bring *messages* into the cache of *seat*, so that what follows them starts sooner.

        *take* gets "" now and then, and may end it; what is in the cache by then stays.
        Raises: GenerationFailed.
        """

    def answer(
        self,
        seat: int,
        messages: Sequence[Utterance],
        sampling: Sampling,
        take: TakeText,
        prefilled: Callable[[int], None] = lambda input_tokens: None,
    ) -> Answer:
        """Answer the last of *messages*, handing each piece of text to *take* as it comes.

        *take* also gets "" now and then, so that a stop need not wait for a token. *prefilled* is
        told the length of the prompt when all of it is in. Messages after the first that do not
        fit are left out, the oldest first.
        Raises: GenerationFailed; ContextExhausted if the last message alone does not fit.
        """

    def close(self) -> None:
        """Free the model."""


def load_thinking(path: Path, num_seats: int, seat_tokens: int) -> Thinking:
    """Return the model at *path*, a GGUF file or a Hugging Face causal-LM directory.

    seat_tokens: context of each seat. Raises: CheckpointError, with the way out.
    """
    if path.is_file() and path.suffix == ".gguf":
        from omni.pocket.thinking_gguf import GgufThinking  # its package is not needed for HF

        return GgufThinking.load(path, num_seats, seat_tokens)
    if (path / "config.json").is_file():
        from omni.pocket.thinking_hf import HfThinking  # torch and transformers: seldom installed

        return HfThinking.load(path, num_seats, seat_tokens)
    raise CheckpointError(
        f"pocket.llm_path {path}: neither a .gguf file nor a directory with a config.json"
    )


def fitting(messages: Sequence[Utterance], excess_ratio: float) -> list[Utterance] | None:
    """Return *messages* with the oldest after any system message left out, or None.

    excess_ratio: how many times too long they are; that share of their characters goes.
    None: only the system message and the last one are left, nothing more can go.
    """
    head = [m for m in messages[:1] if m.role == "system"]
    rest = list(messages[len(head) :])
    if len(rest) <= 1:
        return None
    total = sum(len(m.text) for m in messages)
    spare = total - total / excess_ratio
    while len(rest) > 1 and spare > 0:
        spare -= len(rest.pop(0).text)
    while len(rest) > 1 and rest[0].role == "assistant":
        rest.pop(0)
    return head + rest

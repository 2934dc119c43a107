"""The language model as a Hugging Face directory, run by transformers on the CPU."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from omni.engine.stop_texts import StopTexts
from omni.errors import CheckpointError, ContextExhausted, GenerationFailed
from omni.pocket.thinking import Answer, Sampling, TakeText, Utterance, fitting

#: Pieces of text are handed on at this many tokens: one token may be half a letter.
_REPLACEMENT = "\ufffd"


class HfThinking:
    """Meets `Thinking`. Answers take turns on one model; there is no cache between them."""

    def __init__(self, model: Any, tokenizer: Any, name: str, seat_tokens: int) -> None:
        # Any: transformers' classes are chosen at run time
        self._model = model
        self._tokenizer = tokenizer
        self._seat_tokens = seat_tokens
        self._turn = threading.Lock()
        self.name = name

    @classmethod
    def load(cls, path: Path, num_seats: int, seat_tokens: int) -> "HfThinking":
        """Return the model in the directory *path*; *num_seats* costs nothing here.

        Raises: CheckpointError, if transformers is missing or cannot load it.
        """
        try:
            # Late: a large optional package, needed by this backend alone.
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as exc:
            raise CheckpointError(
                f"pocket.llm_path {path} is a Hugging Face directory, and that needs the packages "
                "torch and transformers; install them, or name a .gguf file"
            ) from exc
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
            model = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, dtype="float32"
            ).eval()
        except (OSError, ValueError, RuntimeError, KeyError) as exc:
            raise CheckpointError(f"language model {path}: {exc}") from exc
        if tokenizer.chat_template is None:
            raise CheckpointError(f"language model {path}: it has no chat template, so no chat")
        return cls(model, tokenizer, path.name, seat_tokens)

    def prepare(self, seat: int, messages: Sequence[Utterance], take: TakeText) -> None:
        """Do nothing: there is no cache to fill."""

    def answer(
        self,
        seat: int,
        messages: Sequence[Utterance],
        sampling: Sampling,
        take: TakeText,
        prefilled: Callable[[int], None] = lambda input_tokens: None,
    ) -> Answer:
        """Answer the last of *messages*, leaving out the oldest ones that do not fit."""
        prompt = self._fitting_prompt(messages, sampling.max_new_tokens)
        prefilled(len(prompt))
        with self._turn:
            try:
                return self._generate(prompt, sampling, take)
            except (RuntimeError, ValueError, IndexError) as exc:
                raise GenerationFailed(f"the language model failed: {exc}") from exc

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _token_ids(self, messages: Sequence[Utterance]) -> list[int]:
        chat = [{"role": m.role, "content": m.text} for m in messages]
        text = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _fitting_prompt(self, messages: Sequence[Utterance], max_new_tokens: int) -> list[int]:
        room = max(self._seat_tokens - max_new_tokens, self._seat_tokens // 2)
        while len(prompt := self._token_ids(messages)) > room:
            shorter = fitting(messages, len(prompt) / room)
            if shorter is None:
                raise ContextExhausted(
                    f"the message has {len(prompt)} tokens, and the model takes {room}: shorten it"
                )
            messages = shorter
        return prompt

    def _generate(self, prompt: list[int], sampling: Sampling, take: TakeText) -> Answer:
        import torch  # late: see load
        from transformers import StoppingCriteria, StoppingCriteriaList

        began = time.perf_counter()
        first_token_at: list[float] = []
        stops = StopTexts(sampling.stop)
        read, said = "", ""
        wanted = take("")

        class OnToken(StoppingCriteria):  # type: ignore[misc]  # untyped base
            def __call__(_self, input_ids: Any, scores: Any, **_: Any) -> bool:
                nonlocal read, said, wanted
                first_token_at.append(time.perf_counter())
                text = self._tokenizer.decode(input_ids[0, len(prompt) :], skip_special_tokens=True)
                if not text.endswith(_REPLACEMENT) and len(text) > len(read):
                    piece, read = stops.push(text[len(read) :]), text
                    said, wanted = said + piece, take(piece)
                return not wanted or stops.is_hit

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=sampling.max_new_tokens,
                stopping_criteria=StoppingCriteriaList([OnToken()]),
                **_generation_fields(sampling),
            )
        if wanted and (rest := stops.flush()):
            said, wanted = said + rest, take(rest)
        num_new = int(out.shape[1]) - len(prompt)
        now = time.perf_counter()
        first = first_token_at[0] if first_token_at else now
        reached = num_new >= sampling.max_new_tokens
        return Answer(
            text=said,
            input_tokens=len(prompt),
            generated_tokens=num_new,
            finish_reason=_reason(wanted, reached and not stops.is_hit),
            prefill_ms=(first - began) * 1000,
            generate_ms=(now - first) * 1000,
        )


def _reason(wanted: bool, reached: bool) -> Literal["stop", "length", "stopped"]:
    if not wanted:
        return "stopped"
    return "length" if reached else "stop"


def _generation_fields(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {"repetition_penalty": sampling.repetition_penalty}
    if sampling.temperature <= 0:
        return fields | {"do_sample": False}
    return fields | {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }

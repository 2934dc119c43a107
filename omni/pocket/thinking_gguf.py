"""The language model as a GGUF file, run by llama.cpp (xllamacpp) with a cache for each seat."""

import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xllamacpp
from attrs import define, field

from omni.errors import CheckpointError, ContextExhausted, GenerationFailed, OmniError
from omni.pocket.thinking import Answer, Sampling, TakeText, Utterance, fitting

#: One thread: with two, both spin at every layer's barrier, and on busy cores that is ten times
#: slower (baseline: 24 ms a token becomes hundreds). One gives 11-12 ms a token.
_NUM_THREADS = 1
#: Prompt tokens in one go. Small, so that a long prompt holds up other seats' tokens, and a stop,
#: for half a second at most (7 ms a token).
_BATCH_TOKENS = 64
#: Room for the answer when the prompt must be shortened.
_ANSWER_SHARE = 0.85

Event = dict[str, Any]  # Any: JSON of the llama.cpp server


@define
class _Run:
    """One answer while it is made. Called by the server's thread."""

    take: TakeText
    prefilled: Callable[[int], None] = lambda _: None
    text: list[str] = field(factory=list)
    error: Event | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reason: str = "stopped"
    began: float = field(factory=time.perf_counter)
    first_token_at: float | None = None

    def on_event(self, event: Event) -> bool:
        """Take one event of the stream; True ends it."""
        if "error" in event:
            self.error = event["error"]
            return True
        if progress := event.get("prompt_progress"):
            return self._on_progress(progress)
        choice = event["choices"][0]
        if choice["finish_reason"] is not None:
            self._finish(event, choice)
        if piece := choice["delta"].get("content"):
            return self._on_text(piece)
        return False

    def _on_progress(self, progress: Event) -> bool:
        is_first = not self.input_tokens
        self.input_tokens = int(progress["total"])
        self.cached_tokens = int(progress["cache"])
        # The first report comes before any work.
        if not is_first and progress["processed"] >= progress["total"]:
            self.prefilled(self.input_tokens)
        return not self.take("")

    def _on_text(self, piece: str) -> bool:
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self.generated_tokens += 1
        self.text.append(piece)
        return not self.take(piece)

    def _finish(self, event: Event, choice: Event) -> None:
        self.finish_reason = "length" if choice["finish_reason"] == "length" else "stop"
        timings = event.get("timings") or {}
        self.generated_tokens = int(timings.get("predicted_n", self.generated_tokens))

    def answer(self) -> Answer:
        now = time.perf_counter()
        first = self.first_token_at or now
        return Answer(
            text="".join(self.text),
            input_tokens=self.input_tokens,
            generated_tokens=self.generated_tokens,
            finish_reason=self.finish_reason,  # type: ignore[arg-type]  # one of three literals
            prefill_ms=(first - self.began) * 1000,
            generate_ms=(now - first) * 1000,
            cached_tokens=self.cached_tokens,
        )


class GgufThinking:
    """Meets `Thinking`. Answers of several seats share one compute thread, token by token."""

    def __init__(self, server: Any, folder: Any, name: str) -> None:  # Any: untyped packages
        self._server = server
        self._folder = folder
        self.name = name

    @classmethod
    def load(cls, path: Path, num_seats: int, seat_tokens: int) -> "GgufThinking":
        """Return the model in *path*. Raises: CheckpointError, if llama.cpp cannot load it."""
        # llama.cpp's server insists on a listening socket: one that only we can reach.
        folder = tempfile.TemporaryDirectory(prefix="omni-llm-")
        params = _params(path, num_seats, seat_tokens)
        params.hostnames = [str(Path(folder.name) / "llm.sock")]
        params.api_keys = [secrets.token_hex(32)]
        try:
            server = xllamacpp.Server(params)
        except (RuntimeError, ValueError, MemoryError) as exc:
            folder.cleanup()
            raise CheckpointError(f"language model {path}: {exc}") from exc
        return cls(server, folder, path.stem)

    def prepare(self, seat: int, messages: Sequence[Utterance], take: TakeText) -> None:
        """Bring *messages* into the cache of *seat*, until *take* ends it."""
        run = _Run(take)
        self._complete(seat, messages, Sampling(max_new_tokens=1), run.on_event)
        if run.error is not None:
            raise _failure(run.error)

    def answer(
        self,
        seat: int,
        messages: Sequence[Utterance],
        sampling: Sampling,
        take: TakeText,
        prefilled: Callable[[int], None] = lambda input_tokens: None,
    ) -> Answer:
        """Answer the last of *messages*, leaving out the oldest ones that do not fit."""
        left: Sequence[Utterance] = messages
        while True:
            run = _Run(take, prefilled)
            self._complete(seat, left, sampling, run.on_event)
            if run.error is None:
                return run.answer()
            shorter = fitting(left, _excess(run.error))
            if shorter is None:
                raise _failure(run.error)
            left = shorter

    def close(self) -> None:
        """Stop the server and remove its socket."""
        self._server = None
        self._folder.cleanup()

    def _complete(
        self,
        seat: int,
        messages: Sequence[Utterance],
        sampling: Sampling,
        on_event: Callable[[Event], bool],
    ) -> None:
        request = {
            "messages": [{"role": m.role, "content": m.text} for m in messages],
            "id_slot": seat,
            "cache_prompt": True,
            "stream": True,
            "return_progress": True,
            **_sampling_fields(sampling),
        }
        try:
            self._server.handle_chat_completions(request, on_event)
        except RuntimeError as exc:
            raise GenerationFailed(f"the language model failed: {exc}") from exc


def _params(path: Path, num_seats: int, seat_tokens: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = num_seats
    params.n_ctx = seat_tokens * num_seats
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = _NUM_THREADS
        threads.poll = 0
    params.n_threads_http = 1
    params.verbosity = -1
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.cache_ram_mib = 0  # else finished conversations stay in memory
    return params


def _sampling_fields(sampling: Sampling) -> dict[str, object]:
    fields: dict[str, object] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    return fields


def _excess(error: Event) -> float:
    if error.get("type") != "exceed_context_size_error":
        raise _failure(error)
    return float(error["n_prompt_tokens"]) / (float(error["n_ctx"]) * _ANSWER_SHARE)


def _failure(error: Event) -> OmniError:
    if error.get("type") == "exceed_context_size_error":
        return ContextExhausted(
            f"the message has {error['n_prompt_tokens']} tokens, and the model takes "
            f"{error['n_ctx']}: shorten it"
        )
    return GenerationFailed(f"the language model failed: {error.get('message', error)}")

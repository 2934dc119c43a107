"""Chat: the golden answers, and what a client of the engine can rely on."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from numpy.typing import NDArray

from omni.engine import (
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Part,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
)
from omni.minicpmo.chat import answer_turn, read_turn
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.outlet import Costs
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.work import Draw, Program, Vocode
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import Driver, golden_driver, heard, pcm
from tests.minicpmo.executor import Executor
from tests.minicpmo.pictures import golden_picture

LOGITS = 1e-3  # float32 over a whole answer; see the golden data's section 3
WAVE = 5e-3  # an f0 error of 1e-6 grows with the accumulated phase
LEAD_SAMPLES = 3840  # zeros in front of the reference's sound, which are not sent
GREEDY = TextSampling(is_greedy=True)
GREEDY_CODES = CodeSampling(is_greedy=True)
CASES = ("text", "text_history", "image", "audio", "mixed", "speech0", "speech1")


@pytest.fixture(scope="module")
def driver(checkpoint_dir: Path, expected: Callable[[str], Golden]) -> Iterator[Driver]:
    options = EngineOptions(trim=CacheTrim.V105)
    made = golden_driver(checkpoint_dir, expected("i_flow").tensors["noise"], options)
    yield made
    made.engine.close()


@pytest.fixture
def executor(driver: Driver) -> Iterator[Executor]:
    made = Executor(driver.engine.loaded)
    yield made
    made.release()


@pytest.fixture(scope="module")
def stream(expected: Callable[[str], Golden]) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = expected("c_mel").tensors["stream_i16"].float().numpy() / 32768
    return samples


def part_of(item: Any, stream: NDArray[np.float32]) -> Part:
    """Return a golden part as a client sends it."""
    if isinstance(item, str):
        return Part(kind="text", text=item)
    if "image" in item:
        file = io.BytesIO()
        golden_picture(*item["image"], item["k"]).save(file, "PNG")
        return Part(kind="image", data=Buffer(file.getvalue()))
    start = item["audio_start"]
    return Part(kind="audio", data=pcm(stream[start : start + item["samples"]]))


def request_of(case: Any, stream: NDArray[np.float32]) -> ChatRequest:
    """Return a golden case as a client sends it."""
    return ChatRequest(
        messages=tuple(
            ChatMessage(role=role, parts=tuple(part_of(item, stream) for item in content))
            for role, content in case["messages"]
        ),
        max_new_tokens=case["max_new_tokens"],
        speak="codes" in case,
        voice=pcm(stream[80000:128000]),
        use_image_id=True,
        max_slice_nums=case["options"].get("max_slice_nums"),
        enable_thinking=case["options"].get("enable_thinking", False),
        streaming=False,
    )


def golden_turn(session: Session, request: ChatRequest) -> Program[None]:
    """Answer as the reference's own chat does: greedily, with no system message put in front."""
    turn = read_turn(evolve(request, speak=False), session.around)
    return answer_turn(session, request, turn, GREEDY, GREEDY_CODES, Costs(session.now_s))


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_golden_one(
    executor: Executor,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    name: str,
) -> None:
    golden = expected("k_chat")
    (case,) = (case for case in golden.facts if case["case"] == name)

    executor.run(lambda session: golden_turn(session, request_of(case, stream)))

    done = executor.events[-1]
    assert isinstance(done, ChatDone)
    assert executor.events[0] == PrefillDone(input_tokens=case["prompt_length"])
    assert done.input_tokens == case["prompt_length"]
    draws = executor.works(Draw)
    ids = list(draws[-1].history)
    ended = case["decoded"].endswith("<|im_end|>")
    assert ids + ([executor.session.control.im_end] if ended else []) == case["generated_ids"]
    assert done.finish_reason == ("stop" if ended else "length")
    assert done.generated_tokens == len(ids)
    assert done.text == executor.session.tokenizer.decode(ids)
    for draw, stored in ((draws[0], "logits_first"), (draws[-1], "logits_last")):
        wanted = golden.tensors[f"{name}.{stored}"]
        torch.testing.assert_close(draw.logits[0], wanted, rtol=0, atol=LOGITS)


def sound_of(events: list[SessionEvent]) -> NDArray[np.float32]:
    return np.concatenate([heard(e.pcm) for e in events if isinstance(e, ReplyChunk)])


def text_of(events: list[SessionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReplyChunk))


@pytest.mark.parametrize("name", ["speech0", "speech1"])
def test_the_sound_of_an_answer_is_the_golden_one(
    executor: Executor,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    name: str,
) -> None:
    golden = expected("k_chat")
    (case,) = (case for case in golden.facts if case["case"] == name)

    executor.run(lambda session: golden_turn(session, request_of(case, stream)))

    chunks = [chunk for vocode in executor.works(Vocode) for chunk in vocode.chunks]
    given = [{"codes": len(chunk.codes), "last": chunk.is_last} for chunk in chunks]
    assert given == case["token2wav_calls"]
    codes = [code for chunk in chunks[:-1] for code in chunk.codes[:-3]] + [*chunks[-1].codes]
    assert codes == case["codes"]
    sound = sound_of(executor.events)
    assert len(sound) == case["wave_samples"] - LEAD_SAMPLES
    wanted = golden.tensors[f"{name}.wave"].numpy()
    assert not wanted[:LEAD_SAMPLES].any()
    count = len(wanted) - LEAD_SAMPLES
    np.testing.assert_allclose(sound[:count], wanted[LEAD_SAMPLES:], rtol=0, atol=WAVE)

"""The engine on a GPU: recorded steps against eager ones, and against the reference."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from numpy.typing import NDArray

from omni.engine import (
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Part,
    Prepared,
    ReplyChunk,
    SessionEvent,
    Slot,
    SpeakRequest,
    TranscribeRequest,
    TranscriptSegment,
    UnitResult,
)
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.setup import EngineOptions
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import Driver, golden_driver, heard, pcm, slots
from tests.minicpmo.pictures import golden_picture
from tests.minicpmo.test_duplex import GREEDY, SLOT, check_unit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

#: float32, so that what is drawn cannot differ by rounding; few tokens, so that it fits any GPU.
ON_GPU = EngineOptions(
    trim=CacheTrim.V105,
    device=torch.device("cuda", 0),
    dtype=torch.float32,
    kv_tokens=16_384,
)
#: Of the sound's power. Float32 throughout differs by up to 0.3 % on a CPU and on an H100 alike:
#: the vocoder's phase adds up what its pitch differs by. Caches in float16 make 12 %,
#: another sound by 100 % and more.
WAVE = 0.02


@pytest.fixture(params=["eager", "recorded"])
def driver(
    request: pytest.FixtureRequest, checkpoint_dir: Path, expected: Callable[[str], Golden]
) -> Iterator[Driver]:
    sizes = () if request.param == "eager" else (1, 4, 8)
    options = evolve(ON_GPU, batch_sizes=sizes)
    made = golden_driver(checkpoint_dir, expected("i_flow").tensors["noise"].cuda(), options)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def on_cpu(checkpoint_dir: Path, expected: Callable[[str], Golden]) -> Iterator[Driver]:
    made = golden_driver(checkpoint_dir, expected("i_flow").tensors["noise"])
    yield made
    made.engine.close()


def asked(driver: Driver, request: ChatRequest | SpeakRequest | TranscribeRequest) -> ChatDone:
    """Return how *request* ended; its other events are left in the driver."""
    driver.events.clear()
    driver.step(SLOT, request)
    *events, done = driver.until_done(SLOT)
    assert isinstance(done, ChatDone), done
    driver.events[SLOT] = events
    driver.step(SLOT, Close())
    assert driver.is_clean(SLOT.index)
    return done


def sound_of(driver: Driver) -> NDArray[np.float32]:
    events = driver.events[SLOT]
    return np.concatenate([heard(e.pcm) for e in events if isinstance(e, ReplyChunk)])


def test_a_text_is_read_out_as_on_the_cpu(
    driver: Driver, on_cpu: Driver, stream: NDArray[np.float32]
) -> None:
    # A voice of its own: the default one is prepared before the golden noise takes its place.
    voice = pcm(stream[80000:128000])
    request = SpeakRequest(text="The ship left early. Nobody had slept!", voice=voice, seed=4)

    done, wanted = asked(driver, request), asked(on_cpu, request)

    assert (done.text, done.finish_reason) == (wanted.text, wanted.finish_reason)
    assert done.speech_tokens == wanted.speech_tokens > 25
    assert done.input_tokens == wanted.input_tokens
    sound, reference = sound_of(driver), sound_of(on_cpu)
    assert len(sound) == len(reference)
    error = np.linalg.norm((sound - reference)[:24_000]) / np.linalg.norm(reference[:24_000])
    assert error < WAVE


def test_a_recording_is_written_down_as_on_the_cpu(
    driver: Driver, on_cpu: Driver, stream: NDArray[np.float32]
) -> None:
    request = TranscribeRequest(pcm=pcm(stream[:160_000]))

    done, wanted = asked(driver, request), asked(on_cpu, request)

    assert (done.text, done.generated_tokens) == (wanted.text, wanted.generated_tokens)
    segments = [
        [event for event in each.events[SLOT] if isinstance(event, TranscriptSegment)]
        for each in (driver, on_cpu)
    ]
    assert segments[0] == segments[1] and segments[0]


def test_a_chat_about_a_picture_and_a_sound_is_answered_as_on_the_cpu(
    driver: Driver, on_cpu: Driver, stream: NDArray[np.float32]
) -> None:
    jpeg = io.BytesIO()
    golden_picture(640, 480, 2).save(jpeg, "JPEG", quality=90)
    parts = (
        Part(kind="image", data=Buffer(jpeg.getvalue())),
        Part(kind="audio", data=pcm(stream[:40_000])),
        Part(kind="text", text="What is this?"),
    )
    request = ChatRequest(
        messages=(ChatMessage(role="user", parts=parts),),
        do_sample=False,
        max_new_tokens=24,
        speak=True,
        voice=pcm(stream[80000:128000]),
        seed=3,
    )

    done, wanted = asked(driver, request), asked(on_cpu, request)

    assert (done.text, done.finish_reason) == (wanted.text, wanted.finish_reason)
    assert done.input_tokens == wanted.input_tokens
    assert done.generated_tokens == wanted.generated_tokens
    assert done.speech_tokens == wanted.speech_tokens
    assert len(sound_of(driver)) == len(sound_of(on_cpu))


def test_an_audio_call_is_the_golden_one(
    driver: Driver, expected: Callable[[str], Golden], stream: NDArray[np.float32]
) -> None:
    golden = expected("k_duplex_audio")
    prepare = evolve(
        GREEDY,
        force_listen_count=2,
        voice=pcm(stream[80000:128777]),
        tts_voice=pcm(stream[80000:128000]),
    )
    driver.ask(SLOT, prepare, Prepared)

    for step in golden.facts["steps"][1:]:
        number = step["unit"]
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        unit = driver.ask(SLOT, chunk, UnitResult)

        check_unit(unit, step)
        wanted = golden.tensors.get(f"unit{number:02d}.wave_i16")
        if wanted is not None:
            reference = wanted.numpy() / 32768
            error = np.linalg.norm(heard(unit.pcm) - reference) / np.linalg.norm(reference)
            assert error < WAVE, number


def test_many_sessions_go_on_as_one_alone(
    driver: Driver, stream: NDArray[np.float32], expected: Callable[[str], Golden]
) -> None:
    golden = expected("k_duplex_audio").facts["steps"][1:7]
    seats = slots(6)
    prepare = evolve(
        GREEDY,
        force_listen_count=2,
        voice=pcm(stream[80000:128777]),
        tts_voice=pcm(stream[80000:128000]),
    )
    chunks = [AudioChunk(pcm=pcm(stream[16000 * n : 16000 * (n + 1)])) for n in range(6)]
    events: dict[Slot, list[SessionEvent]] = driver.events
    for seat in seats:
        driver.step(seat, prepare, *chunks)

    driver.until(lambda: all(len(events[seat]) == 7 for seat in seats))

    for seat in seats:
        units = [event for event in events[seat] if isinstance(event, UnitResult)]
        for unit, step in zip(units, golden, strict=True):
            assert [*unit.token_ids, 1399] == step["unit_ids"]
        driver.step(seat, Close())
        assert driver.is_clean(seat.index)

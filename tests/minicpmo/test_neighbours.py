"""Sessions of every kind in one engine: none is changed by its neighbours, whatever they do."""

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve, frozen
from numpy.typing import NDArray
from PIL import Image

from omni.engine import (
    EMPTY,
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Failed,
    Part,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    Slot,
    SpeakRequest,
    StageCosts,
    StopAnswer,
    TranscribeRequest,
    TurnDone,
    UnitResult,
    VadParams,
)
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.wav import waveform_from_wav
from tests.minicpmo.driver import Driver, heard, pcm, silence_source
from tests.minicpmo.pictures import golden_picture
from tests.minicpmo.test_video import make_video

SPEECH = Path(__file__).parents[2] / "omni" / "assets" / "default_voice.wav"
EMPTY_SOUND = np.zeros(0, dtype=np.float32)
NUM_UNITS = 5
#: The same sums in another order; the pitch of the vocoder adds up what they differ by.
REORDERED = 5e-3


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    made = Driver(directory)
    silence_source(made)
    yield made
    made.engine.close()


def picture(size: tuple[int, int], number: int, kind: str = "JPEG") -> Buffer:
    file = io.BytesIO()
    golden_picture(*size, number).save(file, kind)
    return Buffer(file.getvalue())


def noise(seed: int, loudness: float, count: int = 16_000) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = np.random.default_rng(seed).normal(0, loudness, count)
    return samples.astype(np.float32)


def call(mode: str, num_frames: int, **options: object) -> list[SessionInput]:
    """Somebody talks for two seconds and is quiet for three; each second has so many pictures."""
    prepare = PrepareDuplex(
        mode="omni_duplex" if mode == "omni" else "audio_duplex",
        decode_mode="greedy",
        tts_temperature=0.0,
        force_listen_count=0,
        seed=4,
    )
    frames = tuple(picture((320, 240), number) for number in range(num_frames))
    chunks = [
        AudioChunk(pcm=pcm(noise(second, 0.3 if second < 2 else 0.002)), frames=frames)
        for second in range(NUM_UNITS)
    ]
    return [evolve(prepare, **options), *chunks]


def chat(*parts: Part, **options: object) -> ChatRequest:
    message = ChatMessage(role="user", parts=(Part(kind="text", text="What is this?"), *parts))
    request = ChatRequest(messages=(message,), do_sample=False, max_new_tokens=30, seed=4)
    return evolve(request, **options)


def hands_free() -> list[SessionInput]:
    spoken, _ = waveform_from_wav(SPEECH.read_bytes())
    quiet = np.zeros(16_000, dtype=np.float32)
    sound = np.concatenate((quiet[:11_200], spoken[:9600], quiet))
    chunks = [AudioChunk(pcm=pcm(sound[at : at + 3200])) for at in range(0, len(sound), 3200)]
    vad = VadParams(min_silence_duration_ms=600)
    return [PrepareHalfDuplex(vad=vad, temperature=0.0, max_new_tokens=20), *chunks]


def sessions() -> dict[str, list[SessionInput]]:
    """Return one session of each kind: eight, as many as there are slots."""
    spoken, _ = waveform_from_wav(SPEECH.read_bytes())
    image = Part(kind="image", data=picture((900, 500), 1))
    sound = Part(kind="audio", data=pcm(spoken[:20_000]))
    film = Part(kind="video", data=Buffer(make_video(20, sound_s=2.0)))
    return {
        "spoken chat with a picture": [chat(image, speak=True, voice=pcm(noise(1, 0.1, 32_000)))],
        "audio call": call("audio", 0),
        "chat that thinks of a sound": [chat(sound, enable_thinking=True)],
        "omni call": call("omni", 2, max_slice_nums=2),
        "chat with a film": [chat(film, omni_mode=True)],
        "hands-free turn": hands_free(),
        "text that is read aloud": [SpeakRequest(text="All of it was said before.", seed=4)],
        "transcript": [TranscribeRequest(pcm=pcm(spoken[:40_000]))],
    }


def is_over(events: Sequence[SessionEvent], num_units: int = NUM_UNITS) -> bool:
    """Say whether all chunks, or the one request, were answered."""
    return sum(isinstance(event, UnitResult) for event in events) == (num_units or -1) or any(
        isinstance(event, ChatDone | TurnDone) or (isinstance(event, Failed) and event.fatal)
        for event in events
    )


@frozen(eq=False)
class Told:
    """What a session was told. Where its text was cut into pieces is not part of it."""

    events: tuple[SessionEvent, ...]
    text: str
    sound: NDArray[np.float32]

    @classmethod
    def of(cls, events: Sequence[SessionEvent]) -> "Told":
        pieces = [event for event in events if isinstance(event, ReplyChunk | UnitResult)]
        return cls(
            events=tuple(_plain(event) for event in events if not isinstance(event, ReplyChunk)),
            text="".join(piece.text for piece in pieces),
            sound=np.concatenate([EMPTY_SOUND, *(heard(piece.pcm) for piece in pieces)]),
        )


def _plain(event: SessionEvent) -> SessionEvent:
    if isinstance(event, UnitResult):
        return evolve(event, pcm=EMPTY, costs=StageCosts())
    return evolve(event, costs=StageCosts()) if isinstance(event, ChatDone | TurnDone) else event


def run(
    driver: Driver, inputs: Mapping[Slot, Sequence[SessionInput]]
) -> dict[Slot, Told]:
    """Run the sessions side by side to their ends."""
    for slot, given in inputs.items():
        driver.step(slot, *given)
    driver.until(lambda: all(is_over(driver.events[slot]) for slot in inputs))
    for slot in inputs:
        driver.step(slot, Close())
    return {slot: Told.of(driver.events.pop(slot)) for slot in inputs}


@pytest.fixture(scope="module")
def alone(driver: Driver) -> dict[str, Told]:
    """Each session as it is when nobody else is there, one after the other in one slot."""
    told = {}
    for generation, (name, inputs) in enumerate(sessions().items(), start=1):
        slot = Slot(index=0, generation=generation)
        told[name] = run(driver, {slot: inputs})[slot]
    return told


def check_same(name: str, beside: Told, alone: Told) -> None:
    assert beside.events == alone.events, name
    assert beside.text == alone.text, name
    # A hands-free session has no seed, so its sound is another each time.
    if name != "hands-free turn":
        np.testing.assert_allclose(beside.sound, alone.sound, rtol=0, atol=REORDERED, err_msg=name)


def test_every_session_says_something(alone: Mapping[str, Told]) -> None:
    """Else the tests below would compare nothing."""
    assert all(len(each.text) > 5 for name, each in alone.items() if name != "transcript")
    silent = {name for name, each in alone.items() if not np.abs(each.sound).max(initial=0) > 0.01}
    assert silent == {"chat that thinks of a sound", "chat with a film", "transcript"}


@pytest.mark.parametrize("shift", [0, 3])
def test_every_kind_of_session_is_the_same_alone_and_among_seven_others(
    driver: Driver, alone: Mapping[str, Told], shift: int
) -> None:
    """Each in another slot than before, so that it finds what others have left there."""
    names = list(sessions())
    seats = {
        name: Slot(index=(number + shift) % 8, generation=100 + shift)
        for number, name in enumerate(names)
    }
    together = run(driver, {seats[name]: inputs for name, inputs in sessions().items()})

    for name in names:
        check_same(name, together[seats[name]], alone[name])


def broken_frames() -> list[Buffer]:
    whole = picture((320, 240), 1)
    return [
        EMPTY,
        Buffer(b"no picture"),
        Buffer(bytes(whole)[: len(whole) // 2]),
        Buffer(bytes(picture((320, 240), 1, "AVIF"))[:400]),
        line(),
        Buffer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
    ]


def line() -> Buffer:
    file = io.BytesIO()
    Image.new("1", (1, 60_000)).save(file, "PNG")
    return Buffer(file.getvalue())


def broken_sounds() -> list[Buffer]:
    wild = noise(1, 0.1)
    wild[:6] = np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30
    return [
        EMPTY,
        Buffer(b"\0"),
        Buffer(b"\0" * 64_003),
        pcm(wild),
        pcm(np.full(16_000, np.nan, dtype=np.float32)),
        pcm(np.zeros(1, dtype=np.float32)),
        pcm(np.zeros(31 * 16_000, dtype=np.float32)),
    ]


def nuisances() -> Iterator[list[SessionInput]]:
    """Yield sessions that break in all ways; what follows in a list comes some steps later."""
    film = make_video(20, sound_s=2.0)
    part = partial(Part, kind="video")
    prepare, chunk, *_ = call("omni", 1)
    assert isinstance(chunk, AudioChunk)
    broken = [evolve(chunk, frames=(frame,)) for frame in broken_frames()]
    broken += [evolve(chunk, frames=(), pcm=sound) for sound in broken_sounds()]
    broken.append(evolve(chunk, frames=chunk.frames * 33))
    yield [prepare, chunk, *broken, chunk]
    yield [prepare, chunk, chunk, evolve(chunk, force_listen=True), chunk, Close()]
    yield [evolve(prepare, voice=pcm(noise(1, 0.1, 100)))]
    yield [evolve(prepare, temperature=-1.0)]
    yield [evolve(prepare, system_prompt="word " * 50_000)]
    yield [chunk, StopAnswer(), Close()]
    yield [chat(speak=True, max_new_tokens=200), StopAnswer()]
    yield [chat(speak=True, max_new_tokens=200), StopAnswer(), Close()]
    yield [chat(speak=True, max_new_tokens=200), Close()]
    yield [SpeakRequest(text="All of it. " * 30), Close()]
    yield [chat(speak=True, voice=Buffer(b"123"))]
    yield [chat(Part(kind="text", text="word " * 50_000))]
    for frame in broken_frames():
        yield [chat(Part(kind="image", data=frame))]
    for sound in broken_sounds():
        yield [chat(Part(kind="audio", data=sound), max_new_tokens=2)]
        yield [TranscribeRequest(pcm=sound)]
    for data in (b"", b"no film", film[:300], film[: len(film) // 2], film[::-1]):
        yield [chat(part(data=Buffer(data)), max_new_tokens=2)]
    yield [chat(part(data=Buffer(film), stack_frames=0))]
    yield [PrepareHalfDuplex(system=(Part(kind="audio", data=Buffer(b"1")),))]
    hands = hands_free()
    yield [hands[0], AudioChunk(pcm=Buffer(b"1")), *hands[1:], StopAnswer(), Close()]


def disturbing(driver: Driver) -> Iterator[None]:
    """Give one input of one broken session after the other to the first slot, at every `next`.

    Who does not leave at once is answered before the next one comes.
    """
    for number, inputs in enumerate(nuisances()):
        slot = Slot(index=0, generation=200 + number)
        for given in inputs:
            driver.step(slot, given)
            yield
        num_chunks = sum(isinstance(given, AudioChunk) for given in inputs)
        while not isinstance(inputs[-1], Close) and not is_over(driver.events[slot], num_chunks):
            yield
    driver.step(Slot(index=0, generation=10_000), Close())


def test_no_neighbour_disturbs_a_session_by_what_it_sends_or_when_it_leaves(
    driver: Driver, alone: Mapping[str, Told]
) -> None:
    """In the first slot one broken session follows the other, while others go on beside it."""
    undisturbed = [name for name in alone if "call" in name or name.startswith("spoken")]
    nuisance, is_quiet = disturbing(driver), False

    def are_over() -> bool:
        nonlocal is_quiet
        is_quiet = next(nuisance, driver) is driver
        return all(is_over(driver.events[seat]) for seat in seats.values())

    for generation in count(200):
        seats = {
            name: Slot(index=number, generation=generation)
            for number, name in enumerate(undisturbed, start=1)
        }
        for name, seat in seats.items():
            driver.step(seat, *sessions()[name])
        driver.until(are_over)
        for name, seat in seats.items():
            check_same(name, Told.of(driver.events.pop(seat)), alone[name])
            driver.step(seat, Close())
        if is_quiet:
            break
    driver.until(lambda: not driver.engine.busy)

    told = [event for events in driver.events.values() for event in events]
    driver.events.clear()
    assert {event.code for event in told if isinstance(event, Failed)} == {
        "invalid_request",
        "protocol_error",
        "context_exhausted",
    }
    assert all(driver.is_clean(index) for index in range(8))
    driver.runner.kv.table.check_integrity()
    driver.runner.speech.cache.table.check_integrity()

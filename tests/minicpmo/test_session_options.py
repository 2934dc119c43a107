"""What a session asks for holds for this session: it reaches the engine, and ends with it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import attrs
import numpy as np
import pytest
from attrs import define, evolve, field, frozen

from omni.engine import (
    EMPTY,
    AudioChunk,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Part,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    SessionEvent,
    SessionInput,
    Slot,
    StageCosts,
    UnitResult,
)
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.duplex import _recordings
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.speech_codes import SpeechCodes, SpeechMode
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.minicpmo.work import Draw, Drawn
from tests.minicpmo.driver import Driver, heard, pcm, silence_source
from tests.minicpmo.executor import Executor
from tests.minicpmo.test_neighbours import noise, picture

NUM_UNITS = 3
#: The same sums in another order; the pitch of the vocoder adds up what they differ by.
REORDERED = 5e-3
DEFAULT = PrepareDuplex(mode="omni_duplex", force_listen_count=0, seed=4)
#: For each option of a call: another value than the default.
CHANGED: dict[str, object] = {
    "system_prompt": "Say as little as you can.",
    "voice": pcm(noise(1, 0.1, 32_000)),
    "tts_voice": pcm(noise(2, 0.1, 32_000)),
    "max_slice_nums": 4,
    "deferred_finalize": False,
    "generate_audio": False,
    "force_listen_count": 2,
    "max_new_speak_tokens_per_chunk": 4,
    "decode_mode": "greedy",
    "temperature": 1.3,
    "top_k": 3,
    "top_p": 0.3,
    "text_repetition_penalty": 1.5,
    "text_repetition_window_size": 7,
    "length_penalty": 2.0,
    "listen_prob_scale": 0.01,
    "listen_top_k": 5,
    "tts_temperature": 0.2,
    "max_turn_tokens": 2,
    "chunk_ms": 200,
    "seed": 5,
}
#: Where the call with another `max_slice_nums` is.
SLOT_WITH_PICTURE = list(CHANGED).index("max_slice_nums")
#: What they are called where a token is drawn.
DRAWN_AS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "text_repetition_penalty": "repetition_penalty",
    "text_repetition_window_size": "repetition_window",
    "length_penalty": "length_penalty",
    "listen_prob_scale": "listen_prob_scale",
    "listen_top_k": "listen_top_k",
}


@define
class Witness:
    """Notes how the tokens of each slot are drawn, text and speech."""

    text: dict[int, set[TextSampling]] = field(factory=lambda: defaultdict(set))
    sound: dict[int, set[CodeSampling]] = field(factory=lambda: defaultdict(set))

    def __call__(self, slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        self.text[slot].add(draw.sampling)
        return drawn

    def watch(self, speech: SpeechCodes) -> None:
        """Note from now on how the codes of *speech* are drawn."""
        open_turn = speech.open_turn

        def noted(
            slot: int, mode: SpeechMode, sampling: CodeSampling, chance: Callable[[], float]
        ) -> None:
            self.sound[slot].add(sampling)
            open_turn(slot, mode, sampling, chance)

        speech.open_turn = noted  # type: ignore[method-assign]  # the real one is called


@frozen
class Told:
    """What a call was told, and how its tokens were drawn."""

    prepared: Prepared
    units: list[UnitResult]
    text: set[TextSampling]
    sound: set[CodeSampling]


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def driver(
    tmp_path_factory: pytest.TempPathFactory, witness: Witness
) -> Iterator[Driver]:
    directory: Path = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    made = Driver(directory, EngineOptions(choose=witness))
    silence_source(made)
    witness.watch(made.runner.speech)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def run(driver: Driver, witness: Witness) -> Callable[..., Told]:
    """Return a function that makes a call in slot 0, or in the one given."""
    generations = iter(range(1, 10_000))

    def call(prepare: PrepareDuplex) -> Told:
        return run_all(driver, witness, next(generations), {"": prepare})[""]

    return call


def chunks(slot: int) -> list[AudioChunk]:
    """Return a second of noise and some of quiet, in one slot with a picture at the end."""
    loud, quiet = pcm(noise(1, 0.3)), pcm(noise(2, 0.002))
    frames = (picture((700, 600), 1),) if slot == SLOT_WITH_PICTURE else ()
    last = AudioChunk(pcm=quiet, frames=frames)
    return [AudioChunk(pcm=loud), *[AudioChunk(pcm=quiet)] * (NUM_UNITS - 2), last]


def run_all(
    driver: Driver, witness: Witness, generation: int, prepares: Mapping[str, PrepareDuplex]
) -> dict[str, Told]:
    """Make at most eight calls side by side."""
    seats = {name: Slot(index=i, generation=generation) for i, name in enumerate(prepares)}
    witness.text.clear()
    witness.sound.clear()
    for name, seat in seats.items():
        driver.step(seat, prepares[name], *chunks(seat.index))
    driver.until(lambda: all(len(driver.events[seat]) > NUM_UNITS for seat in seats.values()))
    told = {}
    for name, seat in seats.items():
        driver.step(seat, Close())
        prepared, *units = driver.events.pop(seat)
        assert isinstance(prepared, Prepared), prepared
        told[name] = Told(
            prepared,
            [evolve(u, costs=StageCosts()) for u in units if isinstance(u, UnitResult)],
            witness.text[seat.index],
            witness.sound[seat.index],
        )
    return told


@pytest.fixture(scope="module")
def fresh(driver: Driver, witness: Witness) -> dict[int, Told]:
    """What the first calls of an engine are told, with the defaults, by slot."""
    calls = run_all(driver, witness, 1, {str(slot): DEFAULT for slot in range(8)})
    return {int(slot): told for slot, told in calls.items()}


@pytest.fixture(scope="module")
def changed(
    driver: Driver, witness: Witness, fresh: dict[int, Told]
) -> dict[str, tuple[Told, Told, Told]]:
    """For each option: a call with another value, the next one in its slot, and the first there."""
    told: dict[str, tuple[Told, Told, Told]] = {}
    for number, names in enumerate(batched(CHANGED, 8)):
        prepares = {name: evolve(DEFAULT, **{name: CHANGED[name]}) for name in names}
        calls = run_all(driver, witness, 10 + 2 * number, prepares)
        after = run_all(driver, witness, 11 + 2 * number, {name: DEFAULT for name in names})
        told |= {name: (calls[name], after[name], fresh[i]) for i, name in enumerate(names)}
    return told


def check_same(after: Told, first: Told) -> None:
    """Assert that two calls were told the same, with sound as near as other batches make it."""
    for one, other in zip(after.units, first.units, strict=True):
        assert evolve(one, pcm=EMPTY) == evolve(other, pcm=EMPTY)
        np.testing.assert_allclose(heard(one.pcm), heard(other.pcm), rtol=0, atol=REORDERED)
    assert (after.prepared, after.text, after.sound) == (first.prepared, first.text, first.sound)


def batched(names: Iterable[str], count: int) -> Iterator[tuple[str, ...]]:
    left = iter(names)
    while batch := tuple(islice(left, count)):
        yield batch


def test_every_option_is_tried() -> None:
    assert set(CHANGED) | {"mode"} == {option.name for option in attrs.fields(PrepareDuplex)}


@pytest.mark.parametrize("name", CHANGED)
def test_an_option_of_a_call_ends_with_it(
    changed: dict[str, tuple[Told, Told, Told]], name: str
) -> None:
    _, after, first = changed[name]

    check_same(after, first)


@pytest.mark.parametrize("name", DRAWN_AS)
def test_an_option_of_the_text_reaches_every_draw(
    changed: dict[str, tuple[Told, Told, Told]], name: str
) -> None:
    told, *_ = changed[name]

    assert {getattr(sampling, DRAWN_AS[name]) for sampling in told.text} == {CHANGED[name]}


def test_greedy_decoding_and_the_temperature_of_the_sound_reach_every_draw(
    changed: dict[str, tuple[Told, Told, Told]],
) -> None:
    greedy, temperature = changed["decode_mode"][0], changed["tts_temperature"][0]

    assert {sampling.takes_best for sampling in greedy.text} == {True}
    assert {sampling.temperature for sampling in temperature.sound} == {0.2}


def test_the_other_options_change_what_they_are_for(
    changed: dict[str, tuple[Told, Told, Told]], fresh: dict[int, Told]
) -> None:
    told = {name: calls[0] for name, calls in changed.items()}
    default = fresh[0]
    units = default.units
    assert not all(unit.is_listen for unit in units[:2])
    assert default.prepared.chunk_ms == told["chunk_ms"].prepared.chunk_ms == 1000
    assert told["system_prompt"].prepared.prompt_length != default.prepared.prompt_length
    assert told["voice"].prepared.audio_tokens == 20
    pictures = fresh[SLOT_WITH_PICTURE], told["max_slice_nums"]
    assert [call.units[-1].vision_slices for call in pictures] == [1, 5]
    waiting = told["deferred_finalize"].units[0].kv_cache_length - units[0].kv_cache_length
    assert waiting == 2
    assert not any(len(unit.pcm) for unit in told["generate_audio"].units)
    assert all(unit.is_listen for unit in told["force_listen_count"].units[:2])
    most = max(unit.n_tokens or 0 for unit in units)
    assert max(u.n_tokens or 0 for u in told["max_new_speak_tokens_per_chunk"].units) < most
    assert max(unit.n_tokens or 0 for unit in told["max_turn_tokens"].units) in (1, 2, 3)
    assert [u.token_ids for u in told["seed"].units] != [u.token_ids for u in units]


def test_the_voice_of_the_sound_changes_the_sound_alone(
    changed: dict[str, tuple[Told, Told, Told]], fresh: dict[int, Told]
) -> None:
    """The persona keeps the default voice, as at the published server: nobody sent one for it."""
    by_another, default = changed["tts_voice"][0], fresh[0]

    assert by_another.prepared == default.prepared and default.prepared.audio_tokens > 0
    assert [unit.token_ids for unit in by_another.units] == [u.token_ids for u in default.units]
    assert [unit.pcm for unit in by_another.units] != [unit.pcm for unit in default.units]


def test_a_call_without_sound_has_the_persona_of_one_with_it(
    changed: dict[str, tuple[Told, Told, Told]], fresh: dict[int, Told]
) -> None:
    assert changed["generate_audio"][0].prepared == fresh[0].prepared


def others() -> list[tuple[SessionInput, type[SessionEvent]]]:
    """Return openings of other kinds, with all that can be asked for."""
    voice = pcm(noise(1, 0.1, 32_000))
    system = (Part(kind="text", text="Be brief."), Part(kind="audio", data=voice))
    message = ChatMessage(role="user", parts=(Part(kind="text", text="Hello"),))
    odd = ChatRequest(
        messages=(message,),
        max_new_tokens=12,
        min_new_tokens=5,
        temperature=1.5,
        top_p=0.2,
        top_k=2,
        repetition_penalty=1.9,
        length_penalty=3.0,
        speak=True,
        voice=voice,
        use_image_id=True,
        omni_mode=True,
        enable_thinking=True,
        stop=("x",),
        seed=9,
    )
    half = PrepareHalfDuplex(
        system=system, max_new_tokens=9, length_penalty=3.0, temperature=1.5, speak=False
    )
    return [(odd, ChatDone), (half, Prepared)]


@pytest.mark.parametrize("number", [0, 1], ids=["chat", "half duplex"])
def test_a_call_after_another_kind_of_session_is_as_the_first(
    driver: Driver, run: Callable[..., Told], fresh: dict[int, Told], number: int
) -> None:
    opening, answer = others()[number]
    slot = Slot(index=0, generation=20_000 + number)
    driver.step(slot, opening)
    driver.until(lambda: any(isinstance(event, answer) for event in driver.events[slot]))
    driver.step(slot, Close())

    check_same(run(DEFAULT), fresh[0])


def test_a_chat_after_a_call_is_as_the_first(driver: Driver, run: Callable[..., Told]) -> None:
    message = ChatMessage(role="user", parts=(Part(kind="text", text="Hello"),))
    request = ChatRequest(messages=(message,), max_new_tokens=12, speak=True, seed=3)
    told: list[list[SessionEvent]] = []
    for generation in (30_000, 30_001):
        slot = Slot(index=0, generation=generation)
        driver.step(slot, request)
        told.append([e for e in driver.until_done(slot) if not isinstance(e, ChatDone)])
        run(evolve(DEFAULT, **{name: CHANGED[name] for name in DRAWN_AS}))

    assert told[0] == told[1]


def test_the_sound_has_the_voice_of_the_persona_unless_it_has_its_own(
    executor: Executor,
) -> None:
    one, other = noise(1, 0.1, 32_000), noise(2, 0.1, 32_000)
    by_persona = evolve(DEFAULT, voice=pcm(one))

    chosen = _recordings(executor.session, by_persona)
    own = _recordings(executor.session, evolve(by_persona, tts_voice=pcm(other)))

    assert all(np.array_equal(voice, one) for voice in chosen)
    assert np.array_equal(own[0], one) and np.array_equal(own[1], other)

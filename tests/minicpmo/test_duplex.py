"""Duplex calls against the reference's own, unit by unit: ids, lengths, flags, logits and sound."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define, evolve, field
from numpy.typing import NDArray
from torch import Tensor

from omni.engine import AudioChunk, Buffer, Prepared, PrepareDuplex, Slot, UnitResult
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.setup import EngineOptions
from omni.minicpmo.work import Draw, Drawn
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import Driver, golden_driver, heard, load_voiceless, pcm
from tests.minicpmo.pictures import golden_picture

LOGITS = 1e-3  # float32 over whole calls; see the golden data's section 3
WAVE = 5e-3  # an f0 error of 1e-6 grows with the accumulated phase
SLOT = Slot(index=0, generation=1)

GREEDY = PrepareDuplex(
    mode="audio_duplex",
    system_prompt="Streaming Omni Conversation.",
    decode_mode="greedy",
    tts_temperature=0.0,
    force_listen_count=0,
)


@define
class Choices:
    """Notes the logits of each unit's first draw and what the penalty saw at each, and puts given
    tokens in place of drawn ones.
    """

    firsts: list[Tensor] = field(factory=list)
    histories: list[list[int]] = field(factory=list)
    drawn: list[int] = field(factory=list)
    script: list[int] = field(factory=list)

    def __call__(self, slot: int, draw: Draw, drawn: Drawn) -> Drawn:
        if not self.drawn:
            self.firsts.append(draw.logits[0].clone())
        self.histories.append(list(draw.history))
        if self.script:
            drawn = Drawn(token=self.script.pop(0), is_recorded=True)
        self.drawn.append(drawn.token)
        return drawn

    def next_unit(self, script: list[int] = []) -> None:
        """Begin another unit."""
        self.drawn = []
        self.script = list(script)


@pytest.fixture(scope="module")
def choices() -> Choices:
    return Choices()


@pytest.fixture(scope="module")
def driver(
    checkpoint_dir: Path, expected: Callable[[str], Golden], choices: Choices
) -> Iterator[Driver]:
    options = EngineOptions(trim=CacheTrim.V105, choose=choices)
    noise = expected("i_flow").tensors["noise"]
    made = golden_driver(checkpoint_dir, noise, options, load_voiceless)
    yield made
    made.engine.close()


@pytest.fixture
def voices(stream: NDArray[np.float32]) -> dict[str, Buffer]:
    """The reference audio of the golden runs, for the persona and for the sound."""
    return {"voice": pcm(stream[80000:128777]), "tts_voice": pcm(stream[80000:128000])}


def files(step: Any, number: int) -> tuple[Buffer, ...]:
    """Return the frames of a unit of the golden omni call."""
    pictures = {
        3: [],
        6: [golden_picture(333, 257, 6), golden_picture(100, 140, 1)],
    }.get(number, [golden_picture(640, 480, number)])
    encoded = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        encoded.append(Buffer(file.getvalue()))
    return tuple(encoded)


def check_unit(unit: UnitResult, step: Any, has_sound: bool = True) -> None:
    """Compare everything that a result tells."""
    assert [*unit.token_ids, 1399] == step["unit_ids"]
    assert unit.is_listen == step["is_listen"]
    assert unit.text == step["text"]
    assert unit.end_of_turn == step["end_of_turn"]
    assert unit.current_time == step["current_time"]
    assert unit.kv_cache_length == step["kv_after_generate"]
    assert unit.n_tokens == step["n_tokens"]
    if has_sound:
        assert unit.n_tts_tokens == step["n_tts_tokens"]
        assert len(heard(unit.pcm)) == (0 if step["is_listen"] else step["wave_samples"])


def check_logits(choices: Choices, golden: Golden, name: str) -> None:
    wanted = golden.tensors.get(name)
    if wanted is not None and choices.drawn:
        torch.testing.assert_close(choices.firsts[-1], wanted, rtol=0, atol=LOGITS)


def check_wave(unit: UnitResult, golden: Golden, name: str) -> int:
    """Compare the sound; return 1 where there was any."""
    wanted = golden.tensors.get(name)
    if wanted is None:
        return 0
    np.testing.assert_allclose(heard(unit.pcm), wanted.numpy() / 32768, rtol=0, atol=WAVE)
    return 1


def test_an_audio_call_is_the_golden_one(
    driver: Driver,
    choices: Choices,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    voices: dict[str, Buffer],
) -> None:
    golden = expected("k_duplex_audio")
    prepared = driver.ask(SLOT, evolve(GREEDY, force_listen_count=2, **voices), Prepared)
    assert prepared == Prepared(prompt_length=42, audio_tokens=30, chunk_ms=1000)
    num_waves = 0

    for step in golden.facts["steps"][1:]:
        number = step["unit"]
        choices.next_unit()
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        unit = driver.ask(SLOT, chunk, UnitResult)

        assert unit.audio_tokens == 10
        check_unit(unit, step)
        check_logits(choices, golden, f"unit{number:02d}.logits")
        num_waves += check_wave(unit, golden, f"unit{number:02d}.wave_i16")

    assert num_waves == 17


def test_an_omni_call_is_the_golden_one(
    driver: Driver,
    choices: Choices,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    voices: dict[str, Buffer],
) -> None:
    golden = expected("k_duplex_omni")
    prepare = evolve(GREEDY, mode="omni_duplex", force_listen_count=1, **voices)
    driver.ask(SLOT, prepare, Prepared)

    for step in golden.facts["steps"][1:]:
        number = step["unit"]
        choices.next_unit()
        first = 16000 * (number + 4)
        chunk = AudioChunk(
            pcm=pcm(stream[first : first + (0 if number == 5 else 16000)]),
            frames=files(step, number),
            max_slice_nums=2 if number == 2 else None,
        )
        unit = driver.ask(SLOT, chunk, UnitResult)

        check_unit(unit, step)
        assert unit.vision_tokens == 64 * unit.vision_slices
        assert unit.vision_slices == {2: 3, 3: 0, 6: 2}.get(number, 1)
        check_logits(choices, golden, f"unit{number:02d}.logits")
        check_wave(unit, golden, f"unit{number:02d}.wave_i16")


def test_limits_and_an_interruption_are_the_golden_ones(
    driver: Driver,
    choices: Choices,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    voices: dict[str, Buffer],
) -> None:
    """At most four tokens a unit; the user breaks in at unit 9, which brings 1.5 s (Q18 mended)."""
    golden = expected("k_duplex_limits")
    prepare = evolve(
        GREEDY, max_new_speak_tokens_per_chunk=5, tts_voice=voices["tts_voice"]
    )
    driver.ask(SLOT, prepare, Prepared)

    for step in golden.facts["steps_with_Q18_fixed"][1:]:
        number = step["unit"]
        choices.next_unit()
        first = 16000 * (number + 4)
        count = 24000 if number == 9 else 16000
        chunk = AudioChunk(
            pcm=pcm(stream[first : first + count]), force_listen=number == 9
        )
        unit = driver.ask(SLOT, chunk, UnitResult)

        check_unit(unit, step)
        assert unit.interrupted == (number == 9)
        check_logits(choices, golden, f"unit{number:02d}.logits")
        check_wave(unit, golden, f"unit{number:02d}.wave_i16")


def test_a_short_chunk_waits_for_the_rest_of_its_second(
    driver: Driver,
    choices: Choices,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
) -> None:
    """Chunk 2 brings 12,000 samples and is a listen that changes nothing (Q23). Chunk 3 brings
    20,000, which completes two units: their results are one.
    """
    steps = expected("k_duplex_short").facts["steps_without_the_orphan"][1:]
    driver.ask(SLOT, evolve(GREEDY, generate_audio=False), Prepared)
    edges = [32000, 48000, 64000, 76000, 96000, 112000]

    units = []
    for start, stop in zip(edges, edges[1:]):
        choices.next_unit()
        units.append(driver.ask(SLOT, AudioChunk(pcm=pcm(stream[start:stop])), UnitResult))

    first, second, short, double, last = units
    assert short == UnitResult(
        is_listen=True, current_time=2, kv_cache_length=steps[1]["kv_after_generate"]
    )
    for unit, step in zip((first, second, last), (*steps[:2], steps[4]), strict=True):
        check_unit(unit, step, has_sound=False)
    assert double.token_ids == (*steps[2]["unit_ids"][:-1], *steps[3]["unit_ids"][:-1])
    assert double.kv_cache_length == steps[3]["kv_after_generate"]
    assert double.text == steps[2]["text"] + steps[3]["text"]


def test_every_rule_of_a_unit_is_the_golden_one(
    driver: Driver,
    choices: Choices,
    expected: Callable[[str], Golden],
    stream: NDArray[np.float32],
    voices: dict[str, Buffer],
) -> None:
    """The sampler's tokens are given. Three units differ from the reference, whose faults they
    show: an ended turn that ends with listen stays spoken (Q17), a rejected token opens no turn
    (Q42), a unit of nothing in a closed turn is silence (Q41).
    """
    facts = expected("k_duplex_scripted").facts
    driver.ask(SLOT, evolve(GREEDY, tts_voice=voices["tts_voice"]), Prepared)

    for step, script in zip(facts["steps"][1:17], facts["settings"]["script"], strict=False):
        number = step["unit"]
        choices.next_unit(script)
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        unit = driver.ask(SLOT, chunk, UnitResult)

        assert [*unit.token_ids, 1399] == step["unit_ids"]
        assert choices.drawn == step["decoded_ids"]
        assert unit.kv_cache_length == step["kv_after_generate"]
        if number == 6:
            assert (unit.is_listen, unit.n_tts_tokens) == (True, 0)
        elif number == 9:
            assert (unit.is_listen, unit.end_of_turn, unit.n_tts_tokens) == (False, True, 25)
        else:
            assert (unit.is_listen, unit.end_of_turn) == (step["is_listen"], step["end_of_turn"])
        if number < 6 or number > 11:  # between, the mended turns differ in what is spoken
            check_unit(unit, step)
    choices.next_unit([1420, 1433])
    silent = driver.ask(SLOT, AudioChunk(pcm=pcm(stream[272000:288000])), UnitResult)
    assert silent.is_listen and silent.token_ids == (1420,)


def test_a_turn_ends_where_the_session_asked(
    driver: Driver, choices: Choices, stream: NDArray[np.float32]
) -> None:
    """The sampler would never end the turn: after five tokens of text the engine does."""
    control = driver.engine.loaded.around.tokenizer.control
    talkative = [control.speak, *range(500, 540)]
    driver.ask(SLOT, evolve(GREEDY, generate_audio=False, max_turn_tokens=5), Prepared)
    units = []

    for number in range(2):
        choices.next_unit(talkative)
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        units.append(driver.ask(SLOT, chunk, UnitResult))

    for unit in units:
        assert unit.end_of_turn
        assert unit.token_ids[1:7] == (500, 501, 502, 503, 504, control.turn_eos)


def test_a_rejected_token_weighs_on_the_next_draws_and_old_ones_are_forgotten(
    driver: Driver, choices: Choices, stream: NDArray[np.float32]
) -> None:
    """Q38 is kept: what the rule of 28 characters rejects stays in the history of the penalty. Q33
    is mended: the history holds no more than the penalty looks at.
    """
    control = driver.engine.loaded.around.tokenizer.control
    prepare = evolve(GREEDY, generate_audio=False, text_repetition_window_size=6)
    driver.ask(SLOT, prepare, Prepared)

    for number in range(2):
        choices.next_unit([control.speak, *range(1000, 1019)])
        chunk = AudioChunk(pcm=pcm(stream[16000 * number : 16000 * (number + 1)]))
        unit = driver.ask(SLOT, chunk, UnitResult)
        drawn = choices.drawn

        assert unit.token_ids == (*drawn[:-1], control.chunk_eos)  # the last one was rejected
        choices.next_unit([control.chunk_eos])
        driver.ask(SLOT, AudioChunk(pcm=pcm(stream[:16000])), UnitResult)
        assert choices.histories[-1] == drawn[-6:]


def test_only_the_last_token_of_a_prompt_is_scored_and_only_where_a_draw_follows(
    driver: Driver,
    choices: Choices,
    stream: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Q34: the reference computes the scores of all tokens, and twice those of the last one."""
    llm, scored = driver.runner.model.llm, []
    logits = llm.logits

    def counted(hidden: Tensor, *others: bool) -> Tensor:
        scored.append(len(hidden))
        return logits(hidden, *others)

    monkeypatch.setattr(llm, "logits", counted)
    control = driver.engine.loaded.around.tokenizer.control
    driver.ask(SLOT, evolve(GREEDY, generate_audio=False, force_listen_count=1), Prepared)
    driver.ask(SLOT, AudioChunk(pcm=pcm(stream[:16000])), UnitResult)
    assert scored == []
    choices.next_unit([control.listen])

    driver.ask(SLOT, AudioChunk(pcm=pcm(stream[16000:32000])), UnitResult)

    assert scored == [1]

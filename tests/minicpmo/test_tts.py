"""The speech-token model and its three procedures against the golden numbers, alone and batched."""

import copy
from collections.abc import Callable
from itertools import cycle

import attrs
import pytest
import torch
from torch import Tensor

from omni.errors import CapacityError
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.kv_cache import PrefillRow
from omni.minicpmo.model.tts import Tts
from omni.minicpmo.speech_codes import SpeechCall, SpeechCodes, SpeechMode

LOGIT_TOLERANCE = 2e-4  # measured 2.2e-5
GREEDY = CodeSampling(is_greedy=True)


def close(actual: Tensor, wanted: Tensor, tolerance: float = LOGIT_TOLERANCE) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)


def speech(tts: Tts, num_slots: int = 1, num_pages: int = 60) -> SpeechCodes:
    return SpeechCodes(tts, num_slots, num_pages, page_size=16)


def open_greedy(codes: SpeechCodes, slot: int, mode: SpeechMode) -> None:
    codes.open_turn(slot, mode, GREEDY, lambda: 0.0)


def with_attention(model: MiniCpmO, **changes: object) -> Tts:
    """Return the same weights with another attention type."""
    tts = copy.copy(model.tts)
    tts.config = attrs.evolve(tts.config, **changes)
    return tts


@pytest.fixture
def call(expected) -> Callable[..., SpeechCall]:
    """Return a maker of calls from rows of the golden text and hidden states."""
    tensors = expected("h_tts").tensors

    def make(slot: int, rows: list[int], is_turn_end: bool = False, **bounds: int) -> SpeechCall:
        part = slice(*rows)
        return SpeechCall(
            slot=slot,
            text_ids=tensors["text_ids"][part],
            hidden=tensors["hidden"][part],
            is_turn_end=is_turn_end,
            **bounds,
        )

    return make


def run(codes: SpeechCodes, *calls: SpeechCall) -> list[list[int]]:
    codes.start(calls)
    while codes.speaking:
        codes.step()
    return [list(codes.state(c.slot).codes) for c in calls]


def test_conditions_and_markers_are_the_golden_ones(model, expected):
    tensors = expected("h_tts").tensors
    tts = model.tts

    close(tts.projector_semantic(tensors["hidden"]), tensors["projected"], 1e-5)
    close(tts.condition(tensors["text_ids"], tensors["hidden"]), tensors["condition"], 1e-5)
    close(tts.audio_bos()[0], tensors["audio_bos_embed"], 1e-6)
    close(tts.text_eos()[0], tensors["text_eos_embed"], 1e-6)


def test_teacher_forced_hidden_states_and_logits_are_the_golden_ones(model, expected):
    golden = expected("h_tts")
    tensors, facts, tts = golden.tensors, golden.facts["teacher_forced"], model.tts
    condition = tts.condition(tensors["text_ids"], tensors["hidden"])
    codes = tts.embed_codes(tensors["tf_codes"])
    embeds = torch.cat((condition, tts.text_eos(), tts.audio_bos(), codes))
    cache = speech(tts).cache
    plan = cache.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))])

    hidden = tts(embeds, plan, cache.pool)

    logits = tts.logits(hidden)
    close(hidden, tensors["tf_hidden"])
    close(logits[facts["logits_positions"]], tensors["tf_logits"])
    assert logits[28:].argmax(dim=1).tolist()[: len(facts["argmax_codes"])] == facts["argmax_codes"]


def test_chat_codes_are_the_golden_ones(model, call, expected):
    for case in expected("h_tts").facts["chat"]:
        codes = speech(model.tts)
        open_greedy(codes, 0, SpeechMode.CHAT)
        bounds = {"min_codes": case["min_new_token"], "max_codes": case["max_new_token"]}

        (given,) = run(codes, call(0, case["cond_rows"], True, **bounds))

        assert given == case["codes"]


def test_duplex_codes_positions_and_keys_are_the_golden_ones(model, call, expected):
    golden = expected("h_tts")
    codes, turn = speech(model.tts), ""
    for case in golden.facts["duplex"]:
        if case["turn"] != turn:
            turn = case["turn"]
            open_greedy(codes, 0, SpeechMode.DUPLEX)
        assert codes.position(0) == case["start_pos"]

        (given,) = run(codes, call(0, case["cond_rows"], case["end_of_turn"]))

        assert given == case["codes"]
        assert codes.position(0) == case["kv_length"]
        key = golden.tensors.get(f"duplex.{turn}.unit{case['unit']}.layer0_key")
        if key is not None:
            index = torch.from_numpy(codes.cache.table.index(0, 0, codes.cache.length(0)))
            close(codes.cache.pool[0, 0].flatten(0, 1)[index].transpose(0, 1), key, 1e-4)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_window", "sliding_recompute"])
def test_half_duplex_codes_and_blocks_are_the_golden_ones(model, call, expected, kind):
    (case,) = (c for c in expected("h_tts").facts["half"] if c["attention_type"] == kind)
    codes = speech(with_attention(model, attention=kind, window_tokens=case["token_window"]))
    waiting: list[int] = []
    open_greedy(codes, 0, SpeechMode.HALF_DUPLEX)
    for chunk in case["chunks"]:
        is_end = chunk["text_finished"]

        (given,) = run(codes, call(0, chunk["cond_rows"], is_end, max_codes=case["max_new_token"]))

        waiting += given
        released = []
        while len(waiting) >= 25:
            released.append([waiting[:25], False])
            del waiting[:25]
        if is_end:
            released.append([waiting, True])
            waiting = []
        assert given == chunk["codes_this_chunk"]
        assert released == chunk["yields"]
        assert waiting == chunk["buffer_left"]
        assert codes.position(0) == chunk["text_start_pos_after"]


def test_slots_of_different_modes_joining_late_speak_as_they_do_alone(model, call):
    """Real draws, each slot with its own chance: a row must not see its neighbours."""
    plan = [
        (0, SpeechMode.CHAT, call(0, [0, 9], True, max_codes=70)),
        (1, SpeechMode.DUPLEX, call(1, [9, 15])),
        (2, SpeechMode.HALF_DUPLEX, call(2, [3, 13], True, max_codes=40)),
        (3, SpeechMode.DUPLEX, call(3, [15, 16])),
    ]

    def chance_of(slot: int) -> Callable[[], float]:
        values = cycle([((slot + 3) * 0.137 * n) % 1 for n in range(1, 23)])
        return lambda: next(values)

    together = speech(model.tts, num_slots=4, num_pages=80)
    for slot, mode, a_call in plan:
        together.open_turn(slot, mode, CodeSampling(), chance_of(slot))
        together.start([a_call])
        together.step()
    while together.speaking:
        together.step()

    for slot, mode, a_call in plan:
        alone = speech(model.tts)
        alone.open_turn(0, mode, CodeSampling(), chance_of(slot))
        (wanted,) = run(alone, attrs.evolve(a_call, slot=0))
        assert together.state(slot).codes == wanted
    together.cache.table.check_integrity()


def test_a_unit_inside_a_turn_has_25_codes_and_a_first_or_last_one_at_most(model, call):
    codes = speech(model.tts)
    codes.open_turn(0, SpeechMode.DUPLEX, CodeSampling(), cycle([0.1, 0.7, 0.4]).__next__)
    (first,) = run(codes, call(0, [0, 4]))
    (inner,) = run(codes, call(0, [4, 4]))
    (last,) = run(codes, call(0, [4, 6], True))

    assert len(inner) == 25
    assert len(first) <= 25 and len(last) <= 25


def test_a_code_that_waited_is_fed_as_if_it_had_not(model, call, expected):
    """The last code of a full unit is fed with the next condition: keys are those of one run."""
    tensors, tts = expected("h_tts").tensors, model.tts
    codes = speech(tts)
    open_greedy(codes, 0, SpeechMode.DUPLEX)
    (first,) = run(codes, call(0, [15, 20]))
    (second,) = run(codes, call(0, [20, 22], True))
    condition = tts.condition(tensors["text_ids"], tensors["hidden"])
    parts = [condition[15:20], tts.audio_bos(), tts.embed_codes(torch.tensor(first))]
    parts += [condition[20:22], tts.audio_bos(), tts.embed_codes(torch.tensor(second))]
    whole = speech(tts).cache
    embeds = torch.cat(parts)[: codes.cache.length(0)]

    tts(embeds, whole.prefill_plan([PrefillRow(slot=0, num_tokens=len(embeds))]), whole.pool)

    assert len(first) == 25
    index = torch.from_numpy(whole.table.index(0, 0, len(embeds)))
    held = torch.from_numpy(codes.cache.table.index(0, 0, len(embeds)))
    close(codes.cache.pool.flatten(2, 3)[:, :, held], whole.pool.flatten(2, 3)[:, :, index], 1e-4)


def test_a_call_without_room_changes_nothing(model, call):
    codes = speech(model.tts, num_pages=2)
    open_greedy(codes, 0, SpeechMode.DUPLEX)

    with pytest.raises(CapacityError):
        codes.start([call(0, [0, 27])])

    assert codes.position(0) == 0
    assert not codes.speaking
    assert len(run(codes, call(0, [15, 16], max_codes=5))[0]) == 5


def test_a_closed_turn_gives_its_pages_back(model, call):
    codes = speech(model.tts)
    free = codes.cache.table.num_free_pages
    open_greedy(codes, 0, SpeechMode.CHAT)
    run(codes, call(0, [0, 9], True, max_codes=60))

    codes.close_turn(0)

    assert codes.cache.table.num_free_pages == free
    assert codes.speaking == []


def test_a_batch_that_fails_leaves_its_rows_as_they_were(model, call, monkeypatch):
    """The engine tries the rows of a failed batch one by one: they go on as if it had not been."""
    failing, other = speech(model.tts), speech(model.tts)
    for codes in (failing, other):
        open_greedy(codes, 0, SpeechMode.DUPLEX)
        run(codes, call(0, [15, 20]))

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(model.tts, "logits", _out_of_memory)
        failing.start([call(0, [20, 22])])
    failing.start([call(0, [20, 22])])
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(model.tts, "decode", _out_of_memory)
        failing.step()
    while failing.speaking:
        failing.step()

    assert [failing.state(0).codes] == run(other, call(0, [20, 22]))
    assert failing.position(0) == other.position(0)


def _out_of_memory(*_: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")

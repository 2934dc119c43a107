"""The golden half-duplex run, and the rounds of a dialogue: exact spans, window, roll-back."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from numpy.typing import NDArray
from torch import Tensor

from omni.engine import Part, ReplyChunk
from omni.errors import ContextExhausted
from omni.minicpmo.answer import AnswerRules
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.content import Content, MediaOptions, read_message
from omni.minicpmo.dialogue import Dialogue, Mark
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.replies import Replies, Reply, utterance
from omni.minicpmo.sampling import HALF_DUPLEX_SAMPLING, TextRule
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Feed, Ids, Join, Program, Speak, SpeakOn, Spoken, Vocode, done
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import heard
from tests.minicpmo.executor import Executor
from tests.minicpmo.test_chat import LEAD_SAMPLES, LOGITS, WAVE, part_of

GREEDY_CODES = CodeSampling(is_greedy=True)


def rules_of(executor: Executor, step: Any) -> AnswerRules:
    control = executor.session.control
    rule = TextRule.HALF_DUPLEX_SPOKEN if step["audio"] else TextRule.HALF_DUPLEX_TEXT
    return AnswerRules(
        sampling=evolve(
            HALF_DUPLEX_SAMPLING, rule=rule, is_greedy=True, length_penalty=step["length_penalty"]
        ),
        max_new_tokens=step["max_new_tokens"],
        ends=frozenset((control.tts_eos, control.im_end)),
        text_tokens=10,
    )


def content_of(step: Any, is_first: bool, stream: NDArray[np.float32]) -> Content:
    """Return a user's segment; the first sound of a turn has its silence in front."""
    (item,) = step["content"]
    if isinstance(item, dict) and "audio_start" in item and is_first:
        start = item["audio_start"]
        return utterance(stream[start : start + item["samples"]])
    return read_message("user", [part_of(item, stream)], MediaOptions(max_slices=1))


def fed_ids(executor: Executor, since: int) -> list[int]:
    """Return the ids of all that was fed; embeddings as placeholders."""
    placeholder = executor.session.control.placeholder
    ids: list[int] = []
    for work, _ in executor.done[since:]:
        if isinstance(work, Feed):
            for part in work.parts:
                ids += part.ids if isinstance(part, Ids) else [placeholder] * len(part)
    return ids


def run_lengths(runs: list[list[int]]) -> list[int]:
    return [token for token, count in runs for _ in range(count)]


def without_control(text: str, executor: Executor) -> str:
    """Return a golden text as people are shown it."""
    for name in executor.session.tokenizer.special_ids:
        text = text.replace(name, "")
    return text


def answer(executor: Executor, dialogue: Dialogue, step: Any, voice: Voice | None) -> Reply:
    session = executor.session
    replies = Replies(
        session=session,
        dialogue=dialogue,
        rules=rules_of(executor, step),
        codes=GREEDY_CODES,
        voice=voice if step["audio"] else None,
    )
    reply = Reply(
        outlet=Outlet(session), costs=Costs(session.now_s), random_state=Random(0).getstate()
    )
    executor.run(lambda _: replies.generate(reply))
    return reply


def check_answer(
    executor: Executor, step: Any, since: int, reply: Reply, golden: Golden
) -> None:
    """Compare tokens, speech calls, token2wav calls, text and sound."""
    done = executor.done[since:]
    wanted_ids = [token for chunk in step["llm_chunks"] for token in chunk["ids"]]
    assert reply.answer is not None
    # The reference draws one token more than it may use, and loses it (Q27).
    assert reply.answer.ids == wanted_ids[: step["max_new_tokens"]]
    events = [event for event in executor.events if isinstance(event, ReplyChunk)]
    executor.events.clear()
    text = "".join(chunk["text"] for chunk in step["yields"])
    assert reply.answer.text == without_control(text, executor)
    assert "".join(event.text for event in events) == reply.answer.text
    calls: list[dict[str, Any]] = []
    for work, result in done:
        if isinstance(work, Speak):
            calls.append({"num": len(work.text_ids), "ends": work.is_turn_end, "codes": []})
        if isinstance(work, Speak | SpeakOn):
            assert isinstance(result, Spoken)
            calls[-1]["codes"] += result.codes
    assert calls == [
        {"num": chunk["cond_len"], "ends": chunk["text_finished"], "codes": chunk["codes"]}
        for chunk in step["tts_chunks"]
    ]
    chunks = [chunk for work, _ in done if isinstance(work, Vocode) for chunk in work.chunks]
    given = [{"codes": len(chunk.codes), "last": chunk.is_last} for chunk in chunks]
    assert given == step["token2wav_calls"]
    sounds = [heard(event.pcm) for event in events if len(event.pcm)]
    if not sounds:
        assert not step["audio"]
        return
    if len(sounds) > 1:
        sounds[0] = np.concatenate((np.zeros(LEAD_SAMPLES, np.float32), sounds[0]))
    assert [len(sound) for sound in sounds] == [each["samples"] for each in step["yields"]]
    wanted = golden.tensors[f"{step['step']}.wave"].numpy()
    whole = np.concatenate(sounds)
    assert len(whole) == step["wave_total_samples"]
    np.testing.assert_allclose(whole[: len(wanted)], wanted, rtol=0, atol=WAVE)


def test_a_whole_session_is_the_golden_one(
    executor: Executor, expected: Callable[[str], Golden], stream: NDArray[np.float32]
) -> None:
    golden = expected("k_half")
    session = executor.session
    voice = executor.run(lambda session: session.analyse(stream[80000:128000]))
    dialogue = Dialogue.of(session, 256)
    marks: list[Mark] = []

    for step in golden.facts:
        since = len(executor.done)
        assert session.kv_length == step["kv_before"], step["step"]
        if step["kind"] == "restore":
            dialogue.restore(marks.pop())
        elif step["kind"] == "generate":
            marks = [dialogue.mark()]
            reply = answer(executor, dialogue, step, voice)
            check_answer(executor, step, since, reply, golden)
        elif step["role"] == "system":
            parts: list[Part] = [part_of(item, stream) for item in step["content"]]
            system = read_message("system", parts, MediaOptions())
            executor.run(lambda _: dialogue.begin(system))
        else:
            content = content_of(step, not dialogue.is_user_open, stream)
            encoded = executor.run(lambda _: dialogue.encode(content))
            executor.run(lambda _: dialogue.hear(encoded))
        if step["kind"] == "prefill":
            assert fed_ids(executor, since) == run_lengths(step["ids_runlength"]), step["step"]
        assert session.kv_length == step["kv_after"] == dialogue.length, step["step"]
    fed = executor.run(lambda _: dialogue.begin_answer())
    wanted = golden.tensors["final.header_logits"]
    torch.testing.assert_close(fed.next_logits[0], wanted, rtol=0, atol=LOGITS)


# --- the window and going back ------------------------------------------------------------------


def spoken_text(text: str) -> Content:
    return read_message("user", [Part(kind="text", text=text)], MediaOptions())


def a_round(dialogue: Dialogue, text: str, reply: str) -> Program[None]:
    """Hear *text*, and feed *reply* as the answer."""
    session = dialogue.session
    yield from dialogue.hear((yield from dialogue.encode(spoken_text(text))))
    yield from dialogue.begin_answer()
    for token in session.tokenizer.encode(reply):
        yield from done(Feed(parts=(Ids((token,)),)))
    dialogue.end_answer()


def start(executor: Executor, *rounds: tuple[str, str]) -> Dialogue:
    """Return a dialogue with a system prompt and *rounds*."""
    dialogue = Dialogue.of(executor.session, 256)
    system = read_message("system", [Part(kind="text", text="Be kind.")], MediaOptions())
    executor.run(lambda _: dialogue.begin(system))
    for text, reply in rounds:
        executor.run(lambda _, said=text, answered=reply: a_round(dialogue, said, answered))
    return dialogue


def keys(executor: Executor, layer: int) -> Tensor:
    """Return the keys of one layer in the order of the cache."""
    cache = executor.runner.kv
    index = torch.from_numpy(cache.table.index(0, 0, cache.length(0)))
    return cache.pool[layer, 0].flatten(0, 1)[index].clone()


ROUNDS = (("first question", "one two"), ("second", "three four five"), ("third one", "six"))


def test_rounds_dropped_from_the_window_leave_what_the_others_would_have_made(
    executor: Executor,
) -> None:
    """Q28: the reference cuts wherever its counts say, which is not where a round ends.

    Deeper layers differ by design: values keep what was seen before the drop.
    """
    start(executor, *ROUNDS[1:])
    wanted_ids, wanted = fed_ids(executor, 0), keys(executor, 0)
    executor.release()
    dialogue = start(executor, *ROUNDS)
    dialogue.high_tokens, dialogue.low_tokens = dialogue.length - 1, dialogue.length - 10

    dialogue.make_room(1)

    # The third round's turn opened after the second answer was closed, and so on: only the tokens
    # that closed the first answer went with it.
    assert dialogue.num_dropped == 1
    assert dialogue.length == executor.session.kv_length == len(wanted_ids)
    torch.testing.assert_close(keys(executor, 0), wanted, rtol=0, atol=1e-4)


def test_a_window_that_fits_drops_nothing(executor: Executor) -> None:
    dialogue = start(executor, *ROUNDS)
    dialogue.high_tokens = dialogue.length + 5

    dialogue.make_room(5)

    assert dialogue.num_dropped == 0


def test_the_window_leaves_room_for_an_answer(executor: Executor) -> None:
    longest = executor.session.around.max_tokens

    assert Dialogue.of(executor.session, 256).high_tokens == 8000
    assert Dialogue.of(executor.session, longest - 1000).high_tokens == 1000
    assert Dialogue.of(executor.session, longest - 1000).low_tokens == 750


@pytest.mark.parametrize("num_rounds", [0, 1, 2])
def test_going_back_forgets_what_came_after(executor: Executor, num_rounds: int) -> None:
    dialogue = start(executor, *ROUNDS[:num_rounds])
    mark, before = dialogue.mark(), keys(executor, 2)
    executor.run(lambda _: a_round(dialogue, *ROUNDS[2]))

    dialogue.restore(mark)

    assert dialogue.mark() == mark
    assert dialogue.length == executor.session.kv_length == len(before)
    assert torch.equal(keys(executor, 2), before)
    executor.run(lambda _: a_round(dialogue, *ROUNDS[2]))
    assert dialogue.length == executor.session.kv_length


def test_a_turn_that_does_not_fit_leaves_the_dialogue_as_it_was(executor: Executor) -> None:
    dialogue = start(executor, *ROUNDS[:2])
    mark, table = dialogue.mark(), executor.runner.kv.table
    parts = executor.run(lambda _: dialogue.encode(spoken_text("a long question " * 9)))
    table.max_tokens, longest = dialogue.length + 10, table.max_tokens
    try:
        with pytest.raises(ContextExhausted):
            executor.run(lambda _: dialogue.hear(parts))
    finally:
        table.max_tokens = longest

    assert dialogue.mark() == mark
    assert executor.session.kv_length == dialogue.length


def test_old_rounds_make_room_for_a_turn_where_the_pages_are_short(executor: Executor) -> None:
    dialogue = start(executor, *ROUNDS)
    replies = Replies(
        session=executor.session,
        dialogue=dialogue,
        rules=AnswerRules(
            sampling=HALF_DUPLEX_SAMPLING, max_new_tokens=3, ends=frozenset(), text_tokens=10
        ),
        codes=GREEDY_CODES,
        voice=None,
    )
    table = executor.runner.kv.table

    def turn() -> Program[Reply]:
        reply = yield from replies.begin(spoken_text("four"), is_held=False)
        yield from done(Join(strand=reply.strand))
        return reply

    table.max_tokens, longest = dialogue.length + 5, table.max_tokens
    try:
        reply = executor.run(lambda _: turn())
    finally:
        table.max_tokens = longest

    assert dialogue.num_dropped > 0
    assert reply.answer is not None and len(reply.answer.ids) == 3
    assert dialogue.length == executor.session.kv_length

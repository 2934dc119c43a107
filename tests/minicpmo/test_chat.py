"""Chat: the golden answers, and what a client of the engine can rely on."""

import io
from collections.abc import Callable
from typing import Any

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
    Failed,
    Part,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    Slot,
    SpeechSampling,
    StopAnswer,
)
from omni.errors import ContextExhausted
from omni.minicpmo.answer import Answer, AnswerRules
from omni.minicpmo.chat import answer_turn, chat, read_turn
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.prompt import ChatOptions, Message
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.work import Draw, Feed, Ids, Program, Speak, Spoken, Vocode
from omni.minicpmo.work import done as wait_for
from tests.minicpmo.conftest import Golden
from tests.minicpmo.driver import Driver, heard, pcm, slots
from tests.minicpmo.executor import Executor
from tests.minicpmo.pictures import golden_picture
from tests.minicpmo.script import Script
from tests.minicpmo.test_video import make_video

LOGITS = 1e-3  # float32 over a whole answer; see the golden data's section 3
WAVE = 5e-3  # an f0 error of 1e-6 grows with the accumulated phase
LEAD_SAMPLES = 3840  # zeros in front of the reference's sound, which are not sent
GREEDY = TextSampling(is_greedy=True)
GREEDY_CODES = CodeSampling(is_greedy=True)
CASES = ("text", "text_history", "image", "audio", "mixed", "speech0", "speech1")


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


@pytest.mark.parametrize(("name", "num_tokens"), [("kv_chat", 20), ("kv_chat_streaming_text", 40)])
def test_an_answer_over_a_prefilled_cache_is_the_golden_one(
    executor: Executor, expected: Callable[[str], Golden], name: str, num_tokens: int
) -> None:
    """Q6: the reference closes the user's turn twice; the same ids are fed here."""
    (case,) = (case for case in expected("k_chat").facts if case["case"] == name)
    session, control = executor.session, executor.session.control
    prompts = session.around.prompts
    words = case["messages"][0][1]
    message = Message(role="user", parts=tuple(words))
    options = ChatOptions(adds_generation_prompt=False, speaks=False)

    def program() -> Program[Answer]:
        prompt = prompts.chat([message], options).ids
        yield from wait_for(Feed(parts=(Ids(prompt),)))
        assert session.kv_length == case["kv_after_prefill"]
        header = prompts.assistant_header(speaks=False)
        fed = yield from wait_for(Feed(parts=(Ids(header),), wants_logits=True))
        rules = AnswerRules(
            sampling=GREEDY,
            max_new_tokens=num_tokens,
            ends=frozenset((control.im_end, control.end_of_text)),
        )
        answer = Answer(
            session=session,
            rules=rules,
            outlet=Outlet(session),
            costs=Costs(session.now_s),
            speaker=None,
        )
        yield from answer.write(fed)
        return answer

    answer = executor.run(lambda _: program())

    assert session.kv_length == case["kv_after"]
    decoded = session.tokenizer.decode(answer.ids, skips_special=False)
    if "stream" in case:
        assert decoded == "".join(text for text, _ in case["stream"])
    else:
        assert answer.ids == case["generated_ids"][:num_tokens]


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


# --- what clients can rely on -------------------------------------------------------------------


def said(text: str, **options: Any) -> ChatRequest:
    """Return a request with one message."""
    message = ChatMessage(role="user", parts=(Part(kind="text", text=text),))
    return ChatRequest(messages=(message,), **options)


def ask(driver: Driver, slot: Slot, request: ChatRequest) -> tuple[list[SessionEvent], ChatDone]:
    driver.step(slot, request)
    events = driver.until_done(slot)
    assert isinstance(events[-1], ChatDone), events[-1]
    return events, events[-1]


def tokens_of(driver: Driver, text: str) -> list[int]:
    return driver.engine.loaded.around.tokenizer.encode(text)


def ending(driver: Driver) -> list[int]:
    control = driver.engine.loaded.around.tokenizer.control
    return [control.tts_eos, control.im_end]


def test_the_pieces_of_an_answer_are_its_text_between_prefill_and_done(
    driver: Driver, slot: Slot, script: Script
) -> None:
    text = "Hello! 你好，今天天气怎么样？ Fine."
    script.tokens[0] = [*tokens_of(driver, text), *ending(driver)]

    events, done = ask(driver, slot, said("Hello"))

    first, *chunks, last, _ = events
    assert first == PrefillDone(input_tokens=done.input_tokens)
    assert all(isinstance(chunk, ReplyChunk) and not chunk.is_final for chunk in chunks)
    assert last == ReplyChunk(is_final=True)
    assert len(chunks) > 5
    assert text_of(events) == done.text == text
    assert "\ufffd" not in text_of(events)
    assert (done.finish_reason, done.generated_tokens) == ("stop", len(tokens_of(driver, text)) + 1)


def test_the_engine_answers_as_one_item_after_the_other_would(
    driver: Driver, slot: Slot, executor: Executor, stream: NDArray[np.float32]
) -> None:
    request = said("Hello", speak=True, seed=5, max_new_tokens=25, voice=pcm(stream[:32000]))
    executor.session.random.seed(5)
    executor.run(lambda session: chat(session, request))
    executor.release()

    events, done = ask(driver, slot, request)

    assert isinstance(executor.events[-1], ChatDone)
    assert done.text == executor.events[-1].text
    assert done.generated_tokens == 25
    alone = sound_of(executor.events)
    assert len(alone) > 24000
    np.testing.assert_allclose(sound_of(events), alone, rtol=0, atol=WAVE)


def test_an_answer_is_the_same_beside_others(driver: Driver, slot: Slot) -> None:
    request = said("Hello", do_sample=False, max_new_tokens=30)
    _, alone = ask(driver, slot, request)
    others = slots(4)[1:]
    for number, other in enumerate(others):
        driver.step(other, said(f"{number} words " * (number + 2), max_new_tokens=40))

    _, beside = ask(driver, slot, request)

    assert beside.text == alone.text
    for other in others:
        driver.until_done(other)


def test_the_first_sound_leaves_before_the_text_is_complete(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script.tokens[0] = [*tokens_of(driver, "one two three four five " * 8), *ending(driver)]

    events, _ = ask(driver, slot, said("Hello", speak=True, seed=1))

    has_sound = [isinstance(event, ReplyChunk) and len(event.pcm) > 0 for event in events]
    has_text = [isinstance(event, ReplyChunk) and len(event.text) > 0 for event in events]
    last_text = len(has_text) - 1 - has_text[::-1].index(True)
    assert has_sound.index(True) < last_text


def test_a_spoken_answer_is_spoken_by_ten_tokens_to_where_its_speech_ends(
    driver: Driver, executor: Executor, script: Script
) -> None:
    words = tokens_of(driver, "one two three four five " * 8)[:23]
    script.tokens[0] = [*words, ending(driver)[0], *words[:4], ending(driver)[1]]

    executor.run(lambda session: chat(session, said("Hello", speak=True)))

    calls = [(list(work.text_ids), work.is_turn_end) for work in executor.works(Speak)]
    assert calls == [(words[:10], False), (words[10:20], False), (words[20:], True)]


def test_an_answer_without_a_mark_for_the_end_of_speech_is_spoken_to_its_end(
    driver: Driver, executor: Executor, script: Script
) -> None:
    """Q5: the reference fails where the text ends and its speech was not ended before."""
    words = tokens_of(driver, "one two three")
    script.tokens[0] = [*words, ending(driver)[1]]

    executor.run(lambda session: chat(session, said("Hello", speak=True)))

    (call,) = executor.works(Speak)
    assert (list(call.text_ids), call.is_turn_end) == (words, True)


def test_an_answer_keeps_its_exclamation_marks_and_last_letters(
    driver: Driver, executor: Executor, script: Script
) -> None:
    """Q4: the reference strips the token 0, which is `!`, and any of the letters of <|tts_eos|>."""
    text = "Yes! It passes the test"
    script.tokens[0] = [*tokens_of(driver, text), *ending(driver)]

    executor.run(lambda session: chat(session, said("Hello")))

    done = executor.events[-1]
    assert isinstance(done, ChatDone) and done.text == text


def test_an_answer_that_nobody_awaits_is_spoken_by_one_call(
    driver: Driver, executor: Executor, script: Script
) -> None:
    words = tokens_of(driver, "one two three four five " * 8)[:23]
    script.tokens[0] = [*words, *ending(driver)]

    executor.run(lambda session: chat(session, said("Hello", speak=True, streaming=False)))

    (call,) = executor.works(Speak)
    assert list(call.text_ids) == words


def test_a_long_answer_that_nobody_awaits_is_spoken_by_groups(
    driver: Driver, executor: Executor, script: Script
) -> None:
    """One call would end at 2,048 codes, in the middle of a sentence."""
    words = tokens_of(driver, "one two three four five " * 30)[:125]
    script.tokens[0] = [*words, *ending(driver)]

    executor.run(lambda session: chat(session, said("Hello", speak=True, streaming=False)))

    calls = [(list(work.text_ids), work.is_turn_end) for work in executor.works(Speak)]
    assert [token for ids, _ in calls for token in ids] == words
    assert [ends for _, ends in calls] == [False] * 12 + [True]


@pytest.mark.parametrize("num_tokens", [40, 60])
def test_speech_that_outgrows_its_cache_goes_on(
    driver: Driver, executor: Executor, script: Script, num_tokens: int
) -> None:
    """A call that cannot begin begins the turn anew; one that cannot go on is cut."""
    words = tokens_of(driver, "one two three four five " * 30)[:50]
    script.tokens[0] = [*words, *ending(driver)]
    table = executor.runner.speech.cache.table
    table.max_tokens, longest = num_tokens, table.max_tokens
    try:
        executor.run(lambda session: chat(session, said("Hello", speak=True)))
    finally:
        table.max_tokens = longest

    answered = executor.events[-1]
    assert isinstance(answered, ChatDone)
    assert answered.generated_tokens == len(words) + 1
    failures = [result for _, result in executor.done if isinstance(result, ContextExhausted)]
    spoken = [work for work, result in executor.done if isinstance(result, Spoken)]
    assert failures
    assert [len(work.text_ids) for work in spoken if isinstance(work, Speak)] == [10] * 5
    assert len(sound_of(executor.events)) > 0


def test_a_spoken_answer_without_words_has_no_sound(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script.tokens[0] = [ending(driver)[1]]

    events, done = ask(driver, slot, said("Hello", speak=True))

    assert (done.text, done.generated_tokens) == ("", 0)
    assert not len(sound_of(events))


def test_a_voice_is_introduced_where_no_system_message_is(
    driver: Driver, executor: Executor
) -> None:
    executor.run(lambda session: chat(session, said("Hello", speak=True, max_new_tokens=1)))

    prompt, text = executor.works(Feed)[0], told(driver, executor)
    assert text.startswith("<|im_start|>system\nUse the voice in the audio prompt to synthesize")
    assert "You are a helpful assistant with the above voice style.<|im_end|>" in text
    num_embedded = sum(len(part) for part in prompt.parts if not isinstance(part, Ids))
    assert num_embedded == 69  # of the default voice, 6.9 s


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"voice_mode": "omni"}, "Clone the voice in the provided audio prompt."),
        ({"voice_mode": "omni", "voice_language": "zh"}, "请用这种声音风格来为用户提供帮助。"),
        ({"voice_mode": "audio_roleplay"}, "Try to role-play the character"),
        ({"voice_mode": "voice_cloning", "voice_language": "zh"}, "模仿输入音频中的声音特征。"),
    ],
)
def test_the_voice_is_introduced_as_it_was_asked_for(
    driver: Driver, executor: Executor, options: dict[str, Any], words: str
) -> None:
    request = said("Hello", speak=True, max_new_tokens=1, **options)

    executor.run(lambda session: chat(session, request))

    text = told(driver, executor)
    assert text.startswith("<|im_start|>system\n") and words in text


def test_by_default_mode_nobody_introduces_the_voice(driver: Driver, executor: Executor) -> None:
    request = said("Hello", speak=True, max_new_tokens=1, voice_mode="default")

    executor.run(lambda session: chat(session, request))

    assert told(driver, executor).startswith("<|im_start|>user\nHello")


def told(driver: Driver, executor: Executor) -> str:
    """Return the prompt as text; what stands for media is empty there."""
    parts = executor.works(Feed)[0].parts
    ids = [token for part in parts if isinstance(part, Ids) for token in part.ids]
    return driver.engine.loaded.around.tokenizer.decode(ids, skips_special=False)


@pytest.mark.parametrize(
    ("speech", "is_certain"),
    [(SpeechSampling(), False), (SpeechSampling(temperature=0), True)],
)
def test_the_codes_of_an_answer_are_chosen_as_it_was_asked_for(
    driver: Driver, executor: Executor, script: Script, speech: SpeechSampling, is_certain: bool
) -> None:
    answers = []
    for seed in (1, 2):
        script.tokens[0] = [*tokens_of(driver, "One two three four five."), *ending(driver)]
        executor.session.random.seed(seed)
        executor.done.clear()
        executor.run(lambda session: chat(session, said("Hello", speak=True, speech=speech)))
        executor.release()
        chunks = [chunk for vocode in executor.works(Vocode) for chunk in vocode.chunks]
        answers.append([code for chunk in chunks for code in chunk.codes])

    assert len(answers[0]) > 3
    assert (answers[0] == answers[1]) is is_certain


def test_a_system_message_of_the_client_stays_alone(driver: Driver, executor: Executor) -> None:
    system = ChatMessage(role="system", parts=(Part(kind="text", text="Be brief."),))
    request = said("Hello", speak=True, max_new_tokens=1)

    executor.run(
        lambda session: chat(session, evolve(request, messages=(system, *request.messages)))
    )

    (part,) = executor.works(Feed)[0].parts
    assert isinstance(part, Ids)
    text = executor.session.tokenizer.decode(part.ids, skips_special=False)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_an_answer_ends_at_its_length(driver: Driver, slot: Slot) -> None:
    _, done = ask(driver, slot, said("Hello", max_new_tokens=7, min_new_tokens=7))

    assert (done.finish_reason, done.generated_tokens) == ("length", 7)


def test_an_answer_may_not_end_before_its_least_length(executor: Executor) -> None:
    executor.run(lambda session: chat(session, said("x", max_new_tokens=6, min_new_tokens=4)))

    assert [draw.forbids_end for draw in executor.works(Draw)] == [True] * 4 + [False] * 2


def test_an_answer_ends_at_the_end_of_the_context(driver: Driver, slot: Slot) -> None:
    table = driver.runner.kv.table
    table.max_tokens, longest = 60, table.max_tokens
    try:
        _, done = ask(driver, slot, said("Hello", min_new_tokens=500, max_new_tokens=500))
    finally:
        table.max_tokens = longest

    assert done.finish_reason == "length"
    assert done.input_tokens + done.generated_tokens == 61


def test_a_stop_text_ends_the_answer_and_is_not_shown(
    driver: Driver, slot: Slot, script: Script
) -> None:
    script.tokens[0] = tokens_of(driver, "Hello there. User: and so on, and so on")

    events, done = ask(driver, slot, said("Hello", stop=("User:", "never")))

    assert done.text == text_of(events) == "Hello there. "
    assert done.finish_reason == "stop"


def test_a_stop_ends_the_answer_with_what_there_is(driver: Driver, slot: Slot) -> None:
    driver.step(slot, said("Hello", min_new_tokens=2000, max_new_tokens=2000))
    driver.until(lambda: any(isinstance(event, ReplyChunk) for event in driver.events[slot]))

    driver.step(slot, StopAnswer())
    events = driver.until_done(slot)

    done = events[-1]
    assert isinstance(done, ChatDone)
    assert done.finish_reason == "cancelled"
    assert 0 < done.generated_tokens < 2000
    assert done.text == text_of(events)


def test_thoughts_are_shown_when_asked_for_and_never_spoken(
    driver: Driver, executor: Executor, script: Script
) -> None:
    tokenizer = executor.session.tokenizer
    thought = tokenizer.encode_markup("<think>\nhm hm hm\n</think>\n\n")
    words = tokens_of(driver, "one two three")
    shown = []
    for enable_thinking in (False, True):
        script.tokens[0] = [*thought, *words, *ending(driver)]
        request = said("x", speak=True, enable_thinking=enable_thinking)
        executor.run(lambda session: chat(session, request))
        assert isinstance(executor.events[-1], ChatDone)
        shown.append(executor.events[-1].text)
        executor.release()

    assert shown == ["one two three", "<think>\nhm hm hm\n</think>\n\none two three"]
    spoken = [list(work.text_ids) for work in executor.works(Speak)]
    assert spoken == [words, words]


def turns(*texts: str) -> tuple[ChatMessage, ...]:
    """Return a system message and the given turns, user and assistant by turns."""
    roles = ("user", "assistant")
    return (
        ChatMessage(role="system", parts=(Part(kind="text", text="S"),)),
        *(
            ChatMessage(role=roles[number % 2], parts=(Part(kind="text", text=text),))
            for number, text in enumerate(texts)
        ),
    )


def test_the_oldest_turns_leave_a_prompt_that_is_too_long(driver: Driver, slot: Slot) -> None:
    """Q30: the reference cuts the end of the prompt off, with the question in it."""
    long = ChatRequest(messages=turns("old " * 40, "older", "two", "three", "four"))
    short = evolve(long, messages=(long.messages[0], *long.messages[3:]), max_new_tokens=1)
    _, wanted = ask(driver, slot, short)
    limit = wanted.input_tokens + 20

    _, done = ask(driver, slot, evolve(long, max_inp_length=limit, max_new_tokens=1))

    assert done.input_tokens == wanted.input_tokens


def test_a_last_message_that_is_too_long_is_refused(driver: Driver, slot: Slot) -> None:
    failed = driver.refusal(slot, said("word " * 100, max_inp_length=60))

    assert (failed.code, failed.fatal) == ("invalid_request", True)
    assert "room for 60" in failed.message


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (Part(kind="image", data=Buffer(b"no picture")), "messages[0].content[1] (image)"),
        (Part(kind="image"), "messages[0].content[1] (image)"),
        (Part(kind="audio", data=Buffer(b"123")), "messages[0].content[1] (audio)"),
        (Part(kind="audio"), "messages[0].content[1] (audio)"),
        (Part(kind="video", data=Buffer(b"no video")), "messages[0].content[1] (video)"),
        (Part(kind="video"), "messages[0].content[1] (video)"),
    ],
)
def test_malformed_media_are_told_with_their_place(
    driver: Driver, slot: Slot, part: Part, place: str
) -> None:
    words = Part(kind="text", text="What is this?")
    message = ChatMessage(role="user", parts=(words, part))

    failed = driver.refusal(slot, ChatRequest(messages=(message,)))

    assert failed.fatal
    assert failed.message.startswith(place)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ChatRequest(messages=()), "the last message must be the user's"),
        (ChatRequest(messages=turns("one", "two")), "the last message must be the user's"),
        (said("x" * 2_000_001), "characters of text"),
        (said("x", top_p=3.0), "out of range"),
        (said("x", speak=True, voice=pcm(np.zeros(100, np.float32))), "reference recording"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    driver: Driver, slot: Slot, request_: ChatRequest, words: str
) -> None:
    driver.step(slot, request_)

    failed = driver.until_done(slot)[-1]
    assert isinstance(failed, Failed) and failed.fatal
    assert words in failed.message


def test_a_video_is_seen_and_heard_second_by_second(driver: Driver, slot: Slot) -> None:
    words = Part(kind="text", text="What is this?")
    film = Part(kind="video", data=Buffer(make_video(20, sound_s=2.0)))
    lengths = []
    for parts, omni_mode in (((words,), True), ((film, words), True), ((film, words), False)):
        message = ChatMessage(role="user", parts=parts)
        request = ChatRequest(messages=(message,), omni_mode=omni_mode, max_new_tokens=1)
        _, done = ask(driver, slot, request)
        lengths.append(done.input_tokens)

    alone, heard_and_seen, seen = lengths
    # A picture is 64 embeddings and a second of sound 10, each between two tokens; whoever sends
    # sound is answered for speech: one token. Without sound the parts stand on lines of their own.
    assert heard_and_seen - alone == 2 * (64 + 2) + 2 * (10 + 2) + 1
    assert seen - alone == 2 * (64 + 2) + 2


def test_a_chunk_of_sound_does_not_disturb_an_answer(driver: Driver, slot: Slot) -> None:
    driver.step(slot, said("Hello", max_new_tokens=5, min_new_tokens=5))
    driver.step(slot, AudioChunk(pcm=pcm(np.zeros(1600, np.float32))))

    events = driver.until_done(slot)

    assert isinstance(events[-1], ChatDone)

"""Real speech in, real speech out, over real sockets; what was said is heard again, not trusted."""

import asyncio
import base64

import aiohttp
import pytest

from omni.audio import OUTPUT_HZ, rms
from omni.client import Event, Talker
from omni.conversations import TalkDialect, TalkMode, ask
from omni.wav import waveform_from_wav
from tests.conftest import RunningOmni
from tests.e2e.call import calling, sound_of, text_of
from tests.e2e.conftest import Ears, Say, words
from tests.realtime.client import connected

WEEK = "How many days are in a week?"
ENGLAND = "What is the capital of England?"
SKY = "Why is the sky blue?"


@pytest.mark.parametrize("mode", ["duplex", "half", "chat"])
async def test_a_spoken_question_is_answered_in_speech(
    pocket: RunningOmni, say: Say, ears: Ears, mode: TalkMode
) -> None:
    """In real time, as a microphone gives it."""
    exchange = await ask(Talker(pocket.address), mode, say(WEEK))

    assert "seven" in words(exchange.text)
    ears.assert_said(exchange.text, exchange.sound)
    assert mode == "chat" or words(exchange.heard) == words(WEEK)


@pytest.mark.parametrize(
    ("dialect", "mode"), [("r1", "duplex"), ("r2", "duplex"), ("openai", "half")]
)
async def test_a_spoken_question_is_answered_in_every_dialect(
    pocket: RunningOmni, say: Say, ears: Ears, dialect: TalkDialect, mode: TalkMode
) -> None:
    exchange = await ask(Talker(pocket.address), mode, say(WEEK), dialect)

    assert "seven" in words(exchange.text)
    ears.assert_said(exchange.text, exchange.sound)


async def test_a_call_goes_on_turn_after_turn(pocket: RunningOmni, say: Say, ears: Ears) -> None:
    async with calling(pocket.websocket_address, "adx_turns") as call:
        answers = [await call.ask(say(question)) for question in (WEEK, SKY, ENGLAND)]

    assert [words(text) for text in call.heard] == [words(WEEK), words(SKY), words(ENGLAND)]
    for answer, told in zip(answers, ("seven", "scattering", "london"), strict=True):
        assert told in words(text_of(answer))
        ears.assert_said(text_of(answer), sound_of(answer))


async def test_sessions_at_once_never_hear_each_other(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    """Three at the same time in one worker, of every kind that is spoken to."""
    questions = {WEEK: "seven", ENGLAND: "london", SKY: "scattering"}
    modes: tuple[TalkMode, ...] = ("duplex", "duplex", "half")

    async with asyncio.TaskGroup() as group:
        tasks = {
            question: group.create_task(ask(Talker(pocket.address), mode, say(question)))
            for question, mode in zip(questions, modes, strict=True)
        }

    for question, task in tasks.items():
        exchange, own = task.result(), questions[question]
        foreign = set(questions.values()) - {own}
        assert words(exchange.heard) == words(question)
        assert own in words(exchange.text) and not foreign & set(words(exchange.text))
        ears.assert_said(exchange.text, exchange.sound)


async def test_a_written_chat_is_streamed_with_its_voice(pocket: RunningOmni, ears: Ears) -> None:
    request = {
        "messages": [{"role": "user", "content": "Tell me a story about the sea."}],
        "tts": {"enabled": True},
    }

    events: list[Event] = []
    async with connected(pocket.websocket_address, "/ws/chat") as client:
        await client.socket.send_json(request)
        while not events or events[-1]["type"] != "done":
            events.append(await client.receive())
        closed = await client.closed()

    chunks = [event for event in events if event["type"] == "chunk"]
    kinds = [event["type"] for event in events]
    assert kinds == ["prefill_done", *["chunk"] * len(chunks), "done"] and closed == 1000
    assert len(chunks) > 1, "the answer came in one piece"
    assert "".join(chunk.get("text_delta", "") for chunk in chunks).strip() == events[-1]["text"]
    ears.assert_said(events[-1]["text"], sound_of(chunks))


async def test_a_posted_question_in_sound_is_answered_with_a_wav(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    sound = base64.b64encode(say(ENGLAND).astype("<f4").tobytes()).decode()
    message = {"role": "user", "content": [{"type": "audio", "data": sound}]}

    reply = await post_chat(pocket, {"messages": [message], "tts": {"enabled": True}})

    samples, rate_hz = waveform_from_wav(base64.b64decode(str(reply["audio_data"])))
    assert reply["success"] and "london" in words(str(reply["text"]))
    assert rate_hz == OUTPUT_HZ and rms(samples) > 0.01
    ears.assert_said(str(reply["text"]), samples)


@pytest.mark.parametrize("way", ["/api/chat", "/ws/chat"])
async def test_a_chat_that_cannot_be_answered_is_a_failure_and_not_silence(
    pocket: RunningOmni, way: str
) -> None:
    """Over HTTP with status 200 and `success` false, as the demo's pages expect it."""
    request = {"messages": [{"role": "assistant", "content": "Hello!"}]}

    if way == "/api/chat":
        reply = await post_chat(pocket, request)
        assert (reply["success"], reply["text"]) == (False, "")
        said = reply["error"]
    else:
        async with connected(pocket.websocket_address, way) as client:
            await client.socket.send_json(request)
            said = (await client.expect("error"))["error"]
            await client.closed()

    assert "last message must be the user's" in said


async def test_a_page_learns_what_answers_and_that_it_is_small(pocket: RunningOmni) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{pocket.address}/api/frontend_defaults") as reply:
            told = await reply.json()

    assert (told["engine"], told["languages"], told["vision"]) == ("pocket", ["en"], False)
    assert "English only" in told["notice"] and "wrong" in told["notice"]


async def post_chat(pocket: RunningOmni, request: Event) -> Event:
    """Return the reply to one `POST /api/chat`."""
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{pocket.address}/api/chat", json=request) as reply:
            assert reply.status == 200
            told: Event = await reply.json()
            return told

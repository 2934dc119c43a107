"""Breaking in over the wire: the answer stops, its rest is gone, and was never said."""

import numpy as np

from omni.audio import Waveform
from tests.conftest import RunningOmni
from tests.e2e.call import Call, calling, sound_of, speaks, text_of
from tests.e2e.conftest import Ears, Say, quiet, words
from tests.realtime.client import Client, Event, connected

STORY = "Tell me a story about the sea."
STOP = "Wait, what is the capital of England?"
ENGLAND = "What is the capital of England?"


def from_onset(sound: Waveform) -> Waveform:
    """Return *sound* from its first audible sample on."""
    return sound[int(np.argmax(np.abs(sound) > 0.05)) :]


async def say_hands_free(client: Client, sound: Waveform) -> None:
    """Say *sound*, then be quiet for as long as ends an utterance."""
    await client.socket.send_bytes(b"F32L" + np.concatenate([sound, quiet(1.0)]).tobytes())


async def begin_story(call: Call, say: Say, num_chunks: int = 6) -> list[Event]:
    """Have a story begun and *num_chunks* of it played; return those results."""
    await call.send(say(STORY))
    await call.quiet_until(speaks)
    for _ in range(num_chunks - 1):
        await call.quiet_until(lambda result: True)
    played = call.results[-num_chunks:]
    assert all(map(speaks, played)) and not played[-1]["end_of_turn"]
    return played


async def test_the_answer_stops_within_300_ms_of_speech(pocket: RunningOmni, say: Say) -> None:
    """Of the user's sound: chunks are counted, no clock is read."""
    async with calling(pocket.websocket_address, "adx_stop", chunk_ms=100) as call:
        await begin_story(call, say)

        results = await call.send(from_onset(say(STOP, lead_s=0)))

    first = next(n for n, result in enumerate(results) if result.get("interrupted"))
    assert (first + 1) * call.chunk_ms <= 300
    assert sum(bool(result.get("interrupted")) for result in results) == 1
    assert not any(map(speaks, results[first:]))
    assert all(result["audio_data"] is None for result in results[first:])


async def test_the_rest_is_dropped_and_the_new_question_answered(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    async with calling(pocket.websocket_address, "adx_rest") as call:
        await begin_story(call, say)
        await call.ask(from_onset(say(STOP, lead_s=0)))

    cut_at = next(n for n, result in enumerate(call.results) if result.get("interrupted"))
    answer = [result for result in call.results[cut_at:] if speaks(result)]
    assert "london" in words(text_of(answer)) and "sea" not in words(text_of(answer))
    ears.assert_said(text_of(answer), sound_of(answer))
    assert words(call.heard[-1])[-1] == "england"


async def test_the_history_keeps_only_what_was_played(pocket: RunningOmni, say: Say) -> None:
    """Two calls with the same story; one hears it to its end.

    `kv_cache_length` counts what the model has read: the words that were never played must be
    missing in the call that was interrupted. A word is one token at least.
    """
    async with calling(pocket.websocket_address, "adx_cut") as cut:
        played = text_of(await begin_story(cut, say))
        await cut.client.send("interrupt")
        await cut.client.expect("interrupted")
        cut_answer = await cut.ask(say(ENGLAND))
    async with calling(pocket.websocket_address, "adx_whole") as whole:
        story = text_of(await whole.ask(say(STORY)))
        whole_answer = await whole.ask(say(ENGLAND))

    assert story.startswith(played) and len(words(story)) > len(words(played)) + 8
    assert text_of(cut_answer).strip() == text_of(whole_answer).strip()
    read_more = whole_answer[-1]["kv_cache_length"] - cut_answer[-1]["kv_cache_length"]
    num_unplayed = len(words(story)) - len(words(played))
    assert read_more >= num_unplayed - 3, "a mark stands where the user broke in"


async def test_interrupt_ends_a_hands_free_answer_and_the_next_turn_is_heard(
    pocket: RunningOmni, say: Say
) -> None:
    async with connected(pocket.websocket_address, "/ws/half_duplex/hdx_stop") as client:
        await client.prepare()
        await say_hands_free(client, say(STORY, lead_s=1.0))
        first = await client.until("chunk")
        await client.send("interrupt")
        stopped = [first]
        while stopped[-1]["type"] != "turn_done":
            stopped.append(await client.receive())
        await say_hands_free(client, say(ENGLAND))
        answered = await client.until("turn_done")

    kinds = [event["type"] for event in stopped]
    assert kinds.count("interrupted") == 1
    assert stopped[-1]["text"].startswith(first["text_delta"].strip())
    assert (stopped[-1]["turn_index"], answered["turn_index"]) == (1, 2)
    assert "london" in words(answered["text"])

"""Speech, there and back, in the realtime dialects: the real SDK, the real engine."""

import asyncio

import numpy as np
from openbmb_realtime import AudioDelta, RealtimeClient, TextDelta, TurnCompleted

from omni.audio import INPUT_HZ, Waveform
from tests.conftest import RunningOmni
from tests.e2e.conftest import Ears, Say, quiet, words

QUESTION = "How many days are in a week?"
PIECE_S = 0.25
#: Sound is sent a little faster than it would be spoken; the models need their share of the cores.
PIECE_EVERY_S = 0.2
MAX_QUIET_S = 240.0


async def test_the_sdk_asks_aloud_and_hears_the_answer(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    client = RealtimeClient(api_key="any", base_url=pocket.address, connect_timeout=120)
    session = await client.audio.connect(model="m")
    texts: list[TextDelta] = []
    sounds: list[bytes] = []
    turns: list[TurnCompleted] = []

    async def listen() -> None:
        async for event in session:
            if isinstance(event, TextDelta):
                texts.append(event)
            elif isinstance(event, AudioDelta):
                sounds.append(event.audio)
            elif isinstance(event, TurnCompleted):
                turns.append(event)

    async with asyncio.TaskGroup() as group:
        group.create_task(listen(), name="listen")
        for piece in _pieces(say(QUESTION), MAX_QUIET_S):
            await session.send_audio(piece.astype("<f4").tobytes())
            await asyncio.sleep(PIECE_EVERY_S)
            if turns:
                break
        await session.close()

    said = "".join(delta.text for delta in texts)
    assert "seven" in words(said)
    ears.assert_said(said, np.frombuffer(b"".join(sounds), "<f4"))
    assert len(turns) == 1 and [delta.end_of_turn for delta in texts].count(True) <= 1
    assert session.usage is not None
    assert session.usage.prompt_tokens > 0 and session.usage.completion_tokens > 0


def _pieces(question: Waveform, quiet_s: float) -> "list[Waveform]":
    size = round(PIECE_S * INPUT_HZ)
    sound = np.concatenate([question, quiet(quiet_s)])
    return [sound[at : at + size] for at in range(0, sound.size - size, size)]

"""A call in Opus, both ways: what is said in it is understood, and so is the answer."""

import asyncio

import numpy as np

from omni.audio import OUTPUT_HZ, Waveform, resample
from omni.realtime.opus import OpusReader, OpusWriter
from tests.conftest import RunningOmni
from tests.e2e.call import BREATH_S, MAX_QUIET_CHUNKS
from tests.e2e.conftest import Ears, Say, quiet, words
from tests.realtime.client import TIMEOUT_S, Client, connected

ENGLAND = "What is the capital of England?"
CHUNK_MS = 200
CHUNK_SAMPLES = OUTPUT_HZ * CHUNK_MS // 1000


async def test_a_spoken_question_is_answered_in_opus(
    pocket: RunningOmni, say: Say, ears: Ears
) -> None:
    question = resample(say(ENGLAND), 16_000, OUTPUT_HZ)
    silence = quiet(CHUNK_MS / 1000 * MAX_QUIET_CHUNKS, OUTPUT_HZ)
    sound = np.concatenate([question, silence])
    writer, reader = OpusWriter(), OpusReader()
    text, heard = "", [np.zeros(0, np.float32)]

    async with connected(pocket.address, "/ws/duplex/adx_opus") as client:
        await client.prepare(sound="opus", config={"chunk_ms": CHUNK_MS})
        for at in range(0, sound.size - CHUNK_SAMPLES, CHUNK_SAMPLES):
            frame = writer.frame(_float32(sound[at : at + CHUNK_SAMPLES]), False)
            assert frame is not None and frame.work is not None
            await client.socket.send_bytes(frame.work())
            result = await client.until("result")
            text += str(result["text"])
            if result.get("audio_follows"):
                heard.append(await _sound(client, reader))
            else:
                await asyncio.sleep(BREATH_S)
            if result["end_of_turn"]:
                break

    assert "london" in words(text)
    ears.assert_said(text, resample(np.concatenate(heard), 16_000, OUTPUT_HZ))


async def _sound(client: Client, reader: OpusReader) -> Waveform:
    return reader.read(await client.socket.receive_bytes(timeout=TIMEOUT_S), 30.0)


def _float32(samples: Waveform) -> bytes:
    return samples.astype("<f4").tobytes()

"""A program on LiveKit Agents, without a room: prints as JSON what it got from a server.

    python tests/e2e/livekit_client.py http://localhost:8006 question.wav

The file: speech, 24 kHz, mono, 16 bit. Needs `livekit-agents` and `livekit-plugins-openai`.
"""

import asyncio
import json
import sys
import wave
from collections.abc import AsyncIterator, Callable

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, utils
from livekit.agents.voice import io
from livekit.plugins import openai

RATE_HZ = 24_000
FRAME = RATE_HZ // 50
PAUSE_S = 1.5
TIMEOUT_S = 120.0
#: Ten minutes of speech, by the null engine: enough to be interrupted in, and as much as it keeps.
LONG = "word " * 600


def frames(path: str) -> list[rtc.AudioFrame]:
    """Return the speech in the file, and a pause behind it, in pieces of 20 ms."""
    with wave.open(path) as file:
        data = file.readframes(file.getnframes()) + bytes(2 * int(PAUSE_S * RATE_HZ))
    pieces = (data[at : at + 2 * FRAME] for at in range(0, len(data) - 2 * FRAME, 2 * FRAME))
    return [rtc.AudioFrame(piece, RATE_HZ, 1, FRAME) for piece in pieces]


class Call:
    """A session of the realtime model. errors, transcripts: what it told of, in order."""

    def __init__(self, address: str) -> None:
        model = openai.realtime.RealtimeModel(
            base_url=f"{address}/v1", api_key="any", input_audio_noise_reduction="near_field"
        )
        self.model = model
        self.session = model.session()
        self.errors: list[str] = []
        self.transcripts: list[str] = []
        self.generations: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
        self.session.on("error", lambda event: self.errors.append(repr(event.error)))
        self.session.on("generation_created", self.generations.put_nowait)
        self.session.on(
            "input_audio_transcription_completed",
            lambda event: self.transcripts.append(event.transcript),
        )

    async def say(self, speech: list[rtc.AudioFrame]) -> None:
        """Push *speech*; the server is as fast as it comes."""
        for frame in speech:
            self.session.push_audio(frame)

    async def answer(self, at_sound: Callable[[], None] = lambda: None) -> dict[str, object]:
        """Return what is answered next. at_sound: called with its first sound."""
        generation, texts, played_s = await self.generations.get(), [], 0.0
        message_id = ""
        async for message in generation.message_stream:
            message_id = message.message_id
            async for frame in message.audio_stream:
                if not played_s:
                    at_sound()
                played_s += frame.duration
            texts += [text async for text in message.text_stream]
        return {"id": message_id, "text": "".join(texts), "seconds": round(played_s, 3)}


async def realtime(address: str, speech: list[rtc.AudioFrame]) -> dict[str, object]:
    """Do what an agent does with a realtime model."""
    call, seen = Call(address), {}
    session = call.session
    await session.update_instructions("Be brief.")
    context = llm.ChatContext.empty()
    for role in ("system", "user", "assistant"):
        context.add_message(role=role, content=f"said by the {role}")
    await session.update_chat_ctx(context)
    context.items.pop(0)
    await session.update_chat_ctx(context)
    seen["context"] = [item.text_content for item in session.chat_ctx.messages()]

    await call.say(speech)
    seen["heard"] = await call.answer()

    session.generate_reply(instructions="one two")
    seen["replied"] = await call.answer()

    context = session.chat_ctx.copy()
    context.add_message(role="user", content=LONG)
    await session.update_chat_ctx(context)
    session.generate_reply()
    cut = await call.answer(session.interrupt)
    session.truncate(message_id=str(cut["id"]), modalities=["audio"], audio_end_ms=1000)
    seen["cut"] = cut

    session.update_options(turn_detection=None, voice="alloy", speed=1.1)
    await call.say(speech)
    session.commit_audio()
    session.generate_reply()
    seen["pushed to talk"] = await call.answer()
    await session.aclose()
    await call.model.aclose()
    return {**seen, "errors": call.errors, "transcripts": call.transcripts}


class Microphone(io.AudioInput):
    """Gives the speech in real time, and silence behind it."""

    def __init__(self, speech: list[rtc.AudioFrame]) -> None:
        super().__init__(label="speech in memory")
        self._frames = iter(speech)

    async def __anext__(self) -> rtc.AudioFrame:
        await asyncio.sleep(FRAME / RATE_HZ)
        return next(self._frames, rtc.AudioFrame(bytes(2 * FRAME), RATE_HZ, 1, FRAME))


class Loudspeaker(io.AudioOutput):
    """Has played everything as soon as it has all of it."""

    def __init__(self) -> None:
        capabilities = io.AudioOutputCapabilities(pause=False)
        super().__init__(label="memory", capabilities=capabilities, sample_rate=RATE_HZ)
        self.played_s = self._waiting_s = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._waiting_s += frame.duration

    def flush(self) -> None:
        super().flush()
        self._end(interrupted=False)

    def clear_buffer(self) -> None:
        self._end(interrupted=True)

    def _end(self, interrupted: bool) -> None:
        if self._waiting_s:
            waiting_s, self._waiting_s = self._waiting_s, 0.0
            self.played_s += waiting_s
            self.on_playback_finished(playback_position=waiting_s, interrupted=interrupted)


async def agent(speech: list[rtc.AudioFrame], **models: object) -> dict[str, object]:
    """Have an agent greet, and answer a question that is spoken. models: of `AgentSession`."""
    session, loudspeaker = AgentSession(**models), Loudspeaker()
    errors: list[str] = []
    answered = asyncio.Event()
    session.on("error", lambda event: errors.append(repr(event.error)))
    session.output.audio = loudspeaker
    await session.start(Agent(instructions="Be brief."))
    await session.generate_reply(instructions="Say hello.")

    def note(event: object) -> None:
        said = session.history.messages()
        if said[-1].role == "assistant" and any(message.role == "user" for message in said):
            answered.set()

    session.on("conversation_item_added", note)
    session.input.audio = Microphone(speech)
    await answered.wait()
    history = [(message.role, message.text_content) for message in session.history.messages()]
    await session.aclose()
    return {"history": history, "errors": errors, "seconds": round(loudspeaker.played_s, 3)}


async def services(address: str, speech: list[rtc.AudioFrame]) -> dict[str, object]:
    """Use the plugin's `LLM`, `STT` and `TTS` by themselves."""
    where = {"base_url": f"{address}/v1", "api_key": "any"}
    context = llm.ChatContext.empty()
    context.add_message(role="user", content="one two")
    chunks = openai.LLM(model="any", **where).chat(chat_ctx=context)
    chat = [chunk.delta.content or "" async for chunk in chunks if chunk.delta]
    listener = openai.STT(model="gpt-4o-mini-transcribe", use_realtime=True, **where)
    stream = listener.stream()
    for frame in speech:
        stream.push_frame(frame)
    finals = (event async for event in stream if event.type == "final_transcript")
    final = await anext(finals)
    await stream.aclose()
    await listener.aclose()
    recognized = await openai.STT(model="whisper-1", **where).recognize(speech)
    return {
        "chat": "".join(chat),
        "stream": final.alternatives[0].text,
        "recognized": recognized.alternatives[0].text,
        "pcm": await _spoken_s(openai.TTS(voice="alloy", response_format="pcm", **where)),
        "mp3": await _spoken_s(openai.TTS(voice="alloy", model="tts-1", **where)),
    }


async def _spoken_s(voice: openai.TTS) -> float:
    pieces: AsyncIterator[object] = voice.synthesize("The ship left early.")
    return round(sum([piece.frame.duration async for piece in pieces]), 3)


async def main(address: str, path: str) -> None:
    """Do everything, one after another."""
    speech = frames(path)
    base_url = f"{address}/v1"
    async with asyncio.timeout(TIMEOUT_S), utils.http_context.open():
        model = openai.realtime.RealtimeModel(base_url=base_url, api_key="any")
        seen = {
            "realtime": await realtime(address, speech),
            "agent": await agent(speech, llm=model),
            "services": await services(address, speech),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))

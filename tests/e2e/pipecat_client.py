"""Pipelines of Pipecat with transports in memory: print as JSON what they got from a server.

    python tests/e2e/pipecat_client.py http://localhost:8006 question.wav

The file: speech, 16 kHz, mono, 16 bit. Needs `pipecat-ai[openai]`.
"""

import asyncio
import json
import sys
import wave

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    LLMRunFrame,
    OutputAudioRawFrame,
    StartFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

INPUT_HZ, OUTPUT_HZ = 16_000, 24_000
FRAME_S = 0.02
TIMEOUT_S = 60.0
SYSTEM = "Be brief."
#: A minute of speech, by the null engine: enough to break in.
LONG = "word " * 60
SHORT = "hello hello"


class Microphone(BaseInputTransport):
    """Gives what is put into `speech` in real time, and silence where there is none."""

    speech = b""

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        self._task = self.create_task(self._run())

    async def cleanup(self) -> None:
        await self.cancel_task(self._task)
        await super().cleanup()

    async def _run(self) -> None:
        size = int(2 * INPUT_HZ * FRAME_S)
        while True:
            piece, self.speech = self.speech[:size].ljust(size, b"\0"), self.speech[size:]
            await self.push_audio_frame(InputAudioRawFrame(piece, INPUT_HZ, 1))
            await asyncio.sleep(FRAME_S)


class Loudspeaker(BaseOutputTransport):
    """Counts what it plays, in real time. has_spoken: two seconds were played."""

    def __init__(self, params: TransportParams) -> None:
        super().__init__(params)
        self.played_s, self.has_spoken = 0.0, asyncio.Event()

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        duration_s = len(frame.audio) / 2 / frame.sample_rate
        await asyncio.sleep(duration_s)
        self.played_s += duration_s
        if self.played_s >= 2:
            self.has_spoken.set()
        return True


def realtime(address: str, **options: object) -> list[FrameProcessor]:
    """Return the realtime service. options: of its sound input."""
    sound = events.AudioInput(
        transcription=events.InputAudioTranscription(),
        noise_reduction=events.InputAudioNoiseReduction(type="near_field"),
        **options,
    )
    service = OpenAIRealtimeLLMService
    properties = events.SessionProperties(audio=events.AudioConfiguration(input=sound))
    settings = service.Settings(system_instruction=SYSTEM, session_properties=properties)
    base_url = address.replace("http", "ws", 1) + "/v1/realtime"
    return [service(api_key="any", base_url=base_url, settings=settings)]


def answering(address: str) -> list[FrameProcessor]:
    """Return the services of chat and speech."""
    where = {"base_url": f"{address}/v1", "api_key": "any"}
    chat, voice = OpenAILLMService.Settings, OpenAITTSService.Settings
    return [
        OpenAILLMService(settings=chat(system_instruction=SYSTEM), **where),
        OpenAITTSService(settings=voice(voice="alloy"), **where),
    ]


def streaming_ears(address: str) -> FrameProcessor:
    """Return the service that writes down as it hears, and tells when a turn ends."""
    return OpenAIRealtimeSTTService(
        api_key="any",
        base_url=address.replace("http", "ws", 1) + "/v1/realtime",
        turn_detection={"type": "server_vad"},
        settings=OpenAIRealtimeSTTService.Settings(model="gpt-transcribe"),
    )


async def converse(
    speech: bytes,
    greeting: str,
    ears: list[FrameProcessor],
    models: list[FrameProcessor],
    ends_turns: bool = False,
) -> dict[str, object]:
    """Have the bot greet, ask it once it speaks, and return what it answered.

    ears: what stands before the user's turn. ends_turns: Pipecat listens for the ends of speech.
    """
    sound = {"audio_in_enabled": True, "audio_out_enabled": True}
    rates = {"audio_in_sample_rate": INPUT_HZ, "audio_out_sample_rate": OUTPUT_HZ}
    transport = TransportParams(**sound, **rates)
    microphone, loudspeaker = Microphone(transport), Loudspeaker(transport)
    context = LLMContext([{"role": "developer", "content": greeting}])
    listener = SileroVADAnalyzer() if ends_turns else None
    pair = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=listener)
    )
    line = [microphone, *ears, pair.user(), *models, loudspeaker, pair.assistant()]
    params = PipelineParams(enable_metrics=True, enable_usage_metrics=True, **rates)
    worker = PipelineWorker(Pipeline(line), params=params)
    errors: list[str] = []

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker: PipelineWorker, frame: ErrorFrame) -> None:
        errors.append(frame.error)

    async def ask() -> None:
        await worker.queue_frame(LLMRunFrame())
        async with asyncio.timeout(TIMEOUT_S):
            await loudspeaker.has_spoken.wait()
            microphone.speech = speech
            while not _is_answered(context):
                await asyncio.sleep(FRAME_S)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    async with asyncio.TaskGroup() as group:
        group.create_task(ask(), name="ask")
        group.create_task(runner.run(), name="run")
    history = [(message["role"], message["content"]) for message in context.get_messages()]
    return {"history": history[1:], "errors": errors, "seconds": round(loudspeaker.played_s, 2)}


def _is_answered(context: LLMContext) -> bool:
    roles = [message["role"] for message in context.get_messages()]
    return roles[-1] == "assistant" and "user" in roles


async def main(address: str, path: str) -> None:
    """Have all conversations at once."""
    logger.remove()
    with wave.open(path) as file:
        speech = file.readframes(file.getnframes())
    http = {"base_url": f"{address}/v1", "api_key": "any"}
    own_turns = realtime(address, turn_detection=False)
    eager = events.SemanticTurnDetection(eagerness="high")
    pieces = OpenAISTTService(**http)
    held = {
        "realtime": converse(speech, LONG, [], realtime(address)),
        "semantic": converse(speech, LONG, [], realtime(address, turn_detection=eager)),
        "own turns": converse(speech, LONG, [], own_turns, ends_turns=True),
        "pieces": converse(speech, SHORT, [pieces], answering(address), ends_turns=True),
        "streaming": converse(speech, SHORT, [streaming_ears(address)], answering(address)),
    }
    print(json.dumps(dict(zip(held, await asyncio.gather(*held.values())))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))

"""`POST /v1/audio/speech`: a text read out, in any of OpenAI's formats, sent as it is made."""

import asyncio

import numpy as np
from aiohttp import web
from attrs import define, evolve

from omni.engine import ChatDone, ReplyChunk, SessionEvent
from omni.openai.sound_formats import FORMATS, Encoder, open_encoder
from omni.openai.speech import FORMATS as SPEECH_FORMATS
from omni.openai.speech import MAX_INPUT_CHARS, delta_event, done_event, read_order
from omni.realtime.media import encode_base64
from omni.routes.bodies import read_fields
from omni.routes.describe import FILE, NUMBER, TEXT, Reply, between, describe, one_of, record
from omni.routes.openai_models import TAG
from omni.routes.openai_stream import EVENT_STREAM, Outflow, stream_turn
from omni.routes.openai_turn import Turn, find_voice

_BODY = record(
    {
        "input": {**TEXT, "minLength": 1, "maxLength": MAX_INPUT_CHARS},
        "model": TEXT,
        "voice": {"anyOf": [TEXT, record({"id": TEXT})]},
        "instructions": TEXT,
        "response_format": one_of(*SPEECH_FORMATS),
        "speed": between(NUMBER, 0.25, 4.0),
        "stream_format": one_of("audio", "sse"),
    },
    optional=["model", "voice", "instructions", "response_format", "speed", "stream_format"],
)
_CONTENT_TYPES = (*(FORMATS[name].content_type for name in SPEECH_FORMATS), EVENT_STREAM)


@describe(
    "Read a text out",
    tag=TAG,
    help="The bytes leave as they are made. voice: the id or name of an uploaded one, else the "
    "default; pcm: 16 bit, mono, 24 kHz. With `stream_format: sse`, server-sent events.",
    body=_BODY,
    reply=Reply(schema=FILE, content_types=_CONTENT_TYPES),
    errors=(401, 429, 500, 503),
)
async def post_speech(request: web.Request) -> web.StreamResponse:
    """Read one text out."""
    order = read_order(await read_fields(request))
    voice = await find_voice(request.app, order.voice)
    turn = Turn(request=request, input=evolve(order.request, voice=voice))
    kind = EVENT_STREAM if order.is_events else FORMATS[order.audio_format].content_type
    outflow = Outflow(request, kind)
    encoder = await asyncio.to_thread(open_encoder, order.audio_format, order.speed)
    return await stream_turn(turn, _Reading(encoder=encoder, outflow=outflow), outflow)


@define(kw_only=True)
class _Reading:
    """Encodes sound, and passes it on. A file's headers wait for its first bytes."""

    encoder: Encoder
    outflow: Outflow
    streams: bool = True

    async def waits(self) -> None:
        """Say so where there is a word for it; a sound file has none."""
        if self.outflow.is_events:
            await self.outflow.write(b": queued\n\n")

    async def begins(self) -> None:
        """Send the headers of an event stream."""
        if self.outflow.is_events:
            await self.outflow.open()

    async def hears(self, event: SessionEvent) -> None:
        """Send what there is of the sound."""
        match event:
            case ReplyChunk(pcm=pcm) if len(pcm):
                samples = np.frombuffer(pcm, "<f4")
                await self._send(await asyncio.to_thread(self.encoder.push, samples))
            case ChatDone():
                await self._send(await asyncio.to_thread(self.encoder.finish))
                if self.outflow.is_events:
                    await self.outflow.send(done_event(event))

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        if self.outflow.is_events:
            await self.outflow.send(delta_event(encode_base64(data) or ""))
        else:
            await self.outflow.write(data)

"""`POST /v1/chat/completions`: one turn in OpenAI's words, whole or as a stream."""

import asyncio
import secrets
import time

import numpy as np
from aiohttp import web
from attrs import define, evolve

from omni.audio import pcm16_from_waveform
from omni.engine import ChatDone, ReplyChunk, SessionEvent, ToolCall
from omni.openai.audio_memory import AudioMemory, new_audio_id
from omni.openai.chat import ChatCompletion, read_completion
from omni.openai.chat_messages import has_media
from omni.openai.completion import Completion
from omni.openai.sound_formats import whole_file
from omni.realtime.media import encode_base64
from omni.routes.bodies import read_fields
from omni.routes.describe import AN_OBJECT, FLAG, JSON, TEXT, Reply, describe, list_of, record
from omni.routes.errors import json_reply
from omni.routes.keys import AUDIO_MEMORY, SOUND_FILES
from omni.routes.openai_models import TAG, served_model
from omni.routes.openai_stream import EVENT_STREAM, Outflow, stream_turn
from omni.routes.openai_turn import Gathered, Turn, find_voice

_HELP = (
    "Text, pictures (`image_url`), sound (`input_audio`) and films (`video_url`, an extension) in; "
    "text, and with `modalities: [\"text\", \"audio\"]` sound out. Media come as data URLs or "
    "base64; addresses are not fetched. A model that calls functions is told of `tools`; others "
    "know none of them. With `stream`, server-sent events. See docs/openai.md."
)
_BODY = record(
    {"messages": {**list_of(AN_OBJECT), "minItems": 1}, "model": TEXT, "stream": FLAG},
    optional=["model", "stream"],
)


@describe(
    "Answer a conversation",
    tag=TAG,
    help=_HELP,
    body=_BODY,
    reply=Reply(content_types=(JSON, EVENT_STREAM)),
    errors=(401, 429, 500, 503),
)
async def post_chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer the last message."""
    asked = await _read(request)
    turn = Turn(
        request=request,
        input=evolve(asked.request, voice=await find_voice(request.app, asked.voice)),
        is_recorded=True,
    )
    answer = Completion(
        completion_id="chatcmpl-" + secrets.token_hex(12),
        created=int(time.time()),
        model=served_model(request),
        audio_id=new_audio_id() if asked.audio_format else "",
        include_usage=asked.include_usage,
    )
    if not asked.stream:
        return await _answer_whole(turn, asked, answer)
    outflow = Outflow(request, EVENT_STREAM)
    listener = _Stream(answer=answer, outflow=outflow, memory=request.app[AUDIO_MEMORY])
    return await stream_turn(turn, listener, outflow)


async def _read(request: web.Request) -> ChatCompletion:
    """Return the request, read; media are decoded in threads that refuse when they are behind."""
    fields = await read_fields(request)
    memory, now = request.app[AUDIO_MEMORY], time.time()

    def read() -> ChatCompletion:
        return read_completion(fields, lambda audio_id: memory.find(audio_id, now))

    return await request.app[SOUND_FILES].run(read) if has_media(fields) else read()


async def _answer_whole(turn: Turn, asked: ChatCompletion, answer: Completion) -> web.Response:
    gathered = Gathered()
    await turn.run(gathered)
    audio, done = None, gathered.done
    calls = [event for event in gathered.events if isinstance(event, ToolCall)]
    if asked.audio_format and (done.text or not calls):
        app = turn.request.app
        pcm = b"".join(event.pcm for event in gathered.events if isinstance(event, ReplyChunk))
        audio = {
            "id": answer.audio_id,
            "data": await asyncio.to_thread(_sound_file, asked.audio_format, pcm),
            "expires_at": app[AUDIO_MEMORY].keep(answer.audio_id, done.text, time.time()),
            "transcript": done.text,
        }
    return await asyncio.to_thread(lambda: json_reply(answer.whole(done, audio, calls)))


def _sound_file(name: str, pcm: bytes) -> str:
    """Return float32 *pcm* as the base64 of a file of that format."""
    return encode_base64(whole_file(name, np.frombuffer(pcm, "<f4"))) or ""


@define(kw_only=True)
class _Stream:
    """Passes an answer on in chunks."""

    answer: Completion
    outflow: Outflow
    memory: AudioMemory
    streams: bool = True
    num_calls: int = 0

    async def waits(self) -> None:
        """Say so in a comment, which clients pass over."""
        await self.outflow.write(b": queued\n\n")

    async def begins(self) -> None:
        """Send the first chunk."""
        await self.outflow.send(self.answer.first())

    async def hears(self, event: SessionEvent) -> None:
        """Send what there is of it."""
        match event:
            case ReplyChunk():
                await self._send_piece(event)
            case ToolCall():
                for chunk in self.answer.call(self.num_calls, event):
                    await self.outflow.send(chunk)
                self.num_calls += 1
            case ChatDone():
                await self._send_end(event)

    async def _send_piece(self, piece: ReplyChunk) -> None:
        if piece.text:
            await self.outflow.send(self.answer.text(piece.text))
        if self.answer.audio_id and len(piece.pcm):
            pcm16 = pcm16_from_waveform(np.frombuffer(piece.pcm, "<f4"))
            await self.outflow.send(self.answer.sound(encode_base64(pcm16) or ""))

    async def _send_end(self, done: ChatDone) -> None:
        if self.answer.audio_id and (done.text or not self.num_calls):
            expires_at = self.memory.keep(self.answer.audio_id, done.text, time.time())
            await self.outflow.send(self.answer.kept(expires_at))
        await self.outflow.send(self.answer.last(done))
        if self.answer.include_usage:
            await self.outflow.send(self.answer.usage(done))
        await self.outflow.write(b"data: [DONE]\n\n")

"""`POST /api/chat`: one chat turn, answered whole."""

import asyncio
import time

from aiohttp import web
from attrs import define, evolve, field

from omni.audio import OUTPUT_HZ
from omni.engine import ChatDone, ChatRequest, Failed, ReplyChunk
from omni.errors import CapacityError, OmniError
from omni.link import LinkedSession
from omni.realtime.chat import HTTP_MAX_NEW_TOKENS, parse_request
from omni.realtime.chat_session import misfit
from omni.realtime.media import encode_wav
from omni.routes.bodies import read_media
from omni.routes.chat_schemas import CHAT_REQUEST
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Body,
    describe,
    one_of,
    or_null,
    record,
    said,
)
from omni.routes.errors import error_reply, json_reply
from omni.routes.keys import APPS, LINK, RECORDINGS, SETTINGS
from omni.routes.sockets import new_id

_STATS = ("cached_tokens", "input_tokens", "generated_tokens", "total_tokens")
_REPLY = record(
    {
        "text": TEXT,
        "audio_path": or_null(TEXT),
        "audio_data": said(or_null(TEXT), "base64 of a WAV file"),
        "audio_sample_rate": WHOLE,
        "tokens_generated": WHOLE,
        "duration_ms": NUMBER,
        "prompt": or_null(TEXT),
        "token_stats": record(dict.fromkeys(_STATS, WHOLE)),
        "recording_session_id": or_null(TEXT),
        "finish_reason": one_of("stop", "length", "cancelled"),
        "error": or_null(TEXT),
        "success": FLAG,
        "queue_wait_ms": WHOLE,
        "estimated_queue_wait_s": NUMBER,
    }
)
_EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


@define
class _Turn:
    """What is gathered of one answer."""

    estimated_wait_s: float = 0.0
    recording_id: str = ""
    pcm: list[bytes | memoryview] = field(factory=list)
    done: ChatDone | None = None
    failure: str = ""


@describe(
    "Answer one chat turn",
    tag="Chat",
    help=(
        "The answer comes whole; its sound is a WAV file at 24 kHz. A failed answer is 200 with "
        "`success: false`. Waiting in the queue counts towards `service.request_timeout`; hanging "
        "up cancels. Unknown keys are ignored."
    ),
    body=Body(schema=CHAT_REQUEST, example=_EXAMPLE),
    reply=_REPLY,
    errors=(403, 503),
)
async def post_chat(request: web.Request) -> web.Response:
    """Answer one request; a client that hangs up cancels it, also while it waits."""
    app = request.app
    app[APPS].require("turnbased")
    chat = await read_media(request, lambda fields: parse_request(fields, HTTP_MAX_NEW_TOKENS))
    chat = evolve(chat, streaming=False)  # nothing is sent before the end
    began_at, turn = time.monotonic(), _Turn()
    linked = app[LINK].open_session(new_id("chat"), "chat")
    try:
        await _run(request, linked, chat, turn)
        duration_s = time.monotonic() - began_at
        # two minutes of sound held the loop for 64 ms
        return await asyncio.to_thread(_reply, turn, linked.queued_s, duration_s)
    except OmniError as exc:
        is_ready = app[LINK].connected
        return error_reply(exc, "No worker available" if is_ready else "Service not ready")
    finally:
        linked.close()


async def _run(
    request: web.Request, linked: LinkedSession, chat: ChatRequest, turn: _Turn
) -> None:
    timeout_s = request.app[SETTINGS].service.request_timeout
    try:
        async with asyncio.timeout(timeout_s):
            async for place in linked.wait_for_lease():
                turn.estimated_wait_s = turn.estimated_wait_s or place.estimated_wait_s
            await _answer(request, linked, chat, turn)
    except TimeoutError as exc:
        raise CapacityError(f"Request timeout ({timeout_s:.1f}s)") from exc


async def _answer(
    request: web.Request, linked: LinkedSession, chat: ChatRequest, turn: _Turn
) -> None:
    if (error := misfit(chat, linked.lease.capabilities)) is not None:
        raise error
    recorder = request.app[RECORDINGS].start(linked.client_id, "chat", linked.lease.worker)
    turn.recording_id = recorder.recording_id
    try:
        linked.send(chat)
        recorder.heard(chat)
        while turn.done is None and not turn.failure:
            event = await linked.receive()
            recorder.said(event)
            match event:
                case ReplyChunk(pcm=pcm):
                    turn.pcm.append(pcm)
                case ChatDone():
                    turn.done = event
                case Failed(message=message):
                    turn.failure = message or "The engine failed"
    finally:
        recorder.close()


def _reply(turn: _Turn, queued_s: float, duration_s: float) -> web.Response:
    """Return the answer; blocks, as its sound is written and encoded here."""
    done = turn.done or ChatDone(text="", input_tokens=0, generated_tokens=0)
    body = {
        "text": done.text,
        "audio_path": None,
        "audio_data": encode_wav(b"".join(turn.pcm), OUTPUT_HZ),
        "audio_sample_rate": OUTPUT_HZ,
        "tokens_generated": done.generated_tokens,
        "duration_ms": round((duration_s - queued_s) * 1000, 1),
        "prompt": None,
        "token_stats": {
            "cached_tokens": 0,
            "input_tokens": done.input_tokens,
            "generated_tokens": done.generated_tokens,
            "total_tokens": done.input_tokens + done.generated_tokens,
        },
        "recording_session_id": turn.recording_id or None,
        "finish_reason": done.finish_reason,
        "error": turn.failure or None,
        "success": not turn.failure,
        "queue_wait_ms": round(queued_s * 1000),
        "estimated_queue_wait_s": turn.estimated_wait_s,
    }
    return json_reply(body)

"""Voices that clients upload: list, add, listen to, delete."""

import asyncio
import sys

from aiohttp import web
from attrs import asdict

from omni.audio import INPUT_HZ, seconds
from omni.errors import ProtocolError, TooLarge
from omni.realtime.media import MAX_VOICE_S, decode_file
from omni.routes.bodies import read_fields
from omni.routes.describe import (
    FILE,
    FLAG,
    TEXT,
    WHOLE,
    Reply,
    describe,
    list_of,
    or_null,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.keys import SOUND_FILES, VOICES

TAG = "Voices"
MAX_FILE_BYTES = 64 * 2**20
MAX_NAME_CHARS = 200
MIN_VOICE_S = 0.1

_ENTRY = record(
    {
        "id": TEXT,
        "name": TEXT,
        "filename": TEXT,
        "duration_ms": WHOLE,
        "created_at": said(TEXT, "local time, ISO 8601"),
        "source_type": TEXT,
        "sample_rate": WHOLE,
    }
)
_DONE = record({"success": FLAG, "id": TEXT, "name": or_null(TEXT), "message": TEXT})


@describe(
    "List the voices",
    tag=TAG,
    help="Those that clients uploaded, the oldest first.",
    reply=record({"total": WHOLE, "ref_audios": list_of(_ENTRY)}),
)
async def get_voices(request: web.Request) -> web.Response:
    """Return the registry."""
    entries = [asdict(entry) for entry in request.app[VOICES].entries()]
    return json_reply({"total": len(entries), "ref_audios": entries})


@describe(
    "Upload a voice",
    tag=TAG,
    help=(
        "Any sound file (or the sound of a film) of 0.1 to 120 s and up to 64 MiB. It is kept as "
        "16 kHz mono PCM16, whatever was sent. 413 also where no more voices are kept "
        "(`audio.max_voices`, `audio.max_voices_s`)."
    ),
    body=record(
        {
            "name": said({**TEXT, "maxLength": MAX_NAME_CHARS}, "default: the voice's id"),
            "audio_base64": said({**TEXT, "minLength": 4}, "the file, as base64"),
        },
        optional=["name"],
    ),
    reply=_DONE,
    errors=(503,),
)
async def post_voice(request: web.Request) -> web.Response:
    """Keep one voice."""
    fields = await read_fields(request)
    name = fields.text("name", max_chars=MAX_NAME_CHARS).strip()
    if not fields.has("audio_base64"):
        raise fields.wrong("audio_base64", "is missing")
    text = fields.text("audio_base64", max_chars=sys.maxsize)  # a body has its own limit
    if len(text) * 3 // 4 > MAX_FILE_BYTES:
        raise TooLarge(f"The file is above {MAX_FILE_BYTES >> 20} MiB")
    data = await asyncio.to_thread(decode_file, text, ("audio_base64",), MAX_FILE_BYTES)
    samples = await request.app[SOUND_FILES].read(data, MAX_VOICE_S)
    if seconds(samples.size, INPUT_HZ) < MIN_VOICE_S:
        raise ProtocolError(f"The sound is shorter than {MIN_VOICE_S} s: no voice")
    entry = await request.app[VOICES].add(name, samples)
    message = f"Uploaded successfully, duration={entry.duration_ms}ms"
    return json_reply({"success": True, "id": entry.id, "name": entry.name, "message": message})


@describe(
    "Listen to a voice",
    tag=TAG,
    reply=Reply(schema=FILE, content_types=("audio/wav",), help="16 kHz mono PCM16"),
    errors=(404,),
)
async def get_voice(request: web.Request) -> web.StreamResponse:
    """Return a voice as a WAV file."""
    path = request.app[VOICES].path(request.match_info["voice_id"])
    return web.FileResponse(path, headers={"Content-Type": "audio/wav"})


@describe(
    "Delete a voice",
    tag=TAG,
    help="Sessions that use it go on.",
    reply=_DONE,
    errors=(404,),
)
async def delete_voice(request: web.Request) -> web.Response:
    """Forget a voice."""
    voice_id = request.match_info["voice_id"]
    await request.app[VOICES].remove(voice_id)
    return json_reply({"success": True, "id": voice_id, "name": None, "message": "Deleted"})

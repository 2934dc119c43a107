"""Presets: their list, and the sound of one."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from omni.errors import NotFound
from omni.process import ROOT
from omni.realtime.media import encode_base64
from omni.routes.describe import (
    NUMBER,
    TEXT,
    WHOLE,
    Param,
    Schema,
    describe,
    list_of,
    map_of,
    one_of,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.keys import PRESETS
from omni.routes.preset_files import MODES, Preset, Recording, read_recording

TAG = "Presets"

_SOUND = said({"type": ["string", "null"]}, "base64 of float32 at 16 kHz; null in the list")
_RECORDING: Mapping[str, Schema] = {"data": _SOUND, "name": TEXT, "duration": NUMBER}
_ITEM = {
    "anyOf": [
        record({"type": {"const": "text"}, "text": TEXT}),
        record({"type": {"const": "audio"}, "path": TEXT, **_RECORDING}),
    ]
}
_PRESET = record(
    {
        "id": TEXT,
        "name": TEXT,
        "description": TEXT,
        "order": WHOLE,
        "system_content": list_of(_ITEM),
        "system_prompt": TEXT,
        "ref_audio": record({"path": TEXT, **_RECORDING}),
    },
    optional=["system_content", "system_prompt", "ref_audio"],
)


@describe(
    "List the presets",
    tag=TAG,
    help=(
        "By mode, in the order in which they are shown. A preset has `system_content` (turn-based, "
        "half duplex), or `system_prompt` and perhaps `ref_audio`. Sound is fetched with the next "
        "route."
    ),
    reply=map_of(list_of(_PRESET)),
)
async def get_presets(request: web.Request) -> web.Response:
    """Return all presets, without sound."""
    presets = request.app[PRESETS]
    return json_reply({mode: [_preset(preset) for preset in presets[mode]] for mode in MODES})


@describe(
    "Get the sound of a preset",
    tag=TAG,
    params=(Param(name="mode", where="path", schema=one_of(*MODES)),),
    help="`system_content_audio` is in the order of the audio items; what has no sound is absent.",
    reply=record(
        {"system_content_audio": list_of(record(_RECORDING)), "ref_audio": record(_RECORDING)},
        optional=["system_content_audio", "ref_audio"],
    ),
    errors=(404,),
)
async def get_preset_audio(request: web.Request) -> web.Response:
    """Return the sound of one preset."""
    mode, preset_id = request.match_info["mode"], request.match_info["preset_id"]
    for preset in request.app[PRESETS].get(mode, ()):
        if preset.id == preset_id:
            return json_reply(await asyncio.to_thread(_sounds, preset))
    raise NotFound(f"Preset not found: {mode}/{preset_id}")


def _preset(preset: Preset) -> dict[str, object]:
    shown: dict[str, object] = {
        "id": preset.id,
        "name": preset.name,
        "description": preset.description,
        "order": preset.order,
    }
    if preset.system_content:
        shown["system_content"] = [_item(item) for item in preset.system_content]
    else:
        shown["system_prompt"] = preset.system_prompt
    if preset.ref_audio is not None:
        shown["ref_audio"] = _silent(preset.ref_audio)
    return shown


def _item(item: str | Recording) -> dict[str, object]:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    return {"type": "audio", **_silent(item)}


def _silent(recording: Recording) -> dict[str, object]:
    return {"path": recording.path, **_recording(recording, None)}


def _sounds(preset: Preset) -> dict[str, object]:
    reply: dict[str, object] = {}
    items = [item for item in preset.system_content if isinstance(item, Recording)]
    if items:
        reply["system_content_audio"] = [_with_sound(item) for item in items]
    if preset.ref_audio is not None:
        reply["ref_audio"] = _with_sound(preset.ref_audio)
    return reply


def _with_sound(recording: Recording) -> dict[str, object]:
    return _recording(recording, encode_base64(read_recording(ROOT / recording.path)))


def _recording(recording: Recording, data: str | None) -> dict[str, object]:
    return {"data": data, "name": recording.name, "duration": recording.duration_s}

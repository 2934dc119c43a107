"""The default reference voice."""

import asyncio
from pathlib import Path

from aiohttp import web

from omni.audio import INPUT_HZ
from omni.errors import NotFound, OmniError, ProtocolError
from omni.realtime.media import encode_base64
from omni.routes.describe import NUMBER, TEXT, WHOLE, describe, record, said
from omni.routes.errors import json_reply
from omni.routes.keys import SETTINGS
from omni.routes.preset_files import ASSETS, duration_s, read_recording

#: Made with the Piper voice en_US-joe-medium, which is CC0.
DEFAULT_VOICE = ASSETS / "default_voice.wav"
_FLOAT32_BYTES = 4


@describe(
    "Get the default voice",
    tag="Voices",
    reply=record(
        {
            "name": TEXT,
            "duration": said(NUMBER, "in seconds"),
            "sample_rate": WHOLE,
            "samples": WHOLE,
            "base64": said(TEXT, "float32, 16 kHz"),
        }
    ),
    errors=(404, 500),
)
async def get_default_ref_audio(request: web.Request) -> web.Response:
    """Return the default voice as float32 at 16 kHz."""
    given = request.app[SETTINGS].audio.ref_audio_path
    path = Path(given) if given else DEFAULT_VOICE
    return json_reply(await asyncio.to_thread(_read_voice, path))


def _read_voice(path: Path) -> dict[str, object]:
    try:
        pcm = read_recording(path)
    except OSError as exc:
        raise NotFound(f"The reference voice {path.name} cannot be read") from exc
    except ProtocolError as exc:
        raise OmniError(f"The reference voice {path.name} cannot be used: {exc}") from exc
    return {
        "name": path.stem,
        "duration": duration_s(pcm),
        "sample_rate": INPUT_HZ,
        "samples": len(pcm) // _FLOAT32_BYTES,
        "base64": encode_base64(pcm),
    }

"""The default reference voice."""

import asyncio
from pathlib import Path

from aiohttp import web

from omni.audio import INPUT_HZ, seconds
from omni.errors import NotFound, OmniError, ProtocolError
from omni.realtime.media import MAX_VOICE_S, checked_sound, encode_base64
from omni.routes.errors import json_reply
from omni.routes.keys import SETTINGS
from omni.wav import waveform_from_wav

#: Made with the Piper voice en_US-joe-medium, which is CC0.
DEFAULT_VOICE = Path(__file__).resolve().parent.parent / "assets" / "default_voice.wav"
_FLOAT32_BYTES = 4


async def get_default_ref_audio(request: web.Request) -> web.Response:
    """Return the default voice as float32 at 16 kHz."""
    given = request.app[SETTINGS].audio.ref_audio_path
    path = Path(given) if given else DEFAULT_VOICE
    return json_reply(await asyncio.to_thread(_read_voice, path))


def _read_voice(path: Path) -> dict[str, object]:
    try:
        samples, rate_hz = waveform_from_wav(path.read_bytes())
        pcm = checked_sound(samples, rate_hz, MAX_VOICE_S)
    except OSError as exc:
        raise NotFound(f"The reference voice {path.name} cannot be read") from exc
    except ProtocolError as exc:
        raise OmniError(f"The reference voice {path.name} cannot be used: {exc}") from exc
    num_samples = len(pcm) // _FLOAT32_BYTES
    return {
        "name": path.stem,
        "duration": round(seconds(num_samples, INPUT_HZ), 1),
        "sample_rate": INPUT_HZ,
        "samples": num_samples,
        "base64": encode_base64(pcm),
    }

"""Sound, pictures and films as clients send them: strict base64 <-> bytes, bounded in size."""

import binascii
from collections.abc import Callable

import numpy as np
import pybase64
from attrs import define, field

from omni.audio import INPUT_HZ, Waveform, harmless, resample, seconds, waveform_from_pcm16
from omni.engine import EMPTY, Buffer
from omni.errors import ProtocolError, TooLarge
from omni.pictures import check_size
from omni.realtime.fields import FieldError, Location
from omni.wav import is_wav, wav_from_waveform, waveform_from_wav

#: Longest sound in one chunk of a live session; browsers send 0.5 to 1 s.
MAX_CHUNK_S = 30.0
#: Longest reference voice and longest sound in a chat message.
MAX_VOICE_S = 120.0
MAX_SPEECH_S = 1800.0
MAX_IMAGE_BYTES = 32 * 2**20
#: First four bytes of a binary frame, which say how the samples after it are written.
PCM16_TAG = b"S16L"
FLOAT32_TAG = b"F32L"
_FLOAT32_BYTES = 4


@define
class SoundLeft:
    """How much sound one request may still bring. max_s: all of it together.

    A bound for each part is none: a file of a few KB can hold half an hour of silence, and a
    request thousands of them.
    """

    max_s: float = MAX_SPEECH_S
    _used_s: float = field(default=0.0, init=False)

    def read(self, read: Callable[[float], Buffer], loc: Location) -> Buffer:
        """Return what *read*, which is told how many seconds it may give, makes of one part."""
        left_s = self.max_s - self._used_s
        if left_s <= 0:
            problem = f"all sound of a request together lasts at most {self.max_s:.0f} s"
            raise FieldError(loc, problem)
        pcm = read(left_s)
        self._used_s += seconds(len(pcm) // _FLOAT32_BYTES, INPUT_HZ)
        return pcm


def decode_base64(text: str, loc: Location) -> bytes:
    """Return the bytes of *text*; only the standard alphabet with its padding is base64 here."""
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise FieldError(loc, f"not base64: {exc}") from exc


def decode_sound(text: str, loc: Location, max_s: float, rate_hz: int = INPUT_HZ) -> Buffer:
    """Return sound as float32 at 16 kHz in [-1, 1].

    text: base64 of raw float32 at *rate_hz*, or of a WAV file of any rate.
    """
    data = decode_base64(text, loc)
    try:
        if is_wav(data):
            samples, rate_hz = waveform_from_wav(data)
        elif len(data) % _FLOAT32_BYTES:
            raise ProtocolError(f"{len(data)} bytes are no whole number of float32 samples")
        else:
            samples = np.frombuffer(data, "<f4")
        return checked_sound(samples, rate_hz, max_s)
    except FieldError:
        raise
    except ProtocolError as exc:
        raise FieldError(loc, str(exc)) from exc


def checked_sound(samples: Waveform, rate_hz: int, max_s: float) -> Buffer:
    """Return *samples*, made `harmless`, as bytes at 16 kHz."""
    if samples.size > max_s * rate_hz:
        raise ProtocolError(f"{samples.size / rate_hz:.1f} s of sound are above {max_s:.0f} s")
    if not samples.size:
        return EMPTY
    resampled = resample(harmless(samples), rate_hz, INPUT_HZ)
    return Buffer(resampled.astype("<f4", copy=False).tobytes())


def decode_binary_sound(frame: bytes, max_s: float) -> Buffer:
    """Return the sound of a binary frame: a tag of four bytes, then samples at 16 kHz."""
    tag, body = frame[:4], memoryview(frame)[4:]
    if tag == PCM16_TAG:
        return checked_sound(waveform_from_pcm16(body), INPUT_HZ, max_s)
    if tag == FLOAT32_TAG and len(body) % _FLOAT32_BYTES == 0:
        return checked_sound(np.frombuffer(body, "<f4"), INPUT_HZ, max_s)
    raise ProtocolError("Invalid binary message: it begins with S16L or F32L, then whole samples")


def decode_file(text: str, loc: Location, max_bytes: int) -> Buffer:
    """Return a picture or film as the file that it is."""
    if len(text) * 3 > max_bytes * 4 + 12:
        raise FieldError(loc, f"a file above {max_bytes >> 20} MiB")
    data = decode_base64(text, loc)
    if not data:
        raise FieldError(loc, "an empty file")
    return Buffer(data)


def decode_picture(text: str, loc: Location) -> Buffer:
    """Return a picture as the file that it is; its header tells whether it is a bomb."""
    data = decode_file(text, loc, MAX_IMAGE_BYTES)
    try:
        check_size(data)
    except TooLarge as exc:
        raise FieldError(loc, str(exc)) from exc
    return data


def encode_base64(data: bytes | memoryview) -> str | None:
    """Return *data* as base64, None when there is none: listeners test for null."""
    return pybase64.b64encode_as_string(data) if len(data) else None


def encode_wav(pcm: bytes | memoryview, rate_hz: int) -> str | None:
    """Return float32 *pcm* as the base64 of a whole WAV file, None when there is none."""
    if not len(pcm):
        return None
    return encode_base64(wav_from_waveform(np.frombuffer(pcm, "<f4"), rate_hz))

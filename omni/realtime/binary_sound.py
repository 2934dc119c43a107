"""Sound in binary frames instead of base64, version 1: which form, how it is told, how it is read.

A client may send any form at any time: the first four bytes name it. What it gets is what the event
that opens its session, or its request, asks for in `sound`.
"""

from typing import Literal

from attrs import define, field

from omni.audio import INPUT_HZ, pcm16_from_waveform, waveform_from_float32
from omni.engine import Buffer
from omni.errors import ProtocolError
from omni.realtime.dialect import Frame, event
from omni.realtime.fields import Fields
from omni.realtime.media import (
    FLOAT32_TAG,
    MAX_CHUNK_S,
    PCM16_TAG,
    checked_sound,
    decode_binary_sound,
    encode_base64,
)
from omni.realtime.opus import OPUS_TAG, OpusReader, OpusWriter

SoundForm = Literal["base64", "pcm16", "float32", "opus"]
SOUND_FORMS: tuple[SoundForm, ...] = ("base64", "pcm16", "float32", "opus")
#: Of the layout of binary frames. A client may name it, and is refused if it means another one.
SOUND_VERSION = 1
#: A minute of sound as base64 in JSON takes 50 ms: above this it is written when it goes.
_QUICK_SOUND_BYTES = 2**18
#: Not even a WAV file at 1 kHz takes long in so few bytes.
_QUICK_BYTES = 8 * 2**10
#: First letters of a WAV file in base64, and the field that says that raw sound has another rate.
_SLOW_WORDS = (b"UklGR", b'sample_rate"')
#: A chunk with pictures has some twenty; what has more may as well be read beside the loop.
_MAX_QUOTES = 200
TAGS = (PCM16_TAG, FLOAT32_TAG, OPUS_TAG)


def sound_form(fields: Fields) -> SoundForm:
    """Return what *fields* ask for. Raises: FieldError, with all that there is."""
    fields.whole("sound_version", SOUND_VERSION, SOUND_VERSION, SOUND_VERSION)
    return fields.choice("sound", "base64", SOUND_FORMS)


@define
class SoundWriter:
    """Tells sound in the form that was negotiated."""

    form: SoundForm = "base64"
    _opus: OpusWriter = field(factory=OpusWriter, init=False)

    def told(
        self, name: str, pcm: bytes | memoryview, is_last: bool = False
    ) -> tuple[dict[str, object], list[Frame]]:
        """Return the fields of the event that brings *pcm*, and the frame right behind it, if any.

        pcm: float32 at 24 kHz. is_last: a turn ends with it (Opus keeps back what fills no packet).
        """
        if self.form == "base64":
            return {name: encode_base64(pcm)}, []
        frame = self._frame(pcm, is_last)
        if frame is None:
            return {name: None}, []
        return {name: None, "audio_follows": True}, [frame]

    def whole(
        self, kind: str, name: str, pcm: bytes | memoryview, **fields: object
    ) -> list[Frame]:
        """Return the event that ends a turn with all of its sound, and the frame behind it, if any.

        Base64 of much sound is made when the event goes, in a thread.
        """
        if self.form == "base64" and len(pcm) > _QUICK_SOUND_BYTES:

            def written() -> bytes:
                return event(kind, **fields, **{name: encode_base64(pcm)})[0].data

            return [Frame(b"", work=written)]
        audio, frames = self.told(name, pcm, is_last=True)
        return [*event(kind, **fields, **audio), *frames]

    def cut(self) -> None:
        """Forget what is kept back of a turn that is over."""
        self._opus.cut()

    def _frame(self, pcm: bytes | memoryview, is_last: bool) -> Frame | None:
        if self.form == "opus":
            return self._opus.frame(pcm, is_last)
        if not len(pcm):
            return None
        if self.form == "pcm16":
            sound = PCM16_TAG + pcm16_from_waveform(waveform_from_float32(pcm))
        else:
            sound = FLOAT32_TAG + bytes(pcm)
        return Frame(sound, binary=True)


@define
class SoundReader:
    """Reads the binary frames of one client."""

    _opus: OpusReader | None = field(default=None, init=False)

    def read(self, frame: bytes, max_s: float = MAX_CHUNK_S) -> Buffer:
        """Return the sound of *frame* as float32 at 16 kHz. Raises: ProtocolError."""
        if frame[:4] not in TAGS:
            names = ", ".join(tag.decode() for tag in TAGS)
            raise ProtocolError(f"Invalid binary message: it begins with one of {names}")
        if frame[:4] != OPUS_TAG:
            return decode_binary_sound(frame, max_s)
        self._opus = self._opus or OpusReader()
        return checked_sound(self._opus.read(frame, max_s), INPUT_HZ, max_s)


def is_slow(frame: bytes, binary: bool) -> bool:
    """Say whether reading *frame* takes longer than the event loop may be kept.

    Opus is; so is sound of another rate: 155 KiB of a WAV file at 1 kHz take 50 ms to resample, a
    MiB of raw sound at 8 kHz takes 24. It is known by words, unless a JSON escape hides them.
    """
    if binary:
        return frame[:4] == OPUS_TAG
    return len(frame) > _QUICK_BYTES and (b"\\" in frame or _may_resample(frame))


def _may_resample(frame: bytes) -> bool:
    """Look behind each quote, which takes 5 us for a chunk; the search for the letters, 100."""
    at = -1
    for _ in range(_MAX_QUOTES):
        at = frame.find(b'"', at + 1)
        if at < 0:
            return False
        if frame.startswith(_SLOW_WORDS, at + 1):
            return True
    return True

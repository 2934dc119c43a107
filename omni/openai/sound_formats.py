"""Sound at 24 kHz -> the formats that OpenAI's API names, whole or piece by piece as it is made."""

import io
import struct
from collections.abc import Mapping
from typing import Protocol

import av
import numpy as np
from attrs import field, frozen
from av.audio.stream import AudioStream

from omni.audio import OUTPUT_HZ, Waveform, pcm16_from_waveform
from omni.openai.tempo import Tempo
from omni.wav import wav_from_waveform


@frozen(kw_only=True)
class SoundFormat:
    """muxer, codec: FFmpeg's names, empty where no encoder is needed. bit_rate: of mono speech.

    stream_options: of the muxer, for a file that leaves as it is made.
    """

    content_type: str
    muxer: str = ""
    codec: str = ""
    bit_rate: int = 0
    stream_options: Mapping[str, str] = field(factory=dict)


#: pcm and pcm16 are one format, by the names of two endpoints: raw PCM16 LE, mono, 24 kHz.
FORMATS = {
    "mp3": SoundFormat(
        content_type="audio/mpeg",
        muxer="mp3",
        codec="libmp3lame",
        bit_rate=96_000,
        stream_options={"write_xing": "0"},  # a header about the whole, which is not known yet
    ),
    "opus": SoundFormat(
        content_type="audio/ogg",
        muxer="ogg",
        codec="libopus",
        bit_rate=48_000,
        stream_options={"page_duration": "200000"},  # us of sound that wait for a page to be full
    ),
    "aac": SoundFormat(content_type="audio/aac", muxer="adts", codec="aac", bit_rate=96_000),
    "flac": SoundFormat(content_type="audio/flac", muxer="flac", codec="flac"),
    "wav": SoundFormat(content_type="audio/wav"),
    "pcm": SoundFormat(content_type="audio/pcm"),
    "pcm16": SoundFormat(content_type="audio/pcm"),
}
#: What a file says of its size while nobody knows it; readers then go on to its end.
_UNKNOWN_BYTES = 0xFFFFFFFF


class Encoder(Protocol):
    """One sound on its way into a file. Blocks: call it in a thread, one call at a time."""

    def push(self, samples: Waveform) -> bytes:
        """Return the bytes that *samples*, shape (N,), complete; may be none."""

    def finish(self) -> bytes:
        """Return the last bytes."""


def open_encoder(name: str, speed: float = 1.0) -> Encoder:
    """Return the encoder of a format in `FORMATS`. speed: see `Tempo`."""
    sound_format = FORMATS[name]
    if sound_format.codec:
        encoder: Encoder = CodecEncoder(sound_format)
    else:
        encoder = RawEncoder(with_header=name == "wav")
    return encoder if speed == 1.0 else StretchedEncoder(Tempo(speed), encoder)


def whole_file(name: str, samples: Waveform) -> bytes:
    """Return *samples* as one file of a format in `FORMATS`, whose header knows its length."""
    if name == "wav":
        return wav_from_waveform(samples, OUTPUT_HZ)
    sound_format = FORMATS[name]
    if not sound_format.codec:
        return pcm16_from_waveform(samples)
    file = io.BytesIO()
    encoder = CodecEncoder(sound_format, file)
    encoder.push(samples)
    encoder.finish()
    return file.getvalue()


class RawEncoder:
    """PCM16, with the header of a WAV file of unknown length or with none."""

    def __init__(self, with_header: bool) -> None:
        self._head = _wav_head() if with_header else b""

    def push(self, samples: Waveform) -> bytes:
        """Return *samples*, behind the header if they are the first."""
        head, self._head = self._head, b""
        return head + pcm16_from_waveform(samples)

    def finish(self) -> bytes:
        """Return the header, if there was no sound at all."""
        head, self._head = self._head, b""
        return head


class CodecEncoder:
    """A compressed format, by FFmpeg. file: None gives the bytes out as they come."""

    def __init__(self, sound_format: SoundFormat, file: io.BytesIO | None = None) -> None:
        self._pipe = _Pipe()
        self._num_samples = 0
        options = {"flush_packets": "1", **sound_format.stream_options} if file is None else {}
        self._container = av.open(
            file or self._pipe, mode="w", format=sound_format.muxer, options=options
        )
        stream = self._container.add_stream(sound_format.codec, rate=OUTPUT_HZ)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "mono"
        if sound_format.bit_rate:
            stream.codec_context.bit_rate = sound_format.bit_rate
        self._stream = stream

    def push(self, samples: Waveform) -> bytes:
        """Encode *samples*."""
        if samples.size:
            frame = av.AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
            frame.sample_rate, frame.pts = OUTPUT_HZ, self._num_samples
            self._num_samples += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._pipe.taken()

    def finish(self) -> bytes:
        """Encode what is held back, and close the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._pipe.taken()


class StretchedEncoder:
    """Changes the tempo, then encodes."""

    def __init__(self, tempo: Tempo, encoder: Encoder) -> None:
        self._tempo = tempo
        self._encoder = encoder

    def push(self, samples: Waveform) -> bytes:
        """Encode what *samples* become."""
        return self._encoder.push(self._tempo.push(samples))

    def finish(self) -> bytes:
        """Encode what is held back."""
        return self._encoder.push(self._tempo.finish()) + self._encoder.finish()


class _Pipe:
    """Something to write to that cannot go back; what was written is taken out."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        written, self._written = bytes(self._written), bytearray()
        return written


def _wav_head() -> bytes:
    head = bytearray(wav_from_waveform(np.zeros(0, np.float32), OUTPUT_HZ))
    struct.pack_into("<I", head, 4, _UNKNOWN_BYTES)
    struct.pack_into("<I", head, 40, _UNKNOWN_BYTES)
    return bytes(head)

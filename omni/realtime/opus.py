"""Opus on a WebSocket: a frame holds the packets of a stretch of sound, and says how much they are.

Layout (little-endian): `OPUS`, u16 skip, u32 samples, then for each packet u16 length and its
bytes. Counts are at 48 kHz, whatever rate the ends use: the first *skip* samples that the packets
decode to are the codec's start and no sound, the next *samples* are the sound, the rest is padding.
So nothing is lost, and nothing is added, however a turn is cut into frames. Source: RFC 6716, 4.2.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import partial

import av
import numpy as np
from attrs import define, field

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, waveform_from_float32
from omni.errors import ProtocolError
from omni.realtime.dialect import Frame

OPUS_TAG = b"OPUS"
#: The rate at which an Opus decoder works, and in which its stream counts.
OPUS_HZ = 48_000
BIT_RATE = 32_000
_HEAD = struct.Struct("<4sHI")
_LENGTH = struct.Struct("<H")
#: In one frame: 30 s in packets of 2.5 ms, the shortest that there are.
_MAX_PACKETS = 12_000
_RATIO = OPUS_HZ // OUTPUT_HZ
#: libopus looks so far ahead (6.5 ms); what a decoder gives first is that much of nothing.
_DELAY_SAMPLES = 156
_PACKET_SAMPLES = 480  # 20 ms
_FLOAT32_BYTES = 4
#: Of 0 to 10: from here on the effort doubles, and speech sounds no better.
_EFFORT = 5
#: Low-pass at 7.4 kHz for a third of the rate: 97 taps, 1 ms of delay, -80 dB from 8.6 kHz on.
_TAPS = 97
_CUT_HZ = 7_400
_STEP = OPUS_HZ // INPUT_HZ


class OpusWriter:
    """Writes the sound of turns (24 kHz), each as one stream. Frames are encoded when they go."""

    def __init__(self) -> None:
        self._stream: _Stream | None = None

    def frame(self, pcm: bytes | memoryview, is_last: bool) -> Frame | None:
        """Return the frame that *pcm* (float32) completes, None where it completes none."""
        if self._stream is None:
            if not len(pcm):
                return None
            self._stream = _Stream()
        stream = self._stream
        num_samples = stream.push(pcm, is_last)
        if is_last:
            self._stream = None
        if not num_samples:
            return None
        return Frame(b"", binary=True, work=partial(stream.encode, num_samples, is_last))

    def cut(self) -> None:
        """Forget what is left of a turn that nobody hears to its end."""
        self._stream = None


@define(eq=False)
class _Stream:
    """The sound of one turn. Pushed in one thread, encoded in another, in the same order."""

    _codec: av.AudioCodecContext = field(factory=lambda: _encoder())
    _pushed: bytearray = field(factory=bytearray)
    _num_pushed: int = 0  # samples of sound
    _num_planned: int = 0  # samples in packets, padding included
    _num_told: int = 0  # at 48 kHz
    _num_encoded: int = 0

    def push(self, pcm: bytes | memoryview, is_last: bool) -> int:
        """Take *pcm*, and return how many samples are to be encoded now."""
        self._pushed += pcm
        self._num_pushed += len(pcm) // _FLOAT32_BYTES
        wanted = self._num_pushed
        if is_last:  # the delay at the end, and whole packets
            wanted += _DELAY_SAMPLES
            padded = -(-wanted // _PACKET_SAMPLES) * _PACKET_SAMPLES
            self._pushed += bytes((padded - self._num_pushed) * _FLOAT32_BYTES)
            wanted = padded
        num_samples = (wanted - self._num_planned) // _PACKET_SAMPLES * _PACKET_SAMPLES
        self._num_planned += num_samples
        return num_samples

    def encode(self, num_samples: int, is_last: bool) -> bytes:
        """Return the frame of the next *num_samples*."""
        size = num_samples * _FLOAT32_BYTES
        samples = waveform_from_float32(bytes(self._pushed[:size]))
        del self._pushed[:size]
        packets = [
            packet
            for first in range(0, num_samples, _PACKET_SAMPLES)
            for packet in self._packets(samples[first : first + _PACKET_SAMPLES])
        ]
        skip = 0 if self._num_told else _DELAY_SAMPLES * _RATIO
        told = num_samples * _RATIO - skip
        if is_last:
            told = self._num_pushed * _RATIO - self._num_told
        self._num_told += told
        parts = [_HEAD.pack(OPUS_TAG, skip, told)]
        for packet in packets:
            parts += [_LENGTH.pack(len(packet)), packet]
        return b"".join(parts)

    def _packets(self, samples: Waveform) -> Iterator[bytes]:
        frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        frame.sample_rate, frame.pts = OUTPUT_HZ, self._num_encoded
        self._num_encoded += samples.size
        for packet in self._codec.encode(frame):
            yield bytes(packet)


class OpusReader:
    """Reads the frames of one client, one stream after the other, as sound at 16 kHz."""

    def __init__(self) -> None:
        self._codec = _decoder()
        self._third = _Third()

    def read(self, frame: bytes, max_s: float) -> Waveform:
        """Return the sound of *frame*, three samples for one. Raises: ProtocolError."""
        if len(frame) < _HEAD.size:
            raise ProtocolError("An Opus frame begins with OPUS, u16 skip and u32 samples")
        _, skip, num_samples = _HEAD.unpack_from(frame)
        if num_samples > max_s * OPUS_HZ:
            raise ProtocolError(f"{num_samples / OPUS_HZ:.1f} s of sound are above {max_s:.0f} s")
        if skip:  # a stream begins
            self._codec = _decoder()
        try:
            decoded = self._decode(frame, skip + num_samples)
        except av.FFmpegError as exc:
            self._codec = _decoder()
            raise ProtocolError(f"These are no Opus packets: {exc}") from exc
        if decoded.size < skip + num_samples:
            raise ProtocolError(
                f"{decoded.size} samples are in the packets, {skip} and {num_samples} were named"
            )
        return self._third.push(decoded[skip : skip + num_samples])

    def _decode(self, frame: bytes, num_wanted: int) -> Waveform:
        pieces: list[Waveform] = [np.zeros(0, np.float32)]
        num_decoded = 0
        for packet in _packets_of(frame):
            for decoded in self._codec.decode(av.Packet(packet)):
                samples: Waveform = decoded.to_ndarray().reshape(-1).astype(np.float32, copy=False)
                pieces.append(samples)
                num_decoded += decoded.samples
            if num_decoded > num_wanted + OPUS_HZ:
                raise ProtocolError("There is more than a second of padding in an Opus frame")
        return np.concatenate(pieces)


def _packets_of(frame: bytes) -> Iterator[bytes]:
    at, num_packets = _HEAD.size, 0
    while at < len(frame):
        if (num_packets := num_packets + 1) > _MAX_PACKETS:
            raise ProtocolError(f"More than {_MAX_PACKETS} packets are in one Opus frame")
        stop = at + _LENGTH.size
        if stop > len(frame):
            raise ProtocolError("An Opus frame ends within the length of a packet")
        (length,) = _LENGTH.unpack_from(frame, at)
        at, stop = stop, stop + length
        if not length or stop > len(frame):
            raise ProtocolError(f"A packet of {length} bytes does not fit its Opus frame")
        yield frame[at:stop]
        at = stop


@define
class _Third:
    """Takes every third sample of a stream, low-passed, without a seam between its pieces."""

    _past: Waveform = field(factory=lambda: np.zeros(_TAPS - 1, np.float32))
    _phase: int = 0

    def push(self, samples: Waveform) -> Waveform:
        """Return what *samples* complete: of three in all, one."""
        whole = np.concatenate([self._past, samples])
        self._past = whole[len(whole) - _TAPS + 1 :]
        first = -self._phase % _STEP
        self._phase = (self._phase + samples.size) % _STEP
        windows = np.lib.stride_tricks.sliding_window_view(whole, _TAPS)[first::_STEP]
        thirds: Waveform = windows @ _low_pass
        return thirds


def _windowed_sinc() -> Waveform:
    at = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = np.sinc(2 * _CUT_HZ / OPUS_HZ * at) * np.kaiser(_TAPS, 8.0)
    low_pass: Waveform = (taps / taps.sum()).astype(np.float32)
    return low_pass


_low_pass = _windowed_sinc()


def _encoder() -> av.AudioCodecContext:
    codec = av.CodecContext.create("libopus", "w")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate, codec.layout, codec.format = OUTPUT_HZ, "mono", "flt"
    codec.bit_rate, codec.time_base = BIT_RATE, Fraction(1, OUTPUT_HZ)
    codec.options = {"application": "voip", "compression_level": str(_EFFORT)}
    codec.open()
    return codec


def _decoder() -> av.AudioCodecContext:
    codec = av.CodecContext.create("opus", "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate, codec.layout = OPUS_HZ, "mono"
    return codec

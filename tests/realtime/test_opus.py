"""Opus frames: what is said comes out again, sample for sample in number and in time."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.audio import OUTPUT_HZ, Waveform, resample
from omni.errors import ProtocolError
from omni.realtime.opus import OPUS_HZ, OpusReader, OpusWriter

#: The low-pass of the reader: 1 ms.
DELAY_SAMPLES = 16
HEAD = struct.Struct("<4sHI")


def _chirp(duration_s: float) -> Waveform:
    at = np.arange(round(duration_s * OUTPUT_HZ)) / OUTPUT_HZ
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * at) * at)).astype(np.float32)


def _written(pieces: list[Waveform], writer: OpusWriter | None = None) -> list[bytes]:
    """Return the frames of one turn."""
    writer = writer or OpusWriter()
    frames = [
        writer.frame(piece.astype("<f4").tobytes(), number == len(pieces))
        for number, piece in enumerate(pieces, 1)
    ]
    return [frame.work() for frame in frames if frame is not None and frame.work is not None]


def _read(frames: list[bytes], reader: OpusReader | None = None) -> list[Waveform]:
    reader = reader or OpusReader()
    return [reader.read(frame, 30.0) for frame in frames]


def test_a_turn_comes_out_as_it_went_in() -> None:
    sound = _chirp(3.0)

    heard = np.concatenate(_read(_written(np.array_split(sound, 3))))

    wanted = resample(sound, OUTPUT_HZ, 16_000)
    assert heard.size == wanted.size
    error = heard[DELAY_SAMPLES:] - wanted[:-DELAY_SAMPLES]
    assert np.sqrt(np.mean(error**2)) < 0.3 * np.sqrt(np.mean(wanted**2))


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=12))
def test_however_a_turn_is_cut_every_sample_is_counted_once(sizes: list[int]) -> None:
    total = sum(sizes)
    sound = _chirp(total / OUTPUT_HZ)
    edges = np.cumsum([0, *sizes])

    frames = _written([sound[a:b] for a, b in zip(edges, edges[1:])])

    told = [HEAD.unpack_from(frame) for frame in frames]
    assert sum(samples for _, _, samples in told) == 2 * total
    assert [skip for _, skip, _ in told] == ([312] + [0] * (len(told) - 1) if told else [])
    pieces = _read(frames)
    assert sum(piece.size for piece in pieces) == -(-2 * total // 3)


def test_two_turns_of_one_client_are_two_streams() -> None:
    writer, reader = OpusWriter(), OpusReader()
    sound = _chirp(0.5)

    turns = [_read(_written([sound], writer), reader) for _ in range(2)]

    assert [sum(piece.size for piece in turn) for turn in turns] == [8_000, 8_000]


def test_what_was_cut_off_does_not_come_with_the_next_turn() -> None:
    writer = OpusWriter()
    sound = _chirp(0.51)

    begun = writer.frame(sound.astype("<f4").tobytes(), False)
    writer.cut()
    (frame,) = _written([sound], writer)

    assert begun is not None
    assert HEAD.unpack_from(frame)[1:] == (312, 2 * sound.size)


def test_a_turn_of_nothing_has_no_frame() -> None:
    assert OpusWriter().frame(b"", True) is None


def _frame(packets: bytes, skip: int = 0, samples: int = 960) -> bytes:
    return HEAD.pack(b"OPUS", skip, samples) + packets


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"OPUS", "begins with"),
        (_frame(b""), "were named"),
        (_frame(b"\x05"), "within the length"),
        (_frame(b"\x05\x00abc"), "does not fit"),
        (_frame(b"\x00\x00"), "does not fit"),
        (_frame(b"\x03\x00\xff\xff\xff"), "no Opus packets|were named"),
        (_frame(b"", samples=2**32 - 1), "above 30 s"),
        (_frame(b"\x01\x00\xfc" * 60, samples=0), "padding"),
        (_frame(b"\x01\x00\x03" * 20_000), "12000 packets|no Opus packets"),
    ],
)
def test_a_broken_frame_is_named_and_the_next_one_is_heard(frame: bytes, said: str) -> None:
    reader = OpusReader()

    with pytest.raises(ProtocolError, match=said):
        reader.read(frame, 30.0)

    assert sum(piece.size for piece in _read(_written([_chirp(0.2)]), reader)) == 3_200


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_sound_or_a_protocol_error(data: bytes) -> None:
    try:
        OpusReader().read(b"OPUS" + data, 1.0)
    except ProtocolError:
        pass


def test_the_rate_of_the_counts_is_the_one_of_the_document() -> None:
    assert OPUS_HZ == 48_000

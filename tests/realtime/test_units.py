"""Sound of any length becomes chunks of one length, and nothing of it is lost."""

from hypothesis import given
from hypothesis import strategies as st

from omni.engine import AudioChunk, Buffer
from omni.realtime.units import MAX_FRAMES, UnitCutter

SECOND_BYTES = 4 * 16_000


def _piece(num_bytes: int, **fields: object) -> AudioChunk:
    return AudioChunk(pcm=Buffer(bytes(num_bytes)), **fields)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_no_sample_is_lost_or_moved(pieces: list[bytes]) -> None:
    cutter = UnitCutter(16)

    chunks = [chunk for piece in pieces for chunk in cutter.push(AudioChunk(pcm=Buffer(piece)))]

    whole = b"".join(pieces)
    assert all(len(chunk.pcm) == 16 for chunk in chunks)
    assert b"".join(chunk.pcm for chunk in chunks) == whole[: len(whole) // 16 * 16]


def test_two_and_a_half_seconds_are_two_units_and_a_rest() -> None:
    cutter = UnitCutter.of(1000)

    first = cutter.push(_piece(SECOND_BYTES * 5 // 2))
    second = cutter.push(_piece(SECOND_BYTES // 2))

    assert [len(chunk.pcm) for chunk in first] == [SECOND_BYTES] * 2
    assert [len(chunk.pcm) for chunk in second] == [SECOND_BYTES]


def test_pictures_go_with_the_next_unit_that_is_complete() -> None:
    cutter = UnitCutter(8)
    picture, later = Buffer(b"one"), Buffer(b"two")

    assert cutter.push(_piece(0, frames=(picture,), max_slice_nums=2)) == []
    first, second = cutter.push(_piece(16, frames=(later,)))

    assert (first.frames, first.max_slice_nums) == ((picture, later), 2)
    assert (second.frames, second.max_slice_nums) == ((), None)


def test_only_the_newest_pictures_are_kept() -> None:
    cutter = UnitCutter(8)
    for number in range(MAX_FRAMES + 3):
        cutter.push(_piece(0, frames=(Buffer(str(number).encode()),)))

    (chunk,) = cutter.push(_piece(8))

    assert [bytes(frame) for frame in chunk.frames][0] == b"3"
    assert len(chunk.frames) == MAX_FRAMES


def test_a_wish_to_be_heard_holds_for_every_unit_that_its_sound_is_in() -> None:
    cutter = UnitCutter(8)

    assert cutter.push(_piece(4)) == []
    forced = cutter.push(_piece(8, force_listen=True))
    rest = cutter.push(_piece(12))

    assert [chunk.force_listen for chunk in forced] == [True]
    assert [chunk.force_listen for chunk in rest] == [True, False]

import pytest

from omni.engine import AudioChunk, Buffer, PrepareDuplex
from omni.errors import TooLarge
from omni.realtime.dialect import Interrupt, Open, Sound
from omni.realtime.early import MAX_COMMANDS, EarlyCommands

PREPARE = Open(input=PrepareDuplex(mode="audio_duplex"))


def _sound(number: int) -> Sound:
    return Sound(chunk=AudioChunk(pcm=Buffer(bytes([number]))))


def _all(early: EarlyCommands) -> list[object]:
    return list(iter(early.pop, None))


def test_commands_come_out_in_order() -> None:
    early = EarlyCommands(100)
    for command in (PREPARE, _sound(1), _sound(2)):
        early.push(command, 10)

    assert _all(early) == [PREPARE, _sound(1), _sound(2)]


def test_the_oldest_sound_goes_first_and_control_stays() -> None:
    early = EarlyCommands(30)
    for command in (_sound(1), PREPARE, _sound(2), _sound(3)):
        early.push(command, 10)

    assert _all(early) == [PREPARE, _sound(2), _sound(3)]
    assert early.num_dropped == 1


def test_more_control_than_fits_is_refused() -> None:
    early = EarlyCommands(15)
    early.push(PREPARE, 10)

    with pytest.raises(TooLarge):
        early.push(PREPARE, 10)
    assert _all(early) == [PREPARE]


@pytest.mark.parametrize("num_frame_bytes", [1, 20])
def test_sound_counts_as_what_it_is_unpacked(num_frame_bytes: int) -> None:
    """8 MiB of Opus could wait as 8 GB of sound, for each client in the queue."""
    early = EarlyCommands(100)
    for number in range(9):
        long = Sound(chunk=AudioChunk(pcm=Buffer(bytes([number] * 30)), frames=(Buffer(b"12345"),)))
        early.push(long, num_frame_bytes)

    kept = [each.chunk.pcm[0] for each in _all(early) if isinstance(each, Sound)]
    assert len(kept) <= 3 and kept[-2:] == [7, 8]
    assert early.num_dropped == 9 - len(kept)


def test_the_voices_of_one_opening_are_kept_and_no_further_ones() -> None:
    opening = Open(input=PrepareDuplex(mode="audio_duplex", voice=Buffer(bytes(150))))
    early = EarlyCommands(100)
    early.push(opening, 10)

    with pytest.raises(TooLarge):
        early.push(opening, 10)
    early.push(_sound(1), 1)

    assert _all(early) == [opening, _sound(1)]


def test_an_opening_whose_frame_is_too_large_is_refused() -> None:
    early = EarlyCommands(100)

    with pytest.raises(TooLarge):
        early.push(PREPARE, 101)
    assert _all(early) == []


def test_room_is_given_back() -> None:
    early = EarlyCommands(10)
    early.push(PREPARE, 10)
    early.pop()

    early.push(PREPARE, 10)

    assert _all(early) == [PREPARE]


def test_small_sounds_are_bounded_in_number() -> None:
    """Two million frames of four bytes were 8 MiB, and took gigabytes to keep."""
    early = EarlyCommands(2**23)
    early.push(PREPARE, 10)
    for number in range(MAX_COMMANDS):
        early.push(_sound(number % 256), 1)

    kept = _all(early)
    assert kept[:2] == [PREPARE, _sound(1)] and len(kept) == MAX_COMMANDS


def test_small_controls_are_bounded_in_number() -> None:
    early = EarlyCommands(2**23)
    for _ in range(MAX_COMMANDS):
        early.push(Interrupt(), 1)

    with pytest.raises(TooLarge):
        early.push(Interrupt(), 1)
    assert len(_all(early)) == MAX_COMMANDS

"""What waits in front of the engine, and what goes when there is no place."""

from threading import Thread

from omni.engine import Arrival, AudioChunk, Buffer, Close, PrepareDuplex, Slot, StopAnswer
from omni.engine.inbox import Inbox, Taken, Waiting

ONE, TWO = Slot(index=0, generation=1), Slot(index=1, generation=1)


def chunk(slot: Slot, number: int) -> Waiting:
    return Waiting(Arrival(slot, AudioChunk(pcm=Buffer(bytes([number])))))


def numbers(taken: Taken, slot: Slot) -> list[int]:
    return [
        waiting.arrival.input.pcm[0]
        for waiting in taken.inputs
        if waiting.arrival.slot == slot and isinstance(waiting.arrival.input, AudioChunk)
    ]


def test_inputs_come_in_order_and_once() -> None:
    inbox = Inbox(8)
    for number in range(3):
        inbox.put(chunk(ONE, number))

    assert numbers(inbox.take(0), ONE) == [0, 1, 2]
    assert inbox.take(0) == Taken()


def test_a_full_inbox_drops_the_oldest_chunk_of_the_same_slot() -> None:
    inbox = Inbox(4)
    for number in range(2):
        inbox.put(chunk(TWO, number))
    for number in range(5):
        inbox.put(chunk(ONE, number))

    taken = inbox.take(0)

    assert numbers(taken, TWO) == [0, 1]
    assert numbers(taken, ONE) == [3, 4]
    assert taken.skipped == {ONE: 3}


def test_a_full_inbox_takes_from_the_longest_when_the_sender_has_nothing_there() -> None:
    inbox = Inbox(4)
    for number in range(4):
        inbox.put(chunk(TWO, number))

    inbox.put(chunk(ONE, 0))

    taken = inbox.take(0)
    assert numbers(taken, ONE) == [0] and numbers(taken, TWO) == [1, 2, 3]
    assert taken.skipped == {TWO: 1}


def test_what_is_no_chunk_always_finds_a_place() -> None:
    inbox = Inbox(2)
    for number in range(2):
        inbox.put(chunk(ONE, number))

    inbox.put(Waiting(Arrival(TWO, PrepareDuplex(mode="audio_duplex"))))
    inbox.put(Waiting(Arrival(ONE, Close())))

    taken = inbox.take(0)
    assert [type(waiting.arrival.input) for waiting in taken.inputs[2:]] == [PrepareDuplex, Close]
    assert not taken.skipped


def test_two_stops_are_one() -> None:
    inbox = Inbox(2)
    for _ in range(5):
        inbox.put(Waiting(Arrival(ONE, StopAnswer())))

    assert len(inbox.take(0).inputs) == 1


def test_a_forgotten_slot_leaves_nothing() -> None:
    inbox = Inbox(2)
    for number in range(5):
        inbox.put(chunk(ONE, number))
    inbox.put(chunk(TWO, 0))

    inbox.forget(ONE)

    taken = inbox.take(0)
    assert numbers(taken, TWO) == [0] and not numbers(taken, ONE)
    assert ONE not in taken.skipped


def test_a_wake_ends_the_next_wait() -> None:
    inbox = Inbox(2)

    inbox.wake()

    assert inbox.take(60) == Taken()


def test_a_skipped_chunk_ends_the_next_wait() -> None:
    """It was answered only with the next input, if the engine was not waiting just then."""
    inbox = Inbox(2)

    inbox.skip(ONE)

    assert inbox.take(3600).skipped == {ONE: 1}


def test_what_comes_just_when_a_wait_ends_is_neither_lost_nor_waited_for() -> None:
    inbox = Inbox(4096)
    putter = Thread(target=lambda: [inbox.put(chunk(ONE, n % 256)) for n in range(2000)])
    got: list[int] = []

    putter.start()
    while len(got) < 2000:
        got += numbers(inbox.take(1e-5), ONE)
    putter.join()

    assert got == [n % 256 for n in range(2000)]
    assert inbox.take(1e-5) == Taken()

"""A session's messages are delivered once and in order, also over a broker that is replaced."""

from omni.delivery import (
    ACK_AFTER,
    ACK_AFTER_BYTES,
    MAX_KEPT,
    MAX_KEPT_BYTES,
    WINDOW,
    WINDOW_BYTES,
    Stream,
)


def put(stream: Stream, count: int = 1, size_bytes: int = 1) -> list[bool]:
    """Keep *count* messages."""
    return [stream.keep([b"h", bytes(size_bytes - 1)]) for _ in range(count)]


def send_all(stream: Stream) -> int:
    """Give the socket everything that waits, and return how many that were."""
    count = 0
    while stream.next_unsent() is not None:
        stream.note_sent()
        count += 1
    return count


def test_messages_are_numbered_from_one() -> None:
    stream = Stream()
    assert stream.next_seq == 1

    put(stream)

    assert stream.next_seq == 2


def test_a_message_is_sent_once() -> None:
    stream = Stream()
    put(stream, 3)

    assert send_all(stream) == 3
    assert send_all(stream) == 0


def test_what_the_other_end_does_not_have_is_sent_again() -> None:
    stream = Stream()
    put(stream, 5)
    send_all(stream)

    stream.rejoin(3)

    assert send_all(stream) == 2


def test_nothing_is_sent_again_when_nothing_was_lost() -> None:
    stream = Stream(is_held=True)
    put(stream, 2)
    send_all(stream)

    stream.rejoin(None)

    assert not stream.is_held
    assert send_all(stream) == 0


def test_messages_kept_while_the_broker_was_away_follow_those_that_were_lost() -> None:
    stream = Stream()
    put(stream, 4)
    send_all(stream)
    put(stream, 2)

    stream.rejoin(2)

    assert send_all(stream) == 4


def test_acknowledged_messages_are_let_go() -> None:
    stream = Stream()
    put(stream, 4)
    send_all(stream)
    stream.take_ack(3)

    stream.rejoin(0)  # even if the other end had forgotten them

    assert send_all(stream) == 1


def test_unsent_messages_are_never_let_go() -> None:
    stream = Stream()
    assert all(put(stream, MAX_KEPT))

    assert put(stream) == [False]
    assert stream.next_seq == MAX_KEPT + 1
    assert send_all(stream) == MAX_KEPT


def test_sent_messages_make_room_for_new_ones() -> None:
    stream = Stream()
    put(stream, MAX_KEPT)
    send_all(stream)

    assert all(put(stream, 3))
    assert send_all(stream) == 3


def test_the_bytes_that_are_kept_are_bounded() -> None:
    stream = Stream()

    assert put(stream, 3, MAX_KEPT_BYTES // 2) == [True, True, False]


def test_one_message_of_any_size_is_taken() -> None:
    assert put(Stream(), 1, 10 * MAX_KEPT_BYTES) == [True]


def test_what_arrives_twice_is_accepted_once() -> None:
    stream = Stream()

    accepted = [stream.accept(seq) for seq in (1, 2, 2, 1, 3)]

    assert accepted == [True, True, False, False, True]
    assert stream.num_gaps == 0


def test_messages_that_never_came_are_counted() -> None:
    stream = Stream()

    stream.accept(1)
    stream.accept(4)

    assert stream.num_gaps == 2


def test_an_acknowledgement_beyond_what_was_sent_is_no_reason_to_drop() -> None:
    stream = Stream()
    put(stream, 2)

    stream.take_ack(1000)

    assert send_all(stream) == 2


def test_the_window_closes_when_nobody_takes_what_was_sent() -> None:
    stream = Stream()
    put(stream, WINDOW - 1)
    send_all(stream)
    assert stream.window_is_open

    put(stream)

    assert not stream.window_is_open


def test_the_window_opens_with_the_acknowledgement() -> None:
    stream = Stream()
    put(stream, WINDOW)
    send_all(stream)

    stream.take_ack(1)

    assert stream.window_is_open


def test_sound_closes_the_window_by_its_bytes() -> None:
    stream = Stream()

    put(stream, 1, WINDOW_BYTES)

    assert not stream.window_is_open


def test_a_closed_window_can_still_be_sent_again_as_a_whole() -> None:
    """Otherwise a broker's restart in the middle of a long answer would lose a part of it."""
    stream = Stream()
    while stream.window_is_open:
        put(stream, 1, WINDOW_BYTES - 1)

    send_all(stream)
    stream.rejoin(0)

    assert send_all(stream) == 2


def test_what_is_taken_is_acknowledged_from_time_to_time() -> None:
    stream = Stream()

    owed = [stream.note_taken(seq, 10) for seq in range(1, ACK_AFTER + 1)]

    assert owed == [False] * (ACK_AFTER - 1) + [True]
    assert stream.acknowledge() == ACK_AFTER
    assert not stream.note_taken(ACK_AFTER + 1, 10)


def test_much_sound_is_acknowledged_sooner() -> None:
    assert Stream().note_taken(1, ACK_AFTER_BYTES)


def test_whoever_takes_everything_owes_less_than_a_closed_window() -> None:
    """Both ends would wait for each other for ever."""
    assert ACK_AFTER < WINDOW and ACK_AFTER_BYTES < WINDOW_BYTES

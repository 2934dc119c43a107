"""Whole messages are taken from a socket, and an empty one says so without waiting."""

from collections.abc import Iterator

import pytest
import zmq

from omni.wire import has_message, receive

TIMEOUT_MS = 10_000


@pytest.fixture
def pair() -> Iterator[tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as ours:
        with context.socket(zmq.DEALER) as theirs:
            ours.bind("inproc://here")
            theirs.connect("inproc://here")
            yield ours, theirs


def test_an_empty_socket_gives_nothing(
    pair: tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]
) -> None:
    ours, _ = pair

    assert not has_message(ours)
    assert receive(ours) is None


def test_messages_are_taken_whole_and_one_by_one(
    pair: tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]
) -> None:
    ours, theirs = pair
    theirs.send_multipart([b"a", b"", b"c"])
    theirs.send_multipart([b"d"])
    ours.poll(TIMEOUT_MS)

    assert has_message(ours)
    taken = [receive(ours), receive(ours)]

    assert [[part.bytes for part in parts or ()] for parts in taken] == [[b"a", b"", b"c"], [b"d"]]
    assert receive(ours) is None

"""What a client does not take yet waits in order, joined, and within bounds."""

from omni.backlog import MAX_BYTES, MAX_EVENTS, MAX_JOINED_BYTES, Backlog
from omni.engine import Buffer, ChatDone, ReplyChunk, SessionEvent, UnitResult
from omni.messages import Header, Stamp

HEADER = Header(kind="", session="s_1", generation=1)


def put(backlog: Backlog, *events: SessionEvent) -> list[bool]:
    """Put *events* in, and say which were taken."""
    return [backlog.put(HEADER, event) for event in events]


def drained(backlog: Backlog) -> list[object]:
    """Return what waits, and leave nothing."""
    events: list[object] = []
    while (waiting := backlog.first) is not None:
        events.append(waiting[1])
        backlog.drop_first()
    return events


def test_the_words_of_an_answer_become_one_message() -> None:
    backlog = Backlog()

    put(backlog, *(ReplyChunk(text=f"{number} ") for number in range(1000)))

    assert drained(backlog) == [ReplyChunk(text="".join(f"{n} " for n in range(1000)))]


def test_sound_is_joined_in_order_up_to_a_size() -> None:
    backlog, piece = Backlog(), MAX_JOINED_BYTES // 3
    sounds = [Buffer(bytes([number]) * piece) for number in range(4)]

    put(backlog, *(ReplyChunk(text=str(number), pcm=pcm) for number, pcm in enumerate(sounds)))

    assert drained(backlog) == [
        ReplyChunk(text="01", pcm=Buffer(sounds[0] + sounds[1])),
        ReplyChunk(text="23", pcm=Buffer(sounds[2] + sounds[3])),
    ]


def test_a_joined_message_has_the_times_of_its_newest_piece() -> None:
    backlog = Backlog()
    newest = Header(kind="", session="s_1", generation=1, stamps=(Stamp("engine", 5),))

    backlog.put(HEADER, ReplyChunk(text="a"))
    backlog.put(newest, ReplyChunk(text="b"))

    assert backlog.first == (newest, ReplyChunk(text="ab"))


def test_nothing_is_joined_to_the_end_of_a_turn() -> None:
    backlog = Backlog()
    events = [ReplyChunk(text="a", is_final=True), ReplyChunk(text="b")]

    put(backlog, *events)

    assert drained(backlog) == events


def test_the_last_piece_of_a_turn_stays_the_last() -> None:
    backlog = Backlog()

    put(backlog, ReplyChunk(text="a"), ReplyChunk(text="b", is_final=True))

    assert drained(backlog) == [ReplyChunk(text="ab", is_final=True)]


def test_other_events_keep_their_number_and_place() -> None:
    backlog = Backlog()
    events: list[SessionEvent] = [
        ReplyChunk(text="a"),
        UnitResult(is_listen=True),
        UnitResult(is_listen=True),
        ReplyChunk(text="b"),
        ChatDone(text="ab", input_tokens=1, generated_tokens=2),
    ]

    put(backlog, *events)

    assert drained(backlog) == events


def test_the_number_of_events_is_bounded() -> None:
    backlog = Backlog()
    put(backlog, *[UnitResult(is_listen=True)] * MAX_EVENTS)

    assert put(backlog, UnitResult(is_listen=True)) == [False]
    assert len(drained(backlog)) == MAX_EVENTS


def test_the_bytes_of_all_events_are_bounded_and_given_back() -> None:
    backlog, sound = Backlog(), Buffer(bytes(MAX_BYTES // 2))

    assert put(backlog, *[UnitResult(is_listen=False, pcm=sound)] * 2) == [True, False]
    backlog.drop_first()
    assert put(backlog, UnitResult(is_listen=False, pcm=sound)) == [True]


def test_a_cleared_backlog_takes_as_much_as_a_new_one() -> None:
    backlog, sound = Backlog(), Buffer(bytes(MAX_BYTES // 2))
    put(backlog, UnitResult(is_listen=False, pcm=sound))

    backlog.clear()

    assert not backlog and backlog.first is None
    assert put(backlog, UnitResult(is_listen=False, pcm=sound)) == [True]

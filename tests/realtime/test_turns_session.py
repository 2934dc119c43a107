"""Chat in turns: each asks for a slot and gives it back, in the order in which they came."""

from collections.abc import Sequence

from omni.engine import (
    Buffer,
    Capabilities,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Mode,
    Part,
    PrefillDone,
    ReplyChunk,
)
from omni.errors import CapacityError
from omni.messages import Leased
from omni.realtime.dialect import (
    Begin,
    ChatAnswered,
    Notice,
    Open,
    QueueDone,
    Ready,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    TurnBegun,
)
from omni.realtime.session import Action, End, GiveBack, Send, Tell
from omni.realtime.turns_session import MAX_WAITING_TURNS, TurnsSession

DONE = ChatDone(text="you", input_tokens=3, generated_tokens=1)


def _turn(name: str = "", kind: str = "text", stream: bool = True) -> Open:
    part = Part(kind=kind, text="hello")  # type: ignore[arg-type]  # one of its kinds
    request = ChatRequest(messages=(ChatMessage(role="user", parts=(part,)),))
    return Open(input=request, stream=stream, input_id=name)


def _leased(modes: tuple[Mode, ...] = ("chat",)) -> Leased:
    return Leased(
        worker="worker-0",
        gpu="",
        slot=0,
        request_type="chat",
        client_id="sess_1",
        ticket_id="",
        capabilities=Capabilities(engine="fake", model="m", modes=modes, num_slots=1),
    )


def _session() -> TurnsSession:
    return TurnsSession(
        request_type="chat",
        client_id="sess_1",
        prepare_timeout_s=60.0,
        request_timeout_s=300.0,
        idle_timeout_s=900.0,
    )


def _live() -> TurnsSession:
    session = _session()
    session.opened(0.0)
    session.take(Begin(), 0.0)
    return session


def _told(actions: Sequence[Action]) -> list[Notice]:
    return [action.notice for action in actions if isinstance(action, Tell)]


def test_nothing_is_waited_for_before_there_is_a_turn() -> None:
    session = _session()

    greeting, begun = session.opened(0.0), session.take(Begin(), 1.0)

    assert _told(greeting) == [QueueDone()]
    assert isinstance(_told(begun)[0], Ready) and not session.wants_slot


def test_a_turn_asks_for_a_slot_and_gives_it_back() -> None:
    session = _live()

    begun = session.take(_turn("in_1"), 1.0)
    assert session.wants_slot and _told(begun) == [TurnBegun(input_id="in_1")]
    asked = session.leased(_leased(), 2.0)
    assert asked == [Tell(QueueDone()), Send(_turn().input)]
    assert session.hear(PrefillDone(input_tokens=3), 3.0) == []
    assert _told(session.hear(ReplyChunk(text="you"), 3.0)) == [ReplyChunk(text="you")]
    ended = session.hear(DONE, 4.0)

    assert ended[-1] == GiveBack() and not session.wants_slot
    assert _told(ended) == [ChatAnswered(done=DONE, stream=True, pcm=b"")]


def test_an_answer_that_is_not_streamed_comes_whole() -> None:
    session = _live()
    session.take(_turn(stream=False), 1.0)
    session.leased(_leased(), 1.0)

    silent = [session.hear(ReplyChunk(pcm=Buffer(pcm)), 2.0) for pcm in (b"ab", b"cd")]
    (answer,) = _told(session.hear(DONE, 3.0))

    assert silent == [[], []]
    assert isinstance(answer, ChatAnswered) and answer.pcm == b"abcd"


def test_turns_that_come_meanwhile_are_answered_in_their_order() -> None:
    session = _live()
    for number in range(3):
        session.take(_turn(f"in_{number}"), 1.0)

    followers = []
    for _ in range(3):
        session.leased(_leased(), 2.0)
        ended = session.hear(DONE, 3.0)
        followers += [notice for notice in _told(ended) if isinstance(notice, TurnBegun)]
        assert ended[-1] == GiveBack()

    assert [turn.input_id for turn in followers] == ["in_1", "in_2"]
    assert not session.wants_slot


def test_only_so_many_turns_may_wait() -> None:
    session = _live()
    for _ in range(1 + MAX_WAITING_TURNS):
        assert not [n for n in _told(session.take(_turn(), 1.0)) if isinstance(n, Trouble)]

    (refused,) = _told(session.take(_turn(), 1.0))

    assert isinstance(refused, Trouble) and not refused.fatal


def test_a_turn_that_fails_ends_and_the_session_goes_on() -> None:
    session = _live()
    session.take(_turn(), 1.0)
    session.leased(_leased(), 1.0)
    session.hear(ReplyChunk(text="half"), 1.5)

    failed = session.hear(Failed(code="generation_failed", message="no", fatal=True), 2.0)
    trouble, answer = _told(failed)

    assert isinstance(trouble, Trouble) and not trouble.fatal
    assert isinstance(answer, ChatAnswered)
    assert (answer.done.text, answer.failure) == ("half", "generation_failed")
    assert failed[-1] == GiveBack() and session.state == "live"


def test_an_engine_that_cannot_do_a_turn_fails_it_alone() -> None:
    for turn, modes in ((_turn(kind="image"), ("chat",)), (_turn(), ("half_duplex",))):
        session = _live()
        session.take(turn, 1.0)

        actions = session.leased(_leased(modes), 1.0)  # type: ignore[arg-type]  # two of the modes

        assert isinstance(_told(actions)[1], Trouble) and actions[-1] == GiveBack()


def test_a_turn_that_takes_too_long_ends() -> None:
    session = _live()
    session.take(_turn(), 10.0)
    session.leased(_leased(), 11.0)
    assert session.deadline == 310.0

    actions = session.expire(310.0)

    assert isinstance(_told(actions)[1], ChatAnswered) and actions[-1] == GiveBack()
    assert session.deadline == 310.0 + 900.0


def test_a_session_in_which_nothing_is_asked_ends() -> None:
    session = _live()
    assert session.deadline == 900.0

    actions = session.expire(900.0)

    assert isinstance(_told(actions)[0], TimedOut) and isinstance(actions[-1], End)


def test_a_session_that_is_only_opened_ends() -> None:
    session = _session()
    session.opened(5.0)
    assert session.deadline == 65.0

    assert isinstance(session.expire(65.0)[-1], End)


def test_what_comes_too_early_is_refused() -> None:
    session = _session()
    session.opened(0.0)

    (trouble,) = _told(session.take(_turn(), 1.0))

    assert isinstance(trouble, Trouble) and trouble.reason == "not_ready"
    assert not session.wants_slot


def test_a_stop_ends_the_session_in_mid_turn() -> None:
    session = _live()
    session.take(_turn(), 1.0)

    actions = session.take(Stop(), 2.0)

    assert _told(actions) == [Stopped()] and actions[-1] == End()


def test_what_comes_after_a_turn_is_not_told() -> None:
    session = _live()

    assert session.hear(ReplyChunk(text="late"), 1.0) == []


def test_a_slot_that_comes_after_its_turn_is_not_used() -> None:
    session = _live()
    session.take(_turn(), 1.0)
    session.expire(302.0)

    assert session.leased(_leased(), 302.0) == []


def test_a_request_that_cannot_be_sent_fails_its_turn() -> None:
    session = _live()
    session.take(_turn(), 1.0)
    session.leased(_leased(), 1.0)

    actions = session.unsent(_turn().input, CapacityError("no way"), 2.0)

    assert isinstance(_told(actions)[0], Trouble) and actions[-1] == GiveBack()

from collections.abc import Sequence

from omni.engine import (
    AudioChunk,
    Buffer,
    Capabilities,
    Failed,
    Mode,
    Prepared,
    PrepareDuplex,
    UnitResult,
    UserTranscript,
)
from omni.errors import CapacityError, WorkerLost
from omni.messages import Leased
from omni.realtime.dialect import (
    ContextFull,
    Interrupt,
    Interrupted,
    Notice,
    Open,
    Pause,
    Paused,
    QueueDone,
    Ready,
    Resume,
    Resumed,
    Sound,
    Stop,
    Stopped,
    TimedOut,
    Trouble,
    UnitAnswered,
)
from omni.realtime.duplex_session import DuplexSession
from omni.realtime.session import Action, End, Send, Tell

PREPARE = Open(input=PrepareDuplex(mode="audio_duplex"))
CHUNK = Sound(chunk=AudioChunk(pcm=Buffer(bytes(8))))
LISTEN = UnitResult(is_listen=True, kv_cache_length=7)


def _leased(modes: tuple[Mode, ...] = ("audio_duplex", "omni_duplex")) -> Leased:
    capabilities = Capabilities(engine="fake", model="m", modes=modes, num_slots=1)
    return Leased(
        worker="worker-0",
        gpu="",
        slot=0,
        request_type="audio_duplex",
        client_id="adx_1",
        ticket_id="",
        capabilities=capabilities,
    )


def _session(backlog: int = 2) -> DuplexSession:
    return DuplexSession(
        request_type="audio_duplex",
        client_id="adx_1",
        prepare_timeout_s=60.0,
        pause_timeout_s=60.0,
        max_backlog_chunks=backlog,
        unix_offset_s=1000.0,
    )


def _live(backlog: int = 2) -> DuplexSession:
    session = _session(backlog)
    session.leased(_leased(), 0.0)
    session.take(PREPARE, 0.0)
    session.hear(Prepared(), 0.0)
    return session


def _told(actions: Sequence[Action]) -> list[Notice]:
    return [action.notice for action in actions if isinstance(action, Tell)]


def _errors(actions: Sequence[Action]) -> list[str]:
    return [notice.text for notice in _told(actions) if isinstance(notice, Trouble)]


def _answers(actions: Sequence[Action]) -> list[UnitAnswered]:
    return [notice for notice in _told(actions) if isinstance(notice, UnitAnswered)]


def test_queue_done_is_told_also_without_a_wait() -> None:
    assert _told(_session().leased(_leased(), 0.0)) == [QueueDone()]


def test_prepare_goes_to_the_engine_and_its_answer_to_the_client() -> None:
    session = _session()
    session.leased(_leased(), 0.0)

    sent = session.take(PREPARE, 0.0)
    told = _told(session.hear(Prepared(prompt_length=3), 0.0))

    assert sent == [Send(PREPARE.input)]
    assert isinstance(told[0], Ready) and told[0].prepared.prompt_length == 3


def test_a_chunk_before_prepare_is_an_error_and_goes_nowhere() -> None:
    session = _session()
    session.leased(_leased(), 0.0)

    actions = session.take(CHUNK, 0.0)

    assert _errors(actions) == ["Not prepared yet"] and len(actions) == 1


def test_chunks_between_prepare_and_prepared_are_kept_in_order() -> None:
    session = _session()
    session.leased(_leased(), 0.0)
    session.take(PREPARE, 0.0)

    assert session.take(CHUNK, 0.0) == [Send(CHUNK.chunk)]


def test_a_second_prepare_is_refused() -> None:
    assert _errors(_live().take(PREPARE, 0.0))[0].startswith("Already prepared")


def test_results_are_counted_and_timed_from_their_own_chunk() -> None:
    session = _live()
    session.take(CHUNK, 1.0)
    session.take(CHUNK, 2.0)

    first = _answers(session.hear(LISTEN, 2.5))
    second = _answers(session.hear(LISTEN, 2.5))

    assert [a.wall_clock_ms for a in first + second] == [1500.0, 500.0]
    assert [a.result.current_time for a in first + second] == [1, 2]
    assert first[0].sent_at == 1002.5


def test_chunks_beyond_the_backlog_get_their_listen_result_in_order() -> None:
    session = _live(backlog=2)
    sent = [bool(session.take(CHUNK, t)) for t in (1.0, 2.0, 3.0, 4.0)]

    first = _answers(session.hear(LISTEN, 5.0))
    second = _answers(session.hear(LISTEN, 5.0))

    assert sent == [True, True, False, False]
    assert [a.dropped for a in first] == [False]
    assert [a.dropped for a in second] == [False, True, True]
    assert all(a.result.is_listen and a.result.kv_cache_length == 7 for a in second)
    assert [a.result.current_time for a in first + second] == [1, 2, 3, 4]


def test_room_in_the_backlog_is_used_again() -> None:
    session = _live(backlog=1)
    session.take(CHUNK, 0.0)
    session.take(CHUNK, 0.0)
    session.hear(LISTEN, 0.0)

    assert session.take(CHUNK, 0.0) == [Send(CHUNK.chunk)]


def test_a_client_that_floods_is_ended() -> None:
    session = _live(backlog=1)

    actions = [action for _ in range(40) for action in session.take(CHUNK, 0.0)]

    assert any(isinstance(action, End) and action.code == 1013 for action in actions)
    assert any("unanswered" in text for text in _errors(actions))


def test_a_chunk_that_could_not_be_sent_is_answered_with_listen() -> None:
    session = _live()
    session.take(CHUNK, 1.0)

    answers = _answers(session.unsent(CHUNK.chunk, CapacityError("full"), 1.0))

    assert [(a.dropped, a.result.is_listen) for a in answers] == [(True, True)]


def test_a_paused_session_refuses_chunks_and_goes_on_after_resume() -> None:
    session = _live()

    assert _told(session.take(Pause(), 0.0)) == [Paused(timeout_s=60.0)]
    assert _errors(session.take(CHUNK, 1.0)) == ["Worker is paused"]
    assert _told(session.take(Resume(), 2.0)) == [Resumed()]
    assert session.take(CHUNK, 3.0) == [Send(CHUNK.chunk)]


def test_results_of_chunks_before_a_pause_still_come() -> None:
    session = _live()
    session.take(CHUNK, 0.0)
    session.take(Pause(), 0.0)

    assert len(_answers(session.hear(LISTEN, 1.0))) == 1


def test_a_pause_ends_the_session_after_its_time() -> None:
    session = _live()
    session.take(Pause(timeout_s=5.0), 10.0)

    assert session.deadline == 15.0
    timed_out, end = session.expire(15.0)
    assert isinstance(timed_out, Tell) and isinstance(timed_out.notice, TimedOut)
    assert timed_out.notice.reason == "Pause timeout (5.0s)"
    assert end == End(1000, "Pause timeout")


def test_a_client_that_falls_silent_does_not_keep_its_slot() -> None:
    session = _live()
    session.take(CHUNK, 100.0)

    assert session.deadline == 160.0
    assert isinstance(session.expire(160.0)[-1], End)


def test_a_slot_is_not_kept_for_a_client_that_never_prepares() -> None:
    session = _session()
    session.leased(_leased(), 5.0)

    assert session.deadline == 65.0
    assert session.expire(65.0)[-1] == End(1013, "Prepare timeout (60.0s)")


def test_stop_is_answered_and_closes_normally_in_any_state() -> None:
    for session in (_session(), _live()):
        assert session.take(Stop(), 0.0) == [Tell(Stopped()), End(1000)]


def test_interrupt_makes_the_next_chunk_listen() -> None:
    session = _live()

    told = _told(session.take(Interrupt(), 0.0))
    first, second = session.take(CHUNK, 0.0), session.take(CHUNK, 0.0)

    assert told == [Interrupted()]
    assert [a.input.force_listen for a in (*first, *second) if isinstance(a, Send)] == [True, False]


def test_a_lost_worker_closes_1013_before_prepared_and_1011_after() -> None:
    early, late = _session(), _live()
    early.leased(_leased(), 0.0)

    for session, code in ((early, 1013), (late, 1011)):
        actions = session.fail(WorkerLost("worker-0 exited"))
        assert _errors(actions) == ["Worker lost"]
        assert actions[-1] == End(code, "Worker lost")


def test_a_failed_unit_keeps_the_session_and_a_failed_prepare_ends_it() -> None:
    live, preparing = _live(), _session()
    preparing.leased(_leased(), 0.0)
    preparing.take(PREPARE, 0.0)
    failed = Failed(code="generation_failed", message="out of memory")

    assert [type(action) for action in live.hear(failed, 0.0)] == [Tell]
    assert [type(action) for action in preparing.hear(failed, 0.0)] == [Tell, End]


def test_a_fatal_failure_ends_the_session_once() -> None:
    session = _live()

    ended = session.hear(Failed(code="context_exhausted", message="full", fatal=True), 0.0)

    assert ended[-1] == End(1013, "full")
    assert session.fail(WorkerLost("late")) == []


def test_an_engine_without_eyes_still_hears() -> None:
    session = _session()
    session.request_type = "omni_duplex"
    session.leased(_leased(("audio_duplex",)), 0.0)
    seen = Sound(chunk=AudioChunk(pcm=Buffer(bytes(8)), frames=(Buffer(b"jpeg"),)))

    (prepare,) = session.take(Open(input=PrepareDuplex(mode="omni_duplex")), 0.0)
    first, second = session.take(seen, 0.0), session.take(seen, 0.0)

    assert isinstance(prepare, Send) and isinstance(prepare.input, PrepareDuplex)
    assert prepare.input.mode == "audio_duplex"
    assert len(_errors(first)) == 1 and _errors(second) == []
    assert [a for a in (*first, *second) if isinstance(a, Send)] == [Send(CHUNK.chunk)] * 2


def test_an_engine_without_duplex_is_said_to_be_so() -> None:
    actions = _session().leased(_leased(("chat",)), 0.0)

    assert isinstance(actions[-1], End) and actions[-1].code == 1013


def test_what_the_user_said_is_passed_on() -> None:
    heard = UserTranscript(text="hello")

    assert _told(_live().hear(heard, 0.0)) == [heard]


# --- limits that a dialect sets


def _limited(prepared: Prepared = Prepared(), **limits: object) -> DuplexSession:
    session = _session(backlog=8)
    session.leased(_leased(), 10.0)
    opening = Open(input=PrepareDuplex(mode="audio_duplex"), **limits)  # type: ignore[arg-type]
    session.take(opening, 11.0)
    session.hear(prepared, 12.0)
    return session


def test_a_session_ends_when_its_time_since_the_slot_is_over() -> None:
    session = _limited(timeout_s=300.0, silence_s=300.0)
    session.take(CHUNK, 300.0)
    assert session.deadline == 310.0

    told, end = session.expire(310.0)

    assert told == Tell(TimedOut(reason="Session timeout (300.0s)", elapsed_s=300.0))
    assert end == End(reason="Session timeout")


def test_a_dialect_may_allow_a_longer_silence() -> None:
    session = _limited(silence_s=900.0)
    session.take(CHUNK, 100.0)
    assert session.deadline == 1000.0

    (told, _) = session.expire(1000.0)

    assert told == Tell(TimedOut(reason="Silence timeout (900.0s)", elapsed_s=990.0))


def test_a_session_ends_behind_the_unit_that_fills_its_context() -> None:
    session = _limited(max_kv_tokens=100)
    session.take(CHUNK, 20.0)
    session.take(CHUNK, 20.0)

    first = session.hear(UnitResult(is_listen=True, kv_cache_length=99), 21.0)
    answer, full, end = session.hear(UnitResult(is_listen=True, kv_cache_length=100), 22.0)

    assert len(first) == 1
    assert isinstance(answer, Tell) and isinstance(answer.notice, UnitAnswered)
    assert (full, end) == (Tell(ContextFull()), End(reason="Context full"))


def test_sound_of_any_length_is_cut_into_the_session_s_chunks() -> None:
    session = _limited(Prepared(chunk_ms=100), recuts=True)
    size = 4 * 1600

    nothing = session.take(_sound(size // 2, "in_1"), 20.0)
    sent = session.take(_sound(2 * size, "in_2"), 20.0)
    answers = [session.hear(LISTEN, 21.0), session.hear(LISTEN, 21.0), session.hear(LISTEN, 21.0)]

    chunks = [action.input for action in sent if isinstance(action, Send)]
    sizes = [len(chunk.pcm) for chunk in chunks if isinstance(chunk, AudioChunk)]
    assert nothing == [] and sizes == [size] * 2
    told = [answer for actions in answers for answer in _answers(actions)]
    assert [answer.input_id for answer in told] == ["in_2", "in_2"]


def test_chunks_that_were_cut_and_could_not_be_sent_are_all_answered() -> None:
    """The last one was taken for each of them: a result was missing, and all later ones shifted."""
    session = _limited(Prepared(chunk_ms=100), recuts=True)
    sent = session.take(_sound(2 * 4 * 1600, "in_1"), 20.0)

    answers = [
        answer
        for action in sent
        if isinstance(action, Send)
        for answer in _answers(session.unsent(action.input, CapacityError("full"), 20.0))
    ]
    session.take(_sound(4 * 1600, "in_2"), 21.0)
    [after] = _answers(session.hear(LISTEN, 22.0))

    assert [(answer.dropped, answer.input_id) for answer in answers] == [(True, "in_1")] * 2
    assert (after.dropped, after.input_id) == (False, "in_2")


def _sound(num_bytes: int, input_id: str) -> Sound:
    return Sound(chunk=AudioChunk(pcm=Buffer(bytes(num_bytes))), input_id=input_id)

"""The rules of queue, leases and peers, each as one conversation."""

import pytest

from omni.errors import ProtocolError
from omni.messages import (
    Answer,
    CancelTicket,
    Drain,
    Enqueue,
    EtaConfig,
    Goodbye,
    Heartbeat,
    HeldLease,
    Leased,
    PeerExited,
    Queued,
    Refused,
    Rejoined,
    Release,
    Revoked,
    SetEta,
    SlotFreed,
    Status,
    StatusQuery,
    TicketEnded,
    Welcome,
)
from omni.settings import FabricSettings, ServiceSettings
from tests.dispatch.desk import START_S, UNIX_S, Desk, hello


def held(session: str, generation: int = 5, worker: str = "worker-0", slot: int = 0) -> HeldLease:
    """Return a lease of an earlier broker."""
    return HeldLease(
        session=session,
        request_type="audio_duplex",
        worker=worker,
        slot=slot,
        generation=generation,
        client_id=f"c-{session}",
        elapsed_s=30.0,
        received_seq=7,
    )


def ready_desk(num_slots: int = 1, **fabric: float) -> Desk:
    """Return a desk with a ready worker and a web."""
    desk = Desk(FabricSettings(**fabric))  # type: ignore[arg-type]  # all floats here
    desk.worker(num_slots=num_slots)
    desk.web()
    return desk


# --- queue -------------------------------------------------------------------------------------


def test_a_free_slot_is_leased_at_once_and_never_listed() -> None:
    desk = ready_desk()

    desk.enqueue("a")

    assert desk.told("web-0", Queued) == []
    [leased] = desk.told("web-0", Leased, "a")
    assert desk.told("worker-0", Leased, "a") == [leased]


def test_the_worker_hears_of_a_lease_before_the_web() -> None:
    desk = ready_desk()

    desk.enqueue("a")

    assert [item.peer for item in desk.heard if isinstance(item.message, Leased)] == [
        "worker-0",
        "web-0",
    ]


def test_tickets_are_served_in_order_whatever_their_type() -> None:
    desk = ready_desk()
    desk.enqueue("a", "omni_duplex")
    desk.enqueue("b", "half_duplex_audio")
    desk.enqueue("c", "chat")

    desk.finish("a")
    desk.finish("b")

    assert desk.leased_sessions() == ["a", "b", "c"]


def test_a_newcomer_never_overtakes_while_a_slot_is_being_freed() -> None:
    desk = ready_desk()
    for name in "ab":
        desk.enqueue(name)
    generation = desk.generation("a")
    desk.say("web-0", Release(), "a", generation)

    desk.enqueue("c")
    desk.say("worker-0", SlotFreed(), "a", generation)

    assert desk.leased_sessions() == ["a", "b"]


def test_a_waiting_session_hears_its_place_at_once() -> None:
    desk = ready_desk()
    desk.enqueue("a", "chat")

    desk.enqueue("b", "chat")

    [queued] = desk.told("web-0", Queued, "b")
    assert isinstance(queued, Queued)
    assert (queued.position, queued.estimated_wait_s, queued.queue_length) == (1, 15.0, 1)
    assert queued.ticket_id.startswith("q_") and len(queued.ticket_id) == 14


def test_only_the_newcomer_is_told_of_its_coming() -> None:
    desk = ready_desk()
    for index in range(20):
        desk.enqueue(f"s{index}")
    desk.heard.clear()

    desk.enqueue("last")

    assert [item.header.session for item in desk.heard] == ["last"]


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    desk = Desk(service=ServiceSettings(max_queue_size=1))
    desk.worker()
    desk.web()
    for name in "abc":
        desk.enqueue(name)

    [ended] = desk.told("web-0", TicketEnded, "c")

    assert isinstance(ended, TicketEnded)
    assert ended.code == "queue_full"
    assert ended.retry_after_s == 15.0


def test_a_queue_of_length_none_still_leases_free_slots() -> None:
    desk = Desk(service=ServiceSettings(max_queue_size=0))
    desk.worker()
    desk.web()

    desk.enqueue("a")
    desk.enqueue("b")

    assert desk.leased_sessions() == ["a"]
    assert len(desk.told("web-0", TicketEnded, "b")) == 1


def test_asking_twice_gives_one_ticket() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.enqueue("b")

    desk.enqueue("b")
    desk.enqueue("a")

    assert len(desk.dispatcher.line) == 1
    assert len(desk.told("web-0", Queued, "b")) == 2
    assert len(desk.told("web-0", Leased, "a")) == 2


def test_a_withdrawn_ticket_moves_the_others_up() -> None:
    desk = ready_desk()
    for name in "abc":
        desk.enqueue(name)

    desk.say("web-0", Release(), "b")
    desk.pass_time(0.05, alive=("web-0", "worker-0"))

    last = desk.told("web-0", Queued, "c")[-1]
    assert isinstance(last, Queued) and last.position == 1


def test_every_waiting_client_hears_something_every_three_seconds() -> None:
    desk = ready_desk()
    for name in "abc":
        desk.enqueue(name)
    desk.heard.clear()

    desk.pass_time(9.2, alive=("web-0", "worker-0"))

    assert len(desk.told("web-0", Queued, "b")) == 3
    assert len(desk.told("web-0", Queued, "c")) == 3


def test_anybody_can_cancel_a_ticket_and_its_owner_is_told() -> None:
    desk = ready_desk()
    desk.web("web-1")
    desk.enqueue("a")
    desk.enqueue("b")
    [queued] = desk.told("web-0", Queued, "b")
    assert isinstance(queued, Queued)

    desk.say("web-1", CancelTicket(request=3, ticket_id=queued.ticket_id))

    assert desk.told("web-1", Answer) == [Answer(request=3, ok=True)]
    [ended] = desk.told("web-0", TicketEnded, "b")
    assert isinstance(ended, TicketEnded) and ended.code == "cancelled"


def test_cancelling_an_unknown_ticket_says_so() -> None:
    desk = ready_desk()

    desk.say("web-0", CancelTicket(request=4, ticket_id="q_000000000000"))

    assert desk.told("web-0", Answer) == [Answer(request=4, ok=False, message="no such ticket")]


def test_a_lease_for_a_web_that_is_gone_frees_its_slot() -> None:
    """The reference left the worker busy for ever when a client left just before its turn."""
    desk = ready_desk()
    desk.web("web-1")
    desk.enqueue("a")
    desk.enqueue("b", web="web-1")
    desk.finish("a")
    generation = desk.generation("b")

    desk.lose("web-1")
    desk.say("worker-0", SlotFreed(), "b", generation)
    desk.enqueue("c")

    assert len(desk.told("worker-0", Revoked, "b")) == 1
    assert desk.leased_sessions() == ["a", "b", "c"]


def test_new_expected_durations_count_at_once_for_those_who_wait() -> None:
    desk = ready_desk()
    desk.enqueue("a", "chat")
    desk.enqueue("b", "chat")

    desk.say("web-0", SetEta(request=1, config=EtaConfig(eta_chat_s=100.0)))
    desk.say("web-0", StatusQuery(request=2))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert status.tickets[0].estimated_wait_s == 100.0


def test_the_time_of_a_session_goes_into_the_average() -> None:
    desk = ready_desk()
    desk.enqueue("a", "chat")

    desk.pass_time(4.0, alive=("web-0", "worker-0"))
    desk.finish("a")

    assert desk.dispatcher.eta.view().ema_s["chat"] == pytest.approx(4.0)


# --- slots and generations -----------------------------------------------------------------------


def test_a_slot_is_leased_again_only_when_its_worker_says_it_is_free() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    generation = desk.generation("a")
    desk.say("web-0", Release(), "a", generation)

    desk.enqueue("b")
    assert desk.leased_sessions() == ["a"]
    desk.say("worker-0", SlotFreed(), "a", generation)

    assert desk.leased_sessions() == ["a", "b"]


def test_a_late_word_of_an_older_tenant_frees_nothing() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    old = desk.generation("a")
    desk.finish("a")
    desk.enqueue("b")
    desk.enqueue("c")

    desk.say("worker-0", SlotFreed(), "a", old)

    assert desk.leased_sessions() == ["a", "b"]


def test_generations_grow_and_begin_above_those_of_an_older_broker() -> None:
    desk = ready_desk(num_slots=3)
    for name in "abc":
        desk.enqueue(name)

    given = [desk.generation(name) for name in "abc"]

    assert given == sorted(set(given))
    assert given[0] >= UNIX_S * 1000


def test_the_least_busy_worker_gets_the_next_session() -> None:
    desk = Desk()
    desk.worker("worker-0", num_slots=2)
    desk.worker("worker-1", num_slots=2)
    desk.web()

    for name in "abcd":
        desk.enqueue(name)

    workers = [desk.told("web-0", Leased, name)[0] for name in "abcd"]
    assert [item.worker for item in workers if isinstance(item, Leased)] == [
        "worker-0",
        "worker-1",
        "worker-0",
        "worker-1",
    ]


def test_settings_can_offer_fewer_slots_than_the_engine() -> None:
    desk = ready_desk(num_slots=8, slots=1)

    desk.enqueue("a")
    desk.enqueue("b")

    assert desk.leased_sessions() == ["a"]


def test_a_worker_that_ends_a_session_by_itself_frees_the_slot_and_tells_the_web() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.enqueue("b")

    desk.say("worker-0", SlotFreed(), "a", desk.generation("a"))

    assert desk.leased_sessions() == ["a", "b"]
    assert len(desk.told("web-0", Revoked, "a")) == 1


def test_a_slot_that_is_not_freed_is_asked_for_again() -> None:
    desk = ready_desk(lease_timeout_s=2.0)
    desk.enqueue("a")
    desk.say("web-0", Release(), "a", desk.generation("a"))
    assert len(desk.told("worker-0", Revoked, "a")) == 1

    desk.pass_time(2.2, alive=("web-0", "worker-0"))

    assert len(desk.told("worker-0", Revoked, "a")) == 2


def test_session_messages_pass_only_between_the_ends_of_their_lease() -> None:
    desk = ready_desk()
    desk.web("web-1")
    desk.enqueue("a")
    generation = desk.generation("a")

    route = desk.dispatcher.route

    assert route(b"web-0", "a", generation) == b"worker-0"
    assert route(b"worker-0", "a", generation) == b"web-0"
    assert route(b"web-1", "a", generation) is None
    assert route(b"web-0", "a", generation - 1) is None
    assert route(b"web-0", "b", generation) is None


def test_a_revoked_lease_is_told_to_both_ends() -> None:
    desk = ready_desk()
    desk.enqueue("a")

    desk.dispatcher.revoke("a", "no_capacity", "too slow", desk.now_s)
    desk.pass_time(0.05, alive=("web-0", "worker-0"))

    assert desk.told("web-0", Revoked, "a") == [Revoked(code="no_capacity", message="too slow")]
    assert len(desk.told("worker-0", Revoked, "a")) == 1


# --- liveness ----------------------------------------------------------------------------------


def test_a_silent_worker_is_first_on_probation_and_then_lost() -> None:
    desk = ready_desk()

    desk.pass_time(0.45, alive=("web-0",))
    peer = desk.dispatcher.peers.named("worker-0")
    assert peer is not None and peer.on_probation
    desk.pass_time(0.75, alive=("web-0",))

    assert desk.dispatcher.peers.named("worker-0") is None


def test_a_worker_on_probation_gets_no_sessions_until_it_beats_again() -> None:
    desk = ready_desk()
    desk.pass_time(0.45, alive=("web-0",))
    desk.enqueue("a")
    assert desk.leased_sessions() == []

    desk.say("worker-0", Heartbeat(steps=5))

    assert desk.leased_sessions() == ["a"]


def test_a_lost_worker_ends_only_its_own_sessions() -> None:
    desk = Desk()
    desk.worker("worker-0")
    desk.worker("worker-1")
    desk.web()
    desk.enqueue("a")
    desk.enqueue("b")

    desk.lose("worker-0")

    [revoked] = desk.told("web-0", Revoked)
    assert isinstance(revoked, Revoked) and revoked.code == "worker_lost"
    assert len(desk.told("web-0", Revoked, "a")) == 1
    assert desk.dispatcher.leases.get("b") is not None


def test_a_lost_workers_slots_are_never_leased() -> None:
    """In the reference a dead worker counted as idle, and queued clients were lost to it."""
    desk = Desk()
    desk.worker("worker-0")
    desk.worker("worker-1")
    desk.web()
    for name in "abcd":
        desk.enqueue(name)

    desk.lose("worker-0")
    desk.finish("b")
    desk.finish("c")

    leases = [desk.told("web-0", Leased, name)[0] for name in "cd"]
    assert [item.worker for item in leases if isinstance(item, Leased)] == ["worker-1"] * 2


def test_a_worker_that_comes_back_serves_those_who_waited() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.enqueue("b")
    desk.lose("worker-0")

    desk.worker(pid=11)

    assert desk.leased_sessions() == ["a", "b"]


def test_a_lost_webs_tickets_vanish_and_its_leases_end_at_the_worker() -> None:
    desk = ready_desk(num_slots=1)
    desk.web("web-1")
    desk.enqueue("a")
    desk.enqueue("b")
    desk.enqueue("c", web="web-1")

    generation = desk.generation("a")
    desk.lose("web-0")
    desk.say("worker-0", SlotFreed(), "a", generation)

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert desk.leased_sessions() == ["a", "c"]


def test_the_launchers_word_makes_a_worker_lost_at_once() -> None:
    desk = ready_desk()
    desk.say("launcher", hello("launcher", "launcher"))
    desk.enqueue("a")

    desk.say("launcher", PeerExited(name="worker-0", pid=10))

    assert len(desk.told("web-0", Revoked, "a")) == 1


def test_the_launchers_word_about_an_older_process_changes_nothing() -> None:
    desk = ready_desk()
    desk.say("launcher", hello("launcher", "launcher"))

    desk.say("launcher", PeerExited(name="worker-0", pid=9))

    assert desk.dispatcher.peers.named("worker-0") is not None


def test_only_the_launcher_may_say_that_a_process_exited() -> None:
    desk = ready_desk()

    with pytest.raises(ProtocolError, match="web may not send PeerExited"):
        desk.say("web-0", PeerExited(name="worker-0", pid=10))


@pytest.mark.parametrize("message", [Enqueue(request_type="chat", client_id="c"), Release()])
def test_a_worker_may_not_ask_for_sessions(message: Enqueue | Release) -> None:
    desk = ready_desk()

    with pytest.raises(ProtocolError):
        desk.say("worker-0", message, "a")


def test_a_goodbye_ends_a_peer_at_once() -> None:
    desk = ready_desk()
    desk.enqueue("a")

    desk.say("worker-0", Goodbye(reason="stopped"))

    assert len(desk.told("web-0", Revoked, "a")) == 1


def test_the_peers_are_not_blamed_for_a_time_in_which_nobody_listened() -> None:
    desk = ready_desk()
    desk.enqueue("a")

    desk.now_s += 60.0
    desk.dispatcher.peers.excuse(60.0)
    desk.dispatcher.tick(desk.now_s)

    assert desk.dispatcher.peers.named("worker-0") is not None


# --- names -------------------------------------------------------------------------------------


def test_a_name_that_is_alive_is_refused_to_another_process() -> None:
    desk = ready_desk()

    desk.say("other", hello("worker", "worker-0", pid=99))

    [refused] = desk.told("other", Refused)
    assert isinstance(refused, Refused) and refused.code == "name_taken"


def test_a_newer_process_gets_the_name_when_the_older_is_lost() -> None:
    desk = ready_desk()
    desk.lose("worker-0")

    desk.say("other", hello("worker", "worker-0", pid=99))

    assert len(desk.told("other", Welcome)) == 1


def test_a_process_that_opens_a_new_link_takes_over_from_its_old_one() -> None:
    desk = ready_desk()

    desk.say("again", hello("web", "web-0", pid=20))

    assert len(desk.told("again", Welcome)) == 1
    assert desk.dispatcher.peers.get(b"web-0") is None


def test_a_stranger_is_told_to_say_hello_but_not_for_each_message() -> None:
    desk = ready_desk()

    for _ in range(10):
        desk.say("stranger", Heartbeat())

    [refused] = desk.told("stranger", Refused)
    assert isinstance(refused, Refused) and refused.code == "unknown_peer"


# --- nobody to wait for --------------------------------------------------------------------------


def test_tickets_wait_while_a_worker_is_loading() -> None:
    desk = Desk()
    desk.say("worker-0", hello("worker", "worker-0"))
    desk.say("worker-0", Heartbeat(state="loading"))
    desk.web()

    desk.enqueue("a")
    desk.pass_time(60.0, alive=("web-0", "worker-0"))

    assert desk.told("web-0", TicketEnded) == []


def test_tickets_wait_for_a_worker_that_is_being_restarted() -> None:
    desk = ready_desk()
    desk.lose("worker-0")

    desk.enqueue("a")
    desk.pass_time(20.0, alive=("web-0",))

    assert desk.told("web-0", TicketEnded) == []


def test_tickets_end_when_no_worker_comes_back_in_time() -> None:
    desk = ready_desk()
    desk.lose("worker-0")
    desk.enqueue("a")

    desk.pass_time(31.0, alive=("web-0",))

    [ended] = desk.told("web-0", TicketEnded)
    assert isinstance(ended, TicketEnded) and ended.code == "no_worker"


def test_tickets_end_at_once_when_the_launcher_has_given_up_all_workers() -> None:
    desk = ready_desk()
    desk.say("launcher", hello("launcher", "launcher"))
    desk.enqueue("a")
    desk.enqueue("b")

    desk.say("launcher", PeerExited(name="worker-0", pid=10, given_up=True))
    desk.pass_time(0.1, alive=("web-0", "launcher"))
    desk.enqueue("c")

    assert len(desk.told("web-0", TicketEnded, "b")) == 1
    assert len(desk.told("web-0", TicketEnded, "c")) == 1


def test_tickets_wait_at_a_young_broker_that_has_seen_no_worker() -> None:
    desk = Desk()
    desk.web()
    desk.enqueue("a")

    desk.pass_time(29.0, alive=("web-0",))
    assert desk.told("web-0", TicketEnded) == []
    desk.pass_time(2.0, alive=("web-0",))

    assert len(desk.told("web-0", TicketEnded)) == 1


# --- drain -------------------------------------------------------------------------------------


def test_a_drained_worker_finishes_but_gets_nothing_new() -> None:
    desk = Desk()
    desk.worker("worker-0")
    desk.worker("worker-1")
    desk.web()
    desk.enqueue("a")

    desk.say("web-0", Drain(request=1, worker="worker-0"))
    desk.finish("a")
    for name in "bc":
        desk.enqueue(name)

    assert desk.told("web-0", Answer) == [Answer(request=1, ok=True)]
    assert desk.leased_sessions() == ["a", "b"]


def test_a_worker_that_says_it_drains_gets_nothing_new() -> None:
    desk = ready_desk(num_slots=2)
    desk.say("worker-0", Heartbeat(state="draining", steps=1))

    desk.enqueue("a")

    assert desk.leased_sessions() == []


def test_draining_all_ends_the_queue_and_lets_sessions_go_on() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.enqueue("b")

    desk.say("web-0", Drain(request=1))
    desk.enqueue("c")

    assert desk.dispatcher.leases.get("a") is not None
    ended = [*desk.told("web-0", TicketEnded, "b"), *desk.told("web-0", TicketEnded, "c")]
    assert [item.code for item in ended if isinstance(item, TicketEnded)] == ["no_worker"] * 2


def test_draining_an_unknown_worker_says_so() -> None:
    desk = ready_desk()

    desk.say("web-0", Drain(request=1, worker="worker-9"))

    assert desk.told("web-0", Answer) == [Answer(request=1, ok=False, message="no such worker")]


# --- a new broker --------------------------------------------------------------------------------


def test_a_lease_that_both_ends_report_goes_on() -> None:
    desk = Desk()

    desk.worker(leases=(held("a"),))
    desk.web(leases=(held("a"),))

    assert desk.dispatcher.route(b"web-0", "a", 5) == b"worker-0"
    assert desk.told("web-0", Rejoined, "a") == [Rejoined(received_seq=7)]
    assert desk.told("worker-0", Rejoined, "a") == [Rejoined(received_seq=7)]


def test_it_does_not_matter_which_end_reports_first() -> None:
    desk = Desk()

    desk.web(leases=(held("a"),))
    desk.worker(leases=(held("a"),))

    assert desk.dispatcher.route(b"worker-0", "a", 5) == b"web-0"
    assert len(desk.told("web-0", Rejoined, "a")) == 1


def test_a_restored_slot_is_not_leased_again() -> None:
    desk = Desk()
    desk.web()

    desk.worker(leases=(held("a"),))
    desk.enqueue("b")

    assert desk.leased_sessions() == []


def test_free_slots_are_leased_without_waiting_for_the_grace() -> None:
    desk = Desk()
    desk.web()

    desk.worker(num_slots=2, leases=(held("a"),))
    desk.enqueue("b")

    assert desk.leased_sessions() == ["b"]


def test_a_restored_session_keeps_its_age() -> None:
    desk = Desk()
    desk.worker(leases=(held("a"),))
    desk.web(leases=(held("a"),))

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert status.workers[0].tasks[0].elapsed_s == pytest.approx(30.0)


def test_generations_stay_above_those_that_workers_report() -> None:
    desk = Desk()
    desk.worker(num_slots=2, leases=(held("a", generation=10**15),))
    desk.web()

    desk.enqueue("b")

    assert desk.generation("b") > 10**15


def test_a_lease_that_no_web_claims_ends_with_the_grace() -> None:
    desk = Desk()
    desk.worker(leases=(held("a"),))
    desk.web()
    desk.enqueue("b")

    desk.pass_time(2.1, alive=("web-0", "worker-0"))
    desk.say("worker-0", SlotFreed(), "a", 5)

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert desk.leased_sessions() == ["b"]


def test_a_lease_whose_worker_does_not_come_ends_with_the_grace() -> None:
    desk = Desk()
    desk.web(leases=(held("a"),))

    desk.pass_time(2.1, alive=("web-0",))

    [revoked] = desk.told("web-0", Revoked, "a")
    assert isinstance(revoked, Revoked) and revoked.code == "worker_lost"


def test_a_lease_that_its_worker_does_not_know_ends_at_once() -> None:
    desk = Desk()
    desk.web(leases=(held("a"),))

    desk.worker()

    assert len(desk.told("web-0", Revoked, "a")) == 1


def test_reported_leases_are_refused_after_the_grace() -> None:
    desk = Desk()
    desk.web()
    desk.pass_time(2.1, alive=("web-0",))

    desk.worker(leases=(held("a"),))
    desk.say("web-0", hello("web", "web-0", 20, None, (held("b"),)))

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert len(desk.told("web-0", Revoked, "b")) == 1


@pytest.mark.parametrize("slot", [-1, 1, 10**9])
def test_a_reported_slot_that_the_worker_does_not_have_is_refused(slot: int) -> None:
    desk = Desk()

    desk.worker(num_slots=1, leases=(held("a", slot=slot),))

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert len(desk.dispatcher.leases) == 0


def test_two_leases_reported_for_one_slot_are_not_both_taken() -> None:
    desk = Desk()

    desk.worker(num_slots=1, leases=(held("a"), held("b", generation=6)))

    assert [lease.session for lease in desk.dispatcher.leases] == ["a"]
    assert len(desk.told("worker-0", Revoked, "b")) == 1


def test_another_webs_lease_cannot_be_claimed() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    generation = desk.generation("a")

    desk.web("web-1", leases=(held("a", generation),))

    assert len(desk.told("web-1", Revoked, "a")) == 1
    assert desk.dispatcher.route(b"web-0", "a", generation) == b"worker-0"


def test_a_web_that_was_lost_hears_that_its_sessions_are_over() -> None:
    desk = ready_desk()
    desk.pass_time(3.0, alive=("web-0", "worker-0"))
    desk.enqueue("a")
    generation = desk.generation("a")
    desk.lose("web-0")

    desk.web(leases=(held("a", generation),))

    assert len(desk.told("web-0", Revoked, "a")) == 1


def test_saying_hello_again_to_the_same_broker_keeps_the_leases() -> None:
    desk = ready_desk()
    desk.enqueue("a")

    desk.web(leases=(held("a", desk.generation("a")),))

    assert desk.told("web-0", Rejoined, "a") == [Rejoined()]
    assert desk.told("worker-0", Rejoined) == []


def test_waiting_sessions_keep_their_order_over_a_restart() -> None:
    desk = Desk()
    desk.web()
    desk.web("web-1")

    desk.say("web-0", Enqueue(request_type="chat", client_id="c", waited_s=2.0), "young")
    desk.say("web-1", Enqueue(request_type="chat", client_id="c", waited_s=9.0), "old")
    desk.worker()

    assert desk.leased_sessions() == ["old"]


@pytest.mark.parametrize("first", ["worker-0", "web-0"])
def test_a_lease_of_which_its_web_never_heard_goes_to_the_session_that_asks_again(
    first: str,
) -> None:
    """The old broker died when it had told the worker alone: the session waited without an end."""
    desk = Desk()
    desk.web()
    tell = {
        "worker-0": lambda: desk.worker(num_slots=2, leases=(held("a"),)),
        "web-0": lambda: desk.enqueue("a"),
    }

    tell.pop(first)()
    tell.popitem()[1]()

    assert desk.leased_sessions() == ["a"]
    assert desk.dispatcher.route(b"web-0", "a", 5) == b"worker-0"
    assert desk.told("web-0", Rejoined, "a") == [Rejoined(received_seq=7)]
    assert desk.told("worker-0", Rejoined, "a") == [Rejoined(received_seq=0)]
    assert len(desk.dispatcher.line) == 0


# --- status ------------------------------------------------------------------------------------


def test_status_shows_tickets_workers_and_tasks() -> None:
    desk = ready_desk()
    desk.enqueue("a", "chat")
    desk.enqueue("b", "omni_duplex")
    desk.pass_time(1.0, alive=("web-0", "worker-0"))

    desk.say("web-0", StatusQuery(request=9))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert (status.request, status.webs) == (9, ("web-0",))
    [worker] = status.workers
    assert (worker.name, worker.state, worker.pid, worker.num_slots) == ("worker-0", "ready", 10, 1)
    [task] = worker.tasks
    assert (task.client_id, task.estimated_remaining_s) == ("c-a", 14.0)
    assert task.started_at == pytest.approx(UNIX_S)
    [ticket] = status.tickets
    assert (ticket.client_id, ticket.position, ticket.estimated_wait_s) == ("c-b", 1, 14.0)
    assert ticket.waited_s == pytest.approx(1.0)


def test_status_shows_a_lost_worker_as_offline_and_counts_restarts() -> None:
    desk = ready_desk()
    desk.lose("worker-0")
    desk.worker(pid=11)
    desk.lose("worker-0")

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert (status.workers[0].state, status.workers[0].restarts) == ("offline", 1)


def test_a_worker_that_was_only_silent_was_not_restarted() -> None:
    desk = ready_desk()
    desk.lose("worker-0")
    desk.worker()

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert (status.workers[0].state, status.workers[0].restarts) == ("ready", 0)


def test_uptime_begins_with_the_broker() -> None:
    desk = ready_desk()
    desk.now_s = START_S + 12.5

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status) and status.uptime_s == 12.5


def test_any_number_of_terminals_may_ask_at_the_same_time() -> None:
    desk = ready_desk()

    desk.say("cli.1.aa", hello("cli", "cli", pid=1))
    desk.say("cli.1.bb", hello("cli", "cli", pid=1))
    desk.say("cli.2.cc", hello("cli", "cli", pid=2))

    assert [len(desk.told(f"cli.{end}", Welcome)) for end in ("1.aa", "1.bb", "2.cc")] == [1, 1, 1]
    assert [item.message for item in desk.heard if isinstance(item.message, Refused)] == []


@pytest.mark.parametrize("generation", [-1, 0, 2**63, 2**64 - 1])
def test_a_generation_that_cannot_be_is_not_restored(generation: int) -> None:
    desk = Desk()
    desk.worker(leases=(held("a", generation),))
    assert len(desk.dispatcher.leases) == 0
    desk.say("worker-0", SlotFreed(), "a", generation)
    desk.web()
    desk.enqueue("b")

    assert 0 < desk.generation("b") < 2**62


@pytest.mark.parametrize("told_s", [float("nan"), float("inf"), -5.0, 1e300])
def test_impossible_waiting_times_are_not_believed(told_s: float) -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.say("web-0", Enqueue(request_type="chat", client_id="c", waited_s=told_s), "b")

    desk.say("web-0", StatusQuery(request=1))

    [status] = desk.told("web-0", Status)
    assert isinstance(status, Status)
    assert 0.0 <= status.tickets[0].waited_s <= 86_400.0


def test_a_slot_whose_tenant_the_broker_refuses_is_not_leased_before_it_is_freed() -> None:
    desk = Desk()
    desk.web()
    desk.pass_time(2.1, alive=("web-0",))
    desk.enqueue("b")

    desk.worker(leases=(held("a"),))
    assert desk.leased_sessions() == []
    desk.say("worker-0", SlotFreed(), "a", 5)

    assert desk.leased_sessions() == ["b"]


def test_a_lease_that_this_broker_gave_and_ended_is_not_restored_in_its_grace() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    generation = desk.generation("a")
    desk.lose("worker-0")

    desk.worker(leases=(held("a", generation),))

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert len(desk.dispatcher.leases) == 0


def test_a_lease_that_its_web_says_hello_without_is_released() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.pass_time(2.0, alive=("web-0", "worker-0"))

    desk.web()

    assert len(desk.told("worker-0", Revoked, "a")) == 1
    assert desk.dispatcher.leases.get("a") is None


def test_a_lease_that_its_worker_says_hello_without_is_lost() -> None:
    desk = ready_desk()
    desk.enqueue("a")
    desk.enqueue("b")
    desk.pass_time(2.0, alive=("web-0", "worker-0"))

    desk.worker()

    [revoked] = desk.told("web-0", Revoked, "a")
    assert isinstance(revoked, Revoked) and revoked.code == "worker_lost"
    assert desk.leased_sessions() == ["a", "b"]


def test_a_lease_so_young_that_its_ends_may_not_know_it_survives_their_hello() -> None:
    desk = ready_desk()
    desk.enqueue("a")

    desk.web()
    desk.worker()

    assert desk.told("web-0", Revoked) == []
    assert desk.dispatcher.leases.get("a") is not None

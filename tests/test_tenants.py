"""A worker's sessions: who has which slot, and what is said to whom."""

import pytest

from omni.engine import (
    Arrival,
    AudioChunk,
    Buffer,
    Capabilities,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Emission,
    Failed,
    Part,
    Prepared,
    PrepareDuplex,
    SessionEvent,
    SessionInput,
    Slot,
    UnitResult,
)
from omni.engine.inbox import Inbox
from omni.engine.thread import Spoken
from omni.messages import KINDS, Header, Leased, Message, Revoked, SlotFreed, Stamp
from omni.tenants import Tenants
from tests.fakes import FakeClock

CAPABILITIES = Capabilities(engine="fake", model="fake", modes=("chat",), num_slots=2)
CHUNK = AudioChunk(pcm=Buffer(bytes(4)))
DUPLEX = PrepareDuplex(mode="audio_duplex")
CHAT = ChatRequest(messages=(ChatMessage(role="user", parts=(Part(kind="text", text="hi"),)),))


class Fixture:
    """Tenants with an inbox to look into and a list of what was sent."""

    def __init__(self) -> None:
        self.inbox = Inbox(64)
        self.sent: list[tuple[Header, Message]] = []
        self.tenants = Tenants(
            self.inbox, lambda header, message: self.sent.append((header, message)), FakeClock()
        )

    def lease(self, session: str, slot: int = 0, generation: int = 1) -> None:
        leased = Leased(
            worker="worker-0",
            gpu="",
            slot=slot,
            request_type="audio_duplex",
            client_id="adx_1",
            ticket_id="t",
            capabilities=CAPABILITIES,
        )
        self.take(session, leased, generation)

    def take(self, session: str, message: Message, generation: int = 1) -> None:
        header = Header(kind=KINDS[type(message)], session=session, generation=generation)
        self.tenants.on_message(header, message)

    def speak(self, slot: Slot, event: SessionEvent, context: object = None) -> None:
        self.tenants.on_spoken(Spoken(Emission(slot, event), context, 5, 7))

    def arrivals(self) -> list[Arrival]:
        return [waiting.arrival for waiting in self.inbox.take(0).inputs]

    def messages(self) -> list[Message]:
        messages = [message for _, message in self.sent]
        self.sent.clear()
        return messages


@pytest.fixture
def worker() -> Fixture:
    return Fixture()


def slot(index: int = 0, generation: int = 1) -> Slot:
    return Slot(index=index, generation=generation)


def test_inputs_of_a_leased_session_go_to_its_slot(worker: Fixture) -> None:
    worker.lease("s_a", slot=1, generation=7)
    worker.take("s_a", DUPLEX, 7)
    worker.take("s_a", CHUNK, 7)

    assert worker.arrivals() == [Arrival(slot(1, 7), DUPLEX), Arrival(slot(1, 7), CHUNK)]
    assert not worker.sent and len(worker.tenants) == 1


@pytest.mark.parametrize("message", [DUPLEX, CHUNK, Close()])
def test_inputs_of_an_older_generation_are_dropped(
    worker: Fixture, message: SessionInput
) -> None:
    worker.lease("s_a", generation=2)

    worker.take("s_a", message, 1)

    assert worker.arrivals() == [] and worker.messages() == []


def test_events_of_an_older_generation_are_dropped(worker: Fixture) -> None:
    worker.lease("s_b", generation=2)

    worker.speak(slot(generation=1), UnitResult(is_listen=False, text="not yours"))

    assert worker.messages() == []


def test_an_event_carries_the_way_of_its_chunk(worker: Fixture) -> None:
    worker.lease("s_a")
    chunk = Header(kind="audio_chunk", session="s_a", generation=1, stamps=(Stamp("web", 1),))

    worker.speak(slot(), UnitResult(is_listen=True), context=chunk)

    [(header, _)] = worker.sent
    assert header.session == "s_a" and header.generation == 1
    assert header.stamps == (Stamp("web", 1), Stamp("worker queue", 5), Stamp("engine", 7))


def test_input_before_prepare_is_refused_for_that_session_alone(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.lease("s_b", slot=1)

    worker.take("s_a", CHUNK)

    [(header, failed)] = worker.sent
    assert header.session == "s_a"
    assert isinstance(failed, Failed) and failed.code == "protocol_error" and not failed.fatal
    assert worker.arrivals() == []


def test_a_session_is_opened_once(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", DUPLEX)

    worker.take("s_a", DUPLEX)

    assert isinstance(worker.messages()[0], Failed)
    assert len(worker.arrivals()) == 1


def test_a_slot_is_free_when_the_engine_has_closed_it(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", DUPLEX)
    worker.take("s_a", CHUNK)

    worker.take("s_a", Close())

    assert worker.arrivals() == [Arrival(slot(), Close())]  # the waiting chunk is of no use
    assert worker.messages() == []
    worker.tenants.on_closed(slot())
    assert worker.messages() == [SlotFreed()]
    assert len(worker.tenants) == 0


def test_a_revoked_session_hears_nothing_more(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", DUPLEX)

    worker.take("s_a", Revoked(code="lease_expired", message="its web is gone"))
    worker.speak(slot(), Prepared())

    assert worker.messages() == []
    worker.tenants.on_closed(slot())
    assert worker.messages() == [SlotFreed()]


def test_a_slot_that_was_never_opened_is_free_at_once(worker: Fixture) -> None:
    worker.lease("s_a")

    worker.take("s_a", Revoked(code="cancelled", message=""))

    assert worker.messages() == [SlotFreed()] and worker.arrivals() == []


def test_a_finished_chat_needs_no_close(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", CHAT)
    worker.arrivals()
    worker.speak(slot(), ChatDone(text="", input_tokens=1, generated_tokens=0))

    worker.take("s_a", Close())

    assert worker.arrivals() == []
    assert [type(message) for message in worker.messages()] == [ChatDone, SlotFreed]


def test_a_second_close_changes_nothing(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", DUPLEX)
    worker.take("s_a", Close())
    worker.arrivals()

    worker.take("s_a", Revoked(code="cancelled", message=""))

    assert worker.arrivals() == [] and worker.messages() == []


def test_a_new_tenant_never_meets_the_old_one(worker: Fixture) -> None:
    """The broker believes a slot free that was not: the old tenant is closed before the new one."""
    worker.lease("s_a", generation=1)
    worker.take("s_a", DUPLEX, 1)

    worker.lease("s_b", generation=2)
    worker.take("s_b", DUPLEX, 2)

    inputs = [(arrival.slot.generation, type(arrival.input)) for arrival in worker.arrivals()]
    assert inputs == [(1, Close), (2, PrepareDuplex)]
    assert [header.session for header, _ in worker.sent] == ["s_a"]


def test_an_unreadable_chunk_is_told_and_still_answered(worker: Fixture) -> None:
    worker.lease("s_a")
    worker.take("s_a", DUPLEX)
    header = Header(kind="audio_chunk", session="s_a", generation=1)

    malformed = Failed(code="protocol_error", message="audio_chunk: pcm is missing")
    worker.tenants.on_message(header, malformed)

    [failed] = worker.messages()
    assert isinstance(failed, Failed) and not failed.fatal and "pcm" in failed.message
    assert worker.inbox.take(0).skipped == {slot(): 1}


def test_an_unreadable_opening_ends_the_session(worker: Fixture) -> None:
    worker.lease("s_a")
    header = Header(kind="prepare_duplex", session="s_a", generation=1)

    malformed = Failed(code="protocol_error", message="prepare_duplex: mode is missing")
    worker.tenants.on_message(header, malformed)
    worker.take("s_a", Close())

    failed, freed = worker.messages()
    assert isinstance(failed, Failed) and failed.fatal
    assert freed == SlotFreed()

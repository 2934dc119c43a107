"""Web's side and worker's side of the fabric, over a real broker; also one that is killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import msgpack
import pytest
import zmq
from attrs import evolve

from omni.codec import decode, decode_header, encode
from omni.delivery import MAX_KEPT
from omni.engine import AudioChunk, Buffer, ChatDone, ChatRequest, Failed, StopAnswer, UnitResult
from omni.errors import (
    Cancelled,
    CapacityError,
    ClientError,
    NoWorker,
    ProtocolError,
    QueueFull,
    WorkerLost,
)
from omni.link import BrokerLink, LinkedSession, open_link
from omni.messages import (
    PROTOCOL_VERSION,
    Enqueue,
    EtaConfig,
    Header,
    Queued,
    Refused,
    Welcome,
)
from omni.settings import FabricSettings, ServiceSettings
from omni.wire import endpoints
from tests.conftest import status_of
from tests.fabric import TIMEOUT_S, BrokerProcess, EchoWorker, broker_thread, fabric

__all__ = ["fabric"]  # a fixture


@pytest.fixture
def num_slots() -> int:
    """Slots of `worker`; a test that wants another number says so as a parameter."""
    return 4


@pytest.fixture
def worker(fabric: FabricSettings, stack: ExitStack, num_slots: int) -> EchoWorker:
    """A broker, and a worker that echoes."""
    stack.enter_context(broker_thread(fabric))
    return start_worker(stack, fabric, num_slots=num_slots)


@pytest.fixture
async def link(fabric: FabricSettings, worker: EchoWorker) -> AsyncIterator[BrokerLink]:
    """The web's link to that broker."""
    async with web_link(fabric) as link:
        yield link


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what the test has started, last first."""
    with ExitStack() as stack:
        yield stack


@asynccontextmanager
async def web_link(fabric: FabricSettings, name: str = "web-0") -> AsyncIterator[BrokerLink]:
    """Open a link as the web process does, and wait until it is connected."""
    async with asyncio.timeout(3 * TIMEOUT_S), open_link(fabric, role="web", name=name) as link:
        await link.wait_connected(TIMEOUT_S)
        yield link


def start_worker(
    stack: ExitStack, fabric: FabricSettings, name: str = "worker-0", num_slots: int = 4
) -> EchoWorker:
    """Start a worker that echoes."""
    worker = EchoWorker(fabric, name, num_slots)
    stack.callback(worker.close)
    worker.start()
    return worker


def start_broker(stack: ExitStack, fabric: FabricSettings, *overrides: str) -> BrokerProcess:
    """Start a broker process."""
    process = BrokerProcess(fabric, *overrides)
    stack.callback(process.close)
    process.start()
    return process


async def leased(link: BrokerLink, client_id: str = "adx_1") -> LinkedSession:
    """Return a session that has a slot."""
    session = link.open_session(client_id, "audio_duplex")
    async for _ in session.wait_for_lease():
        pass
    return session


async def known(worker: EchoWorker, session: LinkedSession) -> LinkedSession:
    """Return *session* when *worker* has heard of its lease, too."""
    await until(lambda: session.key in worker.tenants)
    return session


async def worker_is_ready(link: BrokerLink) -> None:
    """Return when the broker has a worker that takes leases."""
    async with asyncio.timeout(TIMEOUT_S):
        while not any(view.num_slots for view in (await status_of(link)).workers):
            await asyncio.sleep(0.005)


async def until(is_true: Callable[[], bool]) -> None:
    """Return when *is_true*; fail when that takes too long."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():
            await asyncio.sleep(0.002)


def chunk(number: int) -> AudioChunk:
    """Return a chunk that can be told from others."""
    return AudioChunk(pcm=Buffer(number.to_bytes(4, "little") * 1000))


def number_of(event: object) -> int:
    """Return which chunk was echoed."""
    assert isinstance(event, UnitResult)
    return int.from_bytes(bytes(event.pcm[:4]), "little")


# --- sessions ----------------------------------------------------------------------------------


async def test_a_session_gets_its_answers_in_order(link: BrokerLink) -> None:
    session = await leased(link)

    for number in range(50):
        session.send(chunk(number))

    assert [number_of(await session.receive()) for _ in range(50)] == list(range(50))


async def test_the_lease_names_worker_slot_and_engine(link: BrokerLink) -> None:
    session = await leased(link, "adx_x")

    lease = session.lease

    assert (lease.worker, lease.gpu, lease.client_id) == ("worker-0", "0", "adx_x")
    assert lease.capabilities.model == "echo"
    assert session.key.startswith("s_") and session.queued_s > 0


async def test_an_event_carries_the_times_of_its_whole_way(link: BrokerLink) -> None:
    session = await leased(link)
    session.send(chunk(1))
    await session.receive()

    hops = [stamp.hop for stamp in session.last_stamps]
    times = [stamp.at_ns for stamp in session.last_stamps]

    assert hops == ["web", "broker", "worker", "worker", "broker", "web"]
    assert times == sorted(times)


async def test_sessions_of_one_web_never_hear_each_other(link: BrokerLink) -> None:
    one, two = await leased(link), await leased(link)

    for number in range(20):
        one.send(chunk(number))
        two.send(chunk(1000 + number))

    assert [number_of(await one.receive()) for _ in range(20)] == list(range(20))
    assert [number_of(await two.receive()) for _ in range(20)] == list(range(1000, 1020))


async def test_a_malformed_input_is_answered_to_its_own_session(link: BrokerLink) -> None:
    session = await leased(link)
    wrong: object = AudioChunk(pcm=Buffer(b""), max_slice_nums="many")  # type: ignore

    session.send(wrong)  # type: ignore[arg-type]
    failed = await session.receive()
    session.send(chunk(2))

    assert isinstance(failed, Failed) and failed.code == "protocol_error"
    assert number_of(await session.receive()) == 2


async def test_failures_of_a_turn_leave_the_session_alive(link: BrokerLink) -> None:
    session = await leased(link)

    session.send(StopAnswer())
    session.send(chunk(1))

    assert isinstance(await session.receive(), Failed)
    assert number_of(await session.receive()) == 1


# --- queue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_slots", [1])
async def test_a_waiting_session_hears_its_position_and_every_change(link: BrokerLink) -> None:
    first, second, third = await leased(link), *(link.open_session("c", "chat") for _ in "23")
    updates = second.wait_for_lease(), third.wait_for_lease()
    assert (await anext(updates[0])).position == 1
    assert (await anext(updates[1])).position == 2

    second.close()

    while (await anext(updates[1])).position != 1:
        continue
    first.close()
    assert [item async for item in updates[1] if item.position != 1] == []
    assert third.is_leased
    with pytest.raises(Cancelled):
        await anext(updates[0])


async def test_a_full_queue_raises_with_a_time_to_come_back(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    patient = evolve(fabric, heartbeat_interval_s=10)  # who is on probation gets not even the first
    stack.enter_context(broker_thread(patient, ServiceSettings(max_queue_size=0)))
    start_worker(stack, patient, num_slots=1)
    async with web_link(fabric) as link:
        await worker_is_ready(link)
        await leased(link)

        with pytest.raises(QueueFull) as caught:
            await leased(link)

        assert caught.value.retry_after_s > 0


async def test_a_cancelled_ticket_raises_in_the_waiting_session(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    stack.enter_context(broker_thread(fabric))
    start_worker(stack, fabric, num_slots=1)
    async with web_link(fabric) as link, web_link(fabric, "web-1") as other:
        await leased(link)
        waiting = link.open_session("c", "chat")
        updates = waiting.wait_for_lease()
        queued = await anext(updates)

        assert await other.cancel_ticket(queued.ticket_id)

        with pytest.raises(Cancelled):
            await anext(updates)
        assert not await other.cancel_ticket(queued.ticket_id)


async def test_a_session_closed_twice_gives_its_slot_back_once(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = stack.enter_context(broker_thread(fabric))
    start_worker(stack, fabric, num_slots=1)
    async with web_link(fabric) as link:
        first = await leased(link)

        first.close()
        first.close()
        second = await leased(link)

        assert second.is_leased
        assert broker.dispatcher.counters["leased"] == 2
        with pytest.raises(Cancelled):
            first.send(chunk(1))


@pytest.mark.parametrize("num_slots", [1])
async def test_a_lease_for_a_session_that_was_just_closed_frees_the_slot(link: BrokerLink) -> None:
    """The reference left the worker busy for ever when a client left just before its turn."""
    for _ in range(30):
        gone = link.open_session("c", "chat")
        task = asyncio.ensure_future(anext(gone.wait_for_lease()))
        await asyncio.sleep(0)  # the ticket is on its way now, and perhaps the lease
        gone.close()
        with pytest.raises((Cancelled, StopAsyncIteration)):
            await task

    assert (await leased(link)).is_leased


async def test_a_stopped_link_leaves_no_session_behind(
    fabric: FabricSettings, worker: EchoWorker
) -> None:
    async with web_link(fabric) as link:
        await leased(link)
        await until(lambda: len(worker.tenants) == 1)

    await until(lambda: len(worker.tenants) == 0)


# --- requests ----------------------------------------------------------------------------------


async def test_status_is_what_the_broker_knows(fabric: FabricSettings, stack: ExitStack) -> None:
    stack.enter_context(broker_thread(fabric))
    start_worker(stack, fabric)
    async with web_link(fabric) as link:
        await leased(link)

        status = await status_of(link)

        assert status.webs == ("web-0",)
        assert [(view.name, len(view.tasks)) for view in status.workers] == [("worker-0", 1)]


async def test_expected_durations_can_be_set_and_wrong_ones_are_refused(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    stack.enter_context(broker_thread(fabric))
    async with web_link(fabric) as link:
        await link.set_eta(EtaConfig(eta_chat_s=3.0))
        with pytest.raises(ClientError, match="eta_chat_s = -1"):
            await link.set_eta(EtaConfig(eta_chat_s=-1.0))

        assert (await status_of(link)).eta.config.eta_chat_s == 3.0


async def test_a_drained_service_refuses_new_sessions(link: BrokerLink) -> None:
    session = await leased(link)

    assert await link.drain()

    with pytest.raises(NoWorker, match="stopping"):
        await leased(link)
    session.send(chunk(1))
    assert number_of(await session.receive()) == 1


async def test_a_request_without_a_broker_says_so(fabric: FabricSettings) -> None:
    async with open_link(fabric, role="cli", name="cli") as link:
        with pytest.raises(NoWorker, match="does not answer"):
            await link.status()


# --- lost workers ------------------------------------------------------------------------------


async def test_a_lost_worker_is_raised_after_all_events_that_came_before(
    link: BrokerLink, worker: EchoWorker,
) -> None:
    session = await leased(link)
    for number in range(3):
        session.send(chunk(number))
    await until(lambda: len(worker.seen) == 3)

    worker.close()
    await until(lambda: not session.is_leased)

    assert [number_of(await session.receive()) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WorkerLost):
        await session.receive()
    with pytest.raises(WorkerLost):
        session.send(chunk(9))


async def test_a_hung_engine_is_a_lost_worker_and_its_return_is_taken(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    stack.enter_context(broker_thread(evolve(fabric, heartbeat_misses=12)))
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        session = await leased(link)

        worker.hangs = True
        with pytest.raises(WorkerLost, match="silent"):
            await session.receive()
        worker.hangs = False

        again = await leased(link)
        again.send(chunk(5))
        assert number_of(await again.receive()) == 5
        assert {key for key, _ in worker.revoked} == {session.key}  # told once for each hello


async def test_the_launchers_word_ends_a_workers_sessions(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    stack.enter_context(broker_thread(evolve(fabric, heartbeat_misses=1000)))
    start_worker(stack, fabric)
    async with web_link(fabric) as link, open_link(fabric, role="launcher", name="l") as launcher:
        session = await leased(link)
        await launcher.wait_connected(TIMEOUT_S)

        launcher.send_peer_exited("worker-0", os.getpid())

        with pytest.raises(WorkerLost, match="exited"):
            await session.receive()


async def test_a_chat_that_is_done_can_be_closed_at_once(
    link: BrokerLink, worker: EchoWorker,
) -> None:
    for _ in range(20):
        session = await leased(link)
        session.send(ChatRequest(messages=()))
        assert isinstance(await session.receive(), ChatDone)
        session.close()

    await until(lambda: worker.tenants == {})


# --- a broker that is killed and started again ---------------------------------------------------


async def test_a_session_goes_on_over_a_killed_broker_and_loses_nothing(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, fabric)
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        session = await known(worker, await leased(link))
        received: list[int] = []

        async def receive_all() -> None:
            while len(received) < 150:
                received.append(number_of(await session.receive()))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(receive_all(), name="receive")
            for number in range(150):
                # what is on its way is kept for the next broker, up to a bound
                await until(lambda: number - len(received) < MAX_KEPT // 2)
                if number == 50:
                    await until(lambda: len(received) > 40)
                    broker.kill()
                if number == 60:
                    broker.start()
                while True:
                    try:
                        session.send(chunk(number))
                        break
                    except CapacityError:  # the broker is away for longer than the buffer lasts
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.005)

        assert received == list(range(150))
        assert link.num_gaps == 0


async def test_a_session_in_full_flight_loses_nothing_over_five_brokers(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, fabric)
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        sessions = [await known(worker, await leased(link)) for _ in range(3)]
        received: list[list[int]] = [[], [], []]
        stops = asyncio.Event()
        sent = [0, 0, 0]

        async def send_all(index: int) -> None:
            while not stops.is_set():
                try:
                    if sent[index] - len(received[index]) < MAX_KEPT // 2:
                        sessions[index].send(chunk(sent[index]))
                        sent[index] += 1
                except CapacityError:
                    pass
                await asyncio.sleep(0.001)

        async def receive_all(index: int) -> None:
            while not (stops.is_set() and len(received[index]) == sent[index]):
                received[index].append(number_of(await sessions[index].receive()))

        async with asyncio.TaskGroup() as tasks:
            for index in range(3):
                tasks.create_task(send_all(index), name=f"send {index}")
                tasks.create_task(receive_all(index), name=f"receive {index}")
            for _ in range(5):
                before = len(received[0])
                broker.kill()
                broker.start()
                await until(lambda: len(received[0]) > before + 50)
            stops.set()
            for session in sessions:  # one more, so that no receiver waits for ever
                sent[sessions.index(session)] += 1
                session.send(chunk(sent[sessions.index(session)] - 1))

        assert received == [list(range(count)) for count in sent]


async def test_waiting_tickets_are_asked_for_again_in_order(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, fabric)
    worker = start_worker(stack, fabric, num_slots=1)
    async with web_link(fabric) as link:
        first = await known(worker, await leased(link))
        waiting = [link.open_session(f"c{index}", "chat") for index in range(3)]
        updates = [session.wait_for_lease() for session in waiting]
        tickets = [(await anext(item)).ticket_id for item in updates]

        broker.kill()
        broker.start()
        again = [await _next_other(item, ticket) for item, ticket in zip(updates, tickets)]
        await until(lambda: not first.stream.is_held)  # its lease is whole again
        first.close()
        async for _ in updates[0]:
            pass

        assert again[-1].position == 3
        assert waiting[0].is_leased and waiting[0].queued_s > 0
        assert [waiting[1].is_leased, waiting[2].is_leased] == [False, False]


async def test_what_waits_is_asked_for_again_oldest_first_and_as_of_one_moment(
    fabric: FabricSettings,
) -> None:
    """Each was asked for as of its own moment: one that was longer on its way seemed younger."""
    with a_router(fabric) as router:
        async with open_link(fabric, role="web", name="web-0") as link:
            sessions = [link.open_session(f"c{index}", "chat") for index in range(3)]
            tasks = []
            for session in reversed(sessions):
                tasks.append(asyncio.ensure_future(anext(session.wait_for_lease())))
                await asyncio.sleep(0)
            peer, *_ = await _received(router)
            welcome = Welcome(broker_id="b", heartbeat_interval_s=0.25, heartbeat_misses=4)
            router.send_multipart([peer, *encode(Header(kind=""), welcome)])

            asked: list[tuple[str, float]] = []
            while len(asked) < 3:
                _, head, *body = await _received(router)
                message = decode(header := decode_header(head), body)
                if isinstance(message, Enqueue):
                    asked.append((header.session, message.waited_s))
            began_at_s = {session.key: session.enqueued_at_s or 0.0 for session in sessions}
        await asyncio.gather(*tasks, return_exceptions=True)

    assert [key for key, _ in asked] == [session.key for session in reversed(sessions)]
    moments = [began_at_s[key] + waited_s for key, waited_s in asked]
    assert moments == pytest.approx([moments[0]] * 3, rel=0, abs=1e-9)


@contextmanager
def a_router(fabric: FabricSettings) -> "Iterator[zmq.Socket[bytes]]":
    """A socket where a broker would listen: the test says what it says."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoints(fabric).web)
    try:
        yield router
    finally:
        context.destroy(linger=0)


async def _received(router: "zmq.Socket[bytes]") -> list[bytes]:
    async with asyncio.timeout(TIMEOUT_S):
        while not router.poll(0):
            await asyncio.sleep(0.005)
    return router.recv_multipart()


async def _next_other(updates: AsyncIterator[Queued], ticket_id: str) -> Queued:
    async for queued in updates:
        if queued.ticket_id != ticket_id:
            return queued
    raise AssertionError("leased before it was queued again")


async def test_a_session_closed_while_the_broker_is_away_frees_its_slot(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, evolve(fabric, rejoin_grace_s=2))
    worker = start_worker(stack, fabric, num_slots=1)
    async with web_link(fabric) as link:
        session = await known(worker, await leased(link))
        broker.kill()

        session.close()
        broker.start()

        again = await known(worker, await leased(link))
        assert again.is_leased
        assert [*worker.tenants] == [again.key]


async def test_a_worker_that_died_with_the_broker_is_lost_to_its_sessions(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, evolve(fabric, rejoin_grace_s=2))
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        session = await known(worker, await leased(link))

        broker.kill()
        worker.close()
        broker.start()

        # the latter to a web that comes back after the grace itself
        with pytest.raises(WorkerLost, match="did not come back|was ended meanwhile"):
            await session.receive()


async def test_a_web_that_died_with_the_broker_leaves_no_tenant(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, evolve(fabric, rejoin_grace_s=2))
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        await known(worker, await leased(link))
        broker.kill()

    broker.start()

    await until(lambda: len(worker.tenants) == 0)


async def test_sessions_end_when_no_broker_comes_back(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    short = evolve(fabric, lease_timeout_s=1.0)
    broker = start_broker(stack, fabric)
    worker = start_worker(stack, short)
    async with web_link(short) as link:
        session = await known(worker, await leased(link))

        broker.kill()

        with pytest.raises(NoWorker):
            await session.receive()
        await until(lambda: len(worker.tenants) == 0)


async def test_what_is_sent_without_a_broker_is_kept_up_to_a_bound(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, fabric)
    worker = start_worker(stack, fabric)
    async with web_link(fabric) as link:
        session = await known(worker, await leased(link))
        broker.kill()
        await until(lambda: not link.connected)

        for number in range(MAX_KEPT):
            session.send(chunk(number))
        with pytest.raises(CapacityError, match="too many messages wait"):
            session.send(chunk(MAX_KEPT))
        broker.start()

        received = [number_of(await session.receive()) for _ in range(MAX_KEPT)]
        assert received == list(range(MAX_KEPT))


async def test_a_frozen_broker_is_noticed_and_taken_back(
    fabric: FabricSettings, stack: ExitStack
) -> None:
    broker = start_broker(stack, fabric)
    impatient = evolve(fabric, heartbeat_misses=4)
    worker = start_worker(stack, impatient)
    async with web_link(impatient) as link:
        session = await known(worker, await leased(link))

        broker.signal(signal.SIGSTOP)
        await until(lambda: not link.connected)
        session.send(chunk(1))
        broker.signal(signal.SIGCONT)

        assert number_of(await session.receive()) == 1


# --- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", [PROTOCOL_VERSION, PROTOCOL_VERSION + 1], ids=["in our words", "in its own"]
)
async def test_a_broker_of_another_version_is_an_error_that_says_so(
    fabric: FabricSettings, version: int
) -> None:
    with a_router(fabric) as router:
        async with open_link(fabric, role="web", name="web-0") as link:
            peer, *_ = await _received(router)
            refused = Refused(code="version", message="peer speaks protocol 1, this is 2")
            router.send_multipart([peer, *encode(Header(kind="", version=version), refused)])

            with pytest.raises(ProtocolError, match="protocol"):
                await link.wait_connected(TIMEOUT_S)
            with pytest.raises(ProtocolError):
                await leased(link)


async def test_garbage_from_the_broker_is_passed_over(fabric: FabricSettings) -> None:
    with a_router(fabric) as router:
        async with open_link(fabric, role="web", name="web-0") as link:
            peer, *_ = await _received(router)
            short = msgpack.packb([PROTOCOL_VERSION, "welcome"])
            for parts in ([b""], [b"\xc1", b""], [short, b"x"]):
                router.send_multipart([peer, *parts])
            welcome = Welcome(broker_id="b", heartbeat_interval_s=0.25, heartbeat_misses=4)
            router.send_multipart([peer, *encode(Header(kind=""), welcome)])

            await link.wait_connected(TIMEOUT_S)

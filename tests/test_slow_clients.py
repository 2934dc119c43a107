"""An engine that is faster than a client loses nothing of its answer and disturbs nobody else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from omni.engine import (
    AudioChunk,
    Buffer,
    Capabilities,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Part,
    PrefillDone,
    Prepared,
    PrepareDuplex,
    ReplyChunk,
    UnitResult,
)
from omni.engine.null import NullEngine, Script
from omni.errors import CapacityError
from omni.link import BrokerLink, LinkedSession, open_link
from omni.linked_session import MAX_INBOX
from omni.settings import FabricSettings
from tests.conftest import RunningOmni, status_of
from tests.fabric import (
    TIMEOUT_S,
    BrokerProcess,
    HostedWorker,
    RawPeer,
    broker_thread,
    no_leaked_contexts,
)
from tests.fakes import until
from tests.realtime.client import connected

NUM_WORDS = 4000
TONE_BYTES = 4 * 2400


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[FabricSettings]:
    """A fabric where a loop that stands still is not taken for lost."""
    with no_leaked_contexts():
        yield FabricSettings(run_dir=str(tmp_path), heartbeat_misses=200, rejoin_grace_s=10)


@pytest.fixture
def worker(fabric: FabricSettings) -> Iterator[HostedWorker]:
    """A worker with the null engine."""
    worker = HostedWorker(fabric, NullEngine(8, Script(tone_s=0.1, speak_every=1)))
    yield worker
    worker.stop()


@pytest.fixture
async def link(fabric: FabricSettings, worker: HostedWorker) -> AsyncIterator[BrokerLink]:
    """A web's link, over a broker in a thread, to the worker."""
    with broker_thread(fabric) as broker:
        async with open_link(fabric, role="web", name="web-0") as link:
            await link.wait_connected(TIMEOUT_S)
            yield link
        assert broker.dispatcher.counters["revoked_slow"] == 0


async def asked(link: BrokerLink, num_words: int, speak: bool = False) -> LinkedSession:
    """Return a session that asked for so many words."""
    session = link.open_session("chat_1", "chat")
    async with asyncio.timeout(TIMEOUT_S):
        async for _ in session.wait_for_lease():
            pass
    text = " ".join(map(str, range(num_words)))
    messages = (ChatMessage(role="user", parts=(Part(kind="text", text=text),)),)
    session.send(ChatRequest(messages=messages, max_new_tokens=num_words, speak=speak))
    return session


async def answer_of(session: LinkedSession) -> tuple[str, int, int]:
    """Return text and bytes of sound of a whole answer, and in how many pieces it came."""
    text, num_bytes, num_pieces = "", 0, 0
    async with asyncio.timeout(3 * TIMEOUT_S):
        while not isinstance(event := await session.receive(), ChatDone):
            if isinstance(event, ReplyChunk):
                text, num_bytes = text + event.text, num_bytes + len(event.pcm)
                num_pieces += 1
    return text, num_bytes, num_pieces


async def test_a_reader_that_is_late_gets_every_word(
    link: BrokerLink, worker: HostedWorker
) -> None:
    """Its session ended with `no_capacity` after 256 events that it had not received."""
    late, other = await asked(link, NUM_WORDS), await asked(link, 10)
    assert (await answer_of(other))[0].split() == list(map(str, range(10)))

    await asyncio.to_thread(until, lambda: not worker.engine.busy)
    text, _, num_pieces = await answer_of(late)

    assert text.split() == list(map(str, range(NUM_WORDS)))
    assert num_pieces < NUM_WORDS / 2  # the words that waited came together


async def test_a_web_whose_loop_stands_still_loses_no_session(
    link: BrokerLink, worker: HostedWorker
) -> None:
    """The broker could not get 4,000 words into the web's socket and revoked the lease."""
    session = await asked(link, NUM_WORDS)
    assert isinstance(await session.receive(), PrefillDone)

    until(lambda: not worker.engine.busy)  # the loop does nothing else meanwhile
    text, _, _ = await answer_of(session)

    assert text.split() == list(map(str, range(NUM_WORDS)))


async def test_a_spoken_answer_reaches_a_late_reader_whole(link: BrokerLink) -> None:
    num_words = 500
    session = await asked(link, num_words, speak=True)

    text, num_bytes, _ = await answer_of(session)

    assert len(text.split()) == num_words
    assert num_bytes == num_words * TONE_BYTES


async def test_many_long_answers_at_once_all_arrive(link: BrokerLink) -> None:
    sessions = [await asked(link, NUM_WORDS) for _ in range(8)]

    answers = await asyncio.gather(*map(answer_of, sessions))

    assert [len(text.split()) for text, _, _ in answers] == [NUM_WORDS] * 8


async def test_a_long_answer_survives_a_broker_that_is_killed_in_its_middle(
    fabric: FabricSettings, worker: HostedWorker
) -> None:
    broker = BrokerProcess(fabric)
    broker.start()
    try:
        async with open_link(fabric, role="web", name="web-0") as link:
            await link.wait_connected(TIMEOUT_S)
            session = await asked(link, NUM_WORDS)
            await session.receive()

            broker.kill()
            broker.start()
            text, _, _ = await answer_of(session)

            assert text.split() == list(map(str, range(NUM_WORDS)))
            assert link.num_gaps == 0
    finally:
        broker.close()


async def test_a_duplex_session_that_takes_nothing_for_ever_is_told_why_it_ends(
    link: BrokerLink,
) -> None:
    session = link.open_session("adx_1", "audio_duplex")
    async for _ in session.wait_for_lease():
        pass
    session.send(PrepareDuplex(mode="audio_duplex", force_listen_count=0))
    chunk = AudioChunk(pcm=Buffer(bytes(64)))
    async with asyncio.timeout(3 * TIMEOUT_S):
        while session.is_leased:
            session.send(chunk)
            await asyncio.sleep(0.001)  # the worker takes them all; nobody takes its answers

    events = [await session.receive()]
    while not isinstance(events[-1], Failed):
        events.append(await session.receive())

    assert isinstance(events[0], Prepared)
    assert all(isinstance(event, UnitResult) for event in events[1:-1])
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].fatal) == ("no_capacity", True)


async def test_a_worker_that_minds_no_window_costs_its_own_session(
    fabric: FabricSettings,
) -> None:
    with broker_thread(evolve(fabric, heartbeat_interval_s=10)):  # the worker does not beat
        rude = RawPeer(fabric, "worker", "worker-0")
        try:
            rude.hello(Capabilities(engine="null", model="rude", modes=("chat",), num_slots=2))
            async with open_link(fabric, role="web", name="web-0") as link:
                await link.wait_connected(TIMEOUT_S)
                session = link.open_session("chat_1", "chat")
                async for _ in session.wait_for_lease():
                    pass
                for seq in range(1, MAX_INBOX + 10):
                    event = ReplyChunk(text=str(seq))
                    rude.say(event, session.key, session.generation, seq)

                received = []
                async with asyncio.timeout(TIMEOUT_S):
                    while session.is_leased:
                        await asyncio.sleep(0.005)
                with pytest.raises(CapacityError, match="not received in time"):
                    while True:
                        received.append(await session.receive())

                assert len(received) == MAX_INBOX
                assert link.connected
        finally:
            rude.close()


async def test_a_chat_socket_that_is_read_late_gets_the_whole_spoken_answer(
    omni: RunningOmni,
) -> None:
    """`/ws/chat` closed with 1013: the engine was faster than the client's line."""
    num_words = 300
    async with connected(omni.address, "/ws/chat") as client:
        await client.socket.send_json(
            {
                "messages": [{"role": "user", "content": "word " * num_words}],
                "generation": {"max_new_tokens": num_words},
                "tts": {"enabled": True},
            }
        )
        await _until_the_server_waits(omni)
        events = [await client.receive()]
        while events[-1]["type"] not in ("done", "error"):
            events.append(await client.receive())

    text = "".join(event.get("text_delta", "") for event in events)
    assert events[-1]["type"] == "done"
    assert text.split() == ["word"] * num_words


async def _until_the_server_waits(omni: RunningOmni) -> None:
    """Return when the broker has nothing more to pass on: all is stuck before the client."""
    relayed = -1
    async with omni.link() as link, asyncio.timeout(TIMEOUT_S):
        while (now := (await status_of(link)).counters.get("relayed", 0)) != relayed or not now:
            relayed = now
            await asyncio.sleep(0.3)

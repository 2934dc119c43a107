"""The real `openbmb-realtime` package drives a whole server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import define, field
from openbmb_realtime import (
    AudioDelta,
    AudioSession,
    Event,
    Interrupted,
    Paused,
    RealtimeClient,
    RealtimeConfig,
    RealtimeConnectOptions,
    RealtimeError,
    RealtimeSession,
    Resumed,
    SessionClosed,
    SessionQueued,
    SessionReady,
    SessionState,
    TextDelta,
    TurnCompleted,
    UsageEvent,
    VideoSession,
    WorkerAssigned,
)

from tests.conftest import RunningOmni, StartOmni
from tests.fakes import TIMEOUT_S

SECOND = bytes(4 * 16_000)
JPEG = b"\xff\xd8\xff" + bytes(2_000)
TONE_BYTES = 4 * 24_000


@pytest.fixture(scope="module")
def narrow_server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with one slot and one place in its line."""
    running = start_omni({"fabric.slots": 1, "service.max_queue_size": 1})
    yield running
    running.stop()


@pytest.fixture
async def narrow(narrow_server: RunningOmni) -> RunningOmni:
    """That server, when nobody of the test before is left."""
    await narrow_server.until_idle()
    return narrow_server


@define
class Listener:
    """Keeps what a session tells, and waits for it."""

    session: RealtimeSession
    events: list[Event] = field(factory=list)
    _came: asyncio.Event = field(factory=asyncio.Event)

    async def run(self) -> None:
        """Listen until the session is closed."""
        async for event in self.session:
            self.events.append(event)
            self._came.set()

    def all(self, kind: type) -> list[Any]:  # whatever an event of that kind holds
        """Return the events of *kind* so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Return when *is_there* says so."""
        async with asyncio.timeout(TIMEOUT_S):
            while not is_there():
                self._came.clear()
                await self._came.wait()

    async def turns(self, count: int) -> None:
        """Return when so many turns were completed."""
        await self.until(lambda: len(self.all(TurnCompleted)) >= count)


def _client(address: str, **options: Any) -> RealtimeClient:  # the SDK's own
    return RealtimeClient(api_key="any key", base_url=address, **options)


@asynccontextmanager
async def _heard(session: RealtimeSession) -> AsyncIterator[Listener]:
    """Listen to *session*, and close it in the end, which the server must take part in."""
    listener = Listener(session)
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.run(), name="listen")
        try:
            yield listener
        finally:
            await session.close("test_is_over")
    if session.state is not SessionState.FAILED:
        # where its close timed out, the SDK makes up a SessionClosed with the reason that it sent
        assert listener.events[-1] == SessionClosed("client_closed")


@asynccontextmanager
async def _audio(address: str, **options: Any) -> AsyncIterator[tuple[AudioSession, Listener]]:
    session = await _client(address).audio.connect(model="m", **options)
    async with _heard(session) as listener:
        yield session, listener


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1?client_id=7"])
async def test_an_audio_session_speaks_and_ends(omni: RunningOmni, path: str) -> None:
    async with _audio(omni.address + path, system_prompt="You are brief") as (session, listener):
        for _ in range(8):
            await session.send_audio(SECOND)
        await listener.turns(2)

    kinds = [type(event) for event in listener.events]
    turn = [TextDelta, UsageEvent, AudioDelta, TurnCompleted]
    assert kinds == [WorkerAssigned, SessionReady, *turn, *turn, UsageEvent, SessionClosed]
    assert listener.all(SessionReady)[0].session_id == session.id and session.id
    assert [(delta.text, delta.end_of_turn) for delta in listener.all(TextDelta)] == [
        ("unit 4 ", True),
        ("unit 8 ", True),
    ]
    assert {len(delta.audio) for delta in listener.all(AudioDelta)} == {TONE_BYTES}


async def test_usage_is_that_of_every_unit(omni: RunningOmni) -> None:
    async with _audio(omni.address, system_prompt="You are brief") as (session, listener):
        for _ in range(8):
            await session.send_audio(SECOND)
        await listener.turns(2)

    usage = session.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.audio_input_tokens) == (3 + 80, 80)
    assert (usage.completion_tokens, usage.audio_output_tokens) == (2 * (2 + 25), 50)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_sound_of_any_length_makes_units_of_a_second(omni: RunningOmni) -> None:
    async with _audio(omni.address) as (session, listener):
        for _ in range(41):  # 4.1 s
            await session.send_audio(SECOND[: len(SECOND) // 10])
        await listener.turns(1)

    assert session.usage is not None and session.usage.audio_input_tokens == 40
    assert [delta.text for delta in listener.all(TextDelta)] == ["unit 4 "]


async def test_a_video_session_takes_frames(omni: RunningOmni) -> None:
    config = RealtimeConfig(vision_hd=True, temperature=0.5, length_penalty=1.2)
    session = await _client(omni.address).video.connect(model="m", config=config)
    assert isinstance(session, VideoSession)
    async with _heard(session) as listener:
        for _ in range(4):
            await session.send_audio_video(SECOND, JPEG)
        await listener.turns(1)

    assert session.usage is not None and session.usage.vision_input_tokens == 4 * 64


async def test_a_session_without_sound_still_tells_its_usage(omni: RunningOmni) -> None:
    config = RealtimeConfig(tts_enabled=False)
    async with _audio(omni.address, config=config) as (session, listener):
        for _ in range(4):
            await session.send_audio(SECOND)
        await listener.turns(1)
        await listener.until(lambda: bool(listener.all(UsageEvent)))

    assert not listener.all(AudioDelta)
    assert listener.all(UsageEvent)[0].usage.audio_output_tokens == 0


async def test_voices_are_taken(omni: RunningOmni) -> None:
    voice = base64.b64encode(SECOND).decode()
    options = {"reference_audio_base64": voice, "tts_reference_audio_base64": voice}
    async with _audio(omni.address, max_slice_nums=2, **options) as (session, _):
        assert session.state is SessionState.READY


async def test_an_interruption_forces_the_next_unit_to_listen(omni: RunningOmni) -> None:
    async with _audio(omni.address) as (session, listener):
        for _ in range(3):
            await session.send_audio(SECOND)
        session.interrupt()
        for _ in range(5):
            await session.send_audio(SECOND)
        await listener.turns(1)

    assert listener.all(Interrupted)
    assert [delta.text for delta in listener.all(TextDelta)] == ["unit 8 "]


async def test_a_pause_sends_nothing_and_the_session_goes_on(omni: RunningOmni) -> None:
    async with _audio(omni.address) as (session, listener):
        await session.send_audio(SECOND)
        session.pause()
        await session.send_audio(SECOND)  # dropped by the SDK
        session.resume()
        for _ in range(3):
            await session.send_audio(SECOND)
        await listener.turns(1)

    assert listener.all(Paused) and listener.all(Resumed)
    assert session.usage is not None and session.usage.audio_input_tokens == 40


async def test_who_waits_is_told_and_goes_on(narrow: RunningOmni) -> None:
    async with _audio(narrow.address) as (holder, _):
        connecting = asyncio.create_task(_client(narrow.address).audio.connect(model="m"))
        async with asyncio.timeout(TIMEOUT_S):
            while not (await narrow.status()).tickets:
                continue
        with pytest.raises(RealtimeError) as refused:
            await _client(narrow.address).audio.connect(model="m")
        await holder.close("test_is_over")
        session = await connecting
        async with _heard(session) as listener:
            for _ in range(4):
                await session.send_audio(SECOND)
            await listener.turns(1)

    assert refused.value.code == "queue_full"
    queued = listener.all(SessionQueued)[0]
    assert (queued.position, queued.queue_length) == (1, 1)
    assert queued.estimated_wait_seconds > 0


async def test_a_wrong_configuration_is_an_error_at_once(omni: RunningOmni) -> None:
    with pytest.raises(RealtimeError) as refused:
        await _client(omni.address).audio.connect(
            model="m", config=RealtimeConfig(temperature=70)
        )

    assert refused.value.code == "invalid_payload"
    assert "payload.config.temperature" in refused.value.message


async def test_broken_input_is_no_end(omni: RunningOmni) -> None:
    async with _audio(omni.address) as (session, listener):
        await session.send_audio_base64("not base64")
        await session.send_audio(b"odd")
        for _ in range(4):
            await session.send_audio(SECOND)
        await listener.turns(1)

    assert session.state is SessionState.CLOSED


async def test_a_lost_worker_is_an_error_of_the_session(start_omni: StartOmni) -> None:
    running = start_omni()
    async with _audio(running.address) as (session, listener):
        running.kill("worker-0")
        await listener.until(lambda: bool(listener.all(SessionClosed)))
    running.stop()

    assert session.state is SessionState.FAILED
    assert listener.events[-1] == SessionClosed("worker_lost")


async def test_turns_come_over_its_connection_as_well(omni: RunningOmni) -> None:
    """The package has no chat of its own yet: its connection and its reader are used."""
    chat: Any = SimpleNamespace(value="chat")  # a mode that its enum does not have
    options = RealtimeConnectOptions(model="m", system_prompt="Be kind.")
    session = await _client(omni.address)._connect(chat, options)
    async with _heard(session) as listener:
        for text in ("hello you", "and again"):
            turn = {"messages": [{"role": "user", "content": text}], "tts": {"enabled": True}}
            await session._socket.send(json.dumps({"type": "input.append", "input": turn}))
        await listener.turns(2)

    texts = [delta.text for delta in listener.all(TextDelta)]
    assert texts == ["hello ", "you", "and ", "again"]
    assert len(listener.all(AudioDelta)) == 4
    assert session.usage is not None and session.usage.prompt_tokens == 4

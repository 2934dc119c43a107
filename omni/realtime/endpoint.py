"""One WebSocket of a session: a TaskGroup of a receive, an emit and a clock loop, and a lease.

The receive loop reads always, also while the session waits in the queue and while it is answered,
so that a client's stop or hang-up is acted on at once.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from aiohttp import WSMsgType, web
from attrs import define, field

from omni.call_threads import in_call_thread
from omni.diagnostics import Diagnostics
from omni.errors import (
    NoWorker,
    OmniError,
    ProtocolError,
    ServerStops,
    TooLarge,
    Unusable,
    WorkerLost,
)
from omni.link import BrokerLink, LinkedSession
from omni.log import session_logging
from omni.realtime.binary_sound import is_slow
from omni.realtime.dialect import (
    Command,
    Diagnose,
    Dialect,
    HandOver,
    Open,
    RecordingStopped,
    Stop,
    Waiting,
)
from omni.realtime.early import EarlyCommands
from omni.realtime.live import LiveSessions
from omni.realtime.session import (
    CLOSE_GOING_AWAY,
    Action,
    End,
    GiveBack,
    Send,
    Session,
    Tell,
    trouble,
)
from omni.realtime.socket import ClientSocket
from omni.recording.recorder import NoRecording, Recorder, Recordings

log = logging.getLogger(__name__)

#: Frames above this are parsed in a thread: their base64 and resampling would block the loop.
_INLINE_BYTES = 2**20


@define(eq=False, kw_only=True)
class Endpoint:
    """Everything about one connection; `run` is its life. Owned by the task that runs it.

    owner: who opened it, by key or address. handed_over: what a client of another dialect said; its
    socket is left open then.
    """

    link: BrokerLink
    linked: LinkedSession
    live: LiveSessions
    recordings: Recordings
    diagnostics: Diagnostics
    dialect: Dialect
    session: Session
    socket: ClientSocket
    early: EarlyCommands
    owner: str = ""
    handed_over: bytes | None = field(default=None, init=False)
    recorder: Recorder = field(factory=NoRecording, init=False)
    _is_leased: bool = field(default=False, init=False)
    _is_wanted: asyncio.Event = field(factory=asyncio.Event, init=False)
    _watched: float | None = field(default=None, init=False)
    _clock_moved: asyncio.Event = field(factory=asyncio.Event, init=False)
    _over: asyncio.Event = field(factory=asyncio.Event, init=False)
    _ending: End = field(factory=End, init=False)
    _is_gone: bool = field(default=False, init=False)
    _told_unrecorded: bool = field(default=False, init=False)

    async def run(self, request: web.BaseRequest) -> ClientSocket:
        """Serve the connection from its upgrade to its end; frees the slot whatever happens."""
        self.socket.render_error = lambda error: self.dialect.render(trouble(error, fatal=True))
        with session_logging(self.linked.key):
            with self.live.holding(self):
                try:
                    await self.socket.prepare(request)
                    if await self._may_begin():
                        await self._serve()
                finally:
                    self.linked.close()
                    self.recorder.close()
            if self.handed_over is None:
                await self._close_socket()
        return self.socket

    async def perform(self, actions: Sequence[Action]) -> None:
        """Do what something outside of the socket asks of the session.

        A client that is gone, or takes nothing, ends the session and not who asked.
        """
        try:
            await self._perform(actions)
        except ConnectionError:
            self._is_gone = True
            self._over.set()

    async def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Tell(notice):
                    await self.socket.tell(self.dialect.render(notice))
                case Send():
                    await self._send(action)
                case End():
                    self._end(action)
                case GiveBack():
                    self._give_back()
        deadline = self.session.deadline
        if deadline is not None and (self._watched is None or deadline < self._watched):
            self._clock_moved.set()

    async def fail(self, error: OmniError, text: str = "") -> None:
        """Tell why the session ends, and end it. text: the short form for clients."""
        await self.perform(self.session.fail(error, text))

    async def shut_down(self) -> None:
        """End because this process stops."""
        await self.fail(ServerStops("The server stops; open a new session"), "Server is stopping")
        self._ending = End(CLOSE_GOING_AWAY, "Server is stopping")

    async def _may_begin(self) -> bool:
        if not self.link.connected:
            await self.fail(NoWorker("The broker is away: try again soon"), "Service not ready")
        elif not await self.live.take_over(self):
            text = f"Session {self.session.client_id} is already connected"
            await self.fail(ProtocolError(text))
        return not self._over.is_set()

    async def _serve(self) -> None:
        name = self.linked.key
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._receive_loop(), name=f"receive {name}"),
                    group.create_task(self._emit_loop(), name=f"emit {name}"),
                    group.create_task(self._clock_loop(), name=f"clock {name}"),
                ]
                await self._over.wait()
                for task in tasks:
                    task.cancel()
        except* ConnectionError as gone:
            log.info("session %s: its client is gone: %s", name, gone.exceptions[0])
            self._is_gone = True
        except* Exception:
            log.exception("session %s failed", name)
            await self.fail(OmniError("The server failed; this session is over"))

    # --- from the client ---

    async def _receive_loop(self) -> None:
        await self._perform(self.session.opened(_now()))
        self._note_wish()
        async for message in self.socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._take_frame(message.data, message.type is WSMsgType.BINARY)
            if self._over.is_set():
                return
        self._over.set()  # the client's close means stop

    async def _take_frame(self, data: bytes, binary: bool) -> None:
        try:
            command = await self._parse(data, binary)
            if isinstance(command, HandOver):
                self.handed_over = command.frame
                self._over.set()
            elif self._is_leased or isinstance(command, Stop) or not self.session.eager:
                await self._take(command)
            else:
                self.early.push(command, len(data))
        except (TooLarge, Unusable) as exc:
            await self.fail(exc)
        except ProtocolError as exc:
            await self._perform(self.session.refuse(exc))

    async def _parse(self, data: bytes, binary: bool) -> Command:
        if len(data) > _INLINE_BYTES or is_slow(data, binary):
            return await in_call_thread(self.dialect.parse, data, binary)
        return self.dialect.parse(data, binary)

    async def _take(self, command: Command) -> None:
        if isinstance(command, Diagnose):
            self.recorder.diagnosed(command.record)
            self.diagnostics.note(self.session.client_id, command.record, time.time())
        elif isinstance(command, Open) and command.timeout_s is not None:
            self.recorder.opened(command.timeout_s)
        await self._perform(self.session.take(command, _now()))
        self._note_wish()

    def _note_wish(self) -> None:
        if self.session.wants_slot:
            self._is_wanted.set()

    # --- to the client ---

    async def _emit_loop(self) -> None:
        try:
            while not self._over.is_set() and self.session.state != "ended":
                await self._is_wanted.wait()
                await self._serve_slot(self.linked)
        except OmniError as exc:
            await self.fail(exc)

    async def _serve_slot(self, linked: LinkedSession) -> None:
        """Wait for a slot and pass on what its engine says, until it is given back."""
        try:
            await self._wait_for_lease(linked)
            while self.linked is linked and not self._over.is_set():
                event = await linked.receive()
                if self.session.state == "ended":  # `stopped` is the last word
                    return
                self.recorder.said(event)
                self.session.stamps = linked.last_stamps
                await self._perform(self.session.hear(event, _now()))
                await self._mind_recording()
        except OmniError:
            if self.linked is linked:
                raise

    def _give_back(self) -> None:
        self.linked.close()
        self.recorder.close()
        self.recorder = NoRecording()
        self.linked = self.link.open_session(self.session.client_id, self.session.request_type)
        self._is_leased = False
        self._is_wanted.clear()
        self._note_wish()

    async def _wait_for_lease(self, linked: LinkedSession) -> None:
        first = True
        async for place in linked.wait_for_lease():
            await self._perform([Tell(Waiting(place=place, first=first))])
            first = False
        if self.linked is not linked:  # it was given back while a slow client was told its place
            return
        lease, session = linked.lease, self.session
        self.recorder = self.recordings.start(
            session.client_id, session.request_type, lease.worker
        )
        session.recording_id = self.recorder.recording_id
        await self._perform(session.leased(lease, _now()))
        while not self._over.is_set() and (command := self.early.pop()) is not None:
            await self._take(command)
        self._is_leased = True

    async def _mind_recording(self) -> None:
        """Tell once that the recording has stopped; the session goes on without it."""
        is_on = self.session.state in ("live", "paused")
        if is_on and self.recorder.trouble and not self._told_unrecorded:
            self._told_unrecorded = True
            stopped = RecordingStopped(
                recording_id=self.recorder.recording_id, reason=self.recorder.trouble
            )
            await self.socket.tell(self.dialect.render(stopped))

    # --- time ---

    async def _clock_loop(self) -> None:
        """Call the session when its deadline has come.

        Chunks move a deadline away without waking this loop; it looks again when it wakes.
        """
        while True:
            self._watched = watched = self.session.deadline
            try:
                async with asyncio.timeout(None if watched is None else watched - _now()):
                    await self._clock_moved.wait()
                self._clock_moved.clear()
            except TimeoutError:
                deadline = self.session.deadline
                if deadline is not None and deadline <= _now():
                    await self._perform(self.session.expire(_now()))

    # --- ends ---

    async def _send(self, send: Send) -> None:
        try:
            self.linked.send(send.input)
            self.recorder.heard(send.input)
            await self._mind_recording()
        except WorkerLost:
            log.debug("session %s: not sent, its worker is lost", self.linked.key)
        except OmniError as exc:
            await self._perform(self.session.unsent(send.input, exc, _now()))

    def _end(self, end: End) -> None:
        self._ending = end
        self._over.set()

    async def _close_socket(self) -> None:
        end = self._ending
        log.info("session %s is over: %d %s", self.linked.key, end.code, end.reason)
        if self._is_gone:
            self.socket.cut()
        else:
            await self.socket.end(end.code, end.reason)


def _now() -> float:
    return time.monotonic()  # uvloop's own clock counts whole milliseconds

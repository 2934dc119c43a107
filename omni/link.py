"""DEALER side of web, launcher and cli on asyncio: connect, hello, sessions, heartbeat, reconnect.

The socket is read by a callback of the loop, not by a task: a message costs no task switch until
it reaches the session that waits for it. What the two ends do about a broker that restarts is in
`delivery`; a session's user does not notice it. Longer than most files: a link that comes and goes
is one state, and every message that may come meets it here. Sessions are in `linked_session`.
"""

import asyncio
import logging
import os
import secrets
import socket as sockets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import zmq

from omni.codec import Part, VersionMismatch, decode, decode_header, encode, stamped
from omni.errors import ClientError, NoWorker, ProtocolError
from omni.linked_session import LinkedSession, SessionEnd
from omni.messages import (
    TO_WEB,
    Ack,
    Answer,
    CancelTicket,
    Drain,
    Enqueue,
    EtaConfig,
    Goodbye,
    Header,
    Heartbeat,
    Hello,
    Leased,
    Message,
    PeerExited,
    Queued,
    Refused,
    Rejoined,
    Release,
    RequestType,
    Revoked,
    Role,
    SetEta,
    Status,
    StatusQuery,
    TicketEnded,
    Welcome,
)
from omni.meter import Meter, deadline_of
from omni.settings import FabricSettings
from omni.wire import MORE_NOW, NOW, connect_dealer, has_message, receive, routing_id

__all__ = ["BrokerLink", "LinkedSession", "open_link"]

log = logging.getLogger(__name__)

#: Messages taken before the event loop gets its turn.
MAX_BATCH = 32
#: Words for the broker kept while it takes nothing: releases and exits; the oldest go first.
MAX_TO_BROKER = 4096
#: While the broker has not answered, hello is said again so often.
HELLO_PAUSE_S = 0.05
#: Longest wait for the answer to a request.
ANSWER_TIMEOUT_S = 2.0
FAREWELL_MS = 200


class BrokerLink:
    """A process's end of the fabric; made by `open_link`."""

    def __init__(
        self, fabric: FabricSettings, socket: "zmq.Socket[bytes]", role: Role, name: str
    ) -> None:
        self.connected = False
        self.num_gaps = 0  # session messages lost on their way to us, for good
        self.meter = Meter()
        self._fabric = fabric
        self._socket = socket
        self._role, self._name = role, name
        self._host = sockets.gethostname()
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[str, LinkedSession] = {}
        self._unsent: dict[str, LinkedSession] = {}
        self._to_broker: deque[tuple[Header, Message]] = deque(maxlen=MAX_TO_BROKER)
        self._answers: dict[int, asyncio.Future[Status | Answer]] = {}
        self._num_requests = 0
        self._heard_at_s = self._ticked_at_s = time.monotonic()
        self._hello_at_s = self._beat_due_s = 0.0
        self._refusal: ProtocolError | None = None
        self._welcome = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._will_drain = False
        self._is_open = True

    # --- for its users -----------------------------------------------------------------------

    async def wait_connected(self, timeout_s: float) -> None:
        """Return when the broker has said welcome.

        Raises: NoWorker after *timeout_s*, ProtocolError if it speaks another version.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._welcome.wait()
        except TimeoutError:
            raise self._away() from None
        if self._refusal is not None:
            raise self._refusal

    def open_session(self, client_id: str, request_type: RequestType) -> LinkedSession:
        """Return a new session; it takes its ticket in `wait_for_lease`. Close it in any case."""
        key = "s_" + secrets.token_hex(6)
        session = self._sessions[key] = LinkedSession(self, key, client_id, request_type)
        if self._refusal is not None:
            session.end(SessionEnd(self._refusal.code, str(self._refusal)))
        return session

    async def status(self) -> Status:
        """Return what the broker knows. Raises: NoWorker when it is away."""
        answer = await self._ask(lambda request: StatusQuery(request=request))
        assert isinstance(answer, Status)
        return answer

    async def cancel_ticket(self, ticket_id: str) -> bool:
        """End a waiting ticket, of whatever web. False if it does not wait. Raises: NoWorker."""
        return await self._ask_ok(lambda n: CancelTicket(request=n, ticket_id=ticket_id))

    async def set_eta(self, config: EtaConfig) -> None:
        """Replace the expected durations.

        Raises: ClientError for a value out of bounds, NoWorker when the broker is away.
        """
        answer = await self._ask(lambda request: SetEta(request=request, config=config))
        if isinstance(answer, Answer) and not answer.ok:
            raise ClientError(answer.message)

    async def drain(self, worker: str = "") -> bool:
        """Give no new leases: of *worker*, or at all. False if unknown. Raises: NoWorker."""
        return await self._ask_ok(lambda request: Drain(request=request, worker=worker))

    def count_sessions(self) -> Counter[tuple[RequestType, bool]]:
        """Return how many sessions there are of each kind, with a slot or (False) without."""
        return Counter((item.request_type, item.is_leased) for item in self._sessions.values())

    def send_peer_exited(self, name: str, pid: int, given_up: bool = False) -> None:
        """Say that a child process is gone (launcher only); said later if the broker is away."""
        self._tell(Header(kind=""), PeerExited(name=name, pid=pid, given_up=given_up))

    # --- for its sessions --------------------------------------------------------------------

    def enqueue(self, session: LinkedSession, waited_s: float = 0.0) -> None:
        """Ask for a slot, now or when the broker is there."""
        if not self.connected:
            return
        enqueue = Enqueue(
            request_type=session.request_type, client_id=session.client_id, waited_s=waited_s
        )
        self._tell(Header(kind="", session=session.key), enqueue)

    def flush(self, session: LinkedSession) -> None:
        """Give the socket what *session* has to send; what it does not take stays there."""
        stream = session.stream
        while (parts := stream.next_unsent()) is not None:
            if not self.connected or stream.is_held or not self._send(parts):
                self._unsent[session.key] = session
                return
            stream.note_sent()
        self._unsent.pop(session.key, None)

    def acknowledge(self, session: LinkedSession) -> None:
        """Tell the worker what was taken; `Rejoined` makes good what a broker loses of it."""
        stream = session.stream
        if self.connected and session.is_leased and not stream.is_held:
            header = Header(
                kind="",
                session=session.key,
                generation=session.generation,
                ack=stream.acknowledge(),
            )
            self._send(encode(header, Ack()))

    def release(self, session: LinkedSession) -> None:
        """Give back whatever the broker has given to *session*."""
        if session.is_waiting or session.is_leased:
            header = Header(kind="", session=session.key, generation=session.generation)
            self._tell(header, Release())

    def forget(self, session: LinkedSession) -> None:
        """Route nothing to *session* any more."""
        self._sessions.pop(session.key, None)
        self._unsent.pop(session.key, None)

    # --- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the socket and say hello."""
        self._loop.add_reader(self._socket.FD, self._drain)
        self._tick()

    def stop(self) -> None:
        """Close all sessions, leave, and read no more. The socket is its opener's."""
        for session in list(self._sessions.values()):
            session.close()
        if self.connected:
            self._send(encode(Header(kind=""), Goodbye(reason=f"{self._name} stops")))
        self._is_open = False
        self._loop.remove_reader(self._socket.FD)
        if self._timer is not None:
            self._timer.cancel()
        for future in self._answers.values():
            future.cancel()

    def _tick(self) -> None:
        if not self._is_open or self._refusal is not None:
            return
        self._drain()  # before judging the broker: this loop may have been the late one
        now_s = time.monotonic()
        away_s, self._ticked_at_s = now_s - self._ticked_at_s, now_s
        if away_s > 2 * self._fabric.heartbeat_interval_s:
            self._heard_at_s = min(now_s, self._heard_at_s + away_s)
        self._keep_alive(now_s)
        self._flush_to_broker()
        for session in list(self._unsent.values()):
            self.flush(session)
        interval_s = self._fabric.heartbeat_interval_s
        pause_s = interval_s / 2 if self.connected else min(HELLO_PAUSE_S, interval_s)
        self._timer = self._loop.call_later(pause_s, self._tick)

    def _keep_alive(self, now_s: float) -> None:
        interval_s = self._fabric.heartbeat_interval_s
        silence_s = now_s - self._heard_at_s
        if self.connected and silence_s > interval_s * (self._fabric.heartbeat_misses + 0.5):
            self._lose_broker(f"it was silent for {silence_s:.1f} s")
        if not self.connected:
            self._say_hello(now_s)
            if silence_s > self._fabric.lease_timeout_s:
                for session in list(self._sessions.values()):
                    session.end(SessionEnd("no_worker", str(self._away())))
        elif now_s >= self._beat_due_s - interval_s / 4:  # the tick is coarse: rather early
            self._beat_due_s = now_s + interval_s
            beat = Heartbeat(load=sum(item.is_leased for item in self._sessions.values()))
            self._send(encode(Header(kind=""), beat))

    def _say_hello(self, now_s: float) -> None:
        if now_s - self._hello_at_s < HELLO_PAUSE_S:
            return
        self._hello_at_s = now_s
        hello = Hello(
            role=self._role,
            name=self._name,
            pid=os.getpid(),
            host=self._host,
            leases=tuple(
                session.held_lease(now_s)
                for session in self._sessions.values()
                if session.is_leased
            ),
        )
        self._send(encode(Header(kind=""), hello))

    def _lose_broker(self, why: str) -> None:
        log.warning("%s lost the broker: %s", self._name, why)
        self.connected = False
        self._welcome.clear()
        self._hello_at_s = 0.0
        for session in self._sessions.values():
            session.stream.is_held = session.is_leased

    def _away(self) -> NoWorker:
        return NoWorker(f"the broker does not answer {self._name}: is it running?")

    # --- in ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._will_drain = False
        if not self._is_open:
            return
        for _ in range(MAX_BATCH):
            frames = receive(self._socket)
            if frames is None:
                return
            self._heard_at_s = time.monotonic()
            try:
                self._take([frame.bytes for frame in frames])
            except VersionMismatch as exc:
                self._refuse(exc)
            except ProtocolError as exc:
                log.warning("from the broker: %.200s", exc)
        self._drain_soon()

    def _drain_soon(self) -> None:
        if not self._will_drain:
            self._will_drain = True
            self._loop.call_soon(self._drain)

    def _take(self, parts: list[bytes]) -> None:
        header = decode_header(parts[0])
        if header.kind in TO_WEB:
            self._take_event(header, parts)
            return
        message = decode(header, parts[1:])
        if header.session:
            self._take_for_session(header, message)
            return
        match message:
            case Welcome():
                self._take_welcome()
            case Refused():
                self._take_refused(message)
            case Status() | Answer():
                future = self._answers.pop(message.request, None)
                if future is not None and not future.done():
                    future.set_result(message)
            case Goodbye():
                self._lose_broker("it stops")
            case _:
                pass  # a heartbeat; hearing it was enough

    def _take_event(self, header: Header, parts: list[bytes]) -> None:
        session = self._sessions.get(header.session)
        if session is None or session.generation != header.generation:
            return  # of a session that is over: never an error, the two cross on the way
        stream = session.stream
        stream.take_ack(header.ack)
        gaps = stream.num_gaps
        if not stream.accept(header.seq):
            return
        self.num_gaps += stream.num_gaps - gaps
        event = decode(header, parts[1:])
        stamps = stamped(header, "web", time.monotonic_ns())
        size_bytes = sum(map(len, parts))
        self._measure(session, event, stamps, size_bytes)
        if not session.take_event(stamps, event, size_bytes):  # type: ignore[arg-type]  # TO_WEB
            self.release(session)
            text = "events of the session were not received in time"
            session.end(SessionEnd("no_capacity", text))

    def _measure(
        self, session: LinkedSession, event: Message, header: Header, size_bytes: int
    ) -> None:
        kind, deadline_s = session.request_type, session.unit_deadline_s
        session.unit_deadline_s = deadline_of(event, deadline_s)
        self.meter.received(kind, deadline_s, event, header.stamps, size_bytes)

    def _take_for_session(self, header: Header, message: Message) -> None:
        session = self._sessions.get(header.session)
        if session is None:
            if isinstance(message, Leased):  # its user has left meanwhile
                self._tell(header, Release())
            return
        match message:
            case Queued():
                session.take_queued(message)
            case Leased():
                session.take_lease(header.generation, message)
            case TicketEnded():
                if session.is_waiting:
                    wait_s = message.retry_after_s
                    session.end(SessionEnd(message.code, message.message, wait_s))
            case Revoked():
                if session.generation == header.generation:
                    session.end(SessionEnd(message.code, message.message))
            case Rejoined():
                session.stream.rejoin(message.received_seq)
                self.flush(session)
                self.acknowledge(session)
            case _:
                raise ProtocolError(f"{header.kind} for a session")

    def _take_welcome(self) -> None:
        self.connected = True
        self._welcome.set()
        self._flush_to_broker()
        self._enqueue_again()

    def _enqueue_again(self) -> None:
        """Ask for what waits, oldest first and as of one moment: the broker goes by their age."""
        now_s = time.monotonic()
        waiting = [
            (now_s - session.enqueued_at_s, session)
            for session in self._sessions.values()
            if session.is_waiting and session.enqueued_at_s is not None
        ]
        for waited_s, session in sorted(waiting, key=lambda item: -item[0]):
            self.enqueue(session, waited_s)

    def _take_refused(self, refused: Refused) -> None:
        if refused.code == "version":
            self._refuse(ProtocolError(refused.message))
        elif refused.code == "name_taken":
            log.debug("the broker refuses %s: %s", self._name, refused.message)
        elif self.connected:
            self._lose_broker("it does not know this process")
            self._say_hello(time.monotonic())

    def _refuse(self, error: ProtocolError) -> None:
        """Give up: no later hello can change the version."""
        log.error("%s", error)
        self._refusal = error
        self.connected = False
        self._welcome.set()
        for session in list(self._sessions.values()):
            session.end(SessionEnd(error.code, str(error)))

    # --- out ---------------------------------------------------------------------------------

    def _tell(self, header: Header, message: Message) -> None:
        """Say *message* to the broker, later if it takes nothing now."""
        self._to_broker.append((header, message))
        self._flush_to_broker()

    def _flush_to_broker(self) -> None:
        while self.connected and self._to_broker and self._send(encode(*self._to_broker[0])):
            self._to_broker.popleft()

    def _send(self, parts: Sequence[Part]) -> bool:
        try:
            for part in parts[:-1]:
                self._socket.send(part, MORE_NOW, copy=False)
            self._socket.send(parts[-1], NOW, copy=False)
        except zmq.Again:  # no connection, or its bound is reached: Welcome will tell
            if self.connected:
                self._lose_broker("it takes no messages")
            return False
        # Sending may have taken the signal of an arrival off the descriptor.
        if has_message(self._socket):
            self._drain_soon()
        return True

    async def _ask(self, make: Callable[[int], Message]) -> Status | Answer:
        if not self.connected:
            await self.wait_connected(ANSWER_TIMEOUT_S)
        self._num_requests += 1
        request = self._num_requests
        future: asyncio.Future[Status | Answer] = self._loop.create_future()
        self._answers[request] = future
        try:
            self._tell(Header(kind=""), make(request))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise self._away() from None
        finally:
            self._answers.pop(request, None)

    async def _ask_ok(self, make: Callable[[int], Message]) -> bool:
        answer = await self._ask(make)
        assert isinstance(answer, Answer)
        return answer.ok


@asynccontextmanager
async def open_link(fabric: FabricSettings, *, role: Role, name: str) -> AsyncIterator[BrokerLink]:
    """Open this process's link to the broker; it connects and reconnects by itself.

    name: stable over restarts of the process (`web-0`). Raises: SettingsError for an address that
    cannot be used.
    """
    context = zmq.Context()
    try:
        socket = connect_dealer(context, fabric, "web", routing_id(name))
        try:
            link = BrokerLink(fabric, socket, role, name)
            link.start()
            try:
                yield link
            finally:
                link.stop()
        finally:
            socket.close(FAREWELL_MS)
    finally:
        await asyncio.to_thread(context.term)

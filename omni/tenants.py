"""A worker's sessions: messages -> the engine's inputs, its events -> messages. No sockets here."""

import logging
import time
from collections.abc import Callable
from typing import get_args

from attrs import define, evolve

from omni.engine import (
    Arrival,
    AudioChunk,
    ChatDone,
    Close,
    Failed,
    Opening,
    SessionEvent,
    SessionInput,
    Slot,
)
from omni.engine.inbox import Inbox, Waiting
from omni.engine.thread import Spoken
from omni.messages import (
    KINDS,
    MESSAGES,
    Header,
    Leased,
    Message,
    Revoked,
    SlotFreed,
    Stamp,
)

log = logging.getLogger(__name__)

Send = Callable[[Header, Message], None]

_INPUTS = get_args(SessionInput)
_OPENINGS = get_args(Opening)


@define
class _Tenant:
    """A session and its slot. is_over: the engine freed it by itself (chat done, fatal failure)."""

    session: str
    slot: Slot
    leased: Leased
    since_s: float
    is_open: bool = False
    is_over: bool = False
    is_closing: bool = False


class Tenants:
    """Who lives in which slot. All methods belong to the I/O thread.

    A slot is opened by `Leased`, and free again (`SlotFreed`) after `Close` or `Revoked`, when the
    engine has closed it. What comes from an older generation, in either direction, is dropped.
    """

    def __init__(
        self,
        inbox: Inbox,
        send: Send,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._send = send
        self._clock_s = clock_s
        self._by_session: dict[str, _Tenant] = {}
        self._by_index: dict[int, _Tenant] = {}

    def __len__(self) -> int:
        return len(self._by_session)

    def on_message(self, header: Header, message: Message) -> None:
        """Take one message of the broker."""
        if isinstance(message, Leased):
            self._lease(header, message)
        elif isinstance(message, Revoked):
            self._revoke(header, message)
        elif isinstance(message, Failed):
            self._refuse_malformed(header, message)
        elif isinstance(message, _INPUTS):
            self._take_input(header, message)
        else:
            log.warning("a %s is no message for a worker", header.kind)

    def on_spoken(self, spoken: Spoken) -> None:
        """Send one event of the engine to its session, if that still has the slot."""
        slot, event = spoken.emission.slot, spoken.emission.event
        tenant = self._by_index.get(slot.index)
        if tenant is None or tenant.slot != slot or tenant.is_closing:
            log.debug("dropped %s of an ended session", type(event).__name__)
            return
        if isinstance(event, ChatDone) or (isinstance(event, Failed) and event.fatal):
            tenant.is_over = True
        stamps = [Stamp("engine", spoken.made_ns)]
        if isinstance(spoken.context, Header):
            stamps = [*spoken.context.stamps, Stamp("worker queue", spoken.taken_ns), *stamps]
        self._answer(tenant, event, tuple(stamps))

    def on_closed(self, slot: Slot) -> None:
        """Free *slot*: the engine has closed it."""
        tenant = self._by_index.get(slot.index)
        if tenant is not None and tenant.slot == slot:
            self._free(tenant)

    def _lease(self, header: Header, leased: Leased) -> None:
        slot = Slot(index=leased.slot, generation=header.generation)
        known = (self._by_session.get(header.session), self._by_index.get(slot.index))
        for tenant in {id(there): there for there in known if there is not None}.values():
            log.warning("slot %s is leased again before it was free", tenant.slot.index)
            self._inbox.forget(tenant.slot)
            self._inbox.put(Waiting(Arrival(tenant.slot, Close())))
            self._free(tenant)
        tenant = _Tenant(header.session, slot, leased, self._clock_s())
        self._by_session[header.session] = self._by_index[slot.index] = tenant
        log.info(
            "session begins in slot %s (%s)",
            slot.index,
            leased.request_type,
            extra=_extra(header.session),
        )

    def _revoke(self, header: Header, revoked: Revoked) -> None:
        tenant = self._by_session.get(header.session)
        if tenant is not None and tenant.slot.generation == header.generation:
            log.info("lease ends: %s", revoked.code, extra=_extra(header.session))
            self._close(tenant)

    def _refuse_malformed(self, header: Header, failed: Failed) -> None:
        """Answer an input that the link could not read; only its own session notices."""
        log.warning("unreadable input: %.200s", failed.message, extra=_extra(header.session))
        tenant = self._by_session.get(header.session)
        if tenant is None or tenant.slot.generation != header.generation or tenant.is_over:
            return
        is_fatal = MESSAGES.get(header.kind) in _OPENINGS and not tenant.is_open
        tenant.is_over = is_fatal
        self._answer(tenant, evolve(failed, fatal=is_fatal))
        if header.kind == KINDS[AudioChunk] and tenant.is_open:
            self._inbox.skip(tenant.slot)  # its result is still promised

    def _take_input(self, header: Header, message: SessionInput) -> None:
        tenant = self._by_session.get(header.session)
        if tenant is None or tenant.slot.generation != header.generation:
            log.debug("dropped %s: its session has no slot here", header.kind)
        elif isinstance(message, Close):
            self._close(tenant)
        elif tenant.is_closing or tenant.is_over:
            log.debug("dropped %s of a session that is over", header.kind)
        elif isinstance(message, _OPENINGS):
            if tenant.is_open:
                failed = Failed(code="protocol_error", message="the session is already open")
                self._answer(tenant, failed)
                return
            tenant.is_open = True
            self._put(tenant, header, message)
        elif not tenant.is_open:
            failed = Failed(code="protocol_error", message=f"{header.kind} before prepare")
            self._answer(tenant, failed)
        else:
            self._put(tenant, header, message)

    def _put(self, tenant: _Tenant, header: Header, message: SessionInput) -> None:
        self._inbox.put(Waiting(Arrival(tenant.slot, message), header))

    def _close(self, tenant: _Tenant) -> None:
        if tenant.is_closing:
            return
        tenant.is_closing = True
        self._inbox.forget(tenant.slot)
        if tenant.is_open and not tenant.is_over:
            self._inbox.put(Waiting(Arrival(tenant.slot, Close())))
        else:
            self._free(tenant)

    def _free(self, tenant: _Tenant) -> None:
        del self._by_session[tenant.session]
        del self._by_index[tenant.slot.index]
        freed = Header(kind="", session=tenant.session, generation=tenant.slot.generation)
        self._send(freed, SlotFreed())
        log.info(
            "session ends after %.1f s",
            self._clock_s() - tenant.since_s,
            extra=_extra(tenant.session),
        )

    def _answer(
        self, tenant: _Tenant, event: SessionEvent, stamps: tuple[Stamp, ...] = ()
    ) -> None:
        header = Header(
            kind="", session=tenant.session, generation=tenant.slot.generation, stamps=stamps
        )
        self._send(header, event)


def _extra(session: str) -> dict[str, str]:
    """Return what puts *session* on a record: the I/O thread serves all of them at once."""
    return {"session_id": session}

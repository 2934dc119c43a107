"""A client's WebSocket: JSON and binary frames, never compressed, with a bound on every wait."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from omni.call_threads import in_call_thread
from omni.errors import OmniError, ProtocolError, TooLarge
from omni.realtime.dialect import Frame, event
from omni.settings import WebSettings

log = logging.getLogger(__name__)

#: A client this far behind is waited for before it gets more.
_MAX_BEHIND_BYTES = 256 * 2**10
#: How often a client that is behind is looked at.
_POLL_S = 0.005
#: aiohttp's own back-pressure waits on one future for all tasks, which a cancelled one takes along
#: with it (aiohttp 3.14); this limit is never reached, so that only ours is used.
_NO_LIMIT_BYTES = 2**62
#: A close frame holds 125 bytes, two of them the code. Source: RFC 6455, 5.5.
_MAX_REASON_BYTES = 123
#: A browser that shows its key as a subprotocol offers this one, too, and gets it back.
OWN_PROTOCOLS = ("omni",)
_BAD_FRAME = (WSCloseCode.MESSAGE_TOO_BIG, WSCloseCode.PROTOCOL_ERROR)
#: A client is still sending the rest of a frame that was refused. Closed at once, TCP would reset
#: the connection, and the client would see that instead of the reason.
_LINGER_S = 1.0


class SendTimeout(ConnectionError):
    """The client took nothing for longer than web.send_timeout_s."""


class ClientSocket(web.WebSocketResponse):
    """A WebSocket that tells its client what was wrong before aiohttp closes it for a bad frame.

    decode_text is off: the JSON parser reads bytes, and finds wrong UTF-8 by itself.
    render_error: how the connection's dialect tells an error that ends it.
    """

    def __init__(self, settings: WebSettings, protocols: Sequence[str] = ()) -> None:
        self.render_error: Callable[[OmniError], Sequence[Frame]] = _native_error
        super().__init__(
            timeout=settings.send_timeout_s,
            heartbeat=settings.ping_interval_s,
            protocols=(*protocols, *OWN_PROTOCOLS),
            compress=False,
            max_msg_size=settings.max_frame_mb * 2**20,
            writer_limit=_NO_LIMIT_BYTES,
            decode_text=False,
        )
        self._send_timeout_s = settings.send_timeout_s
        self._max_frame_mb = settings.max_frame_mb
        self._is_ending = False
        self._telling = asyncio.Lock()
        self._transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Answer the upgrade."""
        self._transport = request.transport
        return await super().prepare(request)

    async def tell(self, frames: Sequence[Frame]) -> None:
        """Send *frames*. Raises: ConnectionError when the client is gone; SendTimeout."""
        async with self._telling:  # what belongs together goes together
            for frame in frames:
                kind = WSMsgType.BINARY if frame.binary else WSMsgType.TEXT
                data = await in_call_thread(frame.work) if frame.work else frame.data
                await self.send_frame(data, kind)
        if self._num_behind_bytes > _MAX_BEHIND_BYTES:
            await self._wait_for_client(_MAX_BEHIND_BYTES)

    async def end(self, code: int, reason: str) -> None:
        """Close on purpose, after all that was told; cut a client that does not take part in it."""
        self._is_ending = True
        try:
            await self._wait_for_client(0)
            await self.close(code=code, message=reason.encode()[:_MAX_REASON_BYTES], drain=False)
        except ConnectionError:
            self.cut()
        if self.close_code == WSCloseCode.ABNORMAL_CLOSURE:
            self.cut()

    def cut(self) -> None:
        """Drop the connection; what the client has not taken by now it will never take."""
        if self._transport is not None:
            self._transport.abort()

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close; where aiohttp itself does so for a frame that it cannot take, tell why first."""
        if code in _BAD_FRAME and not self._is_ending:
            self._is_ending = True
            try:
                await self.tell(self._complaint(code))
                await self._let_finish_sending()
            except ConnectionError:
                log.debug("a client that sent a wrong frame is gone already")
        return await super().close(code=code, message=message, drain=drain)

    async def _let_finish_sending(self) -> None:
        """Give the client time to send what it has begun; aiohttp reads it and throws it away."""
        until = time.monotonic() + _LINGER_S
        while time.monotonic() < until and self._transport and not self._transport.is_closing():
            await asyncio.sleep(_POLL_S)

    def _complaint(self, code: int) -> Sequence[Frame]:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            return self.render_error(TooLarge(f"Frame above {self._max_frame_mb} MiB"))
        return self.render_error(ProtocolError("Malformed frame"))

    @property
    def _num_behind_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def _wait_for_client(self, max_behind_bytes: int) -> None:
        """Return when no more than that is still to be taken, counted anew after each progress."""
        last, moved_at = self._num_behind_bytes, time.monotonic()
        while (behind := self._num_behind_bytes) > max_behind_bytes:
            if self._transport is None or self._transport.is_closing():
                raise ConnectionResetError("the client is gone")
            if behind < last:
                last, moved_at = behind, time.monotonic()
            elif time.monotonic() - moved_at > self._send_timeout_s:
                raise SendTimeout(f"took nothing for {self._send_timeout_s:.0f} s")
            await asyncio.sleep(_POLL_S)


def _native_error(error: OmniError) -> Sequence[Frame]:
    text = str(error)
    return event("error", error=text, message=text, code=error.code)

"""A client's WebSocket: JSON and binary frames, never compressed, with a bound on every wait."""

import asyncio
import logging
from collections.abc import Sequence

from aiohttp import WSCloseCode, WSMsgType, web

from omni.errors import TooLarge
from omni.realtime.dialect import Frame, event
from omni.settings import WebSettings

log = logging.getLogger(__name__)

#: How long a close waits for the client's own close frame.
_CLOSE_TIMEOUT_S = 2.0
#: A close frame holds 125 bytes, two of them the code. Source: RFC 6455, 5.5.
_MAX_REASON_BYTES = 123
_BAD_FRAME = (WSCloseCode.MESSAGE_TOO_BIG, WSCloseCode.PROTOCOL_ERROR)


class SendTimeout(ConnectionError):
    """The client took nothing for longer than web.send_timeout_s."""


class ClientSocket(web.WebSocketResponse):
    """A WebSocket that tells its client what was wrong before aiohttp closes it for a bad frame.

    decode_text is off: the JSON parser reads bytes, and finds wrong UTF-8 by itself.
    """

    def __init__(self, settings: WebSettings, protocols: Sequence[str] = ()) -> None:
        super().__init__(
            timeout=_CLOSE_TIMEOUT_S,
            heartbeat=settings.ping_interval_s,
            protocols=protocols,
            compress=False,
            max_msg_size=settings.max_frame_mb * 2**20,
            decode_text=False,
        )
        self._send_timeout_s = settings.send_timeout_s
        self._max_frame_mb = settings.max_frame_mb
        self._is_ending = False

    async def tell(self, frames: Sequence[Frame]) -> None:
        """Send *frames*. Raises: ConnectionError when the client is gone; SendTimeout."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                for frame in frames:
                    kind = WSMsgType.BINARY if frame.binary else WSMsgType.TEXT
                    await self.send_frame(frame.data, kind)
        except TimeoutError as exc:
            raise SendTimeout(f"took nothing for {self._send_timeout_s:.0f} s") from exc

    async def end(self, code: int, reason: str) -> None:
        """Close on purpose; whatever is to be told was told. Raises: TimeoutError."""
        self._is_ending = True
        async with asyncio.timeout(self._send_timeout_s):
            await self.close(code=code, message=reason.encode()[:_MAX_REASON_BYTES])

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close; where aiohttp itself does so for a frame that it cannot take, tell why first."""
        if code in _BAD_FRAME and not self._is_ending:
            self._is_ending = True
            too_big = code == WSCloseCode.MESSAGE_TOO_BIG
            text = f"Frame above {self._max_frame_mb} MiB" if too_big else "Malformed frame"
            error = event("error", error=text, message=text, code=TooLarge.code)
            try:
                await self.tell(error)
            except ConnectionError:
                log.debug("a client that sent a wrong frame is gone already")
        return await super().close(code=code, message=message, drain=drain)

"""Duplex sessions that send a chunk each second, or as fast as they are answered."""

import asyncio
import base64
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack

import aiohttp
import numpy as np
import orjson
from aiohttp import WSMsgType
from attrs import define, field

Talk = Callable[[aiohttp.ClientWebSocketResponse, float], Coroutine[None, None, None]]

CHUNK_S = 1.0
_SAMPLES = 16_000
_JPEG_BYTES = 50_000
_START_TIMEOUT_S = 120.0


@define
class Figures:
    """What was measured. rtt_ms: from before the send to the whole answer. hops_ms: by part."""

    rtt_ms: list[float] = field(factory=list)
    hops_ms: dict[str, list[float]] = field(factory=lambda: defaultdict(list))
    duration_s: float = 0.0
    num_errors: int = 0

    @property
    def num_late(self) -> int:
        """Chunks that were answered after the next one was due."""
        return sum(rtt > CHUNK_S * 1000 for rtt in self.rtt_ms)

    @property
    def was_held(self) -> bool:
        """True when every chunk was answered, and none late."""
        return bool(self.rtt_ms) and not self.num_late and not self.num_errors


def chunk_frame(with_jpeg: bool) -> bytes:
    """Return an `audio_chunk` of one second, forced to listen so that answers are small."""
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, _SAMPLES).astype("<f4")
    event: dict[str, object] = {
        "type": "audio_chunk",
        "audio_base64": base64.b64encode(samples.tobytes()).decode(),
        "force_listen": True,
    }
    if with_jpeg:
        event["frame_base64_list"] = [base64.b64encode(os.urandom(_JPEG_BYTES)).decode()]
    return orjson.dumps(event)


async def paced(address: str, sessions: int, duration_s: float, frame: bytes) -> Figures:
    """Send a chunk each second in every session, at phases spread over the second; one at least."""
    figures = Figures()

    async def talk(socket: aiohttp.ClientWebSocketResponse, phase_s: float) -> None:
        begin_s = time.monotonic() + phase_s
        for number in range(max(1, round(duration_s / CHUNK_S))):
            due_s = begin_s + number * CHUNK_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await _exchange(socket, frame, figures)

    await _run(address, sessions, figures, talk)
    return figures


async def closed_loop(address: str, sessions: int, duration_s: float, frame: bytes) -> Figures:
    """Send the next chunk in every session as soon as the last one is answered."""
    figures = Figures()

    async def talk(socket: aiohttp.ClientWebSocketResponse, phase_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            await _exchange(socket, frame, figures)

    await _run(address, sessions, figures, talk)
    return figures


async def _run(address: str, sessions: int, figures: Figures, talk: Talk) -> None:
    """Open all sessions first, so that opening costs none of the measured time."""
    draw = random.Random(7)
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0, ssl=False)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        sockets = []
        for number in range(sessions):
            path = f"{address}/ws/duplex/adx_bench{os.getpid()}x{number}"
            opening = http.ws_connect(path, max_msg_size=0, compress=0)
            socket = await stack.enter_async_context(opening)
            await _prepare(socket)
            sockets.append(socket)
        begin_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for socket in sockets:
                coroutine = talk(socket, draw.uniform(0, CHUNK_S))
                group.create_task(coroutine, name="session")
        figures.duration_s = time.monotonic() - begin_s


async def _prepare(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_str('{"type":"prepare","trace":true}')
    async with asyncio.timeout(_START_TIMEOUT_S):
        while (await socket.receive_json())["type"] != "prepared":
            continue


async def _exchange(
    socket: aiohttp.ClientWebSocketResponse, frame: bytes, figures: Figures
) -> None:
    begin_ns = time.monotonic_ns()
    await socket.send_frame(frame, WSMsgType.TEXT)
    message = await socket.receive()
    end_ns = time.monotonic_ns()
    if message.type is not WSMsgType.TEXT:
        raise ConnectionError(f"the server closed: {message.data!r:.200}")
    event = orjson.loads(message.data)
    if event["type"] != "result":
        figures.num_errors += 1
        return
    figures.rtt_ms.append((end_ns - begin_ns) / 1e6)
    _note_hops(event.get("trace", ()), begin_ns, end_ns, figures)


def _note_hops(
    trace: Sequence[tuple[str, int]], begin_ns: int, end_ns: int, figures: Figures
) -> None:
    """Note the time between the stamps; both sides must run on one host, with one clock."""
    if not trace:
        return
    last_name, last_ns = "client", begin_ns
    for name, at_ns in [*trace, ("client", end_ns)]:
        figures.hops_ms[f"{last_name} > {name}"].append((at_ns - last_ns) / 1e6)
        last_name, last_ns = name, at_ns
    figures.hops_ms["web out > web in"].append((trace[-1][1] - trace[0][1]) / 1e6)

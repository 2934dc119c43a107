"""The least that any server must do for a chunk: one process that parses it and answers.

What a fabric adds is its time above this one's, taken in the same run.
"""

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import Iterator
from subprocess import PIPE, Popen

import orjson
from aiohttp import WSMsgType, web

from omni.process import die_with_parent
from omni.web import loop_factory

_RESULT = {"type": "result", "is_listen": True, "text": "", "audio_data": None, "current_time": 0}


async def _answer(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False, max_msg_size=0, decode_text=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            break
        event = orjson.loads(message.data)
        if event["type"] == "audio_chunk":
            base64.b64decode(event["audio_base64"])
            await socket.send_frame(orjson.dumps(_RESULT), WSMsgType.TEXT)
        else:
            await socket.send_frame(b'{"type":"prepared"}', WSMsgType.TEXT)
    return socket


async def _serve() -> None:
    app = web.Application()
    app.router.add_get("/ws/duplex/{session_id}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run the floor server for the time of the block; yields its address."""
    process = Popen(
        [sys.executable, "-m", "bench.floor", str(os.getpid())], stdout=PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve())

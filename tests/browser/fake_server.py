"""A scripted server for the pages: the real routes and messages on a real socket.

It stands in for the product's server in browser tests that need a certain course of events
(a queue, an error, a barge-in at a set moment): the fields of `Script`, which a test may change
between two sessions.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
from aiohttp import WSMsgType, web

WEBROOT = Path(__file__).resolve().parents[2] / "webroot"
PAGES = {
    "/": "home",
    "/audio_duplex": "audio",
    "/turnbased": "chat",
    "/half_duplex": "half",
    "/omni": "omni",
    "/mobile/": "home",
    "/mobile-omni/": "omni",
}
CSP = (
    "default-src 'self'; media-src 'self' blob:; img-src 'self' blob: data:; "
    "worker-src 'self' blob:"
)
SPEECH_RATE_HZ = 24000
QUEUE_TIMEOUT_S = 60


@attrs.define
class Script:
    """What the server does. Counters at the end are for assertions."""

    queue: tuple[tuple[int, float], ...] = ()
    """(position, estimated_wait_s) of the queue messages before the session is served."""
    queue_step_s: float = 0.4
    next_in_line: asyncio.Event | None = None
    """Where it is given, the line moves each time that a test sets it, and by no clock."""
    refuse: str = ""
    """Answer `prepare` with this error and close."""
    chunk_ms: int | None = 200
    listen_chunks: int = 6
    """Chunks that are listened to before each answer."""
    answer: tuple[str, ...] = (
        "The sky looks blue ",
        "because air scatters blue light ",
        "more than red.",
    )
    piece_s: float = 0.8
    """Sound of one piece of the answer."""
    max_answers: int = 1000
    """After so many answers it only listens."""
    user_text: str = "why is the sky blue"
    interrupt_at: int | None = None
    """Answer this piece with `interrupted` instead."""
    drop_at_chunk: int | None = None
    """Cut the TCP connection at this chunk."""
    sees: bool = False
    """The engine takes pictures, and serves the app `omni`."""
    lang: str = ""
    """The server's default language of the pages."""
    notice: str = "A small model on this computer's processor answers. It is often wrong."
    chat_reply: str = "**Yes.** Here is why:\n\n1. one\n2. two\n\n```python\nprint('hi')\n```"
    chat_delay_s: float = 0.02
    sent_types: list[str] = attrs.field(factory=list)
    frames: list[dict[str, Any]] = attrs.field(factory=list)
    """The chunks that came with pictures, without their sound."""
    prepared: dict[str, Any] = attrs.field(factory=dict)
    """The last `prepare`."""
    forced: int = 0
    chat_closed_early: int = 0


SCRIPT = web.AppKey("script", Script)


@functools.cache
def tone(seconds: float, hz: float = 220.0) -> str:
    """base64 float32 24 kHz: a tone that swells like a syllable."""
    count = int(seconds * SPEECH_RATE_HZ)
    samples = (
        0.4
        * math.sin(2 * math.pi * hz * i / SPEECH_RATE_HZ)
        * abs(math.sin(2 * math.pi * 2.7 * i / SPEECH_RATE_HZ))
        for i in range(count)
    )
    return base64.b64encode(struct.pack(f"<{count}f", *samples)).decode()


async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(WEBROOT / "pages" / f"{PAGES[request.path]}.html")


async def health(request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "healthy", "timestamp": "2026-01-01T00:00:00"})


async def status(request: web.Request) -> web.StreamResponse:
    return web.json_response({"total_workers": 1, "idle_workers": 1, "queue_length": 0})


async def defaults(request: web.Request) -> web.StreamResponse:
    script = request.app[SCRIPT]
    return web.json_response(
        {
            "playback_delay_ms": 200,
            "engine": "minicpmo" if script.sees else "pocket",
            "model_name": "MiniCPM-o-4_5" if script.sees else "SmolLM2-135M-Instruct",
            "notice": script.notice,
            "default_lang": script.lang,
            "modes": ["chat", "half_duplex", "audio_duplex"] + ["omni_duplex"] * script.sees,
            "vision": script.sees,
            "recording": script.sees,
        }
    )


async def apps(request: web.Request) -> web.StreamResponse:
    ids = {"turnbased": "/turnbased", "half_duplex_audio": "/half_duplex"}
    ids["audio_duplex"] = "/audio_duplex"
    if request.app[SCRIPT].sees:
        ids["omni"] = "/omni"
    found = [{"app_id": key, "name": key, "route": route} for key, route in ids.items()]
    return web.json_response({"apps": found})


async def presets(request: web.Request) -> web.StreamResponse:
    english = {"id": "english_call", "name": "English call", "order": 1}
    english |= {"description": "A call in English", "system_prompt": "Speak English."}
    chinese = {"id": "chinese_call", "name": "中文通话", "order": 2}
    chinese |= {"description": "用中文通话", "system_prompt": "请说中文。", "ref_audio": {"name": "v"}}
    return web.json_response({"omni": [english, chinese]})


async def preset_audio(request: web.Request) -> web.StreamResponse:
    return web.json_response({"ref_audio": {"data": tone(0.1), "name": "v", "duration": 0.1}})


async def visitor(request: web.Request) -> web.StreamResponse:
    return web.json_response({"needs_key": False, "is_admin": True, "key": None})


class DuplexScript:
    """Plays one /ws/duplex session."""

    def __init__(self, socket: web.WebSocketResponse, script: Script) -> None:
        self.socket = socket
        self.script = script
        self.heard = 0
        self.piece = -1
        self.answers = 0

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def wait_in_line(self, done: str = "queue_done") -> None:
        for number, (position, wait_s) in enumerate(self.script.queue):
            fields = {"position": position, "estimated_wait_s": wait_s, "queue_length": 3}
            await self.send("queue_update" if number else "queued", **fields)
            await self.move_on()
        if done:  # the chat's clients are let in without a word
            await self.send(done)

    async def move_on(self) -> None:
        if (is_next := self.script.next_in_line) is None:
            return await asyncio.sleep(self.script.queue_step_s)
        async with asyncio.timeout(QUEUE_TIMEOUT_S):
            await is_next.wait()
        is_next.clear()

    async def prepare(self) -> None:
        if self.script.refuse:
            await self.send("error", error=self.script.refuse)
            await self.socket.close(code=1013)
            return
        fields = {} if self.script.chunk_ms is None else {"chunk_ms": self.script.chunk_ms}
        await self.send("prepared", prompt_length=10, **fields)

    async def result(self, **fields: Any) -> None:
        base = {"is_listen": True, "text": "", "audio_data": None, "end_of_turn": False}
        await self.send("result", **{**base, "wall_clock_ms": 12.5, **fields})

    async def chunk(self, message: dict[str, Any]) -> None:
        if "frame_base64_list" in message:
            kept = {key: value for key, value in message.items() if key != "audio_base64"}
            self.script.frames.append(kept)
        if message.get("force_listen"):
            self.script.forced += 1
            self.heard, self.piece = 0, -1
            return await self.result()
        self.heard += 1
        if self.piece < 0:
            is_silent = self.answers >= self.script.max_answers
            if is_silent or self.heard <= self.script.listen_chunks:
                return await self.result()
            self.answers += 1
        self.piece += 1
        if self.piece == 0 and self.script.user_text:
            await self.send("transcript", role="user", text=self.script.user_text)
        await self.answer()

    async def answer(self) -> None:
        last = len(self.script.answer) - 1
        if self.piece == self.script.interrupt_at or self.piece > last:
            was_cut = self.piece == self.script.interrupt_at
            self.heard, self.piece = 0, -1
            return await self.result(interrupted=was_cut)
        await self.result(
            is_listen=False,
            text=self.script.answer[self.piece],
            audio_data=tone(self.script.piece_s, 180 + 40 * self.piece),
            end_of_turn=self.piece == last,
        )

    async def receive(self, message: dict[str, Any]) -> bool:
        """Answer one message; False ends the session."""
        kind = message["type"]
        self.script.sent_types.append(kind)
        if kind == "prepare":
            self.script.prepared = message
            await self.prepare()
        elif kind == "audio_chunk":
            if self.script.sent_types.count("audio_chunk") == self.script.drop_at_chunk:
                return False
            await self.chunk(message)
        elif kind == "pause":
            await self.send("paused", timeout=60.0)
        elif kind == "resume":
            await self.send("resumed")
        elif kind == "stop":
            await self.send("stopped")
            return False
        return True


async def duplex(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    session = DuplexScript(socket, request.app[SCRIPT])
    await session.wait_in_line()
    async for frame in socket:
        if frame.type is WSMsgType.TEXT and not await session.receive(json.loads(frame.data)):
            break
    return socket


async def half_duplex(request: web.Request) -> web.StreamResponse:
    """Takes five chunks as one utterance, answers it, listens again."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    script = request.app[SCRIPT]
    session = DuplexScript(socket, script)
    await session.wait_in_line()
    turns = 0
    async for frame in socket:
        message = json.loads(frame.data)
        script.sent_types.append(message["type"])
        if message["type"] == "prepare":
            await session.send("prepared", session_id="hdx_1", timeout_s=300)
        elif message["type"] == "stop":
            break
        elif message["type"] == "audio_chunk":
            session.heard += 1
            if session.heard % 5 == 2:
                await session.send("vad_state", speaking=True)
            if session.heard % 5 == 0:
                turns += 1
                await half_duplex_turn(session, script, turns)
    return socket


async def half_duplex_turn(session: DuplexScript, script: Script, turn: int) -> None:
    await session.send("vad_state", speaking=False)
    await session.send("generating", speech_duration_ms=1500)
    for index, text in enumerate(script.answer):
        audio = tone(script.piece_s)
        await session.send("chunk", chunk_index=index, text_delta=text, audio_data=audio)
    await session.send("turn_done", turn_index=turn, text="".join(script.answer))


async def chat(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    script = request.app[SCRIPT]
    message = await socket.receive_json()
    await DuplexScript(socket, script).wait_in_line(done="")
    async with asyncio.TaskGroup() as tasks:
        hang_up = tasks.create_task(socket.receive(), name="hang-up")
        answered = await chat_answer(socket, script, message, hang_up)
        script.chat_closed_early += not answered
        hang_up.cancel()
    await socket.close()
    return socket


async def chat_answer(
    socket: web.WebSocketResponse,
    script: Script,
    message: dict[str, Any],
    hang_up: asyncio.Task[Any],
) -> bool:
    """Stream the reply; False when the client left before its end."""
    try:
        await socket.send_json({"type": "prefill_done", "input_tokens": 12})
        words = script.chat_reply.split(" ")
        for index, word in enumerate(words):
            delta = word if index == 0 else f" {word}"
            audio = tone(0.3) if message["tts"]["enabled"] else None
            chunk = {"type": "chunk", "text_delta": delta, "audio_data": audio}
            await socket.send_json(chunk)
            await asyncio.sleep(script.chat_delay_s)
            if hang_up.done():
                return False
        done = {"text": script.chat_reply, "generated_tokens": len(words), "input_tokens": 12}
        await socket.send_json({"type": "done", **done})
    except ConnectionError:
        return False
    return True


@web.middleware
async def add_policy(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    if not isinstance(response, web.WebSocketResponse):
        response.headers["Content-Security-Policy"] = CSP
    return response


def make_app(script: Script) -> web.Application:
    app = web.Application(middlewares=[add_policy])
    app[SCRIPT] = script
    for path in PAGES:
        app.router.add_get(path, page)
    app.router.add_get("/health", health)
    app.router.add_get("/status", status)
    app.router.add_get("/api/frontend_defaults", defaults)
    app.router.add_get("/api/apps", apps)
    app.router.add_get("/api/visitor", visitor)
    app.router.add_get("/api/presets", presets)
    app.router.add_get("/api/presets/{mode}/{id}/audio", preset_audio)
    app.router.add_get("/ws/duplex/{id}", duplex)
    app.router.add_get("/ws/half_duplex/{id}", half_duplex)
    app.router.add_get("/ws/chat", chat)
    app.router.add_static("/static", WEBROOT)
    return app


@contextlib.asynccontextmanager
async def serve(script: Script, port: int = 0) -> AsyncIterator[str]:
    """Serve on loopback; yields the base URL."""
    runner = web.AppRunner(make_app(script), shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        address = runner.addresses[0]
        yield f"http://127.0.0.1:{address[1]}"
    finally:
        await runner.cleanup()

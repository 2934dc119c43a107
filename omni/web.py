"""PROCESS web: HTTP and WebSockets towards clients, one link towards the broker."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from omni.certificate import server_context
from omni.diagnostics import Diagnostics
from omni.errors import SettingsError
from omni.exposition import Exposition
from omni.link import open_link
from omni.log import set_up_logging
from omni.openai.audio_memory import AudioMemory
from omni.process import EXIT_CANNOT_START, allow_many_files, process_settings, spare_the_loaded
from omni.realtime.live import LiveSessions
from omni.realtime.openai.client_secrets import ClientSecrets
from omni.recording.cleanup import Cleaner
from omni.recording.disk import DiskRecordings
from omni.recording.recorder import NoRecording
from omni.recording.store import SessionStore
from omni.routes import (
    apps,
    audio_assets,
    chat,
    config,
    debug,
    live_sessions,
    openai_chat,
    openai_models,
    openai_realtime,
    openai_speech,
    openai_transcriptions,
    presets,
    queue,
    realtime,
    recording_files,
    recordings,
    signin,
    sockets,
    status,
    streaming,
    voices,
)
from omni.routes.app_table import STATE_FILE, AppTable
from omni.routes.errors import errors_as_json
from omni.routes.gate import GUARD, Guard, gate
from omni.routes.keys import (
    APPS,
    AUDIO_MEMORY,
    CLIENT_SECRETS,
    DIAGNOSTICS,
    LINK,
    LIVE,
    OPENAPI,
    PRESETS,
    RECORDINGS,
    SESSIONS,
    SETTINGS,
    SOUND_FILES,
    VOICES,
)
from omni.routes.metrics import EXPOSITION, get_metrics, measured, watch_loop
from omni.routes.openai_turn import named, tell_name
from omni.routes.openapi import get_openapi, openapi_document
from omni.routes.pages import add_pages, careful_headers, page_headers
from omni.routes.preset_files import load_presets
from omni.settings import Settings
from omni.sound_files import SoundFiles
from omni.voices import Voices

log = logging.getLogger(__name__)

NAME = "web-0"


def make_app(settings: Settings) -> web.Application:
    """Return the application; its link opens when it starts and closes when it stops."""
    app = web.Application(
        middlewares=[named, measured, errors_as_json, gate, page_headers],
        client_max_size=settings.web.max_body_mb * 2**20,
    )
    app[SETTINGS] = settings
    app[GUARD] = Guard(settings)
    app[EXPOSITION] = Exposition()
    app[LIVE] = LiveSessions()
    data_dir = Path(settings.service.data_dir)
    app[APPS] = AppTable(data_dir / STATE_FILE)
    app[DIAGNOSTICS] = Diagnostics(Path(settings.fabric.run_dir))
    app[RECORDINGS] = DiskRecordings(data_dir) if settings.recording.enabled else NoRecording()
    app[SESSIONS] = SessionStore.of(data_dir)
    app[VOICES] = Voices(
        data_dir, settings.audio.max_voices, settings.audio.max_voices_s
    )
    app[SOUND_FILES] = SoundFiles()
    app[PRESETS] = load_presets()
    app[AUDIO_MEMORY] = AudioMemory()
    app[CLIENT_SECRETS] = ClientSecrets(settings.realtime.max_client_secrets)
    app.cleanup_ctx.append(_assets)
    app.cleanup_ctx.append(_recorded)
    app.cleanup_ctx.append(_linked)
    app.cleanup_ctx.append(watch_loop)
    app.on_shutdown.append(_end_sessions)
    app.on_response_prepare.extend((careful_headers, tell_name))
    app[GUARD].maker_of_ephemeral = partial(openai_realtime.maker_of_secret, app)
    add_routes(app)
    app[OPENAPI] = openapi_document(app)
    return app


def add_routes(app: web.Application) -> None:
    """Add the table of routes."""
    app.add_routes(
        [
            web.get("/health", status.get_health),
            web.get("/metrics", get_metrics),
            web.get("/status", status.get_status),
            web.get("/workers", status.get_workers),
            web.get("/cache", status.get_cache),
            web.get("/api/cache", status.get_cache),
            web.post("/api/_debug/record_trace", debug.post_record_trace),
            web.get("/api/queue", queue.get_queue),
            web.get("/api/queue/{ticket_id}", queue.get_ticket),
            web.delete("/api/queue/{ticket_id}", queue.delete_ticket),
            web.get("/api/config/eta", config.get_eta),
            web.put("/api/config/eta", config.put_eta),
            web.get("/api/frontend_defaults", config.get_frontend_defaults),
            web.get("/api/presets", presets.get_presets),
            web.get("/api/presets/{mode}/{preset_id}/audio", presets.get_preset_audio),
            web.get("/api/default_ref_audio", audio_assets.get_default_ref_audio),
            web.get("/api/assets/ref_audio", voices.get_voices),
            web.post("/api/assets/ref_audio", voices.post_voice),
            web.get("/api/assets/ref_audio/{voice_id}", voices.get_voice),
            web.delete("/api/assets/ref_audio/{voice_id}", voices.delete_voice),
            web.get("/sessions", recordings.get_sessions),
            web.delete("/sessions/{session_id}", recordings.delete_session),
            web.get("/api/sessions", recordings.get_sessions),
            web.get("/api/sessions/{session_id}", recordings.get_session),
            web.delete("/api/sessions/{session_id}", recordings.delete_session),
            web.get("/api/sessions/{session_id}/recording", recordings.get_recording),
            web.get("/api/sessions/{session_id}/comment", recordings.get_comment),
            web.post("/api/sessions/{session_id}/comment", recordings.post_comment),
            web.get("/api/sessions/{session_id}/assets/{path:.+}", recording_files.get_asset),
            web.get("/api/sessions/{session_id}/download", recording_files.get_download),
            web.post(
                "/api/sessions/{session_id}/upload-recording", recording_files.post_upload
            ),
            web.get("/s/{session_id}", recordings.get_viewer),
            web.get("/openapi.json", get_openapi),
            web.post("/api/signin", signin.post_signin),
            web.post("/api/signout", signin.post_signout),
            web.get("/api/visitor", signin.get_visitor),
            web.get("/api/apps", apps.get_apps),
            web.get("/api/admin/apps", apps.get_admin_apps),
            web.put("/api/admin/apps", apps.put_admin_apps),
            web.put("/api/admin/apps/{app_id}", apps.put_admin_app),
            web.delete(
                "/api/admin/live/{session_id}", live_sessions.delete_live_session
            ),
            web.post("/api/chat", chat.post_chat),
            web.post("/api/streaming/stop", streaming.stop_streaming),
            web.post("/api/half_duplex/stop", sockets.stop_half_duplex),
            web.get("/v1/models", openai_models.get_models),
            web.get("/v1/models/{model}", openai_models.get_model),
            web.post("/v1/chat/completions", openai_chat.post_chat_completions),
            web.post("/v1/audio/speech", openai_speech.post_speech),
            web.post("/v1/audio/transcriptions", openai_transcriptions.post_transcriptions),
            web.post("/v1/audio/translations", openai_transcriptions.post_translations),
            web.get("/ws/chat", sockets.chat),
            web.get("/ws/streaming", streaming.streaming),
            web.get("/ws/streaming/{session_id}", streaming.streaming),
            web.get("/api/streaming", streaming.streaming),
            web.get("/ws/half_duplex/{session_id}", sockets.half_duplex),
            web.get("/ws/half_duplex_omni/{session_id}", sockets.half_duplex_omni),
            web.get("/ws/duplex/{session_id}", sockets.duplex),
            web.get("/v1/realtime", realtime.realtime),
            web.post("/v1/realtime/client_secrets", openai_realtime.post_client_secrets),
        ]
    )
    add_pages(app)


async def _assets(app: web.Application) -> AsyncIterator[None]:
    await asyncio.to_thread(app[VOICES].load)
    await asyncio.to_thread(app[APPS].load)
    app[DIAGNOSTICS].start()
    yield
    app[SOUND_FILES].close()
    await asyncio.to_thread(app[DIAGNOSTICS].close)


async def _recorded(app: web.Application) -> AsyncIterator[None]:
    settings, recordings = app[SETTINGS], app[RECORDINGS]
    times = settings.cleanup
    cleaner = Cleaner(app[SESSIONS], settings.recording, times.first_pass_s, times.interval_s)
    cleaner.start()
    if isinstance(recordings, DiskRecordings):
        await recordings.open()
    yield
    cleaner.close()
    if isinstance(recordings, DiskRecordings):
        await recordings.close()


async def _linked(app: web.Application) -> AsyncIterator[None]:
    async with open_link(app[SETTINGS].fabric, role="web", name=NAME) as link:
        app[LINK] = link
        yield


async def _end_sessions(app: web.Application) -> None:
    await app[LIVE].shut_down()


async def serve(settings: Settings) -> None:
    """Serve until told to stop (SIGINT, SIGTERM)."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    context = server_context(settings.web, Path(settings.service.data_dir))
    # A request whose client hangs up is cancelled: nobody is left to answer. No body is unpacked:
    # aiohttp does that on the loop, and 300 KB of gzip stopped it for seconds.
    runner = web.AppRunner(
        make_app(settings),
        auto_decompress=False,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=settings.fabric.stop_timeout_s / 2,
    )
    await runner.setup()
    try:
        site = web.TCPSite(
            runner, settings.web.host, settings.service.gateway_port, ssl_context=context
        )
        await site.start()
        spare_the_loaded()
        log.info("serving on %s", runner.addresses)
        await stop.wait()
    finally:
        await runner.cleanup()


def _without_content(record: logging.LogRecord) -> bool:
    """Leave out of aiohttp's log what was sent instead of HTTP: it may be words, or a key."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop here; None: asyncio's own."""
    try:
        from uvloop import new_event_loop  # there is none for Windows
    except ImportError:
        return None
    return new_event_loop


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process."""
    settings = process_settings(argv)
    allow_many_files()
    set_up_logging(NAME, settings.fabric.run_dir)
    server_logger.addFilter(_without_content)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(settings))
    except (SettingsError, OSError) as exc:
        log.error("cannot serve: %s", exc)
        return EXIT_CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Recorded sessions: list, look at, comment on, delete; and the page that shows one."""

import asyncio

from aiohttp import web

from omni.errors import NotFound, ProtocolError
from omni.recording.layout import META, RECORDING
from omni.recording.store import MAX_COMMENT_CHARS, Entry
from omni.routes.bodies import read_fields
from omni.routes.describe import (
    AN_OBJECT,
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Param,
    Reply,
    between,
    describe,
    list_of,
    or_null,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.keys import SESSIONS
from omni.routes.pages import WEBROOT

TAG = "Sessions"
DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_WHOLE = 999_999_999
#: Sessions whose files are looked through for their size while the list is waited for; a start
#: measures those that are there. 0.4 ms each, at 40 files, on two busy cores.
_MAX_MEASURED = 32

_ENTRY = record(
    {
        "session_id": TEXT,
        "worker_id": or_null(WHOLE),
        "messages_hash": said(TEXT, "empty: the demo's of older days had one"),
        "last_active": said(TEXT, "when it ended; of one that runs, when it began"),
        "app_type": TEXT,
        "title": TEXT,
        "created_at": said(TEXT, "UTC, ISO 8601 with offset"),
        "duration_s": or_null(NUMBER),
        "size_bytes": said(or_null(WHOLE), "null while it is not known"),
        "live": said(FLAG, "it is being recorded, or its files are being made"),
    }
)


@describe(
    "List the recorded sessions",
    tag=TAG,
    help="Newest first, those that run included. `/sessions` is the older name of the same.",
    params=[
        Param(
            name="limit",
            schema=between(WHOLE, 0, MAX_WHOLE),
            help=f"default {DEFAULT_LIMIT}; more than {MAX_LIMIT} are never shown",
        ),
        Param(name="offset", schema=between(WHOLE, 0, MAX_WHOLE), help="default 0"),
    ],
    reply=record({"total": WHOLE, "sessions": list_of(_ENTRY)}),
    errors=(400,),
)
async def get_sessions(request: web.Request) -> web.Response:
    """Return a page of the list, and how many there are in all."""
    limit = min(_whole(request, "limit", DEFAULT_LIMIT), MAX_LIMIT)
    offset = _whole(request, "offset", 0)
    entries = await asyncio.to_thread(request.app[SESSIONS].entries, _MAX_MEASURED)
    shown = [_shown(entry) for entry in entries[offset : offset + limit]]
    return json_reply({"total": len(entries), "sessions": shown})


@describe("Get what is known of a session", tag=TAG, reply=AN_OBJECT, errors=(404,))
async def get_session(request: web.Request) -> web.Response:
    """Return meta.json."""
    return await _document(request, META)


@describe(
    "Get what was said in a session",
    tag=TAG,
    help="404 until the session has ended and its files are made; ask again then.",
    reply=AN_OBJECT,
    errors=(404,),
)
async def get_recording(request: web.Request) -> web.Response:
    """Return recording.json."""
    return await _document(request, RECORDING)


@describe(
    "Delete a session",
    tag=TAG,
    help="403 while it is being recorded or its files are being made.",
    reply=record({"success": FLAG}),
    errors=(403, 404),
)
async def delete_session(request: web.Request) -> web.Response:
    """Delete everything of one session."""
    await asyncio.to_thread(request.app[SESSIONS].delete, request.match_info["session_id"])
    return json_reply({"success": True})


@describe(
    "Comment on a session",
    tag=TAG,
    help=f"At most {MAX_COMMENT_CHARS} characters; an empty text deletes the comment.",
    body=record({"comment": {**TEXT, "maxLength": MAX_COMMENT_CHARS}}),
    reply=record({"status": TEXT, "len": WHOLE}),
    errors=(404,),
)
async def post_comment(request: web.Request) -> web.Response:
    """Keep a comment."""
    fields = await read_fields(request)
    text = fields.values.get("comment")
    if not isinstance(text, str):
        raise ProtocolError("comment must be a text")
    session_id = request.match_info["session_id"]
    await asyncio.to_thread(request.app[SESSIONS].set_comment, session_id, text)
    return json_reply({"status": "ok", "len": len(text)})


@describe("Get the comment", tag=TAG, reply=record({"comment": TEXT}), errors=(404,))
async def get_comment(request: web.Request) -> web.Response:
    """Return the comment, empty where there is none."""
    text = await asyncio.to_thread(
        request.app[SESSIONS].comment, request.match_info["session_id"]
    )
    return json_reply({"comment": text})


@describe(
    "See a session in the browser",
    tag=TAG,
    reply=Reply(schema=TEXT, content_types=("text/html",)),
    errors=(404,),
)
async def get_viewer(request: web.Request) -> web.StreamResponse:
    """Return the page that shows one session; a browser gets it for none, too: it says so."""
    status = 200
    try:
        await asyncio.to_thread(request.app[SESSIONS].folder_of, request.match_info["session_id"])
    except NotFound:
        if "text/html" not in request.headers.get("Accept", ""):
            raise
        status = 404
    return web.FileResponse(WEBROOT / "pages" / "viewer.html", status=status)


async def _document(request: web.Request, name: str) -> web.Response:
    session_id = request.match_info["session_id"]
    body = await asyncio.to_thread(request.app[SESSIONS].read, session_id, name)
    return web.Response(
        body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _shown(entry: Entry) -> dict[str, object]:
    meta = entry.meta
    return {
        "session_id": entry.session_id,
        "worker_id": meta.get("worker_id"),
        "messages_hash": "",  # the admin page of the demo writes out what is here
        "last_active": meta.get("ended_at") or meta["created_at"],
        "app_type": meta.get("app_type", ""),
        "title": meta.get("title", ""),
        "created_at": meta["created_at"],
        "duration_s": meta.get("duration_s"),
        "size_bytes": entry.size_bytes,
        "live": entry.is_live,
    }


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WHOLE))):
        raise ProtocolError(f"{name}: a whole number from 0 on is expected")
    return int(text)

"""The files of a recorded session: one with ranges, all as a zip, and what a client adds."""

import asyncio
import errno
import os
from pathlib import Path
from uuid import uuid4

from aiohttp import BodyPartReader, web

from omni.errors import CapacityError, NotFound, OmniError, ProtocolError, TooLarge
from omni.realtime.fields import FieldError
from omni.recording.layout import CONTENT_TYPES, UPLOAD, asset_path
from omni.recording.zipped import zip_pieces
from omni.routes.describe import FILE, TEXT, WHOLE, Body, Param, Reply, describe, record
from omni.routes.errors import json_reply
from omni.routes.keys import SESSIONS
from omni.routes.recordings import TAG

MAX_UPLOAD_BYTES = 200 * 2**20
#: What a multipart body may have around the file.
_AROUND_BYTES = 2**20
_UPLOAD_SUFFIXES = {
    "video/webm": ".webm",
    "video/mp4": ".mp4",
    "audio/wav": ".wav",
    "audio/webm": ".webm",
}
#: Written to the disk at once: a thread for every packet would cost more than the writing.
_PIECE_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@describe(
    "Get a file of a session",
    tag=TAG,
    help="`Range` and `HEAD` are understood. 400 for a path that leaves the session.",
    params=[Param(name="path", where="path", required=True, help="as recording.json has it")],
    reply=Reply(schema=FILE, content_types=tuple(dict.fromkeys(CONTENT_TYPES.values()))),
    errors=(400, 404, 416),
)
async def get_asset(request: web.Request) -> web.StreamResponse:
    """Return one file."""
    path = await asyncio.to_thread(_asset, request)
    return web.FileResponse(path, headers={"Content-Type": CONTENT_TYPES[path.suffix]})


@describe(
    "Download a session",
    tag=TAG,
    help="A zip file that is made on the way; its length is not known before.",
    reply=Reply(schema=FILE, content_types=("application/zip",)),
    errors=(404,),
)
async def get_download(request: web.Request) -> web.StreamResponse:
    """Return all files of a session."""
    session_id = request.match_info["session_id"]
    folder = await asyncio.to_thread(request.app[SESSIONS].folder_of, session_id)
    name = f"attachment; filename={session_id}.zip"
    reply = web.StreamResponse(
        headers={"Content-Type": "application/zip", "Content-Disposition": name}
    )
    await reply.prepare(request)
    if request.method != "HEAD":
        pieces = zip_pieces(folder, session_id)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await reply.write(piece)
    await reply.write_eof()
    return reply


@describe(
    "Add the client's own recording",
    tag=TAG,
    help=(
        "A form with the field `file`: video/webm, video/mp4, audio/wav or audio/webm, up to "
        "200 MiB. It may come before the session is finalised. A second one of a kind replaces "
        "the first."
    ),
    body=Body(schema=record({"file": FILE}), content_types=("multipart/form-data",)),
    reply=record({"status": TEXT, "path": TEXT, "size_bytes": WHOLE}),
    errors=(404, 503),
)
async def post_upload(request: web.Request) -> web.Response:
    """Keep a file beside the session's own."""
    store, session_id = request.app[SESSIONS], request.match_info["session_id"]
    folder = await asyncio.to_thread(store.folder_of, session_id)
    if (request.content_length or 0) > MAX_UPLOAD_BYTES + _AROUND_BYTES:
        raise _too_large()
    part = await _file_part(request)
    kind = part.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if (suffix := _UPLOAD_SUFFIXES.get(kind)) is None:
        kinds = ", ".join(_UPLOAD_SUFFIXES)
        raise ProtocolError(f"Unsupported type {kind[:60]!r}; taken are: {kinds}")
    new = folder / f".upload-{uuid4().hex}"
    try:
        size = await _receive(part, new)
        await asyncio.to_thread(os.replace, new, folder / f"{UPLOAD}{suffix}")
    except OSError as exc:
        raise _disk_error(exc) from exc
    finally:
        await asyncio.to_thread(new.unlink, missing_ok=True)
    return json_reply({"status": "ok", "path": f"{UPLOAD}{suffix}", "size_bytes": size})


def _asset(request: web.Request) -> Path:
    folder = request.app[SESSIONS].folder_of(request.match_info["session_id"])
    return asset_path(folder, request.match_info["path"])


async def _file_part(request: web.Request) -> BodyPartReader:
    """Return the part of the field `file`; others before it are passed over."""
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if isinstance(part, BodyPartReader) and part.name == "file":
                return part
    except (ValueError, KeyError, AssertionError) as exc:  # aiohttp's word for a broken form
        raise ProtocolError(f"A multipart form with a field `file` is expected: {exc}") from exc
    raise FieldError(("file",), "the field is missing")


async def _receive(part: BodyPartReader, path: Path) -> int:
    """Write the part to *path*, piece by piece, and return its bytes. Raises: TooLarge, OSError."""
    size, held = 0, bytearray()
    file = await asyncio.to_thread(open, path, "wb")
    try:
        while chunk := await part.read_chunk(2**18):
            size += len(chunk)
            if size > MAX_UPLOAD_BYTES:
                raise _too_large()
            held += chunk
            if len(held) >= _PIECE_BYTES:
                await asyncio.to_thread(file.write, bytes(held))
                held.clear()
        await asyncio.to_thread(file.write, bytes(held))
    except (ValueError, AssertionError) as exc:
        raise ProtocolError(f"The form is cut or broken: {exc}") from exc
    finally:
        await asyncio.to_thread(file.close)
    if not size:
        raise ProtocolError("The file is empty")
    return size


def _too_large() -> TooLarge:
    return TooLarge(f"File too large: at most {MAX_UPLOAD_BYTES >> 20} MiB")


def _disk_error(error: OSError) -> OmniError:
    if error.errno in _FULL:
        return CapacityError("The server's disk is full", retry_after_s=60)
    if error.errno == errno.ENOENT:
        return NotFound("Session not found")
    return OmniError(f"The file cannot be kept: {error.strerror}")

"""Where the files of a recorded session lie, and which names are safe to look for."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import orjson

from omni.errors import NotFound, ProtocolError

META = "meta.json"
RECORDING = "recording.json"
COMMENT = "comment.txt"
DIAGNOSTICS = "diagnostics.jsonl"
#: What the session is written to while it runs; gone once the files are made of it.
JOURNAL = "journal.omni"
USER_AUDIO = "user_audio"
USER_FRAMES = "user_frames"
USER_IMAGES = "user_images"
USER_VIDEOS = "user_videos"
AI_AUDIO = "ai_audio"
SUBFOLDERS = (USER_AUDIO, USER_FRAMES, USER_IMAGES, USER_VIDEOS, AI_AUDIO)
REPLAY_SOUND = "merged_replay.wav"
REPLAY_VIDEO = "merged_replay.mp4"
REPLAY_CAPTIONS = "merged_replay.vtt"
REPLAY_PEAKS = "merged_peaks.json"
UPLOAD = "frontend_replay"

#: What may be fetched, with the type that it is served as whatever it holds.
CONTENT_TYPES = {
    ".wav": "audio/wav",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webm": "video/webm",
    ".mp4": "video/mp4",
    ".mp3": "audio/mpeg",
    ".vtt": "text/vtt",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".txt": "text/plain",
}

MAX_ID_CHARS = 128
#: A recording's id is a time, a client's id and perhaps a number.
_RECORDING_ID = re.compile(r"[A-Za-z0-9_-]{1,160}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_PATH_CHARS = 256


def clean_id(client_id: str) -> str:
    """Return *client_id* fit for file names and logs."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", client_id)[:MAX_ID_CHARS]


def is_recording_id(text: str) -> bool:
    """Say whether *text* may be the name of a recording's folder."""
    return _RECORDING_ID.fullmatch(text) is not None


def sessions_folder(data_dir: Path) -> Path:
    """Return the folder of all recordings."""
    return data_dir / "sessions"


def is_safe_name(name: str) -> bool:
    """Say whether *name* of a file or folder means the same on every system."""
    return _SAFE_NAME.fullmatch(name) is not None


def asset_path(folder: Path, name: str) -> Path:
    """Return the file *name* (with slashes) of the session in *folder*; links are not followed.

    Raises: ProtocolError for a path that tries to leave the folder; NotFound.
    """
    steps = name.split("/")
    if ".." in steps or "\\" in name or "\0" in name or name.startswith("/"):
        raise ProtocolError("Invalid path: it may not leave the session's folder")
    if len(name) > _MAX_PATH_CHARS or not all(map(is_safe_name, steps)):
        raise NotFound("Asset not found")
    path = folder.joinpath(*steps)
    if path.suffix not in CONTENT_TYPES or path.resolve() != folder.resolve().joinpath(*steps):
        raise NotFound("Asset not found")
    if not path.is_file():
        raise NotFound("Asset not found")
    return path


def write_json(path: Path, document: object) -> None:
    """Write *document* so that readers see the old one or the new one, whole.

    The disk is not waited for, as `files.write_atomically` does: a session's first and last word
    would hold up the sound of all others.
    """
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    os.replace(new, path)


def utc_iso(unix_s: float) -> str:
    """Return Unix seconds as the ISO time, with its offset, that recordings carry."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


def size_of(folder: Path) -> int:
    """Return the bytes of all files in *folder*; what vanishes meanwhile counts nothing."""
    total = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total

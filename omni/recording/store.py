"""The recorded sessions on disk: list, read, comment, delete. Everything here blocks."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from attrs import define, evolve, field, frozen

from omni.errors import Forbidden, NotFound, TooLarge
from omni.files import write_atomically
from omni.recording.journal import is_live
from omni.recording.layout import (
    COMMENT,
    JOURNAL,
    META,
    UPLOAD,
    is_recording_id,
    sessions_folder,
    size_of,
)

MAX_COMMENT_CHARS = 2000
#: Folders on their way out; a pass of the clean-up removes what a crash left of them.
DELETED_PREFIX = ".deleted-"
#: Between two sessions that are looked through: the thread shares the interpreter with calls.
_MEASURE_PAUSE_S = 0.002
_UPLOAD_SUFFIXES = (".webm", ".mp4", ".wav")

Document = dict[str, Any]


@frozen(kw_only=True)
class Entry:
    """One session as a list shows it. created_at: Unix seconds. meta: the whole of meta.json.

    size_bytes: None for a session that does not name its size and was not looked through yet.
    """

    session_id: str
    created_at: float
    size_bytes: int | None
    is_live: bool
    meta: Document


@frozen
class _Cached:
    stamp: tuple[int, int]  # of meta.json: time of change and size
    meta: Document
    created_at: float
    size_bytes: int | None  # without what clients uploaded; None: not known, or still growing
    is_growing: bool  # it has a journal: it runs, or its files are being made


@define(eq=False)
class SessionStore:
    """Sessions below `data_dir/sessions`.

    What meta.json says is kept in memory and read again when the file changes, whoever changes it.
    Safe to use from several threads.
    """

    folder: Path
    _cache: dict[str, _Cached] = field(factory=dict, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def of(cls, data_dir: Path) -> "SessionStore":
        """Return the store of a data directory, which need not exist."""
        return cls(sessions_folder(data_dir))

    def entries(self, max_measured: int = sys.maxsize) -> list[Entry]:
        """Return all sessions with a readable meta.json, the newest first.

        max_measured: how many sessions that do not name their size, being another server's, are
        looked through for it. That takes several times as long as all the rest.
        """
        found = []
        with self._lock:
            for name in self.names():
                if (cached := self._read(name)) is None:
                    continue
                if cached.size_bytes is None and not cached.is_growing and max_measured > 0:
                    cached = self._measure(name, cached)
                    max_measured -= 1
                found.append(self._entry(name, cached))
            self._cache = {entry.session_id: self._cache[entry.session_id] for entry in found}
        return sorted(found, key=lambda entry: entry.created_at, reverse=True)

    def measure(self, stop: threading.Event) -> None:
        """Look through all sessions that do not name their size, with pauses for other threads."""
        for name in list(self.names()):
            with self._lock:
                cached = self._read(name)
                if cached is None or cached.is_growing or cached.size_bytes is not None:
                    continue
                self._measure(name, cached)
            if stop.wait(_MEASURE_PAUSE_S):
                return

    def names(self) -> Iterator[str]:
        """Yield the names of all folders that may be sessions."""
        try:
            with os.scandir(self.folder) as entries:
                yield from (entry.name for entry in entries if _is_session(entry))
        except FileNotFoundError:
            return

    def entry(self, session_id: str) -> Entry:
        """Return one session. Raises: NotFound."""
        with self._lock:
            cached = self._read(session_id) if is_recording_id(session_id) else None
            if cached is None:
                raise NotFound("Session not found")
            if cached.size_bytes is None and not cached.is_growing:
                cached = self._measure(session_id, cached)
            return self._entry(session_id, cached)

    def folder_of(self, session_id: str) -> Path:
        """Return the folder of a session that has a meta.json. Raises: NotFound."""
        folder = self.folder / session_id
        if not is_recording_id(session_id) or not (folder / META).is_file() or folder.is_symlink():
            raise NotFound("Session not found")
        return folder

    def read(self, session_id: str, name: str) -> bytes:
        """Return a document of a session. Raises: NotFound."""
        try:
            return (self.folder_of(session_id) / name).read_bytes()
        except OSError as exc:
            raise NotFound(f"{name} is not there: the session may still be running") from exc

    def comment(self, session_id: str) -> str:
        """Return the comment, "" when there is none. Raises: NotFound."""
        try:
            return (self.folder_of(session_id) / COMMENT).read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def set_comment(self, session_id: str, text: str) -> None:
        """Keep a comment; an empty one deletes it. Raises: NotFound, TooLarge, OSError."""
        path = self.folder_of(session_id) / COMMENT
        if len(text) > MAX_COMMENT_CHARS:
            raise TooLarge(f"Comment too long: {len(text)} characters, {MAX_COMMENT_CHARS} allowed")
        if text.strip():
            write_atomically(path, text.encode("utf-8", "replace"))
        else:
            path.unlink(missing_ok=True)

    def delete(self, session_id: str) -> None:
        """Delete a session. Raises: NotFound; Forbidden while it runs or is being finalised."""
        folder = self.folder_of(session_id)
        if is_live(folder / JOURNAL):
            raise Forbidden(f"Session {session_id} is still being recorded: end it first")
        gone = folder.with_name(f"{DELETED_PREFIX}{uuid4().hex}")
        try:
            folder.rename(gone)  # at once for everybody; what follows may take its time
        except FileNotFoundError as exc:
            raise NotFound("Session not found") from exc
        shutil.rmtree(gone, ignore_errors=True)

    def _read(self, name: str) -> _Cached | None:
        """Return what meta.json says now; None where it cannot be read."""
        folder = self.folder / name
        try:
            stat = os.stat(folder / META)
            cached = self._cache.get(name)
            if cached is None or cached.stamp != (stat.st_mtime_ns, stat.st_size):
                cached = _read_meta(folder, (stat.st_mtime_ns, stat.st_size))
                self._cache[name] = cached
        except (OSError, ValueError):
            return None
        return cached

    def _measure(self, name: str, cached: _Cached) -> _Cached:
        """Look through the files of a finished session."""
        folder = self.folder / name
        self._cache[name] = evolve(cached, size_bytes=size_of(folder) - _added(folder))
        return self._cache[name]

    def _entry(self, name: str, cached: _Cached) -> Entry:
        folder, size = self.folder / name, cached.size_bytes
        if size is not None:
            size += _added(folder)
        elif cached.is_growing:
            size = size_of(folder)
        return Entry(
            session_id=name,
            created_at=cached.created_at,
            size_bytes=size,
            is_live=cached.is_growing and is_live(folder / JOURNAL),
            meta=cached.meta,
        )


def _is_session(entry: "os.DirEntry[str]") -> bool:
    return is_recording_id(entry.name) and entry.is_dir(follow_symlinks=False)


def _read_meta(folder: Path, stamp: tuple[int, int]) -> _Cached:
    """Return what meta.json says. Raises: OSError, ValueError."""
    meta = orjson.loads((folder / META).read_bytes())
    if not isinstance(meta, dict) or not isinstance(created := meta.get("created_at"), str):
        raise ValueError(f"{folder.name}: meta.json has no created_at")
    created_at = datetime.fromisoformat(created).timestamp()
    size = meta.get("size_bytes")
    if isinstance(size, int):
        return _Cached(stamp, meta, created_at, size, is_growing=False)
    return _Cached(stamp, meta, created_at, None, is_growing=(folder / JOURNAL).exists())


def _added(folder: Path) -> int:
    """Return the bytes of what clients uploaded; it may come at any time."""
    total = 0
    for suffix in _UPLOAD_SUFFIXES:
        try:
            total += os.stat(folder / f"{UPLOAD}{suffix}").st_size
        except OSError:
            continue
    return total

"""What clients measure of their calls, and what phones trace: JSON lines in the run directory.

One thread writes. The queue in front of it is bounded: when it is full, a record is dropped and
counted. No file grows without bound, and there are only so many of them.
"""

import logging
import os
import queue
import threading
from datetime import datetime
from pathlib import Path

import orjson

log = logging.getLogger(__name__)

#: Longest file of one session, and how many sessions' files stay; the oldest go.
MAX_SESSION_BYTES = 2**20
MAX_SESSION_FILES = 200
#: The trace's file is set aside at this size; one such file is kept.
MAX_TRACE_BYTES = 5 * 2**20
MAX_WAITING = 512
TRACE = "mobile-record-trace.jsonl"
#: Longest wait for the thread when the process stops.
_STOP_S = 5.0

Record = dict[str, object]


class Diagnostics:
    """Keeps records under *folder*. `note` and `trace` may be called from the event loop."""

    def __init__(self, folder: Path) -> None:
        self.num_dropped = 0
        self._folder = folder
        self._queue: queue.Queue[tuple[str, Record] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="diagnostics", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and stop."""
        try:
            self._queue.put(None, timeout=_STOP_S)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def note(self, client_id: str, record: Record, received_at: float) -> None:
        """Keep what the client of a session measured. client_id: fit for a file name.

        received_at: Unix seconds.
        """
        self._put(f"diag_{client_id}.jsonl", {**record, "_server_recv_ts": received_at})

    def trace(self, record: Record) -> None:
        """Keep what a phone traced of one push-to-talk."""
        now = datetime.now().isoformat(timespec="milliseconds")
        self._put(TRACE, {"ts": now, **{k: v for k, v in record.items() if k != "ts"}})

    def _put(self, name: str, record: Record) -> None:
        try:
            self._queue.put_nowait((name, record))
        except queue.Full:
            self.num_dropped += 1

    # --- the thread ---

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            name, record = entry
            try:
                self._write(self._folder / name, orjson.dumps(record) + b"\n")
            except (OSError, orjson.JSONEncodeError) as exc:
                self.num_dropped += 1
                log.warning("diagnostics: %s is not written: %s", name, exc)

    def _write(self, path: Path, line: bytes) -> None:
        size = _size_of(path)
        if path.name == TRACE:
            if size + len(line) > MAX_TRACE_BYTES and size:
                os.replace(path, path.with_name(f"{TRACE}.1"))
        elif size + len(line) > MAX_SESSION_BYTES:
            self.num_dropped += 1
            return
        elif not size:
            self._make_place()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(line)

    def _make_place(self) -> None:
        """Delete the oldest sessions' files, so that another one fits."""
        files = sorted(self._folder.glob("diag_*.jsonl"), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - MAX_SESSION_FILES + 1)]:
            path.unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""Deleting old sessions: by age, and until the rest fits. Never one that runs."""

import logging
import shutil
import threading
import time

from attrs import asdict, define, field

from omni.errors import OmniError
from omni.recording.store import DELETED_PREFIX, Entry, SessionStore
from omni.settings import RecordingSettings

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_MIB = 2**20
_GIB = 2**30


@define
class Report:
    """What a pass did."""

    status: str = "ok"
    scanned: int = 0
    deleted: int = 0
    deleted_expired: int = 0
    deleted_capacity: int = 0
    remaining: int = 0
    remaining_size_mb: float = 0.0
    errors: list[str] = field(factory=list)

    def as_json(self) -> dict[str, object]:
        """Return it as people and programs read it."""
        return asdict(self)


def clean(store: SessionStore, settings: RecordingSettings, now: float) -> dict[str, object]:
    """Delete what is too old or too much, and report. now: Unix seconds.

    Sessions that run are kept whatever their age; a folder without a readable meta.json is named
    among the errors, and kept.
    """
    _remove_left_over(store)
    days, max_gb = settings.session_retention_days, settings.max_storage_gb
    if days <= 0 and max_gb <= 0:
        text = "recording.session_retention_days and recording.max_storage_gb are off"
        return {"status": "skipped", "message": text, "deleted": 0}
    entries = store.entries()
    known = {entry.session_id for entry in entries}
    unread = [name for name in store.names() if name not in known]
    report = Report(
        scanned=len(entries) + len(unread),
        errors=[f"{name}: no readable meta.json" for name in sorted(unread)],
    )
    kept = _delete_expired(store, entries, days, now, report)
    kept = _delete_beyond(store, kept, max_gb, report)
    report.deleted = report.deleted_expired + report.deleted_capacity
    report.remaining = len(kept) + len(unread)
    report.remaining_size_mb = round(_total_bytes(kept) / _MIB, 1)
    return report.as_json()


def _delete_expired(
    store: SessionStore, entries: list[Entry], days: int, now: float, report: Report
) -> list[Entry]:
    """Return the entries that are left."""
    if days <= 0:
        return entries
    kept = []
    for entry in entries:
        is_old = entry.created_at < now - days * _DAY_S
        if is_old and not entry.is_live and _delete(store, entry, report):
            report.deleted_expired += 1
        else:
            kept.append(entry)
    return kept


def _delete_beyond(
    store: SessionStore, entries: list[Entry], max_gb: float, report: Report
) -> list[Entry]:
    """Delete the oldest until the rest fits; return what is left. entries: newest first."""
    if max_gb <= 0:
        return entries
    total = _total_bytes(entries)
    kept = list(entries)
    for entry in reversed(entries):
        if total <= max_gb * _GIB:
            break
        if not entry.is_live and _delete(store, entry, report):
            report.deleted_capacity += 1
            total -= entry.size_bytes or 0
            kept.remove(entry)
    return kept


def _total_bytes(entries: list[Entry]) -> int:
    return sum(entry.size_bytes or 0 for entry in entries)


def _delete(store: SessionStore, entry: Entry, report: Report) -> bool:
    try:
        store.delete(entry.session_id)
    except (OmniError, OSError) as exc:
        report.errors.append(f"{entry.session_id}: {exc}")
        return False
    return True


def _remove_left_over(store: SessionStore) -> None:
    for path in store.folder.glob(f"{DELETED_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


@define(eq=False)
class Cleaner:
    """Cleans in a thread of its own: once soon after the start, then at long intervals.

    Before all else the thread measures what the list of sessions would have to measure.
    """

    store: SessionStore
    settings: RecordingSettings
    first_pass_s: float
    interval_s: float
    last_report: dict[str, object] | None = field(default=None, init=False)
    _stop: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to count the time."""
        self._thread = threading.Thread(target=self._run, name="cleanup", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; a pass that runs is left to end with the process."""
        self._stop.set()

    def _run(self) -> None:
        self.store.measure(self._stop)
        pause_s = self.first_pass_s
        while not self._stop.wait(pause_s):
            pause_s = self.interval_s
            try:
                self.last_report = clean(self.store, self.settings, time.time())
                log.info("cleanup: %s", self.last_report)
            except Exception:  # the border of a thread: the next pass may do better
                log.exception("cleanup failed")

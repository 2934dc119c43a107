"""One session on its way to the disk; used by the recording thread alone."""

import errno
import logging
from pathlib import Path

from attrs import define, field

from omni.engine import ChatRequest, PrepareDuplex, PrepareHalfDuplex
from omni.recording.journal import Began, JournalWriter, Opened, Record
from omni.recording.layout import JOURNAL, META, SUBFOLDERS, write_json
from omni.recording.meta import Config, config_of, meta_document

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@define(eq=False)
class SessionFile:
    """A session's folder, journal and meta.json while it runs. It exists from the first record."""

    folder: Path
    began: Began
    _journal: JournalWriter | None = field(default=None, init=False)
    _config: Config = field(factory=dict, init=False)
    _last_s: float = field(default=0.0, init=False)

    @property
    def exists(self) -> bool:
        """True once there is something to finalise."""
        return self._journal is not None

    def write(self, record: Record) -> int:
        """Append *record*, and return the bytes that it took. Raises: OSError."""
        self._last_s = record.at_s
        journal, size = self._journal, 0
        if journal is None:
            journal, size = self._open()
        size += journal.write(record)
        item = record.item
        if isinstance(item, ChatRequest | PrepareDuplex | PrepareHalfDuplex | Opened):
            self._config |= config_of(item)
            self._write_meta(None)
        return size

    def stop(self) -> None:
        """End the journal before its time; it stays locked until `close`."""
        self._try_meta(self.began.started_at + self._last_s)

    def close(self) -> None:
        """Let go of the folder."""
        if self._journal is not None:
            self._try_meta(self.began.started_at + self._last_s)
            self._journal.close()

    def _open(self) -> tuple[JournalWriter, int]:
        self.folder.mkdir(parents=True)
        for name in SUBFOLDERS:
            (self.folder / name).mkdir()
        self._write_meta(None)  # before the journal: a folder without it belongs to nobody
        self._journal = JournalWriter.create(self.folder / JOURNAL)
        return self._journal, self._journal.write(Record(0.0, 0, self.began))

    def _write_meta(self, ended_at: float | None) -> None:
        write_json(self.folder / META, meta_document(self.began, self._config, ended_at))

    def _try_meta(self, ended_at: float) -> None:
        """Finalising writes it again, where there is room."""
        try:
            self._write_meta(ended_at)
        except OSError as exc:
            log.debug("recording %s: meta.json not rewritten: %s", self.folder.name, exc)


def trouble_of(error: OSError) -> str:
    """Return what a client is told about *error*."""
    if error.errno in _FULL:
        return "The disk is full: this conversation goes on, but is no longer recorded"
    return f"The recording cannot be written ({error.strerror}): the conversation goes on without"

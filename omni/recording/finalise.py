"""Makes the files of one recording from its journal, after the session; also a process of its own.

    python -m omni.recording.finalise PARENT_PID     one folder a line in, one JSON text a line out

Whatever happens to it, it can be done again: the journal goes last.
"""

import fcntl
import logging
import os
import sys
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field

from omni.audio import INPUT_HZ
from omni.engine import ChatRequest, PrepareDuplex, PrepareHalfDuplex
from omni.errors import NotFound, OmniError, ProtocolError
from omni.process import die_with_parent
from omni.recording.captions import Cue, as_webvtt, cues_of
from omni.recording.duplex_files import USUAL_CHUNK_MS, DuplexFiles
from omni.recording.journal import MAGIC, Began, Diagnosed, Ended, Gap, Opened, Record, read_journal
from omni.recording.layout import (
    DIAGNOSTICS,
    JOURNAL,
    META,
    RECORDING,
    REPLAY_CAPTIONS,
    REPLAY_PEAKS,
    REPLAY_SOUND,
    REPLAY_VIDEO,
    SUBFOLDERS,
    size_of,
    write_json,
)
from omni.recording.meta import Config, config_of, meta_document
from omni.recording.replay import Peaks, Slot, merged_sound, timeline
from omni.recording.replay_video import make_video
from omni.recording.turn_files import TurnFiles

log = logging.getLogger(__name__)

Document = dict[str, Any]

_NICENESS = 10
_DUPLEX = ("audio_duplex", "omni_duplex")
_MAX_DIAGNOSTIC_BYTES = 2**20


@define
class _Told:
    """What the journal says of the session as a whole."""

    config: Config = field(factory=dict)
    last_s: float = 0.0
    is_complete: bool = False
    num_dropped: int = 0
    diagnostics: list[bytes] = field(factory=list)
    diagnostic_bytes: int = 0

    def take(self, record: Record) -> None:
        self.last_s = max(self.last_s, record.at_s)
        match record.item:
            case PrepareDuplex() | PrepareHalfDuplex() | ChatRequest() | Opened():
                self.config |= config_of(record.item)
            case Ended():
                self.is_complete = True
            case Gap(num_records=num_records):
                self.num_dropped += num_records
            case Diagnosed(record=told):
                line = orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
                self.diagnostic_bytes += len(line)
                if self.diagnostic_bytes <= _MAX_DIAGNOSTIC_BYTES:
                    self.diagnostics.append(line)


def finalise(folder: Path) -> None:
    """Make everything of the journal in *folder*, and delete it.

    In this order, so that a viewer soon has something: the sound and pictures of each chunk,
    meta.json, recording.json, the merged replay, recording.json with it.
    Raises: OSError; BlockingIOError while the session is live; OmniError for a broken journal.
    """
    journal = folder / JOURNAL
    with _locked(journal):
        records = read_journal(journal) if journal.stat().st_size > len(MAGIC) else iter(())
        first = next(records, None)
        told = _Told()
        if first is None:  # the process died, or the power went, before it was written
            began, told.config = _began_by_meta(folder)
        elif isinstance(first.item, Began):
            began = first.item
        else:
            raise ProtocolError("the journal has no beginning")
        for name in SUBFOLDERS:
            (folder / name).mkdir(exist_ok=True)
        is_duplex = began.request_type in _DUPLEX
        files = DuplexFiles(folder) if is_duplex else TurnFiles(folder)
        for record in records:
            told.take(record)
            files.take(record)
        recording = _recording(began, told, files.document())
        _write_meta(folder, began, told)
        write_json(folder / RECORDING, recording)
        if recording.get("chunks"):
            _replay(folder, began, recording)
            write_json(folder / RECORDING, recording)
        if told.diagnostics:
            (folder / DIAGNOSTICS).write_bytes(b"".join(told.diagnostics))
        journal.unlink()
        _write_meta(folder, began, told, size_of(folder))


def _began_by_meta(folder: Path) -> tuple[Began, Config]:
    """Return what meta.json says of a session whose journal says nothing. Raises: ProtocolError."""
    try:
        meta = orjson.loads((folder / META).read_bytes())
        began = Began(
            recording_id=str(meta["session_id"]),
            client_id="",
            request_type=meta["app_type"],
            worker=int(meta["worker_id"]),
            started_at=datetime.fromisoformat(meta["created_at"]).timestamp(),
        )
        return began, dict(meta["config"])
    except (ValueError, TypeError, KeyError) as exc:
        raise ProtocolError(f"neither the journal nor meta.json can be read: {exc!r}") from exc


def _recording(began: Began, told: _Told, made: Document) -> Document:
    mode = "duplex" if began.request_type in _DUPLEX else began.request_type
    recording: Document = {
        "session_id": began.recording_id,
        "mode": mode,
        "worker_id": began.worker,
        "start_ts": began.started_at,
        "config": told.config,
        **made,
    }
    if not told.is_complete:  # the process died, or the disk was full
        recording["complete"] = False
    if told.num_dropped:
        recording["dropped_records"] = told.num_dropped
    return recording


def _write_meta(folder: Path, began: Began, told: _Told, size_bytes: int | None = None) -> None:
    ended_at = began.started_at + told.last_s
    write_json(folder / META, meta_document(began, told.config, ended_at, size_bytes))


def _replay(folder: Path, began: Began, recording: Document) -> None:
    """Make the merged replay and name it in *recording*; without a film, the sound is enough."""
    chunk_ms = recording.get("chunk_ms", USUAL_CHUNK_MS)
    slots = timeline(folder, recording["chunks"], chunk_ms)
    for chunk, slot in zip(recording["chunks"], slots, strict=True):
        chunk["replay_ts_ms"] = round(slot.begin_s * 1000, 1)
    write_json(folder / REPLAY_PEAKS, _write_sound(folder, slots))
    recording["merged_replay"] = REPLAY_SOUND
    recording["merged_peaks"] = REPLAY_PEAKS
    cues = cues_of(slots)
    if cues:
        (folder / REPLAY_CAPTIONS).write_text(as_webvtt(cues), "utf-8")
        recording["merged_captions"] = REPLAY_CAPTIONS
    if began.request_type == "omni_duplex" and _write_film(folder, slots, cues):
        recording["merged_replay_video"] = REPLAY_VIDEO


def _write_sound(folder: Path, slots: Sequence[Slot]) -> Document:
    """Write the merged sound, and return how loud either side is when."""
    new, peaks = folder / f".{REPLAY_SOUND}.new", Peaks()
    with wave.open(str(new), "wb") as file:
        file.setparams((2, 2, INPUT_HZ, 0, "NONE", ""))
        for piece in merged_sound(folder, slots):
            file.writeframesraw(piece)
            peaks.add(piece)
    os.replace(new, folder / REPLAY_SOUND)
    return peaks.document()


def _write_film(folder: Path, slots: Sequence[Slot], cues: Sequence[Cue]) -> bool:
    new = folder / f".{REPLAY_VIDEO}.new"
    try:
        if not make_video(folder, slots, cues, folder / REPLAY_SOUND, new):
            return False
        os.replace(new, folder / REPLAY_VIDEO)
    except (OSError, ValueError) as exc:  # FFmpeg's errors are either
        log.warning("recording %s has no film: %s", folder.name, exc)
        return False
    finally:
        new.unlink(missing_ok=True)
    return True


@contextmanager
def _locked(journal: Path) -> Iterator[None]:
    """Hold the journal, so that nobody else finalises or deletes it. Raises: NotFound."""
    try:
        file = open(journal, "rb")
    except FileNotFoundError as exc:
        raise NotFound("there is no journal: it is finalised already, or deleted") from exc
    with file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def main() -> None:
    """Finalise the folders that come in, until there are no more."""
    die_with_parent(int(sys.argv[1]))
    os.nice(_NICENESS)
    for line in sys.stdin.buffer:
        folder = Path(os.fsdecode(line.rstrip(b"\n")))
        answer = ""
        try:
            finalise(folder)
        except (OSError, OmniError, ValueError) as exc:
            answer = f"{type(exc).__name__}: {exc}"
        except Exception as exc:  # the border of this process: the next folder may be good
            log.exception("recording %s", folder.name)
            answer = repr(exc)
        sys.stdout.buffer.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

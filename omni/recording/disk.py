"""The recorder that keeps sessions: the event loop puts records into a queue, a thread writes them.

The queue is bounded in bytes over all sessions. While it is full, records are left out and counted;
the journal gets a `Gap` where they are missing. A disk that refuses ends that recording, not the
session.
"""

import asyncio
import logging
import re
import threading
import time
from pathlib import Path
from queue import SimpleQueue

from attrs import define, field

from omni.engine import AudioChunk, ReplyChunk, SessionEvent, SessionInput, UnitResult
from omni.errors import OmniError
from omni.messages import RequestType
from omni.recording.finaliser import Finaliser
from omni.recording.journal import Began, Diagnosed, Ended, Gap, Item, Opened, Record
from omni.recording.layout import clean_id, sessions_folder
from omni.recording.recorder import Recorder, RecordingCounters
from omni.recording.session_file import SessionFile, trouble_of
from omni.recording.sound import held_bytes

log = logging.getLogger(__name__)

#: Bytes that may wait for the disk. One record of any size is taken while less than that waits:
#: with 32 sessions of sound and pictures it is 10 s of a disk that stands still.
MAX_WAITING_BYTES = 64 * 2**20
#: What a record without sound or pictures counts.
_SMALL_BYTES = 512
#: The thread looks at the queue so often, unless an eighth of what may wait is there: woken for
#: each record, it takes the interpreter from the event loop just when an answer is on its way.
#: Measured with 32 paced sessions on 2 busy cores: 0.4 ms more for each chunk then.
_PAUSE_S = 0.1
_HURRY_PART = 8
#: Longest wait for the thread when the process stops.
_STOP_S = 5.0


@define(eq=False)
class DiskRecorder:
    """Keeps one session; everything here is called on the event loop."""

    recording_id: str
    trouble: str = field(default="", init=False)  # set by the thread
    _owner: "DiskRecordings"
    _file: SessionFile
    _began_s: float = field(factory=time.monotonic, init=False)
    _num_heard: int = field(default=0, init=False)
    _num_answered: int = field(default=0, init=False)
    _lost: list[int] = field(factory=list, init=False)  # bytes of records left out since the last
    _is_used: bool = field(default=False, init=False)
    _is_closed: bool = field(default=False, init=False)

    def opened(self, timeout_s: float | None) -> None:
        """Keep what the client asked for beside the engine's input."""
        self._keep(Opened(timeout_s=timeout_s), 0, _SMALL_BYTES)

    def heard(self, input: SessionInput) -> None:
        """Keep what went to the engine."""
        number = 0
        if isinstance(input, AudioChunk):
            number, self._num_heard = self._num_heard, self._num_heard + 1
        self._keep(input, number, _SMALL_BYTES + held_bytes(input))

    def said(self, event: SessionEvent) -> None:
        """Keep what came from the engine."""
        number = 0
        if isinstance(event, UnitResult):
            number, self._num_answered = self._num_answered, self._num_answered + 1
        size = len(event.pcm) if isinstance(event, UnitResult | ReplyChunk) else 0
        self._keep(event, number, _SMALL_BYTES + size)

    def diagnosed(self, record: dict[str, object]) -> None:
        """Keep the client's own measurements."""
        self._keep(Diagnosed(record), 0, _SMALL_BYTES)

    def close(self) -> None:
        """The session is over."""
        if self._is_used and not self._is_closed:
            if not self.trouble:
                self._put(Ended(), 0, _SMALL_BYTES)
            self._owner.finish(self)
        self._is_closed = True

    def _keep(self, item: Item, number: int, size: int) -> None:
        if self._is_closed or self.trouble:
            return
        is_first = not self._is_used
        if is_first:
            self._is_used = True
            self._owner.begin()
        if not self._owner.has_room:
            self._lost.append(size)
            self._owner.counters.dropped_records += 1
            return
        self._put(item, number, size)
        if is_first:  # the folder should be there when the client is told its name
            self._owner.hurry()

    def _put(self, item: Item, number: int, size: int) -> None:
        at_s = time.monotonic() - self._began_s
        if self._lost:
            gap = Gap(num_records=len(self._lost), num_bytes=sum(self._lost))
            self._lost = []
            self._owner.put(self, Record(at_s, 0, gap), _SMALL_BYTES)
        self._owner.put(self, Record(at_s, number, item), size)

    # --- for the thread ---

    def write(self, record: Record) -> int:
        """Write *record*, and return its bytes. Raises: OSError, OmniError."""
        return self._file.write(record)

    def stop(self, error: OSError) -> None:
        """Keep nothing from here on."""
        self.trouble = trouble_of(error)
        self._file.stop()

    def release(self) -> Path | None:
        """Close the file, and return the folder that is to be finalised, if there is one."""
        self._file.close()
        return self._file.folder if self._file.exists else None


_Entry = tuple[DiskRecorder, Record | None, int]


@define(eq=False)
class DiskRecordings:
    """Records sessions under `data_dir/sessions`. `open` and `close` belong to the process."""

    data_dir: Path
    max_waiting_bytes: int = MAX_WAITING_BYTES
    counters: RecordingCounters = field(factory=RecordingCounters, init=False)
    finaliser: Finaliser = field(init=False)
    _known: set[str] = field(factory=set, init=False)
    _queue: SimpleQueue[_Entry | None] = field(factory=SimpleQueue, init=False)
    _put_bytes: int = field(default=0, init=False)  # counted by the loop
    _taken_bytes: int = field(default=0, init=False)  # counted by the thread
    _hurry: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.finaliser = Finaliser(self.counters)

    async def open(self) -> None:
        """Learn which recordings are there, finish those that were cut, and begin to write."""
        found = await asyncio.to_thread(_names_in, sessions_folder(self.data_dir))
        self._known.update(found)
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()
        self.finaliser.start(sessions_folder(self.data_dir))

    async def close(self) -> None:
        """Write what waits, and stop. What is not finalised by then is so at the next start."""
        self._queue.put(None)
        self.hurry()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _STOP_S)
        await asyncio.to_thread(self.finaliser.close)

    def start(self, client_id: str, request_type: RequestType, worker: str) -> Recorder:
        """Return the recorder of a session; its folder comes with its first record."""
        now = time.time()
        recording_id = self._new_id(client_id, request_type, now)
        began = Began(
            recording_id=recording_id,
            client_id=client_id,
            request_type=request_type,
            worker=_number_of(worker),
            started_at=now,
        )
        folder = sessions_folder(self.data_dir) / recording_id
        return DiskRecorder(recording_id, self, SessionFile(folder, began))

    @property
    def has_room(self) -> bool:
        """True while another record may wait for the disk."""
        return self.waiting_bytes < self.max_waiting_bytes

    @property
    def waiting_bytes(self) -> int:
        """What waits for the disk now."""
        return self._put_bytes - self._taken_bytes

    def put(self, recorder: DiskRecorder, record: Record, size: int) -> None:
        """Have the thread write *record*."""
        self._put_bytes += size
        self._queue.put((recorder, record, size))
        if self.waiting_bytes * _HURRY_PART >= self.max_waiting_bytes:
            self.hurry()

    def begin(self) -> None:
        """Count a session that has something to keep."""
        self.counters.started += 1
        self.counters.active += 1

    def hurry(self) -> None:
        """Have the thread look at the queue now."""
        self._hurry.set()

    def finish(self, recorder: DiskRecorder) -> None:
        """Have the thread close the files of *recorder* when it has written the rest."""
        self.counters.active -= 1
        self._queue.put((recorder, None, 0))

    def _new_id(self, client_id: str, request_type: RequestType, now: float) -> str:
        """Return a name that no recording has: a second session of an id gets `_2`, `_3`, ..."""
        name = clean_id(client_id)
        if request_type in ("audio_duplex", "omni_duplex"):
            name = f"{time.strftime('%Y%m%d_%H%M%S', time.localtime(now))}_{name}"
        if request_type == "streaming" and not name.startswith("stm_"):
            name = f"stm_{name}"
        free, number = name, 2
        while free in self._known:
            free, number = f"{name}_{number}", number + 1
        self._known.add(free)
        return free

    # --- the thread ---

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            recorder, record, size = entry
            if record is None:
                self._release(recorder)
            elif not recorder.trouble:
                self._write(recorder, record)
            self._taken_bytes += size

    def _next(self) -> _Entry | None:
        while self._queue.empty():
            self._hurry.wait(_PAUSE_S)
            self._hurry.clear()
        return self._queue.get()

    def _write(self, recorder: DiskRecorder, record: Record) -> None:
        try:
            self.counters.written_bytes += recorder.write(record)
        except OSError as exc:
            log.warning("recording %s stops: %s", recorder.recording_id, exc)
            self.counters.failed += 1
            recorder.stop(exc)
        except OmniError as exc:
            log.warning("recording %s lacks a record: %s", recorder.recording_id, exc)
        except Exception:  # the border of a thread that writes for all sessions
            log.exception("recording %s lacks a record", recorder.recording_id)

    def _release(self, recorder: DiskRecorder) -> None:
        folder = recorder.release()
        if not recorder.trouble:
            self.counters.finished += 1
        if folder is not None:
            self.finaliser.add(folder)


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _number_of(worker: str) -> int:
    """Return the number in a worker's name, which is that of its GPU: 3 for `worker-3`."""
    found = re.search(r"\d+$", worker)
    return int(found.group()) if found else 0

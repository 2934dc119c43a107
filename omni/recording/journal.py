"""The journal: one append-only file of a session, readable up to the last record that was written.

    b"omnijrn1" | record | record | ...
    record: length u32 | crc32 u32 | payload          (little-endian; both are of the payload)
    payload: time u64 (microseconds since the session began) | number u32 | size of kind u8 | kind
             | number of parts u16 | size of each part u32 | parts

An input or event of the engine contract is kept as `omni.codec` writes it (body, then buffers; its
sound as PCM16), everything else as JSON. number: which unit, counted from 0, a chunk or a result
belongs to, so that a record that was left out shifts nothing.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import orjson
from attrs import asdict, define, frozen

from omni.codec import Part, decode, encode
from omni.engine import SessionEvent, SessionInput
from omni.errors import ProtocolError
from omni.messages import KINDS, TO_WEB, TO_WORKER, Header, RequestType
from omni.recording.sound import as_float32, as_pcm16

MAGIC = b"omnijrn1"
#: A record above this is damage, not a record: nothing that a client may send is as long.
MAX_RECORD_BYTES = 512 * 2**20
#: As many as its count can say.
_MAX_PARTS = 2**16 - 1
#: Linux takes 1024 (UIO_MAXIOV).
_MAX_PARTS_AT_ONCE = 512

_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<QIB")
_COUNT = struct.Struct("<H")


@frozen(kw_only=True)
class Began:
    """The first record. started_at: Unix seconds. worker: its number."""

    recording_id: str
    client_id: str
    request_type: RequestType
    worker: int
    started_at: float


@frozen(kw_only=True)
class Opened:
    """What the client asked for beside the engine's input. timeout_s: the longest life."""

    timeout_s: float | None = None


@frozen
class Diagnosed:
    """The client's own measurements."""

    record: dict[str, object]


@frozen(kw_only=True)
class Gap:
    """Records were left out here, because the disk took them too slowly."""

    num_records: int
    num_bytes: int


@frozen(kw_only=True)
class Ended:
    """The last record of a session that was kept to its end."""


_OwnItem = Began | Opened | Diagnosed | Gap | Ended
Item = SessionInput | SessionEvent | _OwnItem

_OWN: dict[str, type[_OwnItem]] = {
    "began": Began,
    "opened": Opened,
    "diagnosed": Diagnosed,
    "gap": Gap,
    "ended": Ended,
}
_OWN_KINDS: dict[type, str] = {cls: kind for kind, cls in _OWN.items()}
_ENGINES = {**TO_WORKER, **TO_WEB}


@frozen
class Record:
    """One record. at_s: since the session began. number: of the unit it belongs to."""

    at_s: float
    number: int
    item: Item


@define(eq=False)
class JournalWriter:
    """Appends to a new journal. The lock on it says that the session is live; it dies with us."""

    path: Path
    _fd: int
    _num_bytes: int = 0

    @classmethod
    def create(cls, path: Path) -> "JournalWriter":
        """Make the file. Raises: OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer = cls(path, fd)
            writer._append([MAGIC])
        except OSError:
            os.close(fd)
            raise
        return writer

    def write(self, record: Record) -> int:
        """Append *record* and return its bytes; the kernel has them then.

        Raises: OSError, after which the file ends with the record before; ProtocolError for one of
        too many parts, of which nothing is written.
        """
        parts = _payload(record)
        crc, size = 0, 0
        for part in parts:
            crc, size = zlib.crc32(part, crc), size + len(part)
        return self._append([_FRAME.pack(size, crc), *parts])

    def close(self) -> None:
        """Close the file, and so end its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, parts: Sequence[Part]) -> int:
        size = sum(map(len, parts))
        if len(parts) > _MAX_PARTS_AT_ONCE:
            parts = [b"".join(parts)]
        try:
            written = os.writev(self._fd, parts)
            while written < size:  # the disk took a part of it; the next call may say why
                written += os.write(self._fd, b"".join(parts)[written:])
        except OSError:
            os.ftruncate(self._fd, self._num_bytes)
            raise
        self._num_bytes += size
        return size


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records of the journal at *path*, up to the first that is torn.

    A whole record that this version cannot understand is passed over.
    Raises: OSError; ProtocolError, if the file is no journal.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ProtocolError(f"{path.name} is not a journal of this version")
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            size, crc = _FRAME.unpack(frame)
            if size > MAX_RECORD_BYTES:
                return
            payload = file.read(size)
            if len(payload) != size or zlib.crc32(payload) != crc:
                return
            try:
                yield _record(payload)
            except ProtocolError:
                continue


def is_live(path: Path) -> bool:
    """Say whether a process holds the journal at *path* for writing or finalising."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _payload(record: Record) -> list[Part]:
    item = record.item
    parts: list[Part]
    if (kind := _OWN_KINDS.get(type(item))) is not None:
        parts = [orjson.dumps(asdict(cast(_OwnItem, item)))]
    else:
        engine_item = cast(SessionInput | SessionEvent, item)
        kind = KINDS[type(engine_item)]
        parts = encode(Header(kind=kind), as_pcm16(engine_item))[1:]
        if len(parts) > _MAX_PARTS:
            raise ProtocolError(f"a {kind} of {len(parts)} parts is above {_MAX_PARTS}")
    name = kind.encode("ascii")
    head = _HEAD.pack(round(record.at_s * 1e6), record.number, len(name)) + name
    sizes = struct.pack(f"<{len(parts)}I", *(len(part) for part in parts))
    return [head + _COUNT.pack(len(parts)) + sizes, *parts]


def _record(payload: bytes) -> Record:
    view = memoryview(payload)
    try:
        at_us, number, size = _HEAD.unpack_from(view)
        at = _HEAD.size + size
        kind = bytes(view[_HEAD.size : at]).decode("ascii")
        (count,) = _COUNT.unpack_from(view, at)
        at += _COUNT.size
        sizes = struct.unpack_from(f"<{count}I", view, at)
    except (struct.error, UnicodeDecodeError) as exc:
        raise ProtocolError(f"malformed record: {exc}") from exc
    at += 4 * count
    parts = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    return Record(at_us / 1e6, number, _item(kind, parts))


def _item(kind: str, parts: Sequence[Part]) -> Item:
    if kind in _ENGINES:
        item = cast(SessionInput | SessionEvent, decode(Header(kind=kind), parts))
        return as_float32(item)
    if (cls := _OWN.get(kind)) is None:
        raise ProtocolError(f"unknown record {kind!r}")
    try:
        return cls(**orjson.loads(parts[0]))
    except (TypeError, IndexError, orjson.JSONDecodeError) as exc:
        raise ProtocolError(f"malformed record {kind}: {exc}") from exc

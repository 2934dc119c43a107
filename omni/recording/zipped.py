"""A session as a zip file, made piece by piece: nothing is held but the piece at hand."""

import io
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from omni.recording.layout import JOURNAL, is_safe_name

_PIECE_BYTES = 256 * 2**10
#: The rest is compressed already, or sound, which deflate hardly makes smaller.
_WORTH_DEFLATING = (".json", ".jsonl", ".txt", ".vtt")
#: A zip file's times begin then.
_EARLIEST = (1980, 1, 1, 0, 0, 0)


def zip_pieces(folder: Path, name: str) -> Iterator[bytes]:
    """Yield the zip file of *folder*, with its entries below `{name}/`. Blocks on the disk.

    Left out are files that are being written, the journal of a session that runs, links, and names
    that unpacking elsewhere could take for a path (`..\\x` on Windows).
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for path in _files(folder):
            yield from _add(archive, sink, path, f"{name}/{path.relative_to(folder).as_posix()}")
    yield sink.take()


def _add(archive: zipfile.ZipFile, sink: "_Sink", path: Path, name: str) -> Iterator[bytes]:
    try:
        file = open(path, "rb")
    except OSError:  # deleted meanwhile
        return
    with file:
        stat = os.fstat(file.fileno())
        info = zipfile.ZipInfo(name, max(time.localtime(stat.st_mtime)[:6], _EARLIEST))
        info.external_attr = 0o644 << 16
        info.file_size = stat.st_size  # tells whether the entry needs 64-bit sizes
        if path.suffix in _WORTH_DEFLATING:
            info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w") as entry:
            while piece := file.read(_PIECE_BYTES):
                entry.write(piece)
                if sink.size >= _PIECE_BYTES:
                    yield sink.take()


def _files(folder: Path) -> list[Path]:
    found = []
    for place, names, files in os.walk(folder):
        names[:] = sorted(filter(is_safe_name, names))
        for name in sorted(filter(is_safe_name, files)):
            path = Path(place, name)
            if name != JOURNAL and not path.is_symlink():
                found.append(path)
    return found


class _Sink(io.RawIOBase):
    """Takes what a zip file is made of; it cannot seek, so that nothing needs to be kept."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]  # any buffer, as RawIOBase has it
        self._pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """Return what came since the last time."""
        pieces, self._pieces, self.size = self._pieces, [], 0
        return b"".join(pieces)

"""One file from a web address to the disk: resumed where it broke off, its hash compared."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
from attrs import frozen

from omni.errors import CheckpointError
from omni.minicpmo.hubs import RemoteFile

#: What is still on its way lies beside the final name with this ending.
PART_SUFFIX = ".part"

# Twice as much waits in aiohttp, and is lost when a connection breaks.
_CHUNK_BYTES = 1 << 18
_MAX_FAILURES = 5  # without a byte of progress in between
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
#: Worth another try: timeouts, too many requests, trouble on the server's side.
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})

Pause = Callable[[float], Awaitable[None]]


class _Again(Exception):
    """The transfer broke off for a reason that may pass; *pause_s*: as the server asked."""

    def __init__(self, cause: Exception, pause_s: float | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.pause_s = pause_s


@frozen
class Transfer:
    """Fetches files over *session*. *advance* hears of each piece: bytes more, or fewer."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str]
    advance: Callable[[int], None]
    pause: Pause = asyncio.sleep

    async def fetch(self, file: RemoteFile, target: Path) -> None:
        """Write *file* to *target*, which exists only when it is whole and its hash is right.

        A part of an earlier run is kept and continued; one that turns out wrong is dropped once.
        Raises: CheckpointError, if it is wrong again; aiohttp.ClientError, TimeoutError, OSError.
        """
        part = target.with_name(target.name + PART_SUFFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        was_begun = part.exists()
        await self._complete(file, part)
        if not await asyncio.to_thread(is_intact, part, file) and was_begun:
            # The part may be of an older version of the file.
            self._drop(part)
            await self._complete(file, part)
        if not await asyncio.to_thread(is_intact, part, file):
            size = part.stat().st_size
            self._drop(part)
            raise CheckpointError(
                f"{file.path}: what {file.url} sent ({size} bytes) does not have the size and the "
                f"hash that the hub tells; fetch again, or take another mirror"
            )
        os.replace(part, target)

    def _drop(self, part: Path) -> None:
        self.advance(-part.stat().st_size)
        part.unlink()

    async def _complete(self, file: RemoteFile, part: Path) -> None:
        """Bring *part* to its full size, with new attempts where the reason may pass."""
        failures, pause_s = 0, _FIRST_PAUSE_S
        part.touch()
        self.advance(part.stat().st_size)
        while (before := part.stat().st_size) < file.size_bytes:
            try:
                await self._continue(file, part, before)
            except _Again as again:
                if part.stat().st_size > before:
                    failures, pause_s = 0, _FIRST_PAUSE_S
                else:
                    failures += 1
                if failures == _MAX_FAILURES:
                    raise again.cause from again
                await self.pause(min(again.pause_s or pause_s, _MAX_PAUSE_S))
                pause_s *= 2

    async def _continue(self, file: RemoteFile, part: Path, start: int) -> None:
        # Compressed pieces could not be counted, nor continued.
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            async with self.session.get(file.url, headers=headers) as answer:
                answer.raise_for_status()
                if start and answer.status != 206:
                    self.advance(-start)  # the server knows no ranges: all over again
                    start = 0
                await self._write(answer, part, start, file.size_bytes)
        except aiohttp.ClientResponseError as exc:
            if exc.status not in _PASSING_STATUS:
                raise
            raise _Again(exc, _retry_after_s(exc)) from exc
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as exc:
            raise _Again(exc) from exc

    async def _write(
        self, answer: aiohttp.ClientResponse, part: Path, start: int, size_bytes: int
    ) -> None:
        """Append the answer's body to the first *start* bytes of *part*."""
        with part.open("r+b") as out:
            out.truncate(start)
            out.seek(start)
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                start += len(chunk)
                if start > size_bytes:
                    raise CheckpointError(f"{answer.url}: longer than the {size_bytes} bytes told")
                await asyncio.to_thread(out.write, chunk)
                self.advance(len(chunk))
        if start < size_bytes:
            raise _Again(aiohttp.ClientPayloadError(f"{answer.url}: ended after {start} bytes"))


def _retry_after_s(error: aiohttp.ClientResponseError) -> float | None:
    text = error.headers.get("Retry-After", "") if error.headers is not None else ""
    return float(text) if text.isdigit() else None


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Tell whether *path* has the size and the hash of *file*. Reads it whole."""
    if path.stat().st_size != file.size_bytes:
        return False
    if file.digest.kind == "none":
        return True
    digest = hashlib.sha256() if file.digest.kind == "sha256" else hashlib.sha1()
    if file.digest.kind == "git":
        digest.update(f"blob {file.size_bytes}\0".encode())
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.digest.hexadecimal.lower()

"""A stage for recordings: sounds and pictures to keep, a recorder's whole life, what came of it."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from omni.audio import INPUT_HZ, OUTPUT_HZ
from omni.engine import Buffer
from omni.messages import RequestType
from omni.recording.disk import DiskRecordings
from omni.recording.finalise import finalise
from omni.recording.journal import Began, Ended, Item, JournalWriter, Record
from omni.recording.layout import JOURNAL, META, RECORDING, write_json
from omni.recording.meta import meta_document

TIMEOUT_S = 60.0
Document = dict[str, Any]


def tone(duration_s: float, rate_hz: int = INPUT_HZ, level: float = 0.25) -> Buffer:
    """Return float32 sound; every sample survives PCM16 and back exactly."""
    count = round(duration_s * rate_hz)
    steps = np.round(level * 32768 * np.sin(np.arange(count) / 9.0)) / 32768 + 0.0  # no -0.0
    return Buffer(steps.astype("<f4").tobytes())


def answer(duration_s: float) -> Buffer:
    """Return the sound of an answer."""
    return tone(duration_s, OUTPUT_HZ)


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48)) -> Buffer:
    """Return a compressed picture."""
    file = io.BytesIO()
    Image.new("RGB", size, (200, 80, 20)).save(file, form)
    return Buffer(file.getvalue())


def write_session(
    folder: Path,
    request_type: RequestType,
    items: Sequence[tuple[float, int, Item]],
    *,
    ended: bool = True,
    started_at: float = 1_700_000_000.0,
) -> Path:
    """Write the journal of a session, as the recorder does; return its folder.

    items: seconds since the beginning, number of the unit, and what was said then.
    """
    folder.mkdir(parents=True)
    began = Began(
        recording_id=folder.name,
        client_id="client",
        request_type=request_type,
        worker=3,
        started_at=started_at,
    )
    write_json(folder / META, meta_document(began, {}, None))
    journal = JournalWriter.create(folder / JOURNAL)
    journal.write(Record(0.0, 0, began))
    for at_s, number, item in items:
        journal.write(Record(at_s, number, item))
    if ended:
        journal.write(Record(items[-1][0] if items else 0.0, 0, Ended()))
    journal.close()
    return folder


def finalised(folder: Path) -> Document:
    """Finalise a session, and return its recording.json."""
    finalise(folder)
    return read(folder / RECORDING)


def read(path: Path) -> Document:
    """Return a JSON document."""
    document: Document = orjson.loads(path.read_bytes())
    return document


@asynccontextmanager
async def recording(data_dir: Path, **options: Any) -> AsyncIterator[DiskRecordings]:
    """Give a place of recording that runs, and stop it."""
    recordings = DiskRecordings(data_dir, **options)
    await recordings.open()
    try:
        yield recordings
    finally:
        await recordings.close()


async def until_finalised(recordings: DiskRecordings, count: int = 1) -> None:
    """Wait until so many sessions are finalised."""
    end_s = time.monotonic() + TIMEOUT_S
    while recordings.counters.finalised < count:
        assert not recordings.counters.unfinalised and time.monotonic() < end_s
        await asyncio.sleep(0.02)


async def until_written(recordings: DiskRecordings) -> None:
    """Wait until nothing waits for the disk."""
    end_s = time.monotonic() + TIMEOUT_S
    while recordings.waiting_bytes:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)

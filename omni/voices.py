"""The voices that clients uploaded: `registry.json` and one WAV file each (16 kHz, mono, PCM16).

The registry is the demo's: a JSON list under `{data_dir}/assets/ref_audio/`. What an older server
left under `{data_dir}/ref_audio/` is taken over at the start.
"""

import asyncio
import json
import logging
import math
import re
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from attrs import asdict, frozen

from omni.audio import INPUT_HZ, Waveform, resample, seconds
from omni.errors import NotFound, OmniError, ProtocolError, TooLarge
from omni.files import write_atomically
from omni.wav import wav_from_waveform, waveform_from_wav

log = logging.getLogger(__name__)

REGISTRY = "registry.json"
#: Appended to the name of an older registry once its voices are taken over.
_TAKEN_OVER = ".taken-over"
_UNREADABLE = ".unreadable"
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@frozen(kw_only=True)
class VoiceEntry:
    """One line of the registry."""

    id: str
    name: str
    filename: str
    duration_ms: int
    created_at: str
    source_type: str = "upload"
    sample_rate: int = INPUT_HZ


@frozen(kw_only=True, eq=False)
class Voice:
    """A voice with its sound: float32, 16 kHz, shape (N,)."""

    id: str
    name: str
    samples: Waveform


class Voices:
    """The registry, kept in memory and on disk. Every change is on disk before it is answered.

    Full when it holds *max_voices*, or *max_total_s* seconds of them all together. A change that
    has begun is finished whole, in memory too, when its client hangs up meanwhile.
    """

    def __init__(self, data_dir: Path, max_voices: int, max_total_s: float) -> None:
        self._folder = data_dir / "assets" / "ref_audio"
        self._old_folder = data_dir / "ref_audio"
        self._max_voices, self._max_total_s = max_voices, max_total_s
        self._entries: dict[str, VoiceEntry] = {}
        self._changing = asyncio.Lock()  # so that those who wait hold no thread
        self._writing = threading.Lock()  # for threads that nobody waits for any more

    def load(self) -> None:
        """Read what is on disk. Blocks. What cannot be read is left there, and named in the log."""
        self._entries = _read_registry(self._folder)
        if taken := _take_over(self._old_folder, self._folder, self._entries):
            self._entries |= taken
            try:
                _write_registry(self._folder, list(self._entries.values()))
                old = self._old_folder / REGISTRY
                old.rename(old.with_name(REGISTRY + _TAKEN_OVER))
            except (OSError, OmniError) as exc:
                log.warning("the voices of %s stay there: %s", self._old_folder, exc)

    def entries(self) -> list[VoiceEntry]:
        """Return all voices, the oldest first."""
        return list(self._entries.values())

    def path(self, voice_id: str) -> Path:
        """Return the WAV file of a voice. Raises: NotFound."""
        return self._folder / self._entry(voice_id).filename

    async def find(self, name: str) -> Voice | None:
        """Return the voice of that id, or the newest of that name; None where there is none."""
        entry = self._entries.get(name) or self._named(name)
        if entry is None:
            return None
        try:
            samples = await asyncio.to_thread(_read_wav, self._folder / entry.filename)
        except (OSError, ProtocolError) as exc:
            log.warning("voice %s cannot be read: %s", entry.id, exc)
            return None
        return Voice(id=entry.id, name=entry.name, samples=samples)

    async def add(self, name: str, samples: Waveform) -> VoiceEntry:
        """Keep a voice, given at 16 kHz; without a name its id is one.

        Raises: TooLarge when the registry is full.
        """
        voice_id = str(uuid.uuid4())
        entry = VoiceEntry(
            id=voice_id,
            name=name or voice_id,
            filename=f"{voice_id}.wav",
            duration_ms=round(1000 * seconds(samples.size, INPUT_HZ)),
            created_at=datetime.now().isoformat(),
        )
        async with self._changing:
            await asyncio.to_thread(self._add, entry, samples)
        return entry

    async def remove(self, voice_id: str) -> None:
        """Forget a voice; sessions that use it go on. Raises: NotFound."""
        async with self._changing:
            await asyncio.to_thread(self._remove, voice_id)

    def _add(self, entry: VoiceEntry, samples: Waveform) -> None:
        with self._writing:
            self._require_place(entry)
            entries = {**self._entries, entry.id: entry}
            _keep(self._folder, entry, samples, list(entries.values()))
            self._entries = entries

    def _remove(self, voice_id: str) -> None:
        with self._writing:
            filename = self._entry(voice_id).filename
            entries = {key: item for key, item in self._entries.items() if key != voice_id}
            _write_registry(self._folder, list(entries.values()))
            self._entries = entries
            (self._folder / filename).unlink(missing_ok=True)

    def _entry(self, voice_id: str) -> VoiceEntry:
        if (entry := self._entries.get(voice_id)) is None:
            raise NotFound(f"There is no voice {voice_id[:64]!r}")
        return entry

    def _named(self, name: str) -> VoiceEntry | None:
        wanted = name.casefold()
        return next((e for e in reversed(self.entries()) if e.name.casefold() == wanted), None)

    def _require_place(self, entry: VoiceEntry) -> None:
        total_s = sum(item.duration_ms for item in (*self._entries.values(), entry)) / 1000
        if len(self._entries) >= self._max_voices:
            raise TooLarge(f"There are {self._max_voices} voices already: delete one first")
        if total_s > self._max_total_s:
            raise TooLarge(
                f"All voices together would last {total_s:.0f} s, above {self._max_total_s:.0f} s: "
                "delete one first"
            )


def _read_registry(folder: Path) -> dict[str, VoiceEntry]:
    """Return the entries whose file is there, by id."""
    path = folder / REGISTRY
    try:
        lines = json.loads(path.read_text("utf-8"))
        if not isinstance(lines, list):
            raise ValueError("a list is expected")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        log.warning("the registry of voices %s cannot be read: %s", path, exc)
        _set_aside(path)
        return {}
    entries = [_entry_of(line, folder) for line in lines]
    return {entry.id: entry for entry in entries if entry is not None}


def _set_aside(path: Path) -> None:
    """Rename a registry that cannot be read: the next voice would write over it."""
    with suppress(OSError):
        path.rename(path.with_name(path.name + _UNREADABLE))


def _entry_of(line: object, folder: Path) -> VoiceEntry | None:
    """Return one entry as it may be trusted; None where it may not."""
    given = line if isinstance(line, dict) else {}
    voice_id, duration_ms = str(given.get("id", "")), given.get("duration_ms", 0)
    filename = f"{voice_id}.wav"
    if not _ID.fullmatch(voice_id) or not (folder / filename).is_file():
        log.warning("a voice in %s is left out: its id or its file is missing", folder)
        return None
    return VoiceEntry(
        id=voice_id,
        name=str(given.get("name") or voice_id),
        filename=filename,
        duration_ms=round(duration_ms) if _is_number(duration_ms) else 0,
        created_at=str(given.get("created_at", "")),
        source_type=str(given.get("source_type", "upload")),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _take_over(
    old_folder: Path, folder: Path, known: dict[str, VoiceEntry]
) -> dict[str, VoiceEntry]:
    """Write the voices of *old_folder* to *folder*, and return their entries."""
    taken = {}
    for voice_id, entry in _read_registry(old_folder).items():
        if voice_id in known:
            continue
        try:
            samples = _read_wav(old_folder / entry.filename)
            write_atomically(folder / entry.filename, wav_from_waveform(samples, INPUT_HZ))
        except (OSError, ProtocolError) as exc:
            log.warning("voice %s of %s is left out: %s", voice_id, old_folder, exc)
            continue
        taken[voice_id] = entry
    return taken


def _read_wav(path: Path) -> Waveform:
    samples, rate_hz = waveform_from_wav(path.read_bytes())
    return resample(samples, rate_hz, INPUT_HZ)


def _keep(
    folder: Path, entry: VoiceEntry, samples: Waveform, entries: Sequence[VoiceEntry]
) -> None:
    path = folder / entry.filename
    try:
        write_atomically(path, wav_from_waveform(samples, INPUT_HZ))
        _write_registry(folder, entries)
    except (OSError, OmniError) as exc:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        why = exc.strerror if isinstance(exc, OSError) else exc  # without our paths
        raise OmniError(f"The voice cannot be kept: {why}") from exc


def _write_registry(folder: Path, entries: Sequence[VoiceEntry]) -> None:
    lines = [asdict(entry) for entry in entries]
    text = json.dumps(lines, ensure_ascii=False, indent=2)
    try:
        write_atomically(folder / REGISTRY, text.encode())
    except OSError as exc:
        raise OmniError(f"The registry of voices cannot be written: {exc.strerror}") from exc

"""Presets: what a conversation may begin with. One YAML file each, under `omni/assets/presets/`.

A mode is a folder. What a file says is checked as a client's message would be, and what it names
must lie within `omni/assets/`: a file that breaks a rule is left out with a warning.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # PyYAML has no stubs of its own
from attrs import frozen

from omni.audio import INPUT_HZ, seconds
from omni.engine import Buffer
from omni.errors import OmniError, ProtocolError
from omni.process import ROOT
from omni.realtime.fields import FieldError, Fields
from omni.realtime.media import MAX_VOICE_S, checked_sound
from omni.wav import waveform_from_wav

log = logging.getLogger(__name__)

ASSETS = ROOT / "omni" / "assets"
MODES = ("turnbased", "half_duplex_audio", "omni", "audio_duplex")
#: A preset without an order stands behind all that have one.
LAST = 999
_MAX_FILE_BYTES = 64 * 2**10
_MAX_ITEMS = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLOAT32_BYTES = 4


@frozen(kw_only=True)
class Recording:
    """A reference voice of the project. path: relative to the project, as clients see it."""

    path: str
    duration_s: float

    @property
    def name(self) -> str:
        """What clients show."""
        return Path(self.path).stem


@frozen(kw_only=True)
class Preset:
    """One preset: system content (turn-based, half duplex), or a prompt and a voice (duplex)."""

    id: str
    name: str
    description: str
    order: int
    system_content: tuple[str | Recording, ...] = ()
    system_prompt: str = ""
    ref_audio: Recording | None = None


Presets = dict[str, tuple[Preset, ...]]


def load_presets(assets: Path = ASSETS) -> Presets:
    """Return the presets of each mode in their order. Blocks."""
    return {mode: tuple(_load_mode(assets, assets / "presets" / mode)) for mode in MODES}


def read_recording(path: Path) -> Buffer:
    """Return a WAV file as float32 at 16 kHz. Blocks. Raises: OSError, ProtocolError."""
    samples, rate_hz = waveform_from_wav(path.read_bytes())
    return checked_sound(samples, rate_hz, MAX_VOICE_S)


def duration_s(pcm: Buffer) -> float:
    """Return how long a recording lasts, as clients show it."""
    return round(seconds(len(pcm) // _FLOAT32_BYTES, INPUT_HZ), 1)


def _load_mode(assets: Path, folder: Path) -> Sequence[Preset]:
    presets: dict[str, Preset] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            preset = _read_preset(assets, path)
            if preset.id in presets:
                raise ProtocolError(f"id: {preset.id} is another preset's already")
            presets[preset.id] = preset
        except (OSError, OmniError, yaml.YAMLError, ValueError, RecursionError) as exc:
            log.warning("preset %s is left out: %s", path, exc)
    return sorted(presets.values(), key=lambda preset: preset.order)  # stable: then by file name


def _read_preset(assets: Path, path: Path) -> Preset:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ProtocolError(f"it is above {_MAX_FILE_BYTES >> 10} KiB")
    document = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(document, dict):
        raise ProtocolError("a mapping with id, name, ... is expected")
    fields = Fields(document)
    preset_id = fields.text("id")
    if not _ID.fullmatch(preset_id):
        raise fields.wrong("id", "1 to 64 letters, digits, _ and - are expected")
    content, prompt = tuple(_read_content(assets, fields)), fields.text("system_prompt")
    if bool(content) == bool(prompt):
        raise ProtocolError("one of system_content and system_prompt is expected")
    return Preset(
        id=preset_id,
        name=fields.text("name", preset_id),
        description=fields.text("description"),
        order=fields.whole("order", LAST, -1_000_000, 1_000_000),
        system_content=content,
        system_prompt=prompt,
        ref_audio=_recording(assets, fields, "ref_audio_path"),
    )


def _read_content(assets: Path, fields: Fields) -> Iterator[str | Recording]:
    for item in fields.objects("system_content", _MAX_ITEMS):
        if item.choice("type", "text", ("text", "audio")) == "text":
            yield item.text("text")
        elif (recording := _recording(assets, item, "path")) is not None:
            yield recording
        else:
            raise item.wrong("path", "is missing")


def _recording(assets: Path, fields: Fields, name: str) -> Recording | None:
    """Return the recording that *name* names, relative to the folder that holds omni's own."""
    given = fields.text(name)
    if not given:
        return None
    root = assets.parent.parent
    path = (root / given).resolve()
    if not path.is_relative_to(assets.resolve()):
        raise fields.wrong(name, f"{given} lies outside of {assets.relative_to(root)}")
    try:
        pcm = read_recording(path)
    except (OSError, ProtocolError) as exc:
        raise FieldError((*fields.loc, name), f"{given} cannot be used: {exc}") from exc
    shown = path.relative_to(root.resolve()).as_posix()
    return Recording(path=shown, duration_s=duration_s(pcm))

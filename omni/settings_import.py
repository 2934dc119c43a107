"""`omni settings import`: a config.json of the MiniCPM-o demo -> settings.toml."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from omni.errors import SettingsError
from omni.settings import as_toml, checked_setting, is_setting

#: Settings that name files or folders; relative ones are meant from where config.json lies.
_PATHS = ("model.model_path", "model.pt_path", "audio.ref_audio_path", "service.data_dir")
#: The section of the demo in which a key stands that has another name here.
_RENAMED = {"service.eta_duplex_s": ("service.eta_audio_duplex_s", "service.eta_omni_duplex_s")}


@define
class Imported:
    """What was read: settings by path, and what could not be taken over, in words."""

    values: dict[str, Any] = field(factory=dict)  # of each setting's own type
    warnings: list[str] = field(factory=list)


def import_settings(path: Path, output: Path | None) -> int:
    """Print the settings that *path* asks for, or write them to *output*; return the exit code.

    Raises: SettingsError, also for an *output* that is there already.
    """
    imported = read_config(path)
    for warning in imported.warnings:
        print(f"omni: warning: {warning}", file=sys.stderr)
    text = as_toml(imported.values)
    if output is None:
        print(text, end="")
        return 0
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise SettingsError(f"{output} is there already: name another file, or delete it") from exc
    except OSError as exc:
        raise SettingsError(f"cannot write {output}: {exc.strerror}") from exc
    print(f"wrote {output}: {len(imported.values)} settings from {path}")
    return 0


def read_config(path: Path) -> Imported:
    """Return the settings in config.json *path*. Raises: SettingsError."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise SettingsError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a JSON object with sections is expected")
    imported = Imported()
    for name, value in _entries(document):
        _take(imported, name, value, path)
    return imported


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield `section.key` and value; what stands outside of a section by its key alone."""
    for section, body in document.items():
        if isinstance(body, dict):
            yield from ((f"{section}.{key}", value) for key, value in body.items())
        else:
            yield section, body


def _take(imported: Imported, name: str, value: Any, path: Path) -> None:
    targets = _RENAMED.get(name, (name,))
    if not all(is_setting(target) for target in targets):
        imported.warnings.append(f"{path}: there is no setting {name}: left out")
    elif value is not None:  # null is the demo's word for the default
        for target in targets:
            located = _located(imported, target, value, path) if target in _PATHS else value
            if located is not None:
                imported.values[target] = checked_setting(target, located, str(path))


def _located(imported: Imported, name: str, value: Any, path: Path) -> Any:
    """Return a file's full path where it is there, a model's id as it is; None: no such voice."""
    if not isinstance(value, str) or not value:
        return value
    found = path.resolve().parent / value
    if found.exists():
        return str(found)
    if name == "audio.ref_audio_path":
        imported.warnings.append(f"{path}: {name} = {value}: there is no such file: left out")
        return None
    return value

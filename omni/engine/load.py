"""Which engine the settings mean, and its making. The only place that knows all engines."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from omni.engine import Engine
from omni.engine.null import NUM_SLOTS, NullEngine
from omni.errors import SettingsError
from omni.settings import ModelSettings, Settings

#: Name -> module, class. Imported late: each needs packages that other machines do not have.
_ENGINES = {
    "pocket": ("omni.pocket.engine", "PocketEngine", "pocket"),
    "minicpmo": ("omni.minicpmo.engine", "MiniCPMOEngine", "gpu"),
}


def engine_name(settings: ModelSettings) -> str:
    """Return the engine that `auto` means, or the one that is asked for."""
    if settings.engine != "auto":
        return settings.engine
    return "minicpmo" if settings.model_path else "pocket"


def load_engine(settings: Settings) -> Engine:
    """Return the engine, not yet loaded.

    Raises: SettingsError when its packages are not installed, or it cannot take these settings.
    """
    name = engine_name(settings.model)
    if name == "null":
        return NullEngine(settings.fabric.slots or NUM_SLOTS)
    if name == "minicpmo" and not settings.model.model_path:
        raise SettingsError(
            "model.engine = 'minicpmo' needs model.model_path: the checkpoint's directory"
        )
    module_name, class_name, extra = _ENGINES[name]
    try:
        make = getattr(import_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("omni"):
            raise  # ours: a mistake in the installation, and no extra would mend it
        raise SettingsError(
            f"the engine {name!r} needs the package {exc.name!r} (extra {extra!r} of setup.cfg): "
            f"run `bin/omni install {extra}`"
        ) from exc
    return cast(Callable[[Settings], Engine], make)(settings)

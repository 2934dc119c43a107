"""What every omni process shares: its arguments, its settings, and its end with its parent."""

import argparse
import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from omni.errors import SettingsError
from omni.settings import Settings, load_settings

#: The directory that holds `omni/`, `settings.toml` and `webroot/`.
ROOT = Path(__file__).resolve().parent.parent

#: Exit codes that the launcher understands; 78 is EX_CONFIG of sysexits.h.
EXIT_ENGINE_DEAD = 70
EXIT_CANNOT_START = 78

#: More sessions than one web process could ever hold.
_MAX_FILES = 65_536
_PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h
_PARENT_POLL_S = 0.5


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--settings` and `--set`, which every command takes."""
    parser.add_argument("--settings", metavar="FILE", help="settings file (default: settings.toml)")
    parser.add_argument(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="set one field; may be repeated",
    )


def add_parent_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--parent`, for what must not outlive the process that started it."""
    parser.add_argument(
        "--parent",
        type=int,
        default=0,
        metavar="PID",
        help="stop when process PID, which started this one, is gone",
    )


def settings_path(given: str | None) -> Path | None:
    """Return the settings file to read: the one that was *given*, or the project's own."""
    if given is not None:
        return Path(given).resolve()
    own = ROOT / "settings.toml"
    return own if own.exists() else None


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that *args* (from a parser with `add_settings_arguments`) ask for.

    Relative directories are meant from the project's root, so that every process finds the same.
    Raises: SettingsError.
    """
    settings = load_settings(settings_path(args.settings), os.environ, args.overrides)
    fabric = evolve(settings.fabric, run_dir=str(ROOT / settings.fabric.run_dir))
    service = evolve(settings.service, data_dir=str(ROOT / settings.service.data_dir))
    return evolve(settings, fabric=fabric, service=service)


def process_settings(argv: Sequence[str] | None = None) -> Settings:
    """Return the settings of a process that takes no arguments of its own; for `main` of each.

    Ends the process with a clear line for a wrong setting. Binds its life to the launcher's.
    """
    parser = argparse.ArgumentParser()
    add_settings_arguments(parser)
    add_parent_argument(parser)
    return start_process(parser.parse_args(argv))


def start_process(args: argparse.Namespace) -> Settings:
    """Return the settings of *args* and bind this process to its parent, if it has one."""
    if args.parent:
        die_with_parent(args.parent)
    try:
        return settings_of(args)
    except SettingsError as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(EXIT_CANNOT_START) from exc


def spare_the_loaded() -> None:
    """Have the garbage collector look no more at what is there now; for a process that is ready.

    A full collection of a web process took 44 ms with all its modules (2 cores, 400 sessions), and
    more in a worker with a model. They stay to the end anyway.
    """
    gc.collect()
    gc.freeze()


def allow_many_files() -> None:
    """Raise this process's limit of open files to what it may have: a call takes two of them.

    Shells and service managers often begin with 1,024, which 400 recorded calls come close to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def die_with_parent(parent: int) -> None:
    """Have this process told to stop (SIGTERM) when process *parent* is gone, however it went."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0:
            if os.getppid() != parent:  # it died before the call above
                os.kill(os.getpid(), signal.SIGTERM)
            return
    stop_with_parent(parent)


def stop_with_parent(parent: int) -> None:
    """Do the same by looking; for a process that any thread of *parent* may have started.

    The kernel's signal above comes as soon as that one thread ends.
    """
    watch = threading.Thread(target=_watch_parent, args=(parent,), name="parent", daemon=True)
    watch.start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)

"""The command line: `omni COMMAND`. Arguments only; each command's work is in its module."""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omni import __version__
from omni.errors import NoWorker, OmniError, SettingsError
from omni.process import (
    EXIT_CANNOT_START,
    ROOT,
    add_parent_argument,
    add_settings_arguments,
    settings_of,
    settings_path,
    stop_with_parent,
)
from omni.running import stop_running
from omni.settings import Settings, as_toml
from omni.settings_import import import_settings
from omni.settings_table import as_markdown

Command = Callable[[argparse.Namespace], int]

#: Commands that take their own arguments from here on, with the module that runs them.
_PROCESSES = {"broker": "omni.broker", "worker": "omni.gpu_worker", "web": "omni.web"}
#: Stands in what can be run; the other files of `bench/` are its parts.
_IS_PROGRAM = 'if __name__ == "__main__":'


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and (run := _PASSED_ON.get(words[0])) is not None:
            return run(words[1:])
        args = make_parser().parse_args(words)
        command: Command = args.command
        return command(args)
    except SettingsError as exc:
        return _complain(exc, EXIT_CANNOT_START)
    except OmniError as exc:
        return _complain(exc, 1)
    except KeyboardInterrupt:
        return 130


def _complain(error: OmniError, code: int) -> int:
    print(f"omni: {error}", file=sys.stderr)
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands but those that pass their arguments on."""
    parser = argparse.ArgumentParser(
        prog="omni",
        description="A self-hosted server for real-time conversation: voice, pictures, text.",
        epilog="omni broker | worker | web: one process alone; omni test [pytest arguments]; "
        "omni talk --help; omni bench [NAME ...]; omni install [EXTRA ...]: set up only; "
        "omni model fetch [ID] | check DIR; omni tiny-checkpoint DIR; "
        "omni sessions list | show | export | clean.",
    )
    parser.add_argument("--version", action="version", version=f"omni {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_up(commands.add_parser("up", help="start everything and watch it"))
    _add_down(commands.add_parser("down", help="stop everything"))
    _add_status(commands.add_parser("status", help="show what runs, live"))
    _add_drain(commands.add_parser("drain", help="take no new sessions, wait for those that run"))
    _add_doctor(commands.add_parser("doctor", help="check this machine"))
    _add_keys(commands.add_parser("keys", help="keys of clients, and of workers on other hosts"))
    _add_settings(commands.add_parser("settings", help="print settings.toml with the defaults"))
    _add_precompile(commands.add_parser("precompile", help="build the model's kernels ahead"))
    return parser


def _add_up(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument("--port", metavar="N", help="port of the pages (0: any free one)")
    parser.add_argument("--host", metavar="ADDRESS", help="0.0.0.0: reachable from elsewhere")
    parser.add_argument("--gpus", metavar="0,1", default="", help="which GPUs; default: all")
    parser.add_argument("--workers", metavar="N", help="worker processes")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--http", action="store_true", help="no TLS; for localhost")
    _add_model(parser)
    add_parent_argument(parser)
    parser.set_defaults(command=_up)


def _up(args: argparse.Namespace) -> int:
    from omni.up import up  # needs every package of the fabric; `omni down` shall not

    if args.parent:
        stop_with_parent(args.parent)
    args.overrides = [*args.overrides, *overrides_of(args)]
    settings = settings_of(args)
    gpus = [gpu.strip() for gpu in args.gpus.split(",") if gpu.strip()]
    return up(settings, _arguments(args), gpus)


def overrides_of(args: argparse.Namespace) -> list[str]:
    """Return the short flags of `omni up` as `--set` knows them."""
    chosen = {
        "service.gateway_port": args.port,
        "web.host": args.host,
        "fabric.workers": args.workers,
        "service.compile": "true" if args.compile else None,
        "web.https": "false" if args.http else None,
    }
    flags = [f"{path}={value}" for path, value in chosen.items() if value is not None]
    return flags + _of_model(args)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH", help="MiniCPM-o checkpoint: directory or id")
    parser.add_argument("--data-dir", metavar="DIR", help="recordings, voices, fetched models")


def _of_model(args: argparse.Namespace) -> list[str]:
    """Return what `_add_model` added as `--set` knows it."""
    chosen = {
        "model.model_path": _absolute_if_there(args.model),
        "service.data_dir": os.path.abspath(args.data_dir) if args.data_dir else None,
    }
    return [f"{path}={value}" for path, value in chosen.items() if value is not None]


def _absolute_if_there(path: str | None) -> str | None:
    """Return a directory's full path, for children run elsewhere; a model's id as it is."""
    return os.path.abspath(path) if path and Path(path).exists() else path


def _arguments(args: argparse.Namespace) -> list[str]:
    """Return what brings a child to the same settings."""
    path = settings_path(args.settings)
    flags = ["--settings", str(path)] if path is not None else []
    return flags + [word for override in args.overrides for word in ("--set", override)]


def _add_down(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument("--drain", action="store_true", help="let running sessions end first")
    parser.set_defaults(command=_down)


def _down(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.drain:
        try:
            _run_drain(settings, "")
        except NoWorker:  # its broker does not answer: there is nobody to wait for
            print("omni: no broker answers; stopping without a drain", file=sys.stderr)
    # One after the other: web, workers, broker; then what is left is killed.
    stopped = stop_running(settings.fabric.run_dir, 3 * settings.fabric.stop_timeout_s + 1)
    print(f"stopped: {', '.join(stopped)}" if stopped else "omni was not running here")
    return 0


def _add_status(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument("--once", action="store_true", help="print once; do not go on")
    parser.add_argument("--json", action="store_true", help="print once, as JSON")
    parser.set_defaults(command=_status)


def _status(args: argparse.Namespace) -> int:
    from omni.status import show_status  # needs every package of the fabric

    fabric = settings_of(args).fabric
    is_live = sys.stdout.isatty() and not (args.once or args.json)
    return asyncio.run(show_status(fabric, as_json=args.json, is_live=is_live))


def _add_drain(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument("--worker", default="", help="only this one, as `omni status` calls it")
    parser.set_defaults(command=lambda args: _run_drain(settings_of(args), args.worker))


def _run_drain(settings: Settings, worker: str) -> int:
    from omni.status import drain  # needs every package of the fabric

    return asyncio.run(drain(settings.fabric, worker))


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    _add_model(parser)
    parser.set_defaults(command=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from omni.doctor import examine  # looks for every package there is

    args.overrides = [*args.overrides, *_of_model(args)]
    settings = settings_of(args)
    os.chdir(ROOT)  # from where the processes look at relative paths
    return examine(settings)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument(
        "what",
        nargs="?",
        default="hosts",
        choices=("hosts", "api", "admin", "list", "remove"),
        help="hosts (the default): the pair for workers on other hosts; api, admin: a new key for "
        "clients; list: all of those; remove: one of them",
    )
    parser.add_argument("name", nargs="?", default="", help="whose a new key is; which to remove")
    parser.set_defaults(command=_keys)


def _keys(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.what != "hosts":
        from omni.security.commands import run_keys  # as below

        return run_keys(settings, args.what, args.name)
    from omni.keys import make_keys  # needs every package of the fabric

    folder = make_keys(settings.fabric)
    print(f"made {folder}: copy it to the run directory of every host, and keep it secret")
    return 0


def _add_precompile(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    _add_model(parser)
    parser.add_argument("--compile", action="store_true", help="also what torch.compile builds")
    parser.add_argument("--gpu", metavar="N", default="", help="which GPU, as nvidia-smi counts")
    parser.set_defaults(command=_precompile)


def _precompile(args: argparse.Namespace) -> int:
    """Start the engine once, in a process of its own that may choose its GPU."""
    compiles = ["service.compile=true"] if args.compile else []
    args.overrides = [*args.overrides, *_of_model(args), *compiles]
    words = ["--gpu", args.gpu] if args.gpu else []
    command = [sys.executable, "-m", "omni.precompile", *words, *_arguments(args)]
    return subprocess.call(command, cwd=ROOT)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the table of the docs")
    parser.set_defaults(command=_print_settings)
    commands = parser.add_subparsers(metavar="COMMAND")
    importer = commands.add_parser("import", help="read a config.json of the MiniCPM-o demo")
    importer.add_argument("file", type=Path, help="the demo's config.json")
    importer.add_argument("--output", type=Path, metavar="FILE", help="write there; default: print")
    importer.set_defaults(command=_import_settings)


def _import_settings(args: argparse.Namespace) -> int:
    return import_settings(args.file, args.output)


def _print_settings(args: argparse.Namespace) -> int:
    print(as_markdown() if args.markdown else as_toml(), end="")
    return 0


def _run_process(name: str, words: list[str]) -> int:
    """Become the process *name*, as the launcher starts it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_settings_arguments(parser)
    args, further = parser.parse_known_args(words)
    command = [sys.executable, "-m", _PROCESSES[name], *further, *_arguments(args)]
    os.chdir(ROOT)  # relative directories and sockets mean the same everywhere
    os.execv(sys.executable, command)


def _test(words: list[str]) -> int:
    """Run the tests; *words* go to pytest."""
    return subprocess.call([sys.executable, "-m", "pytest", *words], cwd=ROOT)


def _bench(words: list[str]) -> int:
    """Run benches by name, or name those that there are."""
    files = (ROOT / "bench").glob("*.py")
    known = sorted(path.stem for path in files if _IS_PROGRAM in path.read_text("utf-8"))
    if not words or words[0].startswith("-"):
        print("omni bench NAME [arguments]; there are: " + ", ".join(known))
        return 0
    if words[0] not in known:
        raise SettingsError(f"there is no bench {words[0]!r}; there are: {', '.join(known)}")
    return subprocess.call([sys.executable, "-m", f"bench.{words[0]}", *words[1:]], cwd=ROOT)


def _talk(words: list[str]) -> int:
    return subprocess.call([sys.executable, "-m", "omni.talk", *words])


def _sessions(words: list[str]) -> int:
    from omni.sessions_cli import run  # needs the packages of recordings

    return run(words)


def _tiny_checkpoint(words: list[str]) -> int:
    return subprocess.call([sys.executable, "-m", "omni.minicpmo.tiny_checkpoint", *words])


def _model(words: list[str]) -> int:
    """Fetch or check a checkpoint; a fetch goes where a worker looks for a model's id."""
    name, *rest = words or [""]
    if name == "fetch":
        data_dir = settings_of(argparse.Namespace(settings=None, overrides=[])).service.data_dir
        rest = ["--data-dir", data_dir, *rest]
    elif name != "check":
        raise SettingsError("omni model fetch [ID] [--to DIR] | omni model check DIR")
    return subprocess.call([sys.executable, "-m", f"omni.minicpmo.{name}", *rest])


_PASSED_ON: dict[str, Callable[[list[str]], int]] = {
    "broker": lambda words: _run_process("broker", words),
    "worker": lambda words: _run_process("worker", words),
    "web": lambda words: _run_process("web", words),
    "test": _test,
    "talk": _talk,
    "bench": _bench,
    "model": _model,
    "sessions": _sessions,
    "tiny-checkpoint": _tiny_checkpoint,
}


if __name__ == "__main__":
    sys.exit(main())

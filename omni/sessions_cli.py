"""`omni sessions list | show | export | clean`: recorded sessions, with the server or without."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve

from omni.errors import ClientError, NotFound, OmniError
from omni.process import add_settings_arguments, settings_of
from omni.recording.cleanup import clean
from omni.recording.finalise import finalise
from omni.recording.journal import is_live
from omni.recording.layout import JOURNAL, RECORDING
from omni.recording.store import Entry, SessionStore
from omni.recording.zipped import zip_pieces
from omni.settings import RecordingSettings, Settings
from omni.table import render_table

Document = dict[str, Any]

#: What `clean` keeps where neither a flag nor a setting says otherwise. Source: the demo's own.
DEFAULT_DAYS = 30
DEFAULT_GB = 50.0

_HEAD = ("session", "kind", "begun", "seconds", "MiB")


def run(words: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    args = make_parser().parse_args(words)
    command: Callable[[argparse.Namespace, Settings], int] = args.command
    return command(args, settings_of(args))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `omni sessions`."""
    parser = argparse.ArgumentParser(prog="omni sessions", description="The recorded sessions.")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    listed = _command(commands.add_parser("list", help="the newest first"), _list)
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="default 50; 0: all")
    listed.add_argument("--json", action="store_true", help="as JSON, a session a line")
    shown = _command(commands.add_parser("show", help="what was said in one"), _show)
    shown.add_argument("session_id")
    shown.add_argument("--json", action="store_true", help="recording.json as it is")
    exported = _command(commands.add_parser("export", help="one as a zip file"), _export)
    exported.add_argument("session_id")
    exported.add_argument("--to", metavar="FILE", help="default: ID.zip here; -: standard output")
    cleaned = _command(commands.add_parser("clean", help="delete old sessions"), _clean)
    cleaned.add_argument("--days", type=int, metavar="N", help="older than this")
    cleaned.add_argument("--max-gb", type=float, metavar="N", help="the oldest above this size")
    return parser


def _command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace, Settings], int]
) -> argparse.ArgumentParser:
    add_settings_arguments(parser)
    parser.set_defaults(command=command)
    return parser


def _store(settings: Settings) -> SessionStore:
    return SessionStore.of(Path(settings.service.data_dir))


def _list(args: argparse.Namespace, settings: Settings) -> int:
    entries = _store(settings).entries()
    shown = entries[: args.limit] if args.limit > 0 else entries
    if args.json:
        for entry in shown:
            print(orjson.dumps({**entry.meta, "live": entry.is_live}).decode())
        return 0
    print(render_table(_HEAD, [_row(entry) for entry in shown]) if shown else "nothing is recorded")
    if len(shown) < len(entries):
        print(f"... and {len(entries) - len(shown)} more: --limit 0")
    return 0


def _row(entry: Entry) -> list[str]:
    duration_s = entry.meta.get("duration_s")
    return [
        entry.session_id,
        str(entry.meta.get("app_type", "")),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created_at)),
        "live" if entry.is_live else "" if duration_s is None else f"{duration_s:.0f}",
        f"{(entry.size_bytes or 0) / 2**20:.1f}",
    ]


def _show(args: argparse.Namespace, settings: Settings) -> int:
    store = _store(settings)
    _finish(store, args.session_id)
    recording = orjson.loads(store.read(args.session_id, RECORDING))
    if args.json:
        print(orjson.dumps(recording, option=orjson.OPT_INDENT_2).decode())
        return 0
    entry = store.entry(args.session_id)
    print(render_table(_HEAD, [_row(entry)]) + "\n")
    for line in transcript_of(recording) or ["nothing was said"]:
        print(line)
    if comment := store.comment(args.session_id):
        print(f"\ncomment: {comment}")
    return 0


def transcript_of(recording: Document) -> list[str]:
    """Return what was said, a line for each turn or speaking unit."""
    if "turns" in recording:
        return [line for turn in recording["turns"] for line in _turn_lines(turn)]
    heard = [(told["ts_ms"], f"user:  {told['text']}") for told in recording.get("transcripts", ())]
    said = [
        (chunk["receive_ts_ms"], f"omni:  {result['text'].strip()}")
        for chunk in recording.get("chunks", ())
        if (result := chunk.get("result", {})).get("text", "").strip()
    ]
    return [f"{at_ms / 1000:7.1f} s  {text}" for at_ms, text in sorted(heard + said)]


def _turn_lines(turn: Document) -> list[str]:
    at = f"{turn['request_ts_ms'] / 1000:7.1f} s"
    asked, answered = turn["input"], turn["output"]
    voice = f"(voice, {asked['duration_ms'] / 1000:.1f} s)" if "duration_ms" in asked else ""
    return [f"{at}  user:  {asked.get('text') or voice}", f"{at}  omni:  {answered['text']}"]


def _export(args: argparse.Namespace, settings: Settings) -> int:
    store = _store(settings)
    _finish(store, args.session_id)
    pieces = zip_pieces(store.folder_of(args.session_id), args.session_id)
    if args.to == "-":
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        return 0
    path = Path(args.to or f"{args.session_id}.zip")
    new = path.with_name(f".{path.name}.new")
    try:
        with open(new, "wb") as file:
            file.writelines(pieces)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _finish(store: SessionStore, session_id: str) -> None:
    """Make the files of a session that was cut, if nobody is at it."""
    folder = store.folder_of(session_id)
    journal = folder / JOURNAL
    if not journal.exists():
        return
    if is_live(journal):
        raise OmniError(f"session {session_id} is being recorded: wait for its end")
    try:
        finalise(folder)
    except (BlockingIOError, NotFound):  # the server was faster
        raise OmniError(f"session {session_id} is being finished: try again soon") from None
    except OSError as exc:
        raise OmniError(f"session {session_id} cannot be finished: {exc}") from exc


def _clean(args: argparse.Namespace, settings: Settings) -> int:
    report = clean(_store(settings), _limits(args, settings.recording), time.time())
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    return 1 if report.get("errors") else 0


def _limits(args: argparse.Namespace, settings: RecordingSettings) -> RecordingSettings:
    """Return the limits by flag, else by setting, else the defaults of this command.

    Raises: ClientError for a limit that would switch it off, or delete everything.
    """
    if args.days is None and args.max_gb is None:
        if settings.session_retention_days > 0 or settings.max_storage_gb > 0:
            return settings
        args.days, args.max_gb = DEFAULT_DAYS, DEFAULT_GB
    if any(limit is not None and limit <= 0 for limit in (args.days, args.max_gb)):
        raise ClientError("--days and --max-gb are above 0")
    return evolve(
        settings,
        session_retention_days=-1 if args.days is None else args.days,
        max_storage_gb=-1.0 if args.max_gb is None else args.max_gb,
    )

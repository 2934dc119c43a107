"""Logging of one process: one line a record, with the session and the process it belongs to.

The log file is `NAME.log` in the run directory, kept below `LOG_BYTES` with `LOG_BACKUPS` old ones.
"""

import faulthandler
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

LOG_BYTES = 10_000_000
LOG_BACKUPS = 2
FORMAT = (
    "%(asctime)s.%(msecs)03d %(levelname)-7s %(worker_id)s %(session_id)s %(name)s: %(message)s"
)

log = logging.getLogger(__name__)

#: Keys as they are sent, as `omni keys` makes them, and OpenAI's ephemeral ones.
_KEYS = re.compile(
    r"((?:omni-key|openai-insecure-api-key)\.|[Bb]earer\s+|omni_(?:api|admin)_|\bek_|omni_signin=)"
    r"[^\s'\",;]+"
)
_session_id: ContextVar[str] = ContextVar("session_id", default="-")


@contextmanager
def session_logging(session_id: str) -> Iterator[None]:
    """Put *session_id* on every record of this task or thread while inside."""
    token = _session_id.set(session_id)
    try:
        yield
    finally:
        _session_id.reset(token)


class _Discreet(logging.Formatter):
    """Leaves keys out of every line, whoever wrote it; libraries log headers, too."""

    def format(self, record: logging.LogRecord) -> str:
        return _KEYS.sub(r"\1***", super().format(record))


class _Names(logging.Filter):
    """Adds the names of the process and of the session to each record."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker_id = self._process_name
        if not hasattr(record, "session_id"):  # `extra` may have named another one
            record.session_id = _session_id.get()
        return True


def log_path(process_name: str, run_dir: str | Path) -> Path:
    """Return where *process_name* logs."""
    return Path(run_dir) / f"{process_name}.log"


def set_up_logging(process_name: str, run_dir: str | Path, to_stderr: bool = True) -> None:
    """Log this process to its file, and *to_stderr* where that leads somewhere else.

    Uncaught exceptions of every thread and crashes of native code end there, too.
    """
    path = log_path(process_name, run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_BACKUPS, encoding="utf-8")
    ]
    if to_stderr and not _stderr_is(path):
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_Discreet(FORMAT, "%Y-%m-%d %H:%M:%S"))
        handler.addFilter(_Names(process_name))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    logging.captureWarnings(True)
    faulthandler.enable()
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _stderr_is(path: Path) -> bool:
    """True when the launcher led stderr into *path* already; lines must not stand there twice."""
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None:
        return
    name = args.thread.name if args.thread else "?"
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    log.critical("uncaught %s in thread %s", args.exc_type.__name__, name, exc_info=info)

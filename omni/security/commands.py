"""`omni keys api | admin | list | remove`: the keys that clients show."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Literal, TextIO

from omni.errors import SettingsError
from omni.security.key_book import Key, KeyBook
from omni.settings import Settings
from omni.table import render_table


def run_keys(
    settings: Settings,
    what: Literal["api", "admin", "list", "remove"],
    name: str,
    out: TextIO = sys.stdout,
) -> int:
    """Do it, and return the exit code. name: whose a new key is, or the id of one to remove.

    A running server needs no word of it. Raises: SettingsError, NotFound.
    """
    book = KeyBook(Path(settings.service.data_dir), settings.security)
    if what == "list":
        rows = [[key.id, key.kind, key.name, _date(key)] for key in book.keys]
        print(render_table(("id", "kind", "name", "made"), rows), file=out)
    elif what == "remove":
        if not name:
            raise SettingsError("omni keys remove ID; `omni keys list` shows the ids")
        print(f"removed {book.remove(name).id}: it opens nothing any more", file=out)
    else:
        key, text = book.make(what, name)
        print(f"made {key.id}, shown this once:\n{text}", file=out)
    return 0


def _date(key: Key) -> str:
    made = datetime.fromtimestamp(key.created_at)
    return made.isoformat(" ", "minutes") if key.created_at else ""

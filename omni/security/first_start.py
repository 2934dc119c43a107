"""What the start does about keys, and says about them: made where there are none, shown once."""

from pathlib import Path
from typing import get_args

from omni.security.addresses import is_loopback
from omni.security.key_book import KeyBook, KeyKind
from omni.security.rules import is_locked
from omni.settings import Settings


def key_lines(settings: Settings) -> list[str]:
    """Make the first API key and admin key where keys are needed; return what to tell.

    Raises: SettingsError when the file of keys cannot be read or written.
    """
    only_loopback = is_loopback(settings.web.host)
    if not is_locked(settings.security, only_loopback):
        return [_openness(only_loopback)]
    book = KeyBook(Path(settings.service.data_dir), settings.security)
    lines = [
        "Everybody needs a key, in a browser and in a program. "
        "Make more: `omni keys api`; see them: `omni keys list`."
    ]
    there = {key.kind for key in book.keys}
    for kind in get_args(KeyKind):
        if kind not in there:
            lines.append(f"New {kind} key, shown this once:  {_made(book, kind)}")
    return [*lines, f"Their hashes are in {book.path}."]


def _openness(only_loopback: bool) -> str:
    if only_loopback:
        return "This machine alone can reach it, and needs no key."
    return (
        "WARNING: other machines can reach it, and nobody needs a key: "
        "security.require_keys is 'never'."
    )


def _made(book: KeyBook, kind: KeyKind) -> str:
    return book.make(kind, "made at the first start")[1]

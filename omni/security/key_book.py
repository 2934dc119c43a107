"""The keys of this server: made here, shown once, kept as hashes in a file of mode 0600.

A key has 256 random bits, so that a plain SHA-256 of it tells nobody the key. Keys that the
settings name are taken, too. The file is looked at again when it has changed: `omni keys` may run
beside the server.
"""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import orjson
from attrs import asdict, frozen

from omni.errors import NotFound, SettingsError
from omni.settings import SecuritySettings

KeyKind = Literal["api", "admin"]

#: Under the data directory.
FOLDER = "security"
MAX_KEYS = 1000
#: The file is looked at for changes at most so often.
LOOK_S = 1.0
_KEY_BYTES = 32


@frozen(kw_only=True)
class Key:
    """A key without the key. id: short, for people and limits. created_at: Unix seconds."""

    id: str
    kind: KeyKind
    name: str
    sha256: str
    created_at: float = 0.0


class KeyBook:
    """All keys of one data directory and of the settings."""

    def __init__(self, data_dir: Path, settings: SecuritySettings) -> None:
        self.path = data_dir / FOLDER / "keys.json"
        self._given = (
            *(_given("api", text) for text in settings.api_keys),
            *(_given("admin", text) for text in settings.admin_keys),
        )
        self._kept: tuple[Key, ...] = ()
        self._seen: tuple[int, int] | None = None
        self._look_at_s = 0.0
        self._secret = b""

    @property
    def keys(self) -> Sequence[Key]:
        """Every key. Raises: SettingsError when the file is broken."""
        self._look()
        return (*self._given, *self._kept)

    def find(self, text: str) -> Key | None:
        """Return the key that *text* is, in a time that does not tell which of them is near."""
        digest = _digest(text)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def with_id(self, key_id: str) -> Key | None:
        """Return the key of that id, if it was not removed."""
        return next((key for key in self.keys if key.id == key_id), None)

    def make(self, kind: KeyKind, name: str = "") -> tuple[Key, str]:
        """Make a key, keep its hash, and return both: the text is nowhere else.

        Raises: SettingsError when the file cannot be written or holds `MAX_KEYS`.
        """
        self._look(at_once=True)
        if len(self._kept) >= MAX_KEYS:
            raise SettingsError(f"{self.path} holds {MAX_KEYS} keys: remove some with `omni keys`")
        text = f"omni_{kind}_{secrets.token_urlsafe(_KEY_BYTES)}"
        key = Key(
            id=f"{kind}-{secrets.token_hex(4)}",
            kind=kind,
            name=name,
            sha256=_digest(text),
            created_at=time.time(),
        )
        self._write((*self._kept, key))
        return key, text

    def remove(self, key_id: str) -> Key:
        """Forget a key; a running server refuses it within `LOOK_S`. Raises: NotFound."""
        self._look(at_once=True)
        for key in self._kept:
            if key.id == key_id:
                self._write(tuple(other for other in self._kept if other is not key))
                return key
        raise NotFound(f"{self.path} holds no key {key_id!r}; see `omni keys list`")

    def signing_secret(self) -> bytes:
        """Return the secret that signs this server's cookies; made at the first call."""
        if not self._secret:
            path = self.path.with_name("cookie_secret")
            if not path.exists():
                _write_private(path, secrets.token_bytes(_KEY_BYTES))
            self._secret = path.read_bytes()
        return self._secret

    def _look(self, at_once: bool = False) -> None:
        """Read the file if it has changed; it is small, and rarely does."""
        now_s = time.monotonic()
        if now_s < self._look_at_s and not at_once:
            return
        self._look_at_s = now_s + LOOK_S
        try:
            status = self.path.stat()
        except OSError:
            self._kept, self._seen = (), None
            return
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            self._kept, self._seen = _read(self.path), seen

    def _write(self, keys: tuple[Key, ...]) -> None:
        document = [asdict(key) for key in keys]
        _write_private(self.path, orjson.dumps(document, option=orjson.OPT_INDENT_2))
        self._look(at_once=True)


def _given(kind: KeyKind, text: str) -> Key:
    """Return a key of the settings. Its id changes with it: cookies and limits go by the id."""
    digest = _digest(text)
    return Key(
        id=f"{kind}-settings-{digest[:8]}", kind=kind, name="of the settings", sha256=digest
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> tuple[Key, ...]:
    try:
        keys = tuple(Key(**entry) for entry in orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as exc:
        raise SettingsError(f"{path} is broken ({exc}): move it away, and make new keys") from exc
    for key in keys:
        if key.kind not in get_args(KeyKind) or not isinstance(key.sha256, str):
            raise SettingsError(f"{path} is broken (key {key.id}): move it away")
    return keys


def _write_private(path: Path, content: bytes) -> None:
    """Write a whole file that its owner alone can read; a reader sees the old or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as exc:
        raise SettingsError(f"cannot write {path}: {exc.strerror or exc}") from exc

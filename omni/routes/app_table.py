"""The apps that a server offers, which of them are enabled, and which mode each needs."""

import asyncio
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field, frozen

from omni.engine import Mode
from omni.errors import Forbidden, NotFound, OmniError
from omni.files import write_atomically
from omni.realtime.fields import Fields

log = logging.getLogger(__name__)

#: In the data directory.
STATE_FILE = "apps.json"


@frozen
class App:
    """One way to use the server. page: the file in webroot/pages that shows it."""

    app_id: str
    name: str
    route: str
    mode: Mode
    page: str


APPS = (
    App("turnbased", "Turn-based Chat", "/turnbased", "chat", "chat.html"),
    App("half_duplex_audio", "Half-Duplex Audio", "/half_duplex", "half_duplex", "half.html"),
    App("omni", "Omni Full-Duplex", "/omni", "omni_duplex", "omni.html"),
    App("audio_duplex", "Audio Full-Duplex", "/audio_duplex", "audio_duplex", "audio.html"),
    App("realtime", "Realtime API", "/realtime", "audio_duplex", "realtime.html"),
)


@define
class AppTable:
    """Apps and their state, which is kept in the file *path*."""

    path: Path
    _disabled: frozenset[str] = field(default=frozenset(), init=False)
    _changing: asyncio.Lock = field(factory=asyncio.Lock, init=False)

    def load(self) -> None:
        """Read what was switched off before. Blocks. A file that cannot be read says nothing."""
        try:
            document = json.loads(self.path.read_text("utf-8"))
            disabled = Fields(document).items("disabled", len(APPS))
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, OmniError) as exc:
            log.warning("%s is left out, all apps are on: %s", self.path, exc)
            return
        self._disabled = frozenset(app.app_id for app in APPS if app.app_id in disabled)

    def is_enabled(self, app_id: str) -> bool:
        """Say whether an app may be used. Raises: NotFound."""
        return find_app(app_id).app_id not in self._disabled

    async def set_enabled(self, app_id: str, enabled: bool) -> App:
        """Switch an app on or off, and return it, once that is on disk. Raises: NotFound."""
        app = find_app(app_id)
        async with self._changing:
            changed = self._disabled - {app_id} if enabled else self._disabled | {app_id}
            if changed != self._disabled:
                await asyncio.to_thread(self._save, changed)
        return app

    def require(self, app_id: str) -> None:
        """Raise Forbidden when an app is off."""
        if not self.is_enabled(app_id):
            raise Forbidden(f"{find_app(app_id).name} is currently disabled")

    def offered(self, modes: Iterable[Mode]) -> list[App]:
        """Return the enabled apps that an engine with *modes* can serve."""
        known = set(modes)
        return [app for app in APPS if app.mode in known and app.app_id not in self._disabled]

    def _save(self, disabled: frozenset[str]) -> None:
        text = json.dumps({"disabled": sorted(disabled)}, indent=2)
        try:
            write_atomically(self.path, text.encode())
        except OSError as exc:
            raise OmniError(f"The state of apps cannot be written: {exc.strerror}") from exc
        self._disabled = disabled  # here: also where the client has hung up meanwhile


def find_app(app_id: str) -> App:
    """Return the app of that id. Raises: NotFound."""
    for app in APPS:
        if app.app_id == app_id:
            return app
    raise NotFound(f"There is no app {app_id!r}; there are: {', '.join(a.app_id for a in APPS)}")

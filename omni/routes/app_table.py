"""The apps that a server offers, which of them are enabled, and which mode each needs."""

from collections.abc import Iterable

from attrs import define, field, frozen

from omni.engine import Mode
from omni.errors import Forbidden, NotFound


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
)


@define
class AppTable:
    """Apps and their state, which lasts as long as the process."""

    _disabled: set[str] = field(factory=set, init=False)

    def is_enabled(self, app_id: str) -> bool:
        """Say whether an app may be used. Raises: NotFound."""
        return find_app(app_id).app_id not in self._disabled

    def set_enabled(self, app_id: str, enabled: bool) -> App:
        """Switch an app on or off, and return it. Raises: NotFound."""
        app = find_app(app_id)
        if enabled:
            self._disabled.discard(app_id)
        else:
            self._disabled.add(app_id)
        return app

    def require(self, app_id: str) -> None:
        """Raise Forbidden when an app is off."""
        if not self.is_enabled(app_id):
            raise Forbidden(f"{find_app(app_id).name} is currently disabled")

    def offered(self, modes: Iterable[Mode]) -> list[App]:
        """Return the enabled apps that an engine with *modes* can serve."""
        known = set(modes)
        return [app for app in APPS if app.mode in known and app.app_id not in self._disabled]


def find_app(app_id: str) -> App:
    """Return the app of that id. Raises: NotFound."""
    for app in APPS:
        if app.app_id == app_id:
            return app
    raise NotFound(f"There is no app {app_id!r}; there are: {', '.join(a.app_id for a in APPS)}")

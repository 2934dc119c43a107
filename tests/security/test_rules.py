"""Which key a route needs, wherever the server listens."""

import pytest

from omni.security.rules import is_locked, need_of
from omni.settings import SecuritySettings


@pytest.mark.parametrize(
    "require, only_loopback, locked",
    [
        ("auto", True, False),
        ("auto", False, True),
        ("always", True, True),
        ("never", False, False),
    ],
)
def test_keys_are_needed_beyond_loopback_unless_the_settings_say_otherwise(
    require: str, only_loopback: bool, locked: bool
) -> None:
    settings = SecuritySettings(require_keys=require)  # type: ignore[arg-type]

    assert is_locked(settings, only_loopback) == locked


@pytest.mark.parametrize(
    "method, pattern, need",
    [
        ("GET", "/health", "nothing"),
        ("GET", "/static", "nothing"),
        ("POST", "/api/signin", "nothing"),
        ("GET", "/", "key"),
        ("GET", "/metrics", "key"),
        ("GET", "/ws/duplex/{session_id}", "key"),
        ("POST", "/v1/chat/completions", "key"),
        ("GET", "/api/config/eta", "key"),
        ("PUT", "/api/config/eta", "admin"),
        ("GET", "/api/admin/apps", "admin"),
        ("HEAD", "/api/admin/apps", "admin"),
        ("PUT", "/api/admin/apps/{app_id}", "admin"),
        ("DELETE", "/api/queue/{ticket_id}", "key"),
        ("GET", "/api/sessions", "admin"),
        ("HEAD", "/api/sessions", "admin"),
        ("DELETE", "/api/sessions/{session_id}", "admin"),
        ("GET", "/no/such/route", "key"),
    ],
)
def test_a_locked_server_shows_nothing_without_a_key(
    method: str, pattern: str, need: str
) -> None:
    assert need_of(method, pattern, locked=True, has_api_keys=False) == need


def test_an_open_server_asks_for_keys_under_v1_alone_and_only_if_there_are_some() -> None:
    def need(pattern: str, has_api_keys: bool) -> str:
        return need_of("GET", pattern, locked=False, has_api_keys=has_api_keys)

    assert need("/v1/models", has_api_keys=True) == "key"
    assert need("/v1/models", has_api_keys=False) == "nothing"
    assert need("/api/admin/apps", has_api_keys=True) == "nothing"
    assert need("/ws/chat", has_api_keys=True) == "nothing"

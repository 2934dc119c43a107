"""Keys are made, found, removed and kept; their text is nowhere."""

from pathlib import Path

import pytest

from omni.errors import NotFound, SettingsError
from omni.security import key_book
from omni.security.key_book import KeyBook
from omni.settings import SecuritySettings

OPEN = SecuritySettings()


def test_a_made_key_is_found_and_no_other_is(tmp_path: Path) -> None:
    book = KeyBook(tmp_path, OPEN)
    key, text = book.make("api", "phone")

    assert book.find(text) == key
    assert (key.kind, key.name) == ("api", "phone")
    for wrong in ("", text[:-1], text + "a", text.upper(), "omni_api_", "\ud800", "ключ"):
        assert book.find(wrong) is None


def test_the_text_of_a_key_is_not_kept(tmp_path: Path) -> None:
    _, text = KeyBook(tmp_path, OPEN).make("admin")

    for path in tmp_path.rglob("*"):
        assert path.is_dir() or text.encode() not in path.read_bytes()


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    book = KeyBook(tmp_path, OPEN)
    book.make("api")
    book.signing_secret()

    folder = book.path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600, 0o600]


def test_a_running_server_hears_of_keys_made_and_removed_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_book, "LOOK_S", 0.0)
    server, beside = KeyBook(tmp_path, OPEN), KeyBook(tmp_path, OPEN)
    assert server.find("anything") is None

    key, text = beside.make("api")

    assert server.find(text) == key
    beside.remove(key.id)
    assert server.find(text) is None


def test_another_key_in_the_settings_is_another_key(tmp_path: Path) -> None:
    """A cookie names a key by its id: that of a key that was replaced must not open anything."""
    old = KeyBook(tmp_path, SecuritySettings(admin_keys=("leaked",))).find("leaked")
    assert old is not None

    book = KeyBook(tmp_path, SecuritySettings(admin_keys=("fresh",)))

    assert book.with_id(old.id) is None
    assert book.find("fresh") is not None


def test_keys_of_the_settings_count_too(tmp_path: Path) -> None:
    book = KeyBook(tmp_path, SecuritySettings(api_keys=("one", "two"), admin_keys=("three",)))

    found = [book.find(text) for text in ("one", "two", "three")]

    assert [key.kind for key in found if key] == ["api", "api", "admin"]
    assert len({key.id for key in found if key}) == 3


def test_an_unknown_key_cannot_be_removed(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="api-77"):
        KeyBook(tmp_path, OPEN).remove("api-77")


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"id": "a"}]', '{"a": 1}'])
def test_a_broken_file_stops_the_start_and_says_where(tmp_path: Path, content: str) -> None:
    book = KeyBook(tmp_path, OPEN)
    book.path.parent.mkdir()
    book.path.write_text(content)

    with pytest.raises(SettingsError, match="keys.json is broken"):
        book.find("anything")


def test_the_secret_of_cookies_outlives_the_process(tmp_path: Path) -> None:
    assert KeyBook(tmp_path, OPEN).signing_secret() == KeyBook(tmp_path, OPEN).signing_secret()

"""Which apps are on outlives the server."""

from pathlib import Path

import pytest

from omni.errors import Forbidden, NotFound, OmniError
from omni.routes.app_table import AppTable


def opened(path: Path) -> AppTable:
    table = AppTable(path)
    table.load()
    return table


async def test_a_switched_app_is_so_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "data" / "apps.json"
    before = opened(path)
    await before.set_enabled("omni", False)
    await before.set_enabled("turnbased", False)
    await before.set_enabled("turnbased", True)

    after = opened(path)

    assert not after.is_enabled("omni") and after.is_enabled("turnbased")
    with pytest.raises(Forbidden, match="currently disabled"):
        after.require("omni")


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"disabled": 7}', b"\xff", b"null"])
def test_a_broken_file_leaves_all_apps_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "apps.json"
    path.write_bytes(content)

    assert opened(path).is_enabled("omni")
    assert "apps.json" in caplog.text


def test_apps_that_no_longer_exist_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "apps.json"
    path.write_text('{"disabled": ["chess", 7, "omni"]}')

    assert not opened(path).is_enabled("omni")


async def test_an_app_that_cannot_be_switched_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = AppTable(tmp_path / "file" / "apps.json")

    with pytest.raises(OmniError, match="cannot be written"):
        await table.set_enabled("omni", False)
    with pytest.raises(NotFound):
        await table.set_enabled("chess", False)

    assert table.is_enabled("omni")

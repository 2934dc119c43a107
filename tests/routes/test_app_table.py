"""Which apps are on outlives the server."""

import base64
from pathlib import Path

import aiohttp
import pytest

from omni.errors import Forbidden, NotFound, OmniError
from omni.routes.app_table import AppTable
from tests.conftest import StartOmni
from tests.sounds import sound_file, tone


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


async def test_a_restarted_server_knows_its_apps_and_its_voices(
    start_omni: StartOmni, tmp_path: Path
) -> None:
    settings = {"service.data_dir": tmp_path / "data"}
    first = start_omni(settings)
    async with aiohttp.ClientSession(first.address) as http:
        async with http.put("/api/admin/apps/turnbased", json={"enabled": False}) as reply:
            assert reply.status == 200
        audio = base64.b64encode(sound_file("flac", "flac", tone(1.0))).decode()
        body = {"name": "Anna", "audio_base64": audio}
        async with http.post("/api/assets/ref_audio", json=body) as reply:
            voice_id = (await reply.json())["id"]
    first.stop()

    second = start_omni(settings)
    async with aiohttp.ClientSession(second.address) as http:
        async with http.get("/turnbased", allow_redirects=False) as page:
            assert (page.status, page.headers["Location"]) == (302, "/")
        async with http.get(f"/api/assets/ref_audio/{voice_id}") as voice:
            assert voice.status == 200
    second.stop()

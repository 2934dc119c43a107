"""A server that others can reach makes its first keys, shows them once, and says so."""

import re
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from attrs import evolve

from omni.process import ROOT
from omni.security.first_start import key_lines
from omni.settings import SecuritySettings, ServiceSettings, Settings, WebSettings
from tests.conftest import RunningOmni, StartOmni, clean_environment


def settings_of(data_dir: Path, host: str, **security: str) -> Settings:
    """Return the settings of a server that listens on *host*."""
    return Settings(
        service=ServiceSettings(data_dir=str(data_dir)),
        web=WebSettings(host=host),
        security=SecuritySettings(**security),  # type: ignore[arg-type]  # of the test's own
    )


def keys(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `omni keys`."""
    command = [sys.executable, "-m", "omni.cli", "keys", "--set", f"service.data_dir={data_dir}"]
    return subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_no_key_is_made(tmp_path: Path, host: str) -> None:
    lines = key_lines(settings_of(tmp_path, host))

    assert "needs no key" in lines[0] and len(lines) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "my-machine"])
def test_beyond_loopback_both_keys_are_made_and_shown_once(tmp_path: Path, host: str) -> None:
    settings = settings_of(tmp_path, host)

    first, second = key_lines(settings), key_lines(settings)

    assert re.search(r"api key.*omni_api_\S", "\n".join(first))
    assert re.search(r"admin key.*omni_admin_\S", "\n".join(first))
    assert "omni_" not in "\n".join(second) and "omni keys api" in second[0]


def test_keys_of_the_settings_make_others_unnecessary(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "0.0.0.0")
    given = SecuritySettings(api_keys=("one",), admin_keys=("two",))

    assert not any("New" in line for line in key_lines(evolve(settings, security=given)))


def test_an_open_server_is_warned_of(tmp_path: Path) -> None:
    assert "WARNING" in key_lines(settings_of(tmp_path, "0.0.0.0", require_keys="never"))[0]


async def test_the_keys_that_a_start_shows_open_the_server(start_omni: StartOmni) -> None:
    omni: RunningOmni = start_omni({"web.host": "0.0.0.0"})
    address = f"http://127.0.0.1:{omni.address.rsplit(':', 1)[1]}"
    found = {kind: re.search(rf"omni_{kind}_\S+", omni.output()) for kind in ("api", "admin")}
    shown = {kind: match.group() for kind, match in found.items() if match}
    statuses = {}
    async with aiohttp.ClientSession(address) as http:
        for kind, path in (("api", "/status"), ("admin", "/api/admin/apps"), ("", "/status")):
            headers = {"Authorization": f"Bearer {shown.get(kind, 'none')}"}
            async with http.get(path, headers=headers) as reply:
                statuses[kind] = reply.status

    assert statuses == {"api": 200, "admin": 200, "": 401}
    logs = omni.log("web-0") + omni.log("launcher")
    assert not any(text in logs for text in shown.values())
    omni.stop()


def test_keys_are_made_listed_and_removed_on_the_command_line(tmp_path: Path) -> None:
    made = keys(tmp_path, "api", "my phone")
    key_id = re.search(r"made (api-\w+)", made.stdout)
    assert key_id is not None and re.search(r"^omni_api_\S+$", made.stdout, re.M)

    assert re.search(rf"{key_id[1]} +api +my phone", keys(tmp_path, "list").stdout)
    assert keys(tmp_path, "remove", key_id[1]).returncode == 0
    assert key_id[1] not in keys(tmp_path, "list").stdout


@pytest.mark.parametrize("words", [("remove",), ("remove", "api-none")])
def test_what_cannot_be_removed_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = keys(tmp_path, *words)

    assert done.returncode != 0 and "omni keys list" in done.stderr

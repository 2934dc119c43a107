"""The blocks of `docs/security.md` do what the page says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from omni.process import ROOT
from omni.settings import load_settings
from tests.conftest import clean_environment

TIMEOUT_S = 120.0


def blocks(name: str, language: str) -> list[str]:
    """Return the blocks of one language in a document."""
    text = (ROOT / "docs" / name).read_text("utf-8")
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def run(words: list[str], folder: Path, **environment: str) -> str:
    """Run a command in *folder*, and return what it printed."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_keys_of_the_page_on_security_are_made_listed_and_removed(tmp_path: Path) -> None:
    command = f'omni() {{ "{sys.executable}" -m omni.cli "$@"; }}\n'
    data = {"OMNI_SERVICE__DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    [block] = blocks("security.md", "sh")
    known = ""

    for line in block.splitlines():
        if "api-1f2e3d4c" in line:  # an id as the list shows it
            made = re.search(r"api-\w+", known)
            assert made
            line = line.replace("api-1f2e3d4c", made.group())
        known += run(["sh", "-c", command + line], tmp_path, **data)

    assert known.count("omni_api_") == 1 and known.count("omni_admin_") == 1
    listed = run(["sh", "-c", command + "omni keys list"], tmp_path, **data)
    assert "admin-" in listed and "api-" not in listed


def test_the_settings_of_a_server_behind_a_proxy_are_settings(tmp_path: Path) -> None:
    [block] = blocks("security.md", "toml")
    (tmp_path / "settings.toml").write_text(block, "utf-8")

    settings = load_settings(tmp_path / "settings.toml")

    assert settings.security.require_keys == tomllib.loads(block)["security"]["require_keys"]
    assert settings.web.https is False

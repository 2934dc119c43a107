"""The commands of docs/api.md do what the page says, in the order in which they stand there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.process import ROOT
from omni.routes.preset_files import ASSETS, load_presets
from omni.wav import waveform_from_wav
from tests.conftest import RunningOmni, StartOmni, clean_environment

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
ADDRESS = "http://localhost:8006"
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "jq", "base64"))), reason="needs bash, curl and jq"
)


def commands() -> list[str]:
    """Return every command of the page; a backslash carries one over the end of its line."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [
        line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line
    ]


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"recording.enabled": "true"})
    yield running
    running.stop()


def test_every_example_is_answered_and_none_with_an_error(
    server: RunningOmni, tmp_path: Path
) -> None:
    shown = {}
    for command in commands():
        there = command.replace(ADDRESS, server.address).replace("curl -s", "curl -sf")
        run = subprocess.run(
            ["bash", "-o", "pipefail", "-c", there],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        shown[command] = run.stdout

    assert len(shown) > 20
    assert json.loads(shown[f"curl -s {ADDRESS}/health"])["status"] == "healthy"
    assert json.loads(shown[f"curl -s {ADDRESS}/api/assets/ref_audio"])["total"] == 1
    assert waveform_from_wav((tmp_path / "answer.wav").read_bytes())[1] == 24_000
    assert waveform_from_wav((tmp_path / "voice.wav").read_bytes())[1] == 16_000
    assert (Path(server.fabric.run_dir) / "web-0.log").read_text().count("Traceback") == 0


def test_the_preset_of_the_page_is_one(tmp_path: Path) -> None:
    assets = tmp_path / "omni" / "assets"
    shutil.copytree(ASSETS, assets)
    [preset] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (assets / "presets" / "omni" / "librarian.yaml").write_text(preset)

    assert load_presets(assets)["omni"][-1].id == "librarian"

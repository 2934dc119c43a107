"""Every example of `docs/clients.md` runs, as it stands there, against a whole server."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omni.process import ROOT
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, StartOmni, clean_environment

TIMEOUT_S = 120.0
ADDRESS = "http://localhost:8006"
TEXT = (ROOT / "docs" / "clients.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
#: What shows, in the order of the blocks, that the server answered: the null engine says what it
#: was asked, and speaks in its fourth unit.
SHOWN = [
    '"success":true',
    '"object":"chat.completion"',
    '"text":"second 1"',
    "unit 4 [1.0 s of sound]",
    "What is the capital of France?",
    "second 1 second 2 second 3 second 4",
    "completed",
    "session.closed",
]


def test_every_block_is_known_and_names_the_address() -> None:
    assert len(BLOCKS) == len(SHOWN)
    assert all(ADDRESS in block for _, block in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_runs(omni: RunningOmni, tmp_path: Path, number: int) -> None:
    _run(number, omni.address, tmp_path, {})


def test_clients_trust_the_server_s_own_certificate_when_told(
    start_omni: StartOmni, tmp_path: Path
) -> None:
    """As the page says: the package of R2, and OpenAI's over HTTP and over a WebSocket."""
    running = start_omni({"web.https": "true"})
    trust = {"SSL_CERT_FILE": str(running.data_dir / "certs" / "cert.pem")}
    for number in (3, 4, 6):
        _run(number, running.address, tmp_path, trust)
    running.stop()


def _run(number: int, address: str, tmp_path: Path, environment: dict[str, str]) -> None:
    language, block = BLOCKS[number]
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32) / 2
    (tmp_path / "question.wav").write_bytes(wav_from_waveform(tone, 16_000))
    command = ["sh", "-c"] if language == "sh" else [sys.executable, "-c"]

    done = subprocess.run(
        [*command, block.replace(ADDRESS, address)],
        cwd=tmp_path,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 0, done.stderr
    assert SHOWN[number] in done.stdout.replace('": ', '":'), done.stdout

"""Every example of `docs/clients.md` runs, as it stands there, against a whole server."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.speech import load_voice, speak
from omni.process import ROOT
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, StartOmni, clean_environment
from tests.other_python import python_with

TIMEOUT_S = 120.0
ADDRESS = "http://localhost:8006"
SOCKET_ADDRESS = "ws://localhost:8006"
TEXT = (ROOT / "docs" / "clients.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
#: What shows, in the order of the blocks, that the server answered: the null engine says what it
#: was asked, and speaks in its fourth unit.
SHOWN = [
    '"success":true',
    '"object":"chat.completion"',
    '"text":"second 1 second 2',
    "unit 4 [1.0 s of sound]",
    "What is the capital of France?",
    "second 1 second 2 second 3 second 4",
    "completed",
    "What is the capital of France?",
    "session.closed",
    "second 1 second 2",
    "nothing",
]
#: Block -> the package that it needs, which may not be installed.
NEEDS = {7: "agents", 9: "livekit", 10: "pipecat"}


@functools.cache
def question() -> bytes:
    """Return what the examples ask: real speech, for those that wait for its end."""
    waveform = speak(load_voice(), "What is the capital of France?", 16_000)
    return wav_from_waveform(waveform, 16_000)


def test_every_block_is_known_and_names_the_address() -> None:
    assert len(BLOCKS) == len(SHOWN)
    assert all(ADDRESS in block or SOCKET_ADDRESS in block for _, block in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_runs(omni: RunningOmni, tmp_path: Path, number: int) -> None:
    python = python_with(NEEDS[number]) if number in NEEDS else sys.executable
    _run(number, omni.address, tmp_path, {}, python)


def test_clients_trust_the_server_s_own_certificate_when_told(
    start_omni: StartOmni, tmp_path: Path
) -> None:
    """As the page says: the package of R2, and OpenAI's over HTTP and over a WebSocket."""
    running = start_omni({"web.https": "true"})
    trust = {"SSL_CERT_FILE": str(running.data_dir / "certs" / "cert.pem")}
    for number in (3, 4, 6):
        _run(number, running.address, tmp_path, trust)
    running.stop()


def _run(
    number: int,
    address: str,
    tmp_path: Path,
    environment: dict[str, str],
    python: str = sys.executable,
) -> None:
    language, block = BLOCKS[number]
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    (tmp_path / "question.wav").write_bytes(question())
    command = ["sh", "-c"] if language == "sh" else [python, "-c"]
    socket_address = address.replace("http", "ws", 1)
    block = block.replace(ADDRESS, address).replace(SOCKET_ADDRESS, socket_address)

    done = subprocess.run(
        [*command, block],
        cwd=tmp_path,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 0, done.stderr
    assert SHOWN[number] in done.stdout.replace('": ', '":'), done.stdout

"""The examples of docs/openai.md run as they stand there, but for the address."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.process import ROOT
from tests.conftest import RunningOmni
from tests.openai.conftest import TIMEOUT_S

PAGE = (ROOT / "docs" / "openai.md").read_text("utf-8")
ADDRESS = "http://localhost:8006"


def blocks(language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_examples_run(
    server: RunningOmni,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for block in blocks("python"):
        exec(block.replace(ADDRESS, server.address), names)
    names["client"].close()  # type: ignore[attr-defined]

    said = capsys.readouterr().out.splitlines()  # the null engine repeats
    assert said == ["What is the capital of France?", "Does it rain in Rome?"]
    assert (tmp_path / "hello.wav").read_bytes()[:4] == b"RIFF"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_examples_run(server: RunningOmni, tmp_path: Path) -> None:
    outputs = []
    for block in blocks("sh"):
        command = shlex.split(block.replace(ADDRESS, server.address).replace("\\\n", ""))
        done = subprocess.run(
            [*command, "--silent", "--show-error", "--fail"],
            cwd=tmp_path,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        outputs.append(done.stdout.decode())

    assert (tmp_path / "speech.mp3").stat().st_size > 10_000
    assert outputs[-1].startswith("1\n00:00:00,000 --> 00:00:01,000\nsecond 1\n")

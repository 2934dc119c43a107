"""The real LiveKit Agents and Pipecat against a server without a model, where they are installed.

Seen with livekit-agents and livekit-plugins-openai 1.8.9, and pipecat-ai 1.14.0. What they send
is tested without them, too: tests/realtime/openai/, tests/openai/.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.speech import load_voice, speak
from omni.process import ROOT
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni, clean_environment
from tests.other_python import python_with

TIMEOUT_S = 240.0
QUESTION = "What is the capital of France?"
#: The null engine writes down which seconds it heard, and answers "nothing" to sound.
HEARD, NOTHING = "second 1 second 2", "nothing"
Seen = dict[str, Any]  # JSON of the programs
Folders = pytest.TempPathFactory


@pytest.fixture(scope="module")
def livekit_python() -> str:
    """Skips before a server is started."""
    return python_with("livekit")


@pytest.fixture(scope="module")
def livekit(livekit_python: str, omni: RunningOmni, tmp_path_factory: Folders) -> Seen:
    """What a program on LiveKit Agents got."""
    folder = tmp_path_factory.mktemp("livekit")
    return seen_by(livekit_python, "livekit_client.py", omni.address, folder, 24_000)


@pytest.fixture(scope="module")
def pipecat_python() -> str:
    """Skips before a server is started."""
    return python_with("pipecat")


@pytest.fixture(scope="module")
def pipecat(pipecat_python: str, omni: RunningOmni, tmp_path_factory: Folders) -> Seen:
    """What pipelines of Pipecat got."""
    folder = tmp_path_factory.mktemp("pipecat")
    return seen_by(pipecat_python, "pipecat_client.py", omni.address, folder, 16_000)


def seen_by(python: str, name: str, address: str, folder: Path, rate_hz: int) -> Seen:
    """Run the program *name*, with a question at *rate_hz*, and return what it printed."""
    speech = speak(load_voice(), QUESTION, rate_hz)
    (folder / "question.wav").write_bytes(wav_from_waveform(speech, rate_hz))
    program = ROOT / "tests" / "e2e" / name
    done = subprocess.run(
        [python, "-W", "ignore", str(program), address, "question.wav"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    seen: Seen = json.loads(done.stdout.splitlines()[-1])
    return seen


# --- LiveKit ---


def test_livekit_knows_the_conversation_as_the_server_has_it(livekit: Seen) -> None:
    assert livekit["realtime"]["context"] == ["said by the user", "said by the assistant"]


def test_livekit_hears_the_answer_to_what_was_spoken(livekit: Seen) -> None:
    heard = livekit["realtime"]["heard"]

    assert (heard["text"], heard["seconds"]) == (NOTHING, 1.0)
    assert all(text.startswith(HEARD) for text in livekit["realtime"]["transcripts"])
    assert len(livekit["realtime"]["transcripts"]) == 2  # of a turn, and pushed to talk


def test_livekit_has_a_reply_generated(livekit: Seen) -> None:
    assert livekit["realtime"]["replied"]["text"] == "Be brief. one two"


def test_livekit_interrupts_and_goes_on(livekit: Seen) -> None:
    cut = livekit["realtime"]["cut"]

    assert 0 < cut["seconds"] <= 600 and cut["text"].startswith("word")
    assert livekit["realtime"]["pushed to talk"]["text"] == NOTHING
    assert livekit["realtime"]["errors"] == []


def test_an_agent_of_livekit_greets_and_answers(livekit: Seen) -> None:
    greeted, heard, answered = livekit["agent"]["history"]

    assert greeted == ["assistant", "Be brief. Say hello."]
    assert heard[0] == "user" and heard[1].startswith(HEARD)
    assert answered == ["assistant", NOTHING]
    assert livekit["agent"]["errors"] == [] and livekit["agent"]["seconds"] >= 5.0


def test_livekit_s_chat_recognition_and_speech_are_served(livekit: Seen) -> None:
    services = livekit["services"]

    assert services["chat"] == "one two"
    assert services["stream"].startswith(HEARD) and services["recognized"].startswith(HEARD)
    assert services["pcm"] == pytest.approx(4.0, abs=0.1)  # a second for each word
    assert services["mp3"] == pytest.approx(4.0, abs=0.1)


# --- Pipecat ---


@pytest.mark.parametrize("kind", ["realtime", "semantic", "own turns"])
def test_pipecat_breaks_into_an_answer_and_hears_the_next(pipecat: Seen, kind: str) -> None:
    interrupted, heard, answered = pipecat[kind]["history"]

    assert interrupted[0] == "assistant" and interrupted[1].startswith("word")
    assert len(interrupted[1].split()) < 60
    assert heard[0] == "user" and heard[1].startswith("second 1")
    assert answered == ["assistant", NOTHING]
    assert pipecat[kind]["errors"] == []


@pytest.mark.parametrize("kind", ["pieces", "streaming"])
def test_pipecat_s_services_of_recognition_chat_and_speech_are_served(
    pipecat: Seen, kind: str
) -> None:
    greeted, heard, answered = pipecat[kind]["history"]

    assert greeted == ["assistant", "hello hello"]
    assert heard[0] == "user" and heard[1].startswith(HEARD)
    assert answered == ["assistant", heard[1]]  # in words, the null engine repeats
    assert pipecat[kind]["errors"] == []

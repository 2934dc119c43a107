"""`omni talk` against a whole server with the null engine."""

from pathlib import Path

import numpy as np
import pytest

from omni.audio import INPUT_HZ
from omni.client import Event, Exchange, Talker, is_loopback, speech_end
from omni.conversations import ask
from omni.errors import OmniError
from omni.talk import main
from omni.wav import wav_from_waveform, waveform_from_wav
from tests.conftest import RunningOmni, StartOmni

QUESTION = np.concatenate([np.full(INPUT_HZ // 2, 0.3), np.zeros(INPUT_HZ // 5)]).astype("<f4")


def test_a_written_question_is_answered(
    omni: RunningOmni, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answer.wav"

    code = main(["--url", omni.address, "--text", "hello you", "--out", str(out)])

    samples, rate_hz = waveform_from_wav(out.read_bytes())
    assert code == 0
    assert "answer: hello you" in capsys.readouterr().out
    assert (rate_hz, samples.size) == (24_000, 48_000)


@pytest.mark.parametrize("mode", ["duplex", "half", "chat"])
def test_a_spoken_question_is_answered_in_every_mode(
    omni: RunningOmni, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    question = tmp_path / "question.wav"
    question.write_bytes(wav_from_waveform(QUESTION, INPUT_HZ))

    code = main(["--url", omni.address, "--in", str(question), "--mode", mode])

    printed = capsys.readouterr().out
    assert code == 0
    assert "answer: " in printed and "first sound" in printed and "RTF" in printed


@pytest.mark.parametrize("dialect", ["r1", "r2"])
def test_a_spoken_question_is_answered_in_every_dialect(
    omni: RunningOmni, tmp_path: Path, capsys: pytest.CaptureFixture[str], dialect: str
) -> None:
    question = tmp_path / "question.wav"
    question.write_bytes(wav_from_waveform(QUESTION, INPUT_HZ))

    code = main(["--url", omni.address, "--in", str(question), "--dialect", dialect])

    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "answer: " in printed.out and "s of sound" in printed.out
    assert "0.0 s of sound" not in printed.out


@pytest.mark.parametrize("dialect", ["r2", "openai"])
def test_a_written_question_is_answered_in_every_dialect_that_takes_one(
    omni: RunningOmni, capsys: pytest.CaptureFixture[str], dialect: str
) -> None:
    code = main(["--url", omni.address, "--text", "hello you", "--dialect", dialect])

    assert code == 0
    assert "answer: hello you" in capsys.readouterr().out


def test_what_a_dialect_does_not_have_is_named(
    omni: RunningOmni, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--url", omni.address, "--text", "hello", "--dialect", "r1"])

    assert code == 1
    assert "--dialect r1 --mode chat takes no written question" in capsys.readouterr().err


def test_an_own_certificate_is_trusted_on_this_machine_and_said_so(
    start_omni: StartOmni, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start_omni({"web.https": "true"})

    code = main(["--url", running.address, "--text", "hello"])

    running.stop()
    assert code == 0
    assert "trusted" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_a_plain_error(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--url", "http://127.0.0.1:9", "--text", "hello"])

    assert code == 1
    assert "omni talk:" in capsys.readouterr().err


def test_a_missing_file_is_a_plain_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9", "--in", "/no/such.wav"]) == 1
    assert "such.wav" in capsys.readouterr().err


async def test_a_server_that_closes_in_mid_answer_is_an_error(start_omni: StartOmni) -> None:
    running = start_omni()
    talker = Talker(running.address)

    def stop_it(event: Event) -> None:
        if event["type"] == "prepared":
            running.kill("worker-0")

    talker.on_event = stop_it
    with pytest.raises(OmniError, match="worker-0 (exited|closed its connection)"):
        await ask(talker, "duplex", QUESTION)
    running.stop()


async def test_what_the_server_refuses_is_raised(omni: RunningOmni) -> None:
    with pytest.raises(OmniError, match="config.chunk_ms"):
        await ask(Talker(omni.address), "duplex", QUESTION, chunk_ms=5)


def test_the_end_of_speech_is_before_the_silence() -> None:
    assert abs(speech_end(QUESTION) - INPUT_HZ // 2) < 400


def test_other_machines_certificates_are_checked() -> None:
    assert is_loopback("https://localhost:1") and not is_loopback("https://10.0.0.1:1")


def test_times_count_from_the_end_of_the_question() -> None:
    exchange = Exchange(asked_at=10.0, first_text_at=10.5, first_sound_at=11.0, done_at=13.0)
    exchange.pcm.append(bytes(4 * 48_000))

    assert (exchange.first_text_s, exchange.first_sound_s) == (0.5, 1.0)
    assert (exchange.sound_s, exchange.rtf) == (2.0, 1.5)

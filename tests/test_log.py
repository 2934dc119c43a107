"""Each record says whose it is, stands in its process's file once, and the file stays bounded."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from omni import log
from omni.client import Talker
from omni.conversations import TalkDialect, ask
from omni.process import ROOT
from tests.conftest import RunningOmni
from tests.fakes import TIMEOUT_S

PROGRAM = """
import logging, sys, threading
from omni.log import session_logging, set_up_logging
set_up_logging("worker-3", sys.argv[1])
{lines}
"""


def run(folder: Path, lines: str, is_led_into_file: bool = False) -> tuple[str, str]:
    """Run *lines* in a process of their own; return its log file and its stderr."""
    path = log.log_path("worker-3", folder)
    command = [sys.executable, "-c", PROGRAM.format(lines=lines), str(folder)]
    if is_led_into_file:  # as the launcher does
        with open(path, "ab") as words:
            subprocess.run(command, cwd=ROOT, stderr=words, timeout=60)
        return path.read_text("utf-8"), ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return path.read_text("utf-8"), done.stderr


def test_a_record_names_its_process_and_its_session(tmp_path: Path) -> None:
    lines = "with session_logging('s_1'):\n    logging.getLogger('omni.x').info('in slot %s', 4)"

    written, _ = run(tmp_path, lines)

    assert written.strip().endswith("INFO    worker-3 s_1 omni.x: in slot 4")


def test_a_session_can_be_named_for_one_record(tmp_path: Path) -> None:
    lines = "logging.getLogger('omni.x').info('a', extra={'session_id': 's_2'})"

    assert " s_2 " in run(tmp_path, lines)[0]


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("demo", r" web-0 (s_\w+) omni\.realtime\.endpoint: session \1 is over"),
        ("openai", r" web-0 (sess_\w+) omni\.routes\.openai_realtime: session \1 is over"),
    ],
)
async def test_what_web_logs_of_a_session_carries_its_id(
    omni: RunningOmni, dialect: TalkDialect, line: str
) -> None:
    await ask(Talker(omni.address), "chat", "hello", dialect)

    async with asyncio.timeout(TIMEOUT_S):
        while not re.search(line, omni.log("web-0")):
            await asyncio.sleep(0.01)


def test_a_process_started_by_hand_also_shows_its_records(tmp_path: Path) -> None:
    written, shown = run(tmp_path, "logging.warning('look')")

    assert "look" in written and "look" in shown


def test_a_record_stands_in_the_launchers_file_once(tmp_path: Path) -> None:
    written, _ = run(tmp_path, "logging.warning('look')", is_led_into_file=True)

    assert written.count("look") == 1


def test_an_uncaught_error_is_logged_with_its_trace(tmp_path: Path) -> None:
    written, _ = run(tmp_path, "raise ValueError('bad luck')")

    assert "CRITICAL" in written and "Traceback" in written and "bad luck" in written


def test_an_uncaught_error_of_a_thread_names_the_thread(tmp_path: Path) -> None:
    lines = (
        "def fail():\n    raise ValueError('bad luck')\n"
        "t = threading.Thread(target=fail, name='engine'); t.start(); t.join()"
    )

    assert "ValueError in thread engine" in run(tmp_path, lines)[0]


def test_keys_are_left_out_whoever_logs_them(tmp_path: Path) -> None:
    """aiohttp logs the subprotocols that a client offers, and one of them may be its key."""
    lines = (
        "logging.warning('%r', ['omni', 'omni-key.hush', 'openai-insecure-api-key.hush'])\n"
        "logging.warning('Authorization: Bearer hush')\n"
        "logging.warning('made omni_api_hush-hush and ek_hush; omni_signin=hush.1.hush')\n"
        "raise ValueError('omni_admin_hush')"
    )

    written, shown = run(tmp_path, lines)

    assert "hush" not in written + shown
    assert "Bearer ***" in written and "omni-key.***" in written


def test_a_log_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    lines = "for _ in range(130): logging.info('x' * 100_000)"

    run(tmp_path, lines, is_led_into_file=True)

    sizes = [path.stat().st_size for path in tmp_path.glob("worker-3.log*")]
    assert len(sizes) == 2 and max(sizes) <= log.LOG_BYTES

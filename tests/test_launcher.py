"""`omni up` starts everything, says what runs, and leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

import pytest

from omni.process import ROOT
from omni.running import find_running, left_over, pid_path
from omni.settings import FabricSettings
from tests.conftest import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    RunningOmni,
    StartOmni,
    clean_environment,
    heard,
    launch,
)
from tests.fabric import BrokerProcess
from tests.fakes import until

PROCESSES = ["broker", "web-0", "worker-0"]


def omni_command(running: RunningOmni, *words: str) -> subprocess.CompletedProcess[str]:
    """Run another command beside *running*."""
    sets = ["--set", f"fabric.run_dir={running.fabric.run_dir}"]
    return subprocess.run(
        [sys.executable, "-m", "omni.cli", *words, *sets],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )


async def test_everything_is_ready_when_it_says_so(omni: RunningOmni) -> None:
    status = await omni.status()

    [worker] = status.workers
    # on a busy machine it may be silent just now
    assert worker.state in ("ready", "probation") and worker.pid == omni.pid("worker-0")
    assert worker.capabilities is not None and worker.capabilities.engine == "null"
    assert status.webs == ("web-0",)
    with urlopen(f"{omni.address}/health", timeout=60) as response:
        assert response.status == 200


def test_the_table_names_address_engine_and_logs(omni: RunningOmni) -> None:
    output = omni.output()

    assert omni.address in output
    assert "null engine" in output and "No model is running" in output
    for name in PROCESSES:
        assert str(omni.pid(name)) in output and f"{name}.log" in output


def test_every_process_has_a_pid_file_and_a_log(omni: RunningOmni) -> None:
    assert sorted(left_over(omni.fabric.run_dir)) == PROCESSES
    assert "ready after" in omni.log("worker-0")


def test_a_second_start_in_the_same_place_is_told_what_to_do(omni: RunningOmni) -> None:
    second = omni_command(omni, "up", "--set", "model.engine=null", "--http", "--port", "0")

    assert second.returncode == 1
    assert omni.address in second.stderr and "omni down" in second.stderr
    assert sorted(left_over(omni.fabric.run_dir)) == PROCESSES


def test_a_taken_port_is_named_with_the_way_out(omni: RunningOmni) -> None:
    port = omni.address.rsplit(":", 1)[1]
    elsewhere = f"fabric.run_dir={omni.folder / 'second'}"

    second = omni_command(omni, "up", "--http", "--port", port, "--set", elsewhere)
    # the later --set, of omni_command, names the running one's directory; so ask for both
    third = subprocess.run(
        [sys.executable, "-m", "omni.cli", "up", "--http", "--port", port, "--set", elsewhere],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )

    assert second.returncode == 1
    assert third.returncode == 78
    assert port in third.stderr and "--port" in third.stderr


def test_status_prints_what_runs(omni: RunningOmni) -> None:
    table = omni_command(omni, "status", "--once")
    document = omni_command(omni, "status", "--json")

    assert re.search("worker-0  (ready|probation)", table.stdout)
    assert json.loads(document.stdout)["workers"][0]["name"] == "worker-0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_leaves_no_process(start_omni: StartOmni, number: signal.Signals) -> None:
    with heard(number):
        running = start_omni()
    pids = left_over(running.fabric.run_dir)

    running.launcher.send_signal(number)

    assert running.launcher.wait(STOP_TIMEOUT_S) == 0
    assert sorted(pids) == PROCESSES
    assert not any(is_there(pid) for pid in pids.values())
    assert find_running(running.fabric.run_dir) is None


def test_down_stops_what_another_terminal_started(start_omni: StartOmni) -> None:
    running = start_omni()

    down = omni_command(running, "down")

    assert down.returncode == 0 and "launcher" in down.stdout
    assert running.launcher.wait(STOP_TIMEOUT_S) == 0
    assert left_over(running.fabric.run_dir) == {}
    assert "was not running" in omni_command(running, "down").stdout


def test_children_end_with_a_launcher_that_was_killed(start_omni: StartOmni) -> None:
    """Also the one that was stopped at that moment, and could not hear of it."""
    running = start_omni()
    pids = left_over(running.fabric.run_dir)
    running.kill("worker-0", signal.SIGSTOP)
    # The kernel wakes what stands still when its group is orphaned, not what is about to stop.
    status = Path(f"/proc/{pids['worker-0']}/status")
    until(lambda: "\nState:\tT" in status.read_text())

    running.launcher.kill()

    until(lambda: not any(is_there(pid) for pid in pids.values()))


def test_all_of_it_ends_with_a_parent_that_was_killed() -> None:
    """Tests and scripts start servers, and `kill -9` leaves them no time to stop these.

    The thread that started it may end before: that is nobody's death.
    """
    script = """
import sys, threading
from pathlib import Path
from tests.conftest import launch
starter = threading.Thread(target=launch, args=[Path(sys.argv[1])])
starter.start()
starter.join()
sys.stdin.read()
"""
    with tempfile.TemporaryDirectory(prefix="omni-") as folder:  # short, for its sockets
        run_dir = str(Path(folder, "run"))
        command = [sys.executable, "-c", script, folder]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as parent:
            until(lambda: "omni is ready" in words_of(Path(folder, "up.txt")), START_TIMEOUT_S)
            launcher = find_running(run_dir)
            assert launcher is not None
            children = left_over(run_dir)

            parent.kill()

            until(lambda: not any(map(is_there, [launcher.pid, *children.values()])))
            assert sorted(children) == PROCESSES


def words_of(path: Path) -> str:
    """Return what stands in *path*; nothing before there is one."""
    return path.read_text("utf-8") if path.exists() else ""


def test_stale_pid_files_of_a_killed_launcher_do_not_hinder(start_omni: StartOmni) -> None:
    running = start_omni()
    running.launcher.kill()
    running.launcher.wait(STOP_TIMEOUT_S)
    until(lambda: left_over(running.fabric.run_dir) == {})
    assert running.pid("worker-0")  # the file is there, the process is not

    assert find_running(running.fabric.run_dir) is None
    assert "was not running" in omni_command(running, "down").stdout


def test_a_start_ends_what_a_killed_launcher_left_and_goes_on() -> None:
    """It took the lock that it held itself for another launcher's, and ended itself."""
    with tempfile.TemporaryDirectory(prefix="omni-") as folder:
        run_dir = str(Path(folder, "run"))
        left = BrokerProcess(FabricSettings(run_dir=run_dir))
        left.start()
        until(lambda: Path(run_dir, "broker.lock").exists())
        pid_path(run_dir, "broker").write_text(f"{left.pid}\n")

        running = launch(Path(folder))

        try:
            until(lambda: has_begun_or_ended(running), START_TIMEOUT_S)
            assert "omni is ready" in running.output() and running.launcher.poll() is None
            left.wait()
        finally:
            running.stop()
            left.close()


def has_begun_or_ended(running: RunningOmni) -> bool:
    """True when `omni up` says that it is ready, and when it is over."""
    return running.launcher.poll() is not None or "omni is ready" in running.output()


def test_a_worker_that_cannot_load_ends_the_start_with_its_words(start_omni: StartOmni) -> None:
    running = start_omni({"model.engine": "minicpmo"}, wait=False)

    assert running.launcher.wait(START_TIMEOUT_S) == 1
    assert "worker-0 exited with code 78" in running.output()
    assert "needs model.model_path" in running.output()
    assert left_over(running.fabric.run_dir) == {}


def is_there(pid: int) -> bool:
    """True while *pid* is a process that is not just waiting to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter between open and read
        return False

"""The set-up: what is imported is pinned, what is pinned is what the tests ran with."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from omni import install
from omni.process import ROOT
from tests.conftest import heard
from tests.test_layering import IMPORTS

LISTS = install.packages()
PINS = {
    match["name"].lower().replace("_", "-"): match["version"]
    for lines in LISTS.values()
    for line in lines
    if (match := re.match(r"(?P<name>[\w.-]+)==(?P<version>[^;\s]+)", line))
}
#: Imported only where they are there: of torch for CUDA, and of a check on a GPU.
OPTIONAL = {"triton", "stepaudio2", "s3tokenizer", "minicpmo"}


def test_every_requirement_is_pinned() -> None:
    loose = [line for lines in LISTS.values() for line in lines if "==" not in line]

    assert not loose


def test_every_package_that_is_imported_is_pinned() -> None:
    """A package that was installed by hand works here, and nowhere else."""
    known = packages_distributions()
    roots = {imported.split(".")[0] for imports in IMPORTS.values() for imported in imports}
    ours = roots - set(sys.stdlib_module_names) - OPTIONAL - {"omni"}

    loose = {
        root
        for root in ours
        if not {name.lower().replace("_", "-") for name in known.get(root, [root])} & set(PINS)
    }

    assert not loose


@pytest.mark.parametrize("extra", ["base", "pocket", "pocket-no-deps", "test"])
def test_the_tests_run_with_what_is_pinned(extra: str) -> None:
    for line in LISTS[extra]:
        name, pinned = line.split(";")[0].strip().split("==")

        assert version(name).split("+")[0] == pinned, name


def test_each_command_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "has_gpu", lambda: False)

    assert install.extras_for(["status"]) == ["base"]
    assert install.extras_for(["up", "--http"]) == ["base", "pocket"]
    assert install.extras_for(["test", "-k", "x"]) == ["base", "pocket", "test", "test-cpu"]
    assert install.extras_for(["install", "dev"]) == ["base", "pocket", "dev"]
    assert install.extras_for(["model", "check", "x"]) == ["base", "pocket", "test-cpu"]
    assert install.extras_for(["model", "--help"]) == ["base", "pocket"]

    monkeypatch.setattr(install, "has_gpu", lambda: True)
    assert install.extras_for(["up"]) == ["base", "pocket", "gpu"]


def test_a_machine_without_gpu_needs_no_torch_to_talk() -> None:
    assert not [line for extra in ("base", "pocket") for line in LISTS[extra] if "torch" in line]


def test_the_script_runs_without_any_package() -> None:
    tree = ast.parse((ROOT / "omni" / "install.py").read_text("utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])

    assert imported <= set(sys.stdlib_module_names)


class Copy:
    """A copy of the set-up's files in its own directory, with a pip that reaches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin/omni", "omni/install.py", "setup.cfg"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
        os.chmod(folder / "bin" / "omni", 0o755)
        self.venv = folder / ".venv" / "base"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment(retries=1),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def command(self, *words: str) -> list[str]:
        return [str(self.folder / "bin" / "omni"), *words]

    def environment(self, retries: int) -> dict[str, str]:
        return {
            **os.environ,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # the discard port: nobody listens
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_RETRIES": str(retries),
        }


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


def test_a_network_that_is_gone_is_named_with_the_way_on(copy: Copy) -> None:
    done = copy.run("status")

    assert done.returncode == 1
    assert "packages cannot be fetched" in done.stderr and "same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (copy.venv / "omni-unfinished").exists()  # nothing was changed
    log = copy.folder / ".venv" / "setup.log"
    assert str(log) in done.stderr and "Retrying" in log.read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_set_up_that_is_stopped_says_so_and_leaves_no_pip(
    copy: Copy, number: signal.Signals
) -> None:
    with heard(number):
        setup = subprocess.Popen(
            copy.command("status"),
            env=copy.environment(retries=100),  # pip goes on asking for minutes
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with setup:
        assert setup.stdout is not None and setup.stderr is not None
        assert any("trying again" in line for line in setup.stdout)  # pip is at work
        [pip] = Path(f"/proc/{setup.pid}/task/{setup.pid}/children").read_text("utf-8").split()
        setup.send_signal(number)
        last_words = setup.stderr.read()

    assert setup.returncode == 1
    assert "was stopped" in last_words and "goes on from here" in last_words
    assert not Path(f"/proc/{pip}").exists()
    assert "packages cannot be fetched" in copy.run("status").stderr, "it did not go on"


def test_a_full_disk_is_named_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv" / "base")
    monkeypatch.setattr(install, "UNFINISHED", tmp_path / "unfinished")
    monkeypatch.setattr(install, "PYTHON", tmp_path / "python")
    full = shutil.disk_usage(tmp_path)._replace(free=300 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)

    with pytest.raises(install.SetupError, match="has 300 MiB free, and set-up needs about 850"):
        install._set_up(["base", "pocket"])

    assert not (tmp_path / ".venv" / "base").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying (Retry(total=4 ...", "check the network"),
        ("ERROR: No matching distribution found for x==1", "not to be had for Python"),
        ("ERROR: something new", "pip failed"),
    ],
)
def test_the_reason_of_pip_is_told_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, reason: str
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path)

    assert reason in install._reason(words)


def test_a_fetch_is_told_by_packages_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Not by what pip says, which is a wall: of a hundred lines, those that matter are told."""
    fetching = install.Fetching(about_mb=425)

    for line in (
        "Collecting aiohttp==3.14.5\n",
        "  Downloading aiohttp-3.14.5-cp311-cp311-any.whl.metadata (7.7 kB)\n",
        "  Downloading aiohttp-3.14.5-cp311-cp311-any.whl (1.9 MB)\n",
        "  Using cached https://index/ab/attrs-26.1.0-py3-none-any.whl (67 kB)\n",
        "  Downloading ctranslate2-4.8.5-cp311-cp311-any.whl (42.6 MB)\n",
        "WARNING: Location 'x' is ignored: it is neither a file nor a directory.\n",
        "WARNING: Retrying (Retry(total=4, connect=None, read=None)) after ...\n",
        "Saved ./.venv/wheels/aiohttp-3.14.5-cp311-cp311-any.whl\n",
    ):
        fetching.hear(line)
    fetching.end()

    assert capsys.readouterr().out.splitlines() == [
        "  45 of about 425 MB, 3 packages: ctranslate2 4.8.5, 43 MB",
        "  45 of about 425 MB, 3 packages: no answer: trying again",
    ]


def test_an_environment_that_was_left_half_way_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stamp = tmp_path / "stamp.json"
    stamp.write_text(json.dumps({"base": install.digest("base", LISTS), "root": str(ROOT)}))
    monkeypatch.setattr(install, "STAMP", stamp)
    monkeypatch.setattr(install, "UNFINISHED", tmp_path / "unfinished")
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    trusted = install._missing(["base"], LISTS)

    (tmp_path / "unfinished").touch()

    assert (trusted, install._missing(["base"], LISTS)) == ([], ["base"])


def test_an_extra_that_does_not_exist_is_named_with_those_that_do(copy: Copy) -> None:
    done = copy.run("install", "everything")

    assert done.returncode == 1
    assert "'everything'" in done.stderr and "pocket" in done.stderr


def test_what_is_installed_is_not_installed_again(copy: Copy) -> None:
    """The stamp alone decides: with it, no pip is asked and no network needed."""
    (copy.venv / "bin").mkdir(parents=True, exist_ok=True)
    installed = {extra: install.digest(extra, LISTS) for extra in ("base", "pocket")}
    stamp = {**installed, "root": str(copy.folder)}
    (copy.venv / "omni-installed.json").write_text(json.dumps(stamp), "utf-8")

    done = copy.run("install")

    assert done.returncode == 0 and "ready:" in done.stdout

    stamp["base"] = "of another time"
    (copy.venv / "omni-installed.json").write_text(json.dumps(stamp), "utf-8")
    assert "packages cannot be fetched" in copy.run("install").stderr

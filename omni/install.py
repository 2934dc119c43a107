"""Sets up .venv/base for what a command needs, then becomes `python -m omni.cli`.

Run as a script by bin/omni, before any package exists: standard library only. The package lists
are setup.cfg's. What is installed stands in a stamp file, so that a second start installs nothing.
"""

import configparser
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "base"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "omni-installed.json"
#: Packages are fetched here first, which may be broken off at any time and done again.
WHEELS = ROOT / ".venv" / "wheels"
#: All that pip said in the last set-up.
LOG = ROOT / ".venv" / "setup.log"
#: Stands while pip changes the environment; one that was left half-way is made anew.
UNFINISHED = VENV / "omni-unfinished"
OLDEST_PYTHON = (3, 11)
NO_DEPS = "-no-deps"

#: Disk needed by each extra when installed, in MiB; measured with `du` on Linux x86-64.
SIZE_MB = {"base": 250, "pocket": 600, "gpu": 9000, "test": 250, "test-cpu": 1500, "dev": 120}

#: What is fetched of that: 425 MB where 850 are installed (base and pocket), measured.
FETCHED_SHARE = 0.5

#: What pip says of a package that it fetches, has fetched before, or finds in a directory.
_FETCHES = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([^\s/]+\.(?:whl|tar\.gz))(?!\S)"
)
_SIZE = re.compile(r"\(([\d.]+) ([kMG]?)B\)")
_FACTORS = {"": 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}
#: Where nobody looks at a terminal, the state is printed so often, and for each big package.
TELL_EVERY_S = 10.0
BIG_MB = 20.0

#: Commands that need more than the fabric; the last ones run the big model's code anywhere.
_WITH_TORCH = ("model", "tiny-checkpoint", "precompile")
_NEEDS = ("up", "worker", "install", "test", "bench", *_WITH_TORCH)
_HINT = "Then run the same command again: it goes on from here."


class SetupError(Exception):
    """Set-up cannot go on; the text says what happened and the way out."""


def main(argv: Sequence[str]) -> None:
    """Set up what the command in *argv* needs, and run it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        wanted = extras_for(argv)
        _set_up(wanted)
        if argv[:1] == ["install"]:
            print(f"ready: {VENV} ({', '.join(wanted)})", flush=True)
            return
    except SetupError as exc:
        raise SystemExit(f"\nomni: {exc}") from exc
    except KeyboardInterrupt:
        text = "set-up was stopped. Run the same command again: it goes on from here."
        raise SystemExit(f"\nomni: {text}") from None
    os.execv(PYTHON, [str(PYTHON), "-m", "omni.cli", *argv])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def extras_for(argv: Sequence[str]) -> list[str]:
    """Return the extras of setup.cfg that the command in *argv* needs on this machine."""
    command = argv[0] if argv else ""
    if command not in _NEEDS:
        return ["base"]
    torch = "gpu" if has_gpu() else "test-cpu"
    machine = ["base", "pocket", "gpu"] if torch == "gpu" else ["base", "pocket"]
    further = {"install": list(argv[1:]), "test": ["test", torch]}
    if command in _WITH_TORCH and not {"-h", "--help"} & set(argv):
        further[command] = [torch]
    return list(dict.fromkeys([*machine, *further.get(command, [])]))


def has_gpu() -> bool:
    """True where an NVIDIA driver knows a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def _set_up(extras: Sequence[str]) -> None:
    lists = packages()
    if unknown := [extra for extra in extras if extra not in lists]:
        known = ", ".join(name for name in lists if not name.endswith(NO_DEPS))
        raise SetupError(f"there is no extra {unknown[0]!r}; known: {known}")
    if not _missing(extras, lists):
        return
    VENV.parent.mkdir(exist_ok=True)
    with _only_one():
        missing = _missing(extras, lists)  # another one may have installed it meanwhile
        if missing:
            _install(missing, lists)


def packages() -> dict[str, list[str]]:
    """Return the requirements of each extra of setup.cfg, with `base` for what all need."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    texts = {"base": config["options"]["install_requires"]}
    texts.update(config["options.extras_require"])
    return {name: text.split("\n")[1:] for name, text in texts.items()}


def _missing(extras: Sequence[str], lists: dict[str, list[str]]) -> list[str]:
    installed = _stamp()
    return [extra for extra in extras if installed.get(extra) != digest(extra, lists)]


def _stamp() -> dict[str, str]:
    """Return extra -> digest of what is installed; nothing where it cannot be trusted."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return {}
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and stamp.get("root") == str(ROOT) else {}


def digest(extra: str, lists: dict[str, list[str]]) -> str:
    """Return what stands in the stamp for *extra*; another list or Python gives another."""
    both = [lists[extra], lists.get(extra + NO_DEPS, [])]
    return hashlib.sha256(json.dumps([both, sys.version_info[:2]]).encode()).hexdigest()


def _install(extras: Sequence[str], lists: dict[str, list[str]]) -> None:
    started_s = time.monotonic()
    _check_disk(extras)
    LOG.unlink(missing_ok=True)
    print(f"omni: setting up {VENV} for this machine: {', '.join(extras)}", flush=True)
    _make_venv()
    # All in one call, so that pip finds versions that fit together.
    together = [line for extra in extras for line in lists[extra]]
    alone = [line for extra in extras for line in lists.get(extra + NO_DEPS, [])]
    calls = [call for call in (together, ["--no-deps", *alone]) if call[-1] != "--no-deps"]
    fetching = Fetching(FETCHED_SHARE * sum(SIZE_MB.get(extra, 0) for extra in extras))
    print(f"omni: fetching {len(together) + len(alone)} packages and what they need", flush=True)
    for call in calls:
        _pip("wheel", "--prefer-binary", "--wheel-dir", str(WHEELS), *call, hear=fetching.hear)
    fetching.end()
    print(f"omni: installing {len(list(WHEELS.glob('*.whl')))} packages", flush=True)
    UNFINISHED.touch()
    for call in calls:
        _pip("install", "--no-index", "--find-links", str(WHEELS), *call)
    _write_stamp({extra: digest(extra, lists) for extra in extras})
    shutil.rmtree(WHEELS)
    print(f"omni: set up in {time.monotonic() - started_s:.0f} s", flush=True)


def _check_disk(extras: Sequence[str]) -> None:
    need_mb = sum(SIZE_MB.get(extra, 0) for extra in extras)
    free_mb = shutil.disk_usage(VENV.parent).free // 2**20
    if free_mb < need_mb:
        raise SetupError(
            f"{VENV.parent} has {free_mb} MiB free, and set-up needs about {need_mb} MiB. "
            f"Make room. {_HINT}"
        )


def _make_venv() -> None:
    """Make the environment; anew where there is none that works or one was left half-way."""
    if PYTHON.exists() and not UNFINISHED.exists() and _runs("-c", "import pip"):
        if _runs("-c", f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"):
            return
    base = getattr(sys, "_base_executable", sys.executable)
    code, words = _watched([base, "-m", "venv", "--clear", str(VENV)])
    if code == 0:
        return
    if "ensurepip" in words or "No module named venv" in words:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(f"this Python has no venv. Run: sudo apt install {name}\n{_HINT}")
    raise SetupError(f"cannot make {VENV}: {words.strip() or 'no reason given'}\n{_HINT}")


def _runs(*arguments: str) -> bool:
    try:
        done = subprocess.run([str(PYTHON), *arguments], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Fetching:
    """Tells in one line how far pip is: on a terminal always the same line, elsewhere seldom."""

    def __init__(self, about_mb: float) -> None:
        self._about_mb = about_mb
        self._num_packages = 0
        self._fetched_mb = 0.0  # with the package that is on its way
        self._is_terminal = sys.stdout.isatty()
        self._told_s = time.monotonic()

    def hear(self, line: str) -> None:
        """Take a line of pip's."""
        if "WARNING: Retrying" in line:
            self._tell("no answer: trying again", is_urgent=True)
        elif (found := _FETCHES.match(line)) is not None:
            self._take(found[1], line)

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            print(flush=True)

    def _take(self, file: str, line: str) -> None:
        size = _SIZE.search(line)
        path = Path(line.split()[1])
        if size is not None:
            size_mb = float(size[1]) * _FACTORS[size[2]]
        else:
            size_mb = path.stat().st_size / 1e6 if path.is_file() else 0.0
        self._num_packages += 1
        self._fetched_mb += size_mb
        name, version, *_ = [*file.split("-"), ""]
        is_big = size_mb >= BIG_MB
        self._tell(f"{name} {version}{f', {size_mb:.0f} MB' if is_big else ''}", is_big)

    def _tell(self, now: str, is_urgent: bool) -> None:
        sizes = f"{self._fetched_mb:.0f}"
        if self._fetched_mb <= self._about_mb:
            sizes += f" of about {self._about_mb:.0f}"
        text = f"  {sizes} MB, {self._num_packages} packages: {now}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:{width}}", end="", flush=True)
        elif is_urgent or time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._told_s = time.monotonic()
            print(text, flush=True)


def _pip(command: str, *arguments: str, hear: Callable[[str], None] = lambda line: None) -> None:
    """Run a command of pip; *hear* gets each line that it says.

    Raises: SetupError with the reason in plain words.
    """
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    code, words = _watched([str(PYTHON), "-m", "pip", command, *quiet, *arguments], hear)
    if code:
        raise SetupError(f"{_reason(words)} All that pip said is in {LOG}.\n{_HINT}")


def _watched(
    command: Sequence[str], hear: Callable[[str], None] = lambda line: None
) -> tuple[int, str]:
    """Run *command*, and return its exit code and the end of what it said; all of it is logged.

    It gets a process group, so that a stop of the set-up ends also what it started itself.
    """
    said: list[str] = []
    with (
        open(LOG, "a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                hear(line)
                said = [*said[-200:], line]
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, "".join(said)


def _reason(errors: str) -> str:
    if "No space left" in errors or shutil.disk_usage(VENV).free < 2**24:
        return "the disk is full: make room."
    if "Retrying" in errors or "ConnectionError" in errors or "Connection broken" in errors:
        return "packages cannot be fetched: check the network, a proxy and pip's configuration."
    if "No matching distribution" in errors:
        version = ".".join(map(str, sys.version_info[:2]))
        where = f"for Python {version} on this machine"
        return f"a package is not to be had {where}{_complaint(errors)}"
    return f"pip failed{_complaint(errors)}"


def _complaint(errors: str) -> str:
    """Return the last error that pip names, to be added to a sentence."""
    named = [line for line in errors.splitlines() if line.startswith("ERROR: ")]
    return f": {named[-1].removeprefix('ERROR: ')}." if named else "."


def _write_stamp(installed: dict[str, str]) -> None:
    site = next((VENV / "lib").glob("python*/site-packages"))
    (site / "omni.pth").write_text(f"{ROOT}\n", "utf-8")
    stamp = {**_stamp_despite_unfinished(), **installed, "root": str(ROOT)}
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamp), "utf-8")
    temporary.replace(STAMP)
    UNFINISHED.unlink()


def _stamp_despite_unfinished() -> dict[str, str]:
    """Return the stamp of before this installation; a cleared environment has none."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold the set-up's lock; wait for another set-up, which is told."""
    with open(VENV.parent / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"omni: waiting for another set-up (process {lock.read().strip()})", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


if __name__ == "__main__":
    main(sys.argv[1:])

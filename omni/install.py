"""Sets up .venv/base for what a command needs, then becomes `python -m omni.cli`.

Run as a script by bin/omni, before any package exists: standard library only. The package lists
are setup.cfg's. What is installed stands in a stamp file, so that a second start installs nothing.
"""

import configparser
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "base"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "omni-installed.json"
#: Packages are fetched here first, which may be broken off at any time and done again.
WHEELS = ROOT / ".venv" / "wheels"
#: Stands while pip changes the environment; one that was left half-way is made anew.
UNFINISHED = VENV / "omni-unfinished"
OLDEST_PYTHON = (3, 11)
NO_DEPS = "-no-deps"

#: Disk needed by each extra when installed, in MiB; measured with `du` on Linux x86-64.
SIZE_MB = {"base": 250, "pocket": 600, "gpu": 9000, "test": 250, "test-cpu": 1500, "dev": 120}

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
    if command in _WITH_TORCH:
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
    print(f"omni: setting up {VENV} for this machine: {', '.join(extras)}", flush=True)
    _make_venv()
    # All in one call, so that pip finds versions that fit together.
    together = [line for extra in extras for line in lists[extra]]
    alone = [line for extra in extras for line in lists.get(extra + NO_DEPS, [])]
    calls = [call for call in (together, ["--no-deps", *alone]) if call[-1] != "--no-deps"]
    print(f"omni: fetching {len(together) + len(alone)} packages and what they need", flush=True)
    for call in calls:
        _pip("wheel", "--prefer-binary", "--wheel-dir", str(WHEELS), *call)
    print("omni: installing them", flush=True)
    UNFINISHED.touch()
    for call in calls:
        _pip("install", "--quiet", "--no-index", "--find-links", str(WHEELS), *call)
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
    code, words = _watched([base, "-m", "venv", "--clear", str(VENV)], is_shown=False)
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


def _pip(command: str, *arguments: str) -> None:
    """Run a command of pip, showing its words as they come.

    Raises: SetupError with the reason in plain words.
    """
    quiet = ["--no-input", "--disable-pip-version-check"]
    code, errors = _watched([str(PYTHON), "-m", "pip", command, *quiet, *arguments], is_shown=True)
    if code:
        raise SetupError(f"{_reason(errors)} {_HINT}")


def _watched(command: Sequence[str], is_shown: bool) -> tuple[int, str]:
    """Run *command*, and return its exit code and the end of what it said (shown: on stderr).

    It gets a process group, so that a stop of the set-up ends also what it started itself.
    """
    said: list[str] = []
    out, errors = (None, subprocess.PIPE) if is_shown else (subprocess.PIPE, subprocess.STDOUT)
    with subprocess.Popen(
        command, stdout=out, stderr=errors, text=True, process_group=0
    ) as process:
        words = process.stderr or process.stdout
        assert words is not None
        try:
            for line in words:
                if is_shown:
                    print(line, end="", file=sys.stderr, flush=True)
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
        return f"a package is not to be had for Python {version} on this machine (see above)."
    return "pip failed (see above)."


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

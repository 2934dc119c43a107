"""Which GPUs this machine has, without torch: what nvidia-smi says."""

import os
import shutil
import subprocess
from itertools import takewhile

from attrs import frozen

TIMEOUT_S = 30.0
_QUERY = "index,name,memory.total,memory.free,driver_version"


@frozen(kw_only=True)
class Gpu:
    """One NVIDIA GPU. index: as CUDA_VISIBLE_DEVICES takes it."""

    index: str
    name: str
    total_mib: int
    free_mib: int
    driver: str


def list_gpus() -> list[Gpu]:
    """Return the machine's NVIDIA GPUs; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [gpu for line in done.stdout.splitlines() if (gpu := parse_gpu(line)) is not None]


def parse_gpu(line: str) -> Gpu | None:
    """Return the GPU of one line of nvidia-smi's CSV, or None for a line that is no GPU."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not (fields[2].isdigit() and fields[3].isdigit()):
        return None
    index, name, total, free, driver = fields
    return Gpu(index=index, name=name, total_mib=int(total), free_mib=int(free), driver=driver)


def visible_gpus() -> list[str]:
    """Return the indexes that workers may use: CUDA_VISIBLE_DEVICES where it is set, else all.

    As CUDA reads it, -1 ends the list: nothing behind it is visible.
    """
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        indexes = (index.strip() for index in chosen.split(","))
        return [index for index in takewhile(lambda index: index != "-1", indexes) if index]
    return [gpu.index for gpu in list_gpus()]

"""What Triton needs of a machine to build this engine's kernels. Imports neither torch nor Triton.

Triton compiles a small C launcher for each kernel at its first run, so a machine without a compiler
or without Python's headers fails only then; asked here, it is known at the start.
"""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

#: Source: triton/runtime/build.py: $CC, else gcc or clang from the PATH.
_COMPILERS = ("gcc", "clang")


def lacks_for_kernels() -> str:
    """Return what is missing for kernels, with its way out; empty where nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is missing (it comes with torch for CUDA): bin/omni install gpu"
    if find_compiler() is None:
        return "there is no C compiler, which Triton needs: install gcc (apt-get install gcc)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return (
            f"{header} is missing, which Triton needs: install Python's headers "
            "(apt-get install python3-dev)"
        )
    return ""


def find_compiler() -> str | None:
    """Return the C compiler that Triton would take."""
    wanted = os.environ.get("CC")
    return next(filter(None, map(shutil.which, (wanted,) if wanted else _COMPILERS)), None)

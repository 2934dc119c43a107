"""Pythons with packages that the tests' own must do without, for their size or their pins."""

import importlib.util
import os
import sys

import pytest

#: Package -> the variable that names a Python which has it, and why ours has not.
_ELSEWHERE = {
    "agents": ("AGENTS_PYTHON", "it wants websockets of another version"),
    "livekit": ("LIVEKIT_PYTHON", "98 MB beside what is there"),
    "pipecat": ("PIPECAT_PYTHON", "225 MB, and soxr and soundfile of other versions"),
}


def python_with(package: str) -> str:
    """Return the path of a Python that has *package*; skip the test where there is none."""
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    variable, reason = _ELSEWHERE[package]
    if path := os.environ.get(variable):
        return path
    pytest.skip(f"{package} is not installed ({reason}), and {variable} names no Python with it")

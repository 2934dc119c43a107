"""What the tests of OpenAI calls share."""

import shutil

import pytest


@pytest.fixture
def node() -> str:
    """The path of Node.js, which has the WebSocket of browsers (before version 22: by a flag)."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node.js is not installed")
    return path

"""Running servers and OpenAI's own clients for them."""

import base64
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
import soundfile
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.conftest import RunningOmni, StartOmni

#: Of requests, not of tests: a busy machine is slow.
TIMEOUT_S = 60.0
MODEL = "gpt-4o-audio-preview"  # any name is taken for the one that is served


@pytest.fixture(scope="package")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A whole omni with the null engine."""
    running = start_omni({"web.max_body_mb": 8, "recording.enabled": "true"})
    yield running
    running.stop()


@pytest.fixture
async def client(server: RunningOmni) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client; it tries nothing twice."""
    async with sdk(server) as made:
        yield made


@pytest.fixture
def sync_client(server: RunningOmni) -> Iterator[OpenAI]:
    """The same without asyncio."""
    base_url = f"{server.address}/v1"
    with OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=TIMEOUT_S) as made:
        yield made


@pytest.fixture
async def http(server: RunningOmni) -> AsyncIterator[aiohttp.ClientSession]:
    """Plain HTTP, for what OpenAI's client would not send."""
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    async with aiohttp.ClientSession(server.address, timeout=timeout) as session:
        yield session


@asynccontextmanager
async def sdk(
    server: RunningOmni, max_retries: int = 0, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client of *server*."""
    base_url = f"{server.address}/v1"
    async with AsyncOpenAI(
        base_url=base_url, api_key="any", max_retries=max_retries, timeout=timeout_s
    ) as made:
        yield made


def picture_url(size: tuple[int, int] = (64, 48), kind: str = "PNG") -> str:
    """Return a small picture as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", size, (20, 90, 200)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def sound_file(duration_s: float, kind: str = "WAV", rate_hz: int = 24_000) -> bytes:
    """Return a tone as a sound file."""
    at_s = np.arange(int(rate_hz * duration_s), dtype=np.float32) / rate_hz
    file = io.BytesIO()
    soundfile.write(file, 0.2 * np.sin(2 * np.pi * 440 * at_s), rate_hz, format=kind)
    return file.getvalue()

"""Fixtures of the browser tests: one Chromium for a module, empty for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.browser import chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Browser]:
    """With two cameras: Chromium has but one where a film is given."""
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def browser(one_browser: Browser) -> AsyncIterator[Browser]:
    """The browser with no page in it, before and after."""
    yield one_browser
    for context in one_browser.contexts:
        await context.close()

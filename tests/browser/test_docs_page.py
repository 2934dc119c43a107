"""The page of the HTTP API in a real Chromium, against a real server."""

import pytest

from tests.browser.browser import CHROMIUM, chromium, collect_errors, until
from tests.conftest import RunningOmni

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

VISIBLE = "[...document.querySelectorAll('.docs-card:not([hidden])')]"


async def test_every_route_can_be_found_and_read(omni: RunningOmni) -> None:
    async with chromium() as browser:
        page = await browser.new_page(locale="en-US")
        errors = collect_errors(page)
        elsewhere: list[str] = []
        page.on("request", lambda asked: elsewhere.append(asked.url))
        await page.goto(f"{omni.address}/redoc#get_api_queue_ticket_id")
        await until(page, "document.querySelector('.docs-card[open]')?.id.length")
        document = await page.evaluate("fetch('/openapi.json').then((reply) => reply.json())")
        num_operations = sum(len(entry) for entry in document["paths"].values())

        assert await page.evaluate(f"{VISIBLE}.length") == num_operations
        assert "ticket_id" in await page.inner_text(".docs-card[open]")
        await page.fill(".docs-search", "delete ref_audio")
        await until(page, f"{VISIBLE}.length === 1")
        await page.click(".docs-card:not([hidden]) summary")
        command = await page.inner_text(".docs-card:not([hidden]) .docs-command code")
        await page.fill(".docs-search", "no such route")
        await until(page, "!document.querySelector('.docs-none').hidden")
        await page.click(".lang-switch")
        await until(page, "document.querySelector('h1').textContent === 'HTTP 接口'")

    assert command == f"curl -X DELETE '{omni.address}/api/assets/ref_audio/{{voice_id}}'"
    assert errors == []
    assert [url for url in elsewhere if not url.startswith(omni.address)] == []

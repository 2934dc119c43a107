"""The page of a recorded session, in a real Chromium against a real server."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from playwright.async_api import Page

from tests.browser.browser import CHROMIUM, chromium
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import SPEECH, connected
from tests.recording.stage import picture

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    running = start_omni({"recording.enabled": "true"})
    yield running
    running.stop()


async def opened(page: Page, server: RunningOmni, session_id: str) -> list[str]:
    """Open the viewer; return the list to which errors of its scripts are added."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(TIMEOUT_MS)
    await page.goto(f"{server.address}/s/{session_id}?lang=en")
    return errors


async def test_a_call_is_watched_while_it_ends(server: RunningOmni) -> None:
    """The page is opened during the call; the replay comes by itself when it is there."""
    frame = base64.b64encode(picture()).decode()
    async with chromium() as browser:
        page = await browser.new_page()
        async with connected(server.address, "/ws/duplex/omni_seen") as client:
            session_id = (await client.prepare())["recording_session_id"]
            for _ in range(8):
                await client.send_chunk(SPEECH, frame_base64_list=[frame])
                await client.expect("result")
            errors = await opened(page, server, str(session_id))
            await page.wait_for_selector("text=This page looks again by itself")
        await page.wait_for_selector("video.replay-film")
        said = await page.locator(".saying-ai p:not(.eyebrow)").all_inner_texts()
        await page.locator(".saying-time").nth(1).click()
        await page.wait_for_function("document.querySelector('video').currentTime >= 7")
        pictures = await page.locator(".picture").count()
        length = await page.locator("#length").inner_text()
        title = await page.locator("h1").inner_text()

    assert said == ["unit 4", "unit 8"]
    assert (pictures, errors) == (8, [])
    assert length != "Still running"
    assert title.startswith("Conversation ")


async def test_a_chat_with_markup_in_it_is_shown_as_text_and_commented(
    server: RunningOmni,
) -> None:
    words = "<img src=x onerror=alert(1)> & more"
    async with connected(server.address, "/ws/chat") as client:
        message = {"role": "user", "content": words}
        await client.socket.send_json({"messages": [message], "tts": {"enabled": True}})
        session_id = (await client.until("done"))["recording_session_id"]
    async with chromium() as browser:
        page = await browser.new_page()
        errors = await opened(page, server, str(session_id))
        await page.wait_for_selector(".saying-ai audio")
        shown = await page.locator(".saying-user p:not(.eyebrow)").inner_text()
        await page.fill("#comment", "很好 <b>")
        await page.click("text=Save comment")
        await page.wait_for_selector("text=The comment is saved.")
        await page.reload()
        await page.wait_for_selector("#comment")
        comment = await page.input_value("#comment")

    assert (shown, comment, errors) == (words, "很好 <b>", [])

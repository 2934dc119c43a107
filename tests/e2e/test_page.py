"""The pages in a real Chromium, with a microphone that asks a question, against the real engine."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, WebSocket

from tests.browser.browser import CHROMIUM, chromium, collect_errors, until
from tests.browser.flow import converse, start_talking, texts
from tests.conftest import RunningOmni
from tests.e2e.conftest import words

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WEEK = "How many days are in a week?"
#: Engine and browser share the cores, perhaps with others.
PATIENCE_S = 180.0
Record = Callable[[str], Path]


async def patient_page(browser: Browser) -> Page:
    """Return a new page that waits as long as the engine may take."""
    page = await browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    return page


async def test_a_page_hears_a_question_and_plays_and_shows_the_answer(
    pocket: RunningOmni, microphone: Record
) -> None:
    seen = await converse(pocket.address, microphone(WEEK), PATIENCE_S)

    assert words(seen.heard_user) == words(WEEK)
    assert "seven" in words(seen.answer)
    assert seen.max_rms > 0.01 and seen.played_ms > 500
    assert seen.metrics["results"] + seen.metrics["outstanding"] == seen.metrics["sent"]
    assert seen.console_errors == []


async def test_a_hands_free_page_takes_a_turn(pocket: RunningOmni, microphone: Record) -> None:
    async with chromium(microphone(WEEK)) as browser:
        page = await patient_page(browser)
        errors = collect_errors(page)
        await start_talking(page, pocket.address, "/half_duplex")
        await until(page, "omni.metrics().player.maxRms > 0.01", PATIENCE_S)
        await page.wait_for_selector(".stage[data-phase=listening]")
        heard, answer = await texts(page, "user"), await texts(page, "ai")

    assert words(heard) == words(WEEK) and "seven" in words(answer)
    assert errors == []


#: An answer that was begun in the pause before is soon complete: nobody outside is quick enough.
INTERRUPT_AT_ONCE = """() => {
    const stage = document.querySelector(".stage");
    const press = () => document.querySelector(".bar-interrupt").click();
    const look = () => stage.dataset.phase === "generating" && setTimeout(press, 0);
    new MutationObserver(look).observe(stage, { attributeFilter: ["data-phase"] });
}"""


async def test_interrupting_a_hands_free_answer_ends_it_in_the_server_too(
    pocket: RunningOmni, microphone: Record
) -> None:
    async with chromium(microphone("Tell me a story about the sea.")) as browser:
        page = await patient_page(browser)
        frames: list[str | bytes] = []

        def follow(socket: WebSocket) -> None:
            socket.on("framereceived", lambda frame: frames.append(frame))

        page.on("websocket", follow)
        await start_talking(page, pocket.address, "/half_duplex")
        await page.evaluate(INTERRUPT_AT_ONCE)
        async with asyncio.timeout(PATIENCE_S):
            while not any('"turn_done"' in str(frame) for frame in frames):
                await page.wait_for_timeout(20)
        await page.wait_for_selector(".stage[data-phase=listening]")
        player = await page.evaluate("omni.metrics().player")

    kinds = [json.loads(frame)["type"] for frame in frames]
    assert kinds.count("interrupted") == kinds.count("turn_done") == 1
    assert player["state"] == "idle"


async def test_a_chat_page_writes_and_speaks_its_answer(pocket: RunningOmni) -> None:
    async with chromium() as browser:
        page = await patient_page(browser)
        errors = collect_errors(page)
        await page.goto(f"{pocket.address}/turnbased?lang=en")
        await page.click(".composer-tool[aria-pressed]")
        await page.fill("#message", WEEK)
        await page.press("#message", "Enter")
        await until(page, "omni.metrics().player.maxRms > 0.01", PATIENCE_S)
        await until(page, "!omni.metrics().isAnswering", PATIENCE_S)
        answer = await page.locator(".message-assistant .message-body").inner_text()
        notice = await page.locator(".engine-notice").inner_text()

    assert "seven" in words(answer) and "wrong" in notice
    assert errors == []


async def test_a_killed_worker_is_explained_on_the_page_and_retry_talks_again(
    pocket: RunningOmni, microphone: Record
) -> None:
    """The microphone's file is played from the start again when the page opens it again."""
    async with chromium(microphone(WEEK)) as browser:
        page = await patient_page(browser)
        await start_talking(page, pocket.address)
        await until(page, "omni.metrics().results > 3", PATIENCE_S)
        pocket.kill("worker-0", signal.SIGKILL)
        await page.wait_for_selector(".error-card")
        title = await page.locator(".error-card h2").inner_text()
        hint = await page.locator(".error-card p").first.inner_text()
        await page.click(".error-card .button.primary")
        await page.wait_for_selector("body[data-state=live]")
        results = await until(page, "omni.metrics().results > 3", PATIENCE_S)

    assert (title, "restarted" in hint) == ("The model stopped working", True)
    assert results

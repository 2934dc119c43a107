"""One spoken conversation through the page: `python -m tests.browser.flow URL [WAV]`.

The same flow runs against the scripted server and against the product's own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import attrs
from playwright.async_api import Page

from tests.browser.browser import chromium, collect_errors, until


@attrs.frozen(kw_only=True)
class Conversation:
    """What the page saw and played."""

    heard_user: str
    """The user's words as the server transcribed them; empty where it transcribes none."""
    answer: str
    """The model's words, as far as they were spoken."""
    max_rms: float
    """Loudest moment of the played answer, at the page's analyser."""
    played_ms: float
    metrics: dict[str, Any]
    """`window.omni.metrics()` before the end."""
    console_errors: list[str]


async def start_talking(page: Page, url: str, path: str = "/audio_duplex") -> None:
    """Open a live page and lead it to the live state, through the microphone's explanation."""
    await page.goto(f"{url}{path}?lang=en")
    await page.click("#start")
    await page.click("dialog .button.primary")
    await page.wait_for_selector("body[data-state=live]")


async def texts(page: Page, role: str) -> str:
    """All words of one side of the conversation."""
    bubbles = page.locator(f".bubble-{role}:not(.is-pending) .bubble-text")
    return " ".join(await bubbles.all_inner_texts())


async def converse(
    url: str, microphone: Path | None, answer_timeout_s: float = 60
) -> Conversation:
    """Start, speak *microphone* (a WAV file), hear the answer, stop.

    The browser plays the file once, from the moment it gives the microphone to the page: a second
    or two of silence in front keeps the first words. Returns when the model has said something
    and is silent again.
    Raises: TimeoutError when no sound was played in time.
    """
    async with chromium(microphone) as browser:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        errors = collect_errors(page)
        await start_talking(page, url)
        await until(page, "omni.metrics().player.maxRms > 0", answer_timeout_s)
        await until(page, "omni.metrics().player.state === 'idle'", answer_timeout_s)
        metrics = await page.evaluate("omni.metrics()")
        heard, answer = await texts(page, "user"), await texts(page, "ai")
        await page.click(".bar-stop")
        await page.wait_for_selector(".summary-card")
        return Conversation(
            heard_user=heard,
            answer=answer,
            max_rms=metrics["player"]["maxRms"],
            played_ms=metrics["player"]["playedMs"],
            metrics=metrics,
            console_errors=errors,
        )


if __name__ == "__main__":
    sound = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None
    print(json.dumps(attrs.asdict(asyncio.run(converse(sys.argv[1], sound))), indent=2))

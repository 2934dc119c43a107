"""A headless Chromium whose microphone plays a WAV file and whose cameras play a film."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = Path("/usr/bin/chromium")
#: Of waits for what must come: a browser without a GPU is slow, beside others very slow.
TIMEOUT_S = 120.0

#: Controls that nothing names, texts that stayed keys, and ids that two elements have.
UNNAMED = """[...document.querySelectorAll("button, a, select, input, textarea, video")]
  .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
  .map((element) => element.outerHTML)"""
NOT_TRANSLATED = """[...document.querySelectorAll("[data-i18n], [data-i18n-label]")].filter(
  ({ textContent, ariaLabel, dataset }) => (dataset.i18n && textContent === dataset.i18n)
    || (dataset.i18nLabel && ariaLabel === dataset.i18nLabel)).map(({ outerHTML }) => outerHTML)"""
TWICE = """[...document.querySelectorAll("[id]")].map(({ id }) => id)
  .filter((id, at, all) => all.indexOf(id) !== at)"""


def arguments(microphone: Path | None, film: Path | None = None) -> list[str]:
    """Command line of the browser: no graphics, no network of its own, devices played from files.

    film: MJPEG or Y4M; without one the camera shows Chromium's own green test picture.
    """
    args = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream=device-count=2",
    ]
    if microphone is not None:
        args.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    if film is not None:
        args.append(f"--use-file-for-fake-video-capture={film}")
    return args


@contextlib.asynccontextmanager
async def chromium(
    microphone: Path | None = None, film: Path | None = None
) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=arguments(microphone, film), headless=True
        )
        try:
            yield browser
        finally:
            await browser.close()


def collect_errors(page: Page) -> list[str]:
    """Console errors and uncaught exceptions of *page* from now on."""
    errors: list[str] = []
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


async def layout_faults(page: Page) -> dict[str, Any]:
    """Return what any page must not have: pixels beyond its width, and the elements above."""
    found = {
        "overflow": await page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        ),
        "unnamed": await page.evaluate(UNNAMED),
        "not translated": await page.evaluate(NOT_TRANSLATED),
        "ids twice": await page.evaluate(TWICE),
    }
    return {what: value for what, value in found.items() if value}


async def happened(fact: Callable[[], object]) -> None:
    """Wait until *fact*, of the server that the page talks to, holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not fact():
            await asyncio.sleep(0.02)


async def until(page: Page, expression: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Wait until *expression* is true in *page*; return its value.

    Playwright's own wait_for_function polls with eval, which the pages' policy forbids.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := await page.evaluate(expression)):
                await asyncio.sleep(0.05)
    except TimeoutError:
        state = await page.evaluate("globalThis.omni?.metrics()")
        raise AssertionError(f"{expression} did not become true; the page says {state}") from None
    return value

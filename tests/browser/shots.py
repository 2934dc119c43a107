"""Screenshots of every page and state, for eyes: `python -m tests.browser.shots OUT_DIR`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from playwright.async_api import Page

from tests.browser.browser import chromium, collect_errors, until
from tests.browser.fake_server import Script, serve
from tests.browser.film import write_desk

SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


async def shoot(page: Page, url: str, script: Script, out: str) -> None:
    async def save(name: str) -> None:
        await page.screenshot(path=f"{out}-{name}.png")

    await page.goto(f"{url}/?lang=en")
    await page.wait_for_selector(".mode-card")
    await page.wait_for_timeout(1200)
    await page.screenshot(path=f"{out}-home.png", full_page=True)
    await page.goto(f"{url}/audio_duplex?lang=en")
    await page.wait_for_timeout(600)
    await save("audio-idle")
    await page.click("#start")
    await page.wait_for_timeout(400)
    await save("audio-explain")
    await page.click("dialog .button.primary")
    await page.wait_for_selector("body[data-state=live]")
    await page.wait_for_timeout(6500)
    await page.wait_for_selector(".stage[data-phase=speaking]")
    await page.wait_for_timeout(1000)
    await save("audio-speaking")
    await page.click(".bar-inspect")
    await page.wait_for_timeout(500)
    await save("audio-settings")
    await page.click("#tab-metrics")
    await save("audio-metrics")
    await page.click(".inspector .icon-button[aria-label=Close]")
    await page.click(".bar-pause")
    await page.wait_for_timeout(500)
    await save("audio-paused")
    await page.click(".bar-stop")
    await page.wait_for_selector(".summary-card")
    await page.wait_for_timeout(500)
    await save("audio-ended")

    script.queue = ((2, 14.0), (1, 8.0), (1, 7.0))
    script.queue_step_s = 1.5
    await page.goto(f"{url}/audio_duplex?lang=en")
    await page.click("#start")
    await page.wait_for_timeout(2600)
    await save("audio-queued")
    script.queue, script.refuse = (), "No worker available"
    await page.wait_for_selector(".error-card", timeout=15000)
    await page.wait_for_timeout(400)
    await save("audio-failed")
    script.refuse = ""

    await page.goto(f"{url}/turnbased?lang=en")
    await page.wait_for_timeout(500)
    await save("chat-empty")
    await page.fill("#message", "Is the sky really blue, and can you show me some code?")
    await page.press("#message", "Enter")
    await until(page, "!omni.metrics().isAnswering")
    await page.wait_for_timeout(400)
    await save("chat-answer")


async def shoot_omni(page: Page, url: str, script: Script, out: str) -> None:
    async def save(name: str) -> None:
        await page.wait_for_timeout(500)
        await page.screenshot(path=f"{out}-omni-{name}.png")

    script.sees, script.chunk_ms = True, 1000
    await page.goto(f"{url}/omni?lang=en")
    await page.wait_for_selector(".chip")
    await save("idle")
    await page.click("#show-camera")
    await save("explain")
    await page.click("dialog .button.primary")
    await page.wait_for_selector("body[data-camera=on]")
    await page.click(".chip >> nth=0")
    await save("preview")
    await page.click("#start")
    await page.wait_for_selector(".stage[data-phase=speaking]")
    await page.wait_for_timeout(1000)
    await save("speaking")
    await page.click(".bar-inspect")
    await save("settings")
    await page.click("#tab-metrics")
    await save("metrics")
    await page.click(".inspector .icon-button[aria-label=Close]")
    await page.click(".tool-full")
    await save("full")
    await page.click(".tool-talk")
    await save("talk")
    await page.click(".talk-close")
    await page.click(".bar-pause")
    await save("paused")
    await page.click(".tool-full")
    await page.click(".bar-stop")
    await page.wait_for_selector(".summary-card")
    await save("ended")
    script.queue, script.queue_step_s = ((2, 14.0), (1, 8.0), (1, 7.0)), 1.5
    await page.click(".summary-card .button.primary")
    await page.wait_for_selector(".queue-card")
    await save("queued")
    script.queue, script.refuse = (), "No worker available"
    await page.wait_for_selector(".error-card", timeout=15000)
    await save("failed")
    script.refuse, script.sees, script.chunk_ms = "", False, 200
    await page.goto(f"{url}/omni?lang=en")
    await page.wait_for_selector(".blind-card")
    await save("blind")


async def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    script = Script()
    film = write_desk(out / "desk.mjpeg")
    async with serve(script) as url, chromium(film=film) as browser:
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = await browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                    device_scale_factor=1.5 if size == "phone" else 1,
                    has_touch=size == "phone",
                )
                page = await context.new_page()
                errors = collect_errors(page)
                await shoot(page, url, script, str(out / f"{size}-{scheme}"))
                await shoot_omni(page, url, script, str(out / f"{size}-{scheme}"))
                print(size, scheme, errors or "no errors")
                await context.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.browser.shots", description=__doc__)
    parser.add_argument("out_dir", type=Path)
    asyncio.run(main(parser.parse_args().out_dir))

"""The operator's page in a real Chromium, against real servers."""

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from omni.security.key_book import KeyBook
from omni.settings import SecuritySettings
from tests.browser.browser import CHROMIUM, collect_errors, layout_faults, until
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S, connected
from tests.sounds import sound_file, tone

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

MARKUP = "<img src=x onerror=alert(1)>"
TALKING = "section[aria-labelledby=admin-talking]"
LINE = "section[aria-labelledby=admin-line]"
ETA = "section[aria-labelledby=admin-eta]"
APPS = "section[aria-labelledby=admin-apps]"
VOICES = "section[aria-labelledby=admin-voices]"
RECORDINGS = "section[aria-labelledby=admin-recordings]"


@pytest.fixture(scope="module")
def server(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server with one slot that records, at a port to which it can come back."""
    port = free_port()
    settings = {"fabric.slots": 1, "recording.enabled": "true", "service.gateway_port": port}
    omni = start_omni(settings)
    yield omni
    omni.stop()


def free_port() -> int:
    """Return a port that was free a moment ago: a web process that comes back needs its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Browser) -> AsyncIterator[Page]:
    context = await one_browser.new_context(locale="en-GB", ignore_https_errors=True)
    yield await context.new_page()
    await context.close()


async def opened(page: Page, server: RunningOmni) -> list[str]:
    """Open the page and wait for its first reading; return the list of console errors."""
    errors = collect_errors(page)
    await page.goto(f"{server.address}/admin")
    await page.wait_for_selector("#connection[data-state=ready]")
    return errors


async def rows(page: Page, panel: str, count: int) -> None:
    await until(page, f"document.querySelectorAll('{panel} .row').length === {count}")


async def test_who_talks_and_who_waits_is_seen_and_can_be_ended(
    page: Page, server: RunningOmni
) -> None:
    errors = await opened(page, server)
    async with connected(server.address, "/ws/duplex/adx_talks") as talking:
        await talking.prepare()
        async with connected(server.address, "/ws/duplex/adx_waits") as waiting:
            await waiting.until("queued")
            await rows(page, TALKING, 1)
            await rows(page, LINE, 1)
            talks, waits = await page.inner_text(TALKING), await page.inner_text(LINE)
            slots = await page.inner_text(".tile:first-child .tile-value")
            worker = await page.inner_text(".worker-card")
            await page.click(f"{LINE} button")
            cancelled = await waiting.until("error")
        await rows(page, LINE, 0)
        await page.click(f"{TALKING} button")
        asked = await page.inner_text("dialog")
        await page.click("dialog .button.primary")
        ended = await talking.until("error")
    await rows(page, TALKING, 0)

    assert "adx_talks" in talks and "worker 0" in talks
    assert "adx_waits" in waits and "its turn in" in waits
    assert slots == "1 / 1"
    assert "1 of 1 slots" in worker and "Busy" in worker and str(server.pid("worker-0")) in worker
    assert "adx_talks" in asked
    assert (cancelled["error"], ended["error"]) == ("Cancelled", "Cancelled")
    assert errors == []


async def test_rows_stay_the_elements_that_they_were(page: Page, server: RunningOmni) -> None:
    await opened(page, server)
    async with connected(server.address, "/ws/duplex/adx_1") as client:
        await client.prepare()
        await rows(page, TALKING, 1)
        figure = f"document.querySelector('{TALKING} .row-figure')"
        await page.evaluate(f"globalThis.kept = {figure}; globalThis.first = kept.textContent")
        await page.focus(f"{TALKING} button")
        await until(page, "kept.textContent !== first")

        assert await page.evaluate("kept.isConnected")
        assert await page.evaluate("document.activeElement.textContent") == "End"
    await rows(page, TALKING, 0)


async def test_times_of_units_are_shown_while_they_come(page: Page, server: RunningOmni) -> None:
    await opened(page, server)
    async with connected(server.address, "/ws/duplex/adx_1") as client:
        await client.prepare()
        tile = "document.querySelectorAll('.tile-value')[2].textContent"
        async with asyncio.timeout(TIMEOUT_S * 3):
            while await page.evaluate(tile) == "–":
                await client.send_chunk()
                await client.until("result")
        shown = await page.evaluate(tile)
        kinds = await page.inner_text("section[aria-labelledby=admin-units] .rows")
        bars = await page.locator(".unit-chart rect").count()
    await rows(page, TALKING, 0)

    assert shown.endswith((" ms", " s"))
    assert re.search(r"Live talk\s.*\d+ late", kinds)
    assert bars > 0


async def test_expected_lengths_are_saved_and_taken_back(page: Page, server: RunningOmni) -> None:
    await opened(page, server)
    await until(page, "document.getElementById('eta-chat').value === '15'")
    await page.fill("#eta-chat", "42.5")
    await page.click(f"{ETA} button[type=submit]")
    await page.wait_for_selector(".toast-good")
    async with aiohttp.ClientSession(server.address) as http:
        async with http.get("/api/config/eta") as reply:
            saved = (await reply.json())["config"]
    await page.click(f"{ETA} .button.quiet")
    await until(page, "document.getElementById('eta-chat').value === '15'")

    assert (saved["eta_chat_s"], saved["eta_half_duplex_s"]) == (42.5, 180)


async def test_an_app_is_switched_off_and_on(page: Page, server: RunningOmni) -> None:
    await opened(page, server)
    async with aiohttp.ClientSession(server.address) as http:
        await page.click(f"{APPS} #app-realtime")
        await page.wait_for_selector(".toast-good")
        async with http.get("/realtime", allow_redirects=False) as reply:
            off = (reply.status, reply.headers.get("Location"))
        await page.reload()
        await until(page, "document.querySelector('#app-realtime')?.checked === false")
        await until(page, "!document.querySelector('.nav-links').innerText.includes('Realtime')")
        await page.click(f"{APPS} #app-realtime")
        await page.wait_for_selector(".toast-good")
        async with http.get("/realtime", allow_redirects=False) as reply:
            on = reply.status

    assert (off, on) == ((302, "/"), 200)


async def test_a_voice_is_uploaded_heard_and_deleted(
    page: Page, server: RunningOmni, tmp_path: Path
) -> None:
    """Its name is a text, whatever it looks like."""
    file = tmp_path / f"{MARKUP.replace('/', '')}.flac"
    file.write_bytes(sound_file("flac", "flac", tone(1.0)))
    errors = await opened(page, server)
    await page.set_input_files("#voice-file", file)
    await rows(page, VOICES, 1)
    name = await page.inner_text(f"{VOICES} .row-name")
    await page.click(f"{VOICES} .voice-play")
    await until(page, f"document.querySelector('{VOICES} audio').currentTime > 0")
    await page.click(f"{VOICES} .danger")
    asked = await page.inner_text("dialog")
    await page.click("dialog .button.primary")
    await rows(page, VOICES, 0)

    assert name == file.stem and file.stem in asked
    assert await page.locator("main img, dialog img").count() == 0
    assert errors == []


async def test_a_recording_is_found_exported_and_deleted(page: Page, server: RunningOmni) -> None:
    async with connected(server.address, "/ws/duplex/adx_kept") as client:
        recording = (await client.prepare())["recording_session_id"]
        await client.send_chunk()
        await client.until("result")
        await client.send("stop")
        await client.until("stopped")
    mine = f"{RECORDINGS} .row:has(code:text-is('{recording}'))"
    await opened(page, server)
    await page.fill(f"{RECORDINGS} .search", "no such recording")
    await rows(page, RECORDINGS, 0)
    await page.fill(f"{RECORDINGS} .search", "adx_kept")
    await page.wait_for_selector(f"{mine} .danger:not(:disabled)", timeout=TIMEOUT_S * 2000)
    link = await page.get_attribute(f"{mine} a.row-name", "href")
    async with page.expect_download() as download:
        await page.click(f"{mine} a[download]")
    name = (await download.value).suggested_filename
    await page.click(f"{mine} .danger")
    await page.click("dialog .button.primary")
    await page.wait_for_selector(mine, state="detached")
    async with aiohttp.ClientSession(server.address) as http:
        async with http.get(f"/api/sessions/{recording}") as reply:
            status = reply.status

    assert (link, name, status) == (f"/s/{recording}", f"{recording}.zip", 404)


@pytest.mark.parametrize("lang", ["en", "zh"])
async def test_the_page_fits_a_phone(page: Page, server: RunningOmni, lang: str) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    errors = collect_errors(page)
    async with connected(server.address, "/ws/duplex/omni_with_a_rather_long_id_of_its_own") as one:
        await one.prepare()
        async with connected(server.address, "/ws/duplex/adx_waits") as two:
            await two.until("queued")
            await page.goto(f"{server.address}/admin?lang={lang}")
            await rows(page, LINE, 1)
            faults = await layout_faults(page)
    await rows(page, TALKING, 0)

    assert (faults, errors) == ({}, [])


async def test_a_server_that_begins_anew_is_found_again(page: Page, server: RunningOmni) -> None:
    await opened(page, server)
    # A quiet machine has the next web up between two looks of the page; so nobody looks meanwhile.
    await page.context.set_offline(True)
    before = server.kill("web-0", signal.SIGKILL)
    await page.wait_for_selector("#connection[data-state=offline]")
    word = await page.inner_text("#connection")
    await page.context.set_offline(False)
    await page.wait_for_selector("#connection[data-state=ready]", timeout=TIMEOUT_S * 4000)

    assert word == "Connection lost, trying again"
    assert server.pid("web-0") != before
    await until(page, "document.querySelector('.worker-card')?.textContent.includes('Idle')")


async def test_an_ordinary_key_is_told_so_and_the_admin_key_takes_its_place(
    page: Page, start_omni: StartOmni
) -> None:
    omni = start_omni({"security.require_keys": "always", "web.https": "true"})
    book = KeyBook(omni.data_dir, SecuritySettings())
    ordinary, admin = book.make("api", "Ann's phone")[1], book.make("admin", "Operator")[1]
    await page.goto(f"{omni.address}/admin")
    await page.wait_for_url("**/signin?next=**")
    await page.fill("#key", ordinary)
    await page.click("button[type=submit]")
    await page.wait_for_selector(".needs-admin")
    told = await page.inner_text(".needs-admin")
    nav = await page.locator("a[href='/admin']").is_visible()
    await page.fill("#key", admin)
    await page.click(".needs-admin button[type=submit]")
    await page.wait_for_selector("#connection[data-state=ready]")
    facts = await page.inner_text(".admin-facts")
    kept = await page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    await page.click(".admin-facts button")
    await page.wait_for_url("**/signin?next=**")

    assert "admin key" in told and "Ann's phone" in told and not nav
    assert "Signed in as Operator" in facts
    assert admin not in kept and ordinary not in kept and json.loads(kept)[2] == ""
    omni.stop()


async def test_who_may_is_led_there_from_the_home_page(page: Page, server: RunningOmni) -> None:
    await page.goto(server.address)
    await page.click(".tool-links a[href='/admin']")
    await page.wait_for_selector("#connection[data-state=ready]")

    assert await page.get_attribute(".nav a[href='/admin']", "aria-current") == "page"

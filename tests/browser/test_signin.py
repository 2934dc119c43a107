"""A person with a browser gets into a locked server by its sign-in page, and only with a key."""

import asyncio
from collections.abc import Iterator

import pytest

from omni.security.key_book import KeyBook
from omni.settings import SecuritySettings
from tests.browser.browser import CHROMIUM, chromium, until
from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import TIMEOUT_S

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def locked(start_omni: StartOmni) -> Iterator[RunningOmni]:
    """A server where everybody needs a key, over TLS as people have it."""
    omni = start_omni({"security.require_keys": "always", "web.https": "true"})
    yield omni
    omni.stop()


#: Elements that reach beyond the right edge, where nobody sees them.
CUT_OFF = """[...document.querySelectorAll("main *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth)
  .map((element) => element.className)"""


async def test_the_form_fits_the_smallest_phone(locked: RunningOmni) -> None:
    async with chromium() as browser:
        page = await browser.new_page(
            ignore_https_errors=True, viewport={"width": 320, "height": 640}
        )
        await page.goto(f"{locked.address}/signin")
        await page.wait_for_selector("#key")

        assert await page.evaluate(CUT_OFF) == []


async def test_a_key_leads_back_to_the_page_that_was_asked_for(locked: RunningOmni) -> None:
    key = KeyBook(locked.data_dir, SecuritySettings()).make("api", "browser")[1]
    async with chromium() as browser:
        context = await browser.new_context(ignore_https_errors=True, locale="en-GB")
        page = await context.new_page()
        await page.goto(f"{locked.address}/turnbased?a=1")
        await page.wait_for_url("**/signin?next=**")

        await page.fill("#key", "wrong")
        await page.click("button[type=submit]")
        await until(page, "document.querySelector('#trouble').textContent.includes('not known')")
        await page.fill("#key", key)
        await page.click("button[type=submit]")
        await page.wait_for_url("**/turnbased?a=1")

        opened = await page.evaluate(
            """() => new Promise((resolve) => {
                const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/chat");
                socket.onopen = () => resolve(true);
                socket.onerror = () => resolve(false);
            })"""
        )
        assert opened  # the cookie goes with the handshake
        assert await page.evaluate("document.cookie") == ""  # and no script can read it
        cookie = (await context.cookies())[0]
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")


async def test_nobody_is_led_elsewhere_by_the_sign_in(locked: RunningOmni) -> None:
    tricks = ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
    tricks += ["/.//evil.example", "/..//evil.example", "/x/..//evil.example", "/%2e//evil.example"]
    tricks += [f"{locked.address}//evil.example"]
    async with chromium() as browser:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await page.goto(f"{locked.address}/signin")

        places = await page.evaluate(
            """async (tricks) => {
                const { nextPage } = await import("/static/pages/signin.js");
                const next = (trick) => nextPage("?next=" + encodeURIComponent(trick));
                return tricks.map((trick) => new URL(next(trick), location.origin).origin);
            }""",
            tricks,
        )

        assert set(places) == {locked.address}


async def test_the_page_speaks_chinese_to_who_does(locked: RunningOmni) -> None:
    async with chromium() as browser:
        context = await browser.new_context(ignore_https_errors=True, locale="zh-CN")
        page = await context.new_page()
        await page.goto(f"{locked.address}/signin")

        await until(page, "document.querySelector('h1')?.textContent === '登录'")


async def test_the_code_that_the_realtime_page_shows_gets_in_with_a_key(
    locked: RunningOmni,
) -> None:
    """A browser drops a connection whose server answers none of the subprotocols."""
    key = KeyBook(locked.data_dir, SecuritySettings()).make("api", "program")[1]
    async with chromium() as browser:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        lines: list[str] = []
        page.on("console", lambda line: lines.append(line.text))
        await page.goto(f"{locked.address}/signin")  # without a cookie

        for dialect in ("r1", "r2", "openai"):
            code = await page.evaluate(
                """async (dialect) => {
                    const { snippet } = await import("/static/lib/snippets.js");
                    const wanted = { dialect, mode: "audio", instructions: "", needsKey: true };
                    return snippet("javascript", { ...wanted, origin: location.origin });
                }""",
                dialect,
            )
            lines.clear()
            await page.evaluate(f"() => {{ {code.replace('YOUR_KEY', key)} \n}}")
            wanted = "session.created" if dialect != "openai" else "Hello,"
            async with asyncio.timeout(TIMEOUT_S):
                while not any(wanted in line for line in lines):
                    await asyncio.sleep(0.02)

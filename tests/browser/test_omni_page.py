"""The page for calls with pictures, in a real Chromium with fake cameras."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Browser, Page

from tests.browser.browser import (
    CHROMIUM,
    chromium,
    collect_errors,
    happened,
    layout_faults,
    until,
)
from tests.browser.fake_server import Script, serve
from tests.browser.film import LEFT, RIGHT, write_halves
from tests.browser.flow import start_talking
from tests.conftest import RunningOmni

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}
#: Pixels of one slice. Source: `slice_config` of MiniCPM-o 4.5.
SLICE_AREA = 448 * 448
#: What the camera's colour space and JPEG make of a plain colour.
COLOUR_TOLERANCE = 40
#: Counts what the page asks of the browser, and lets it pass.
COUNT_CAMERAS = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
globalThis.cameras = [];
navigator.mediaDevices.getUserMedia = (wish) => {
  if (wish.video) cameras.push(wish.video.deviceId?.exact ?? wish.video.facingMode.ideal);
  return ask(wish);
};
"""


def seeing(**options: Any) -> Script:
    """A server whose engine takes pictures, in units of a second."""
    return Script(**{"sees": True, "chunk_ms": 1000, "listen_chunks": 2, **options})


def picture_of(chunk: dict[str, Any]) -> Image.Image:
    (text,) = chunk["frame_base64_list"]
    picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert picture.format == "JPEG"
    return picture.convert("RGB")


def is_near(colour: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= COLOUR_TOLERANCE for a, b in zip(colour, wanted, strict=True))


async def test_pictures_have_the_models_size_and_are_not_mirrored(tmp_path: Path) -> None:
    script = seeing()
    film = write_halves(tmp_path / "halves.mjpeg")
    async with serve(script) as url, chromium(film=film) as browser:
        page = await browser.new_page()
        errors = collect_errors(page)
        await start_talking(page, url, "/omni")
        await happened(lambda: len(script.frames) >= 2)
        is_mirrored = await page.locator(".self-view.is-mirrored").count()

    picture = picture_of(script.frames[1])
    width, height = picture.size
    assert 0.98 * SLICE_AREA < width * height <= SLICE_AREA
    assert abs(width / height - 16 / 9) < 0.02
    assert is_near(picture.getpixel((20, height // 2)), LEFT)
    assert is_near(picture.getpixel((width - 20, height // 2)), RIGHT)
    assert is_mirrored == 1  # on the page people see themselves as in a mirror
    assert errors == []


async def test_detail_is_switched_while_the_call_runs(browser: Browser) -> None:
    script = seeing()
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url, "/omni")
        await happened(lambda: script.frames)
        await page.keyboard.press("h")
        await happened(lambda: script.frames[-1]["max_slice_nums"] == 2)
        detailed = picture_of(script.frames[-1])
        await page.click(".tool-isHd")
        await happened(lambda: script.frames[-1]["max_slice_nums"] == 1)
        plain = picture_of(script.frames[-1])

    assert detailed.width * detailed.height > 1.9 * plain.width * plain.height


async def test_an_engine_without_eyes_is_named_before_anything_is_asked(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        await page.add_init_script(COUNT_CAMERAS)
        await page.goto(f"{url}/omni?lang=en")
        title = await page.locator(".blind-card h1").inner_text()
        text = await page.locator(".blind-card p").inner_text()
        can_start = await page.locator("#start").is_visible()
        await page.keyboard.press("Control+Enter")
        num_dialogs = await page.locator("dialog[open]").count()
        cameras = await page.evaluate("cameras.length")
        await page.click(".blind-card .button.primary")
        await page.wait_for_url("**/audio_duplex")

    assert title == "The model here cannot see" and "SmolLM2" in text
    assert (can_start, num_dialogs, cameras) == (False, 0, 0)


async def test_what_is_said_stands_over_the_picture_and_can_be_hidden(browser: Browser) -> None:
    script = seeing(answer=("That is red, ", "and that is blue."), max_answers=1)
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url, "/omni")
        await page.wait_for_selector(".subtitle-user >> text=why is the sky blue")
        await page.wait_for_selector(".subtitle-ai >> text=That is red, and that is blue.")
        await page.keyboard.press("c")
        await page.wait_for_selector(".subtitles", state="hidden")
        pressed = await page.locator(".tool-captions").get_attribute("aria-pressed")
        await page.reload()
        await page.wait_for_selector("#start")
        is_kept = await page.evaluate("!document.body.classList.contains('has-captions')")

    assert pressed == "false" and is_kept


async def test_the_other_camera_is_taken_in_mid_call_and_remembered(browser: Browser) -> None:
    script = seeing()
    async with serve(script) as url:
        page = await browser.new_page()
        await page.add_init_script(COUNT_CAMERAS)
        await start_talking(page, url, "/omni")
        await page.click(".tool-flip")
        await until(page, "cameras.length === 2 && document.body.dataset.camera === 'on'")
        num_frames = len(script.frames)
        await happened(lambda: len(script.frames) > num_frames)
        first, second = await page.evaluate("cameras")
        await page.click(".bar-inspect")
        shown = await page.get_by_label("Camera", exact=True).input_value()

    assert first == "user" and shown == second != "user"


async def test_a_phone_turns_to_its_other_side_which_is_not_mirrored(browser: Browser) -> None:
    script = seeing()
    async with serve(script) as url:
        page = await (await browser.new_context(**PHONE)).new_page()
        await page.add_init_script(
            COUNT_CAMERAS + "const own = MediaStreamTrack.prototype.getSettings;"
            "MediaStreamTrack.prototype.getSettings = function () {"
            " return { ...own.call(this), facingMode: cameras.at(-1) }; };"
        )
        await start_talking(page, url, "/omni")
        was_mirrored = await page.locator(".self-view.is-mirrored").count()
        await page.tap(".tool-flip")
        await until(page, "cameras.length === 2 && document.body.dataset.camera === 'on'")
        sides = await page.evaluate("cameras")
        is_mirrored = await page.locator(".self-view.is-mirrored").count()

    assert sides == ["user", "environment"]
    assert (was_mirrored, is_mirrored) == (1, 0)


async def test_a_refused_camera_is_explained_and_can_be_tried_again(browser: Browser) -> None:
    async with serve(seeing()) as url:
        page = await browser.new_page()
        await page.add_init_script(
            "const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
            "navigator.mediaDevices.getUserMedia = async (wish) => {"
            " if (wish.video && !globalThis.isAllowed) throw new DOMException('no',"
            " 'NotAllowedError'); return ask(wish); }"
        )
        await page.goto(f"{url}/omni?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        shown = await page.locator(".error-card h2").inner_text()
        await page.evaluate("globalThis.isAllowed = true")
        await page.click(".error-card .button.primary")
        await page.wait_for_selector("body[data-state=live]")

    assert shown == "The camera is blocked"


async def test_the_camera_is_off_before_and_after_the_call(browser: Browser) -> None:
    async with serve(seeing()) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/omni?lang=en")
        await page.wait_for_selector("#start")
        is_silent = await page.evaluate("document.querySelector('.self-view').srcObject === null")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector("body[data-state=live][data-camera=on]")
        await page.click(".bar-stop")
        await page.wait_for_selector(".summary-card")
        is_off = await page.evaluate("document.querySelector('.self-view').srcObject === null")
        await page.click(".summary-card .button.primary")
        await page.wait_for_selector("body[data-state=live][data-camera=on]")

    assert is_silent and is_off


async def test_a_preset_sets_instructions_and_voice_until_one_writes_ones_own(
    browser: Browser,
) -> None:
    script = seeing()
    async with serve(script) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/omni?lang=en")
        await page.click(".chip >> text=中文通话")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector("body[data-state=live]")
        first = script.prepared
        await page.click(".bar-inspect")
        await page.get_by_label("Instructions").fill("Be brief.")
        await page.get_by_label("Instructions").blur()
        pressed = await page.locator(".chip[aria-pressed=true]").count()
        await page.click(".bar-stop")
        await page.click(".summary-card .button.primary")
        await page.wait_for_selector("body[data-state=live]")
        second = script.prepared

    assert first["system_prompt"] == "请说中文。" and first["ref_audio_base64"]
    assert pressed == 0
    assert second["system_prompt"] == "Be brief." and "ref_audio_base64" not in second


async def test_only_listen_is_said_with_each_chunk_until_it_is_let_go(browser: Browser) -> None:
    script = seeing(chunk_ms=200)
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url, "/omni")
        await page.click(".bar-force")
        await happened(lambda: script.forced > 2)
        await page.locator(".stage").focus()
        await page.keyboard.press("Space")  # holding the key adds nothing, and takes nothing away
        forced = script.forced
        await happened(lambda: script.forced > forced + 2)
        pressed = await page.locator(".bar-force").get_attribute("aria-pressed")
        await page.click(".bar-force")
        await page.wait_for_selector(".stage[data-phase=speaking]")

    assert pressed == "true"


async def test_a_pause_shows_and_sends_nothing(browser: Browser) -> None:
    script = seeing()
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url, "/omni")
        await happened(lambda: script.frames)
        await page.click(".bar-pause")
        await page.wait_for_selector("text=The session ends in")
        paused = len(script.frames)
        await page.click(".bar-pause")
        await happened(lambda: len(script.frames) > paused)
        types = script.sent_types

    between = types[types.index("pause") : types.index("resume") + 1]
    assert between == ["pause", "resume"]


async def test_the_place_in_the_line_stands_over_the_preview(browser: Browser) -> None:
    turn = asyncio.Event()
    async with serve(seeing(queue=((2, 300.0), (1, 120.0)), next_in_line=turn)) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/omni?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector("text=Place 2 of 3")
        turn.set()
        await page.wait_for_selector("text=You are next")
        turn.set()
        await page.wait_for_selector("body[data-state=live]")


FILLS = """(() => {
  const { width, height } = document.querySelector(".stage").getBoundingClientRect();
  return width === innerWidth && height === innerHeight;
})()"""


@pytest.mark.parametrize("has_full_screen", [True, False], ids=["by the browser", "by the page"])
async def test_the_picture_fills_the_screen_and_escape_leaves_it(
    browser: Browser, has_full_screen: bool
) -> None:
    async with serve(seeing()) as url:
        page = await browser.new_page()
        if not has_full_screen:  # as on iPhones
            await page.add_init_script("delete Element.prototype.requestFullscreen")
        await start_talking(page, url, "/omni")
        await page.keyboard.press("f")
        await until(page, FILLS)
        is_whole = await until(
            page, f"Boolean(document.fullscreenElement) === {str(has_full_screen).lower()}"
        )
        if has_full_screen:  # the browser takes the key itself, which a headless one does not
            await page.evaluate("document.exitFullscreen()")
        else:
            await page.keyboard.press("Escape")
        await until(page, f"!{FILLS}")
        state = await page.evaluate("document.body.dataset.state")

    assert is_whole and state == "live"


async def test_the_phone_address_fills_the_screen_from_the_start(browser: Browser) -> None:
    async with serve(seeing()) as url:
        page = await (await browser.new_context(**PHONE)).new_page()
        errors = collect_errors(page)
        await page.goto(f"{url}/mobile-omni/?lang=zh")
        await page.wait_for_selector("#start")
        fills = await page.evaluate(FILLS)
        await page.tap("#start")
        await page.tap("dialog .button.primary")
        await page.wait_for_selector("body[data-state=live]")
        small = await page.evaluate(SMALL_TARGETS)

    assert fills and small == [] and errors == []


async def test_the_conversation_is_a_sheet_on_phones_which_leaves_the_buttons_free(
    browser: Browser,
) -> None:
    async with serve(seeing(max_answers=1)) as url:
        page = await (await browser.new_context(**PHONE)).new_page()
        await start_talking(page, url, "/omni")
        await page.tap(".tool-talk")
        await page.wait_for_selector(".talk .bubble-ai")
        await page.tap(".bar-mute")
        await page.wait_for_selector("text=You are muted")
        await page.tap(".talk-close")
        await until(page, "document.querySelector('.talk').getBoundingClientRect().width <= 3")
        await page.tap(".tool-talk")
        await page.keyboard.press("Escape")
        await page.keyboard.press("Escape")
        pressed = await page.locator(".tool-talk").get_attribute("aria-pressed")
        await page.wait_for_selector("body[data-state=live]")

    assert pressed == "false"


#: Controls that a finger would miss (WCAG 2.5.5).
SMALL_TARGETS = """[...document.querySelectorAll("main button, main a")].filter((element) => {
  const { width, height } = element.getBoundingClientRect();
  return element.checkVisibility() && width > 1 && (width < 36 || height < 36);
}).map((element) => element.className)"""


@pytest.mark.parametrize("sees", [True, False], ids=["seeing", "blind"])
async def test_the_page_fits_a_phone_and_everything_on_it_has_a_name(
    browser: Browser, sees: bool
) -> None:
    async with serve(Script(sees=sees)) as url:
        page = await (await browser.new_context(**PHONE)).new_page()
        await page.goto(f"{url}/omni?lang=zh")
        await page.wait_for_selector("#show-camera" if sees else ".blind-card")
        clipped, faults = await page.evaluate(CLIPPED), await layout_faults(page)

    assert (clipped, faults) == ([], {})


#: What stands on the stage and reaches over its edge.
CLIPPED = """(() => {
  const edge = document.querySelector(".stage").getBoundingClientRect();
  return [...document.querySelectorAll(".stage *")].filter((element) => {
    const { left, right, width } = element.getBoundingClientRect();
    return element.checkVisibility() && width && (left < edge.left - 1 || right > edge.right + 1);
  }).map(({ className }) => className);
})()"""


async def test_the_keyboard_alone_leads_through_a_call(browser: Browser) -> None:
    async with serve(seeing()) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/omni?lang=en")
        await page.wait_for_selector("#start")
        passed = await tab_to(page, "#start")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("dialog[open]")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("body[data-state=live]")
        where = await page.evaluate("document.activeElement.className")
        await tab_to(page, ".bar-stop")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".summary-card")

    order = [name for name in passed if name.startswith("picture-tool")]
    assert order == [f"picture-tool tool-{tool}" for tool in ("isHd", "captions", "full")]
    assert where == "stage"


async def tab_to(page: Page, selector: str) -> list[str]:
    """Press Tab until *selector* has the focus; return the classes of what had it before."""
    passed: list[str] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate(f"document.activeElement.matches('{selector}')"):
            return passed
        passed.append(await page.evaluate("document.activeElement.className"))
    raise AssertionError(f"Tab does not reach {selector}; it passed {passed}")


async def test_a_real_server_counts_what_it_was_shown(omni: RunningOmni, browser: Browser) -> None:
    page = await browser.new_page()
    errors = collect_errors(page)
    await start_talking(page, omni.address, "/omni")
    await until(page, "omni.metrics().visionTokens > 0")
    metrics = await page.evaluate("omni.metrics()")
    await page.click(".bar-stop")
    await page.wait_for_selector(".summary-card")

    assert metrics["frames"] >= 1 and metrics["visionSlices"] >= 1
    assert errors == []


async def test_the_home_page_shows_the_way_to_it_while_the_app_is_on(
    omni: RunningOmni, browser: Browser
) -> None:
    page = await browser.new_page()
    await page.goto(f"{omni.address}/?lang=en")
    await page.click(".mode-card.mode-omni")
    await page.wait_for_url("**/omni")
    try:
        await page.request.put(f"{omni.address}/api/admin/apps/omni", data={"enabled": False})
        await page.goto(f"{omni.address}/omni?lang=en")
        await page.wait_for_selector(".mode-card")
        path = await page.evaluate("location.pathname")
        num_cards = await page.locator(".mode-card.mode-omni").count()
    finally:
        await page.request.put(f"{omni.address}/api/admin/apps/omni", data={"enabled": True})

    assert (path, num_cards) == ("/", 0)

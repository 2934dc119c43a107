"""The pages in a real Chromium against the scripted server, on a real socket."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, Page

from tests.browser.browser import CHROMIUM, collect_errors, happened, layout_faults, until
from tests.browser.fake_server import Script, serve
from tests.browser.flow import converse, start_talking, texts

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


async def test_a_conversation_is_played_and_read() -> None:
    script = Script(answer=("Blue light ", "scatters more."), max_answers=1)
    async with serve(script) as url:
        seen = await converse(url, None)
        await happened(lambda: script.sent_types[-1] == "stop")

    assert seen.max_rms > 0.05
    assert seen.answer == "Blue light scatters more."
    assert seen.heard_user == "why is the sky blue"
    assert seen.metrics["sent"] == seen.metrics["results"] + seen.metrics["outstanding"]
    assert seen.console_errors == []
    assert script.sent_types[0] == "prepare"


async def test_interrupt_silences_what_was_still_to_be_played(browser: Browser) -> None:
    """The fade itself is checked to the sample in tests/js/ring.test.js."""
    script = Script(listen_chunks=2, piece_s=20.0, answer=("A long answer.",), max_answers=1)
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url)
        await until(page, "omni.metrics().player.rms > 0.05")
        ahead_ms = await page.evaluate("omni.metrics().player.aheadMs")
        await page.click(".bar-interrupt")
        await until(page, "omni.metrics().player.state === 'idle'")
        await until(page, "document.querySelector('.stage').dataset.phase === 'listening'")
        player = await page.evaluate("omni.metrics().player")
        note = await page.locator(".bubble-ai .bubble-note").first.inner_text()

    assert ahead_ms > 5000
    assert player["aheadMs"] == 0
    assert note == "interrupted"


async def test_space_held_forces_listening_on_the_wire(browser: Browser) -> None:
    script = Script(listen_chunks=2)
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url)
        await page.keyboard.down("Space")
        await happened(lambda: script.forced >= 2)
        await page.keyboard.up("Space")
        await page.wait_for_selector(".stage[data-phase=speaking]")  # let go, it may speak


async def test_a_barge_in_heard_by_the_server_cuts_the_answer(browser: Browser) -> None:
    # again and again: on a busy machine the first cut may come before anything was heard
    script = Script(listen_chunks=1, chunk_ms=1000, piece_s=5.0, interrupt_at=1)
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url)
        await page.wait_for_selector(".bubble-ai .bubble-note:not(:empty)")
        await until(page, "omni.metrics().player.playedMs > 0")
        answer = await texts(page, "ai")

    assert "more than red" not in answer


#: Longer than any machine needs to look at them: seconds that pass meanwhile must not matter.
LINE = ((2, 300.0), (1, 120.0))


async def test_the_queue_shows_its_countdown_and_then_lets_in(browser: Browser) -> None:
    next_in_line = asyncio.Event()
    async with serve(Script(queue=LINE, next_in_line=next_in_line)) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/audio_duplex?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector("text=Place 2 of 3")
        first = int(await page.locator(".queue-time").inner_text())
        await until(page, f"Number(document.querySelector('.queue-time').textContent) < {first}")
        next_in_line.set()
        await page.wait_for_selector("text=You are next")
        second = int(await page.locator(".queue-time").inner_text())
        next_in_line.set()
        await page.wait_for_selector("body[data-state=live]")

    assert 120 < first <= 300 and 0 < second <= 120


async def test_cancel_in_the_queue_leaves_at_once(browser: Browser) -> None:
    script = Script(queue=((1, 30.0),) * 40)
    async with serve(script) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/audio_duplex?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.click(".queue-card >> text=Cancel")
        await page.wait_for_selector("body[data-state=ended]")
        is_start_back = await page.locator("#start").is_visible()

    assert is_start_back
    assert "prepare" not in script.sent_types


@pytest.mark.parametrize(
    ("script", "title"),
    [
        (Script(refuse="No worker available"), "Nobody there to answer"),
        (Script(refuse="Queue full (9 requests)"), "The server is full"),
        (Script(drop_at_chunk=3), "The connection was lost"),
    ],
    ids=["no worker", "queue full", "socket lost in mid-call"],
)
async def test_a_failure_is_named_and_can_be_retried(
    browser: Browser, script: Script, title: str
) -> None:
    async with serve(script) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/audio_duplex?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector(".error-card")
        shown = await page.locator(".error-card h2").inner_text()
        script.refuse, script.drop_at_chunk = "", None
        await page.click(".error-card .button.primary")
        await page.wait_for_selector("body[data-state=live]")

    assert shown == title


async def test_a_refused_microphone_is_explained(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        await page.add_init_script(
            "navigator.mediaDevices.getUserMedia = async () => {"
            " throw new DOMException('no', 'NotAllowedError'); }"
        )
        await page.goto(f"{url}/audio_duplex?lang=en")
        await page.click("#start")
        await page.click("dialog .button.primary")
        shown = await page.locator(".error-card h2").inner_text()
        can_retry = await page.locator(".error-card .button.primary").is_visible()

    assert (shown, can_retry) == ("The microphone is blocked", True)


async def test_another_microphone_is_taken_in_mid_call_and_remembered(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        await page.add_init_script(
            "const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
            "globalThis.asked = [];"
            "navigator.mediaDevices.getUserMedia = (wish) => {"
            " asked.push(wish.audio.deviceId?.exact ?? ''); return ask(wish); }"
        )
        await start_talking(page, url)
        await page.click(".bar-inspect")
        picker = page.get_by_label("Microphone", exact=True)
        chosen = await picker.locator("option").nth(1).get_attribute("value")
        await picker.select_option(chosen)
        await until(page, "asked.length === 2")
        sent = await page.evaluate("omni.metrics().sent")
        await until(page, f"omni.metrics().sent > {sent + 2}")
        asked = await page.evaluate("asked")
        await page.click(".bar-stop")
        await page.click(".summary-card .button.primary")
        await until(page, "asked.length === 3")
        again = await page.evaluate("asked[2]")

    assert chosen and asked == ["", chosen]
    assert again == chosen


async def test_pause_stops_the_sound_both_ways_and_resume_gives_it_back(browser: Browser) -> None:
    script = Script()
    async with serve(script) as url:
        page = await browser.new_page()
        await start_talking(page, url)
        await until(page, "omni.metrics().sent > 2")
        await page.keyboard.press("p")
        await page.wait_for_selector("body[data-state=paused]")
        sent = await page.evaluate("omni.metrics().sent")
        await page.wait_for_selector("text=The session ends in")
        paused = await page.evaluate("omni.metrics().sent")
        await page.keyboard.press("p")
        await until(page, f"omni.metrics().sent > {sent + 2}")

    assert paused == sent


async def test_hands_free_answers_and_listens_again(browser: Browser) -> None:
    script = Script(answer=("Yes.",), piece_s=0.4)
    async with serve(script) as url:
        page = await browser.new_page()
        errors = collect_errors(page)
        await start_talking(page, url, "/half_duplex")
        await page.wait_for_selector(".stage[data-phase=speaking]")
        await page.wait_for_selector(".stage[data-phase=listening]")
        answers = await texts(page, "ai")

    assert set(answers.split()) == {"Yes."}  # the next turn may be there already
    assert errors == []


async def ask(page: Page, url: str, text: str) -> None:
    await page.goto(f"{url}/turnbased?lang=en")
    await page.fill("#message", text)
    await page.press("#message", "Enter")


async def test_chat_streams_markdown_without_markup_of_its_own(browser: Browser) -> None:
    script = Script(chat_reply="**Bold** <img src=x onerror=alert(1)> `code`")
    async with serve(script) as url:
        page = await browser.new_page()
        errors = collect_errors(page)
        await ask(page, url, "Hi")
        await page.wait_for_selector("text=tokens")
        body = page.locator(".message-assistant .message-body")
        bold, images = await body.locator("strong").inner_text(), await body.locator("img").count()
        text = await body.inner_text()

    assert (bold, images) == ("Bold", 0)
    assert "<img src=x onerror=alert(1)>" in text
    assert errors == []


async def test_stop_in_the_chat_closes_the_socket_and_keeps_the_words(browser: Browser) -> None:
    script = Script(chat_reply="word " * 4000, chat_delay_s=0.02)  # it lasts until it is stopped
    async with serve(script) as url:
        page = await browser.new_page()
        await ask(page, url, "Go on")
        await page.wait_for_selector("text=word word")
        await page.click("#send")
        await page.wait_for_selector("text=Stopped")
        await until(page, "!omni.metrics().isAnswering")
        await happened(lambda: script.chat_closed_early)

    assert script.chat_closed_early == 1


async def test_chat_answers_are_heard_and_can_be_silenced(browser: Browser) -> None:
    async with serve(Script(chat_reply="word " * 100)) as url:  # half a minute of sound
        page = await browser.new_page()
        await page.goto(f"{url}/turnbased?lang=en")
        await page.click(".composer-tool[aria-pressed]")
        await page.fill("#message", "Hi")
        await page.press("#message", "Enter")
        is_heard = await until(page, "omni.metrics().player.maxRms > 0.05")
        await until(page, "!omni.metrics().isAnswering")
        await page.click("#send.is-stop")
        await until(page, "omni.metrics().player.state === 'idle'")
        is_ready = await page.locator("#send.is-stop").count() == 0

    assert is_heard and is_ready


async def test_a_chat_shows_its_place_in_the_line_until_its_turn(browser: Browser) -> None:
    next_in_line = asyncio.Event()
    async with serve(Script(queue=LINE, next_in_line=next_in_line)) as url:
        page = await browser.new_page()
        await ask(page, url, "Hi")
        await page.wait_for_selector(".message-assistant >> text=Place 2 of 3")
        next_in_line.set()
        await page.wait_for_selector(".message-assistant >> text=You are next")
        next_in_line.set()
        await page.wait_for_selector("text=tokens")
        num_cards = await page.locator(".queue-card").count()
        title = await page.title()

    assert num_cards == 0
    assert "omni" in title and "(1)" not in title


async def test_a_question_that_waits_in_the_line_can_be_taken_back(browser: Browser) -> None:
    async with serve(Script(queue=LINE, next_in_line=asyncio.Event())) as url:
        page = await browser.new_page()
        await ask(page, url, "Hi")
        await page.click(".queue-card >> text=Cancel")
        await until(page, "!omni.metrics().isAnswering")
        num_answers = await page.locator(".message-assistant").count()
        title = await page.title()

    assert num_answers == 0
    assert "omni" in title and "(2)" not in title


async def test_what_answers_is_said_in_the_language_of_the_page(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        notices = {}
        for path in ("/", "/audio_duplex", "/half_duplex", "/turnbased"):
            await page.goto(f"{url}{path}?lang=zh")
            notices[path] = await page.locator(".engine-notice >> text=SmolLM2").inner_text()

    assert len(set(notices.values())) == 1
    assert "英语" in notices["/"]


async def test_editing_a_question_drops_what_followed(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        await ask(page, url, "First")
        await page.wait_for_selector("text=tokens")
        await page.click(".message-user [aria-label='Edit and send again']")
        await page.fill(".message-edit", "Second")
        await page.press(".message-edit", "Enter")
        await until(page, "!omni.metrics().isAnswering")
        messages = await page.locator(".message").count()
        question = await page.locator(".message-user .message-body").inner_text()

    assert (messages, question) == (2, "Second")


@pytest.mark.parametrize("path", ["/", "/audio_duplex", "/half_duplex", "/turnbased"])
async def test_a_page_fits_a_phone_and_speaks_both_languages(browser: Browser, path: str) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page(viewport={"width": 360, "height": 740})
        errors = collect_errors(page)
        await page.goto(f"{url}{path}?lang=zh")
        await page.wait_for_selector("h1")
        lang = await page.evaluate("document.documentElement.lang")
        faults = await layout_faults(page)
        await page.click(".lang-switch")
        await until(page, "document.documentElement.lang === 'en'")

    assert (lang, faults, errors) == ("zh-CN", {}, [])


async def test_a_call_whose_code_cannot_be_fetched_is_named_and_can_be_retried(
    browser: Browser,
) -> None:
    """Start did nothing at all where the server had gone since the page was opened."""
    async with serve(Script()) as url:
        page = await browser.new_page()
        await page.goto(f"{url}/audio_duplex?lang=en")
        await page.route("**/lib/call.js", lambda route: route.abort())
        await page.click("#start")
        await page.click("dialog .button.primary")
        await page.wait_for_selector(".error-card")
        shown = await page.locator(".error-card h2").inner_text()
        await page.unroute("**/lib/call.js")
        await page.click(".error-card .button.primary")
        await page.wait_for_selector("body[data-state=live]")

    assert shown == "No connection to the server"


@pytest.mark.parametrize(
    ("browser_lang", "server_lang", "page_lang"),
    [("fr-FR", "en", "en"), ("fr-FR", "", "zh-CN"), ("en-GB", "zh", "en")],
    ids=["the server's", "Chinese where nobody says", "the browser's before the server's"],
)
async def test_a_page_begins_in_the_language(
    browser: Browser, browser_lang: str, server_lang: str, page_lang: str
) -> None:
    async with serve(Script(lang=server_lang)) as url:
        page = await browser.new_page(locale=browser_lang)
        await page.goto(url)
        await page.wait_for_selector("h1:not(:empty)")

        assert await page.evaluate("document.documentElement.lang") == page_lang


async def test_the_page_asks_no_other_server(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        await start_talking(page, url)

    assert all(address.startswith(url) for address in requested)


async def test_the_theme_button_turns_the_page_dark_and_it_stays(browser: Browser) -> None:
    async with serve(Script()) as url:
        page = await browser.new_page(color_scheme="light")
        await page.goto(f"{url}/?lang=en")
        theme = page.locator(".nav-tools .icon-button").last
        await theme.click()
        await theme.click()
        await page.reload()
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert background == "rgb(18, 17, 16)"

"""The realtime page in a real Chromium, against a real server with the null engine."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.browser.browser import CHROMIUM, collect_errors, layout_faults, until
from tests.conftest import RunningOmni, clean_environment

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    # Playwright leaves closing of its own pipes to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SNIPPET_TIMEOUT_S = 120.0
#: Of the rows that are shown, in their order.
TYPES = (
    "[...document.querySelectorAll('.log-row:not([hidden]) .log-what code')]"
    ".map((element) => element.textContent)"
)
#: How each kind of choice is made: by the label of its radio button.
R2, OPENAI = "label[for=dialect-r2]", "label[for=dialect-openai]"
VIDEO, SILENCE = "label[for=mode-video]", "label[for=sound-silence]"
RECEIVED, PYTHON = "label[for=direction-in]", "label[for=language-python]"


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Browser, omni: RunningOmni) -> AsyncIterator[Page]:
    context = await one_browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(f"{omni.address}/realtime")
    await page.wait_for_selector("#connect")
    yield page
    await context.close()


async def connect(page: Page, *choices: str) -> None:
    for choice in choices:
        await page.click(choice)
    await page.click("#connect")
    await until(page, "omni.metrics().state === 'open'")


async def json_of(page: Page, row: str) -> dict[str, Any]:
    """Open the first row that *row* selects, and return the event that it shows."""
    view = page.locator(f".log-row:has({row})").first
    await view.locator("summary").click()
    shown: dict[str, Any] = json.loads(await view.locator("pre:not(:empty)").inner_text())
    return shown


async def test_an_r1_call_shows_its_events_with_their_times_and_is_heard(page: Page) -> None:
    errors = collect_errors(page)
    await connect(page)
    await until(page, "omni.metrics().player.maxRms > 0.05")
    await until(page, "omni.metrics().numAnswers >= 4")
    types = await page.evaluate(TYPES)
    sent = await json_of(page, "code:text-is('session.update')")
    spoken = await json_of(page, "code:text-is('response.output_audio.delta')")
    latency = await page.locator(".log-row .log-latency").first.inner_text()
    said = await page.inner_text(".rt-said")
    await page.click("#disconnect")
    await until(page, "omni.metrics().state === 'closed'")
    ends = [type for type in await page.evaluate(TYPES) if type.startswith("session.")]
    word = await page.inner_text("#state")

    assert types[:4] == [
        "session.queue_done",
        "session.update",
        "session.created",
        "input_audio_buffer.append",
    ]
    assert "voice assistant" in sent["session"]["instructions"]
    assert spoken["audio"].endswith("(128000 characters)") and spoken["end_of_turn"] is True
    assert latency.endswith((" ms", " s"))
    assert "unit 4" in said
    assert ends[-2:] == ["session.close", "session.closed"]  # a unit's answer may come between
    assert word == "Closed: stopped, close 1000"
    assert errors == []


async def test_r2_times_each_unit_by_its_first_frame(page: Page) -> None:
    await connect(page, R2, SILENCE, "label[for=chunk-250]")
    await until(page, f"{TYPES}.filter((type) => type === 'response.output.delta').length >= 7")
    spoken = await json_of(page, ".log-note:text('audio')")
    metrics = await page.evaluate("omni.metrics()")
    said = await page.inner_text(".rt-said")

    assert spoken["kind"] == "audio" and spoken["input_id"] == "in_4"
    assert 4 <= metrics["numAnswers"] <= metrics["counts"]["out"]
    assert "unit 4" in said


async def test_the_log_is_filtered_and_cleared(page: Page) -> None:
    await connect(page, SILENCE)
    await until(page, "omni.metrics().numAnswers >= 2")
    await page.click("#disconnect")
    await until(page, "omni.metrics().state === 'closed'")
    await page.click(RECEIVED)
    received = await page.evaluate(TYPES)
    await page.fill("#log-words", "-listen -session")
    words = await page.evaluate(TYPES)
    await page.fill("#log-words", "queue_done")
    found = await page.evaluate(TYPES)
    await page.click(".log-buttons [aria-label=Clear]")
    cleared = await page.evaluate("omni.metrics().log.rows")

    assert "session.created" in received and "session.update" not in received
    assert not {"response.listen", "session.created"} & set(words)
    assert found == ["session.queue_done"]
    assert cleared == 0 and await page.locator(".log-empty").is_visible()


async def test_openais_dialect_answers_events_written_by_hand(page: Page) -> None:
    await connect(page, OPENAI, SILENCE)
    await page.click(".compose summary")
    await page.fill("#event", "no json")
    await page.click("#send-event")
    refused = await page.inner_text(".compose-trouble")
    await page.select_option("#template", label="conversation.item.create")
    text = json.loads(await page.input_value("#event"))
    text["item"]["content"][0]["text"] = "blue sky"
    await page.fill("#event", json.dumps(text))
    await page.click("#send-event")
    await page.select_option("#template", label="response.create")
    await page.click("#send-event")
    await until(page, f"{TYPES}.includes('response.done')")
    done = await json_of(page, "code:text-is('response.done')")
    said = await page.inner_text(".rt-said")

    assert refused == "This is no JSON object."
    assert done["response"]["status"] == "completed"
    assert "blue sky" in said
    assert await page.evaluate("omni.metrics().numAnswers") == 1
    assert await page.evaluate("omni.metrics().player.maxRms") > 0.05


async def test_pictures_of_the_camera_go_with_the_sound(page: Page) -> None:
    await connect(page, VIDEO)
    is_seen = await page.locator(".rt-video").is_visible()
    await until(page, "document.querySelector('.log-rows').textContent.includes('1 × jpeg')")
    append = await json_of(page, ".log-note:text('jpeg')")

    assert is_seen
    assert append["video_frames"][0].startswith("/9j/")


async def test_a_refused_microphone_is_explained(page: Page) -> None:
    await page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('no', 'NotAllowedError'); }; }"
    )
    await page.click("#connect")
    await page.wait_for_selector(".rt-trouble:not([hidden])")

    assert "The microphone is blocked" in await page.inner_text(".rt-trouble")
    assert await page.locator("#connect").is_visible()


async def test_silence_needs_no_microphone(page: Page) -> None:
    await page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => { throw new Error('asked'); }; }"
    )
    await connect(page, SILENCE)
    await until(page, "omni.metrics().numAnswers >= 1")


@pytest.mark.parametrize(
    ("choices", "shown"),
    [((), "response.listen"), ((R2,), "[1.0 s of sound]"), ((OPENAI,), "completed")],
    ids=["r1", "r2", "openai"],
)
async def test_the_python_code_that_is_shown_runs(
    page: Page, choices: tuple[str, ...], shown: str
) -> None:
    for choice in choices:
        await page.click(choice)
    await page.click("#tab-code")
    await page.click(PYTHON)
    code = await page.inner_text(".rt-code pre code")

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SNIPPET_TIMEOUT_S):
        output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert shown in output


async def test_the_script_that_is_shown_runs_in_a_page(page: Page) -> None:
    lines: list[str] = []
    page.on("console", lambda line: lines.append(line.text))
    code = await page.evaluate("document.querySelector('.rt-code pre code').textContent")
    body = f"{code}\nglobalThis.hangUp = () => send({{ type: 'session.close' }});"
    await page.evaluate(f"() => {{ {body} }}")
    async with asyncio.timeout(SNIPPET_TIMEOUT_S):
        while not any("response." in line for line in lines):
            await asyncio.sleep(0.02)
        await page.evaluate("hangUp()")
        while not any("closed 1000" in line for line in lines):
            await asyncio.sleep(0.02)

    assert any("session.created" in line for line in lines)


@pytest.mark.parametrize("lang", ["en", "zh"])
async def test_the_page_fits_a_phone(page: Page, omni: RunningOmni, lang: str) -> None:
    errors = collect_errors(page)
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{omni.address}/realtime?lang={lang}")
    await page.wait_for_selector("#connect")
    await connect(page, SILENCE)
    await until(page, "omni.metrics().numAnswers >= 1")
    await page.locator(".log-row summary").nth(1).click()
    faults = await layout_faults(page)

    assert (faults, errors) == ({}, [])

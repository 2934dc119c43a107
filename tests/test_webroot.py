"""The pages' files: their own tests, their budgets, and what they must never contain."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEBROOT = ROOT / "webroot"
PAGES = ["home", "audio", "half", "chat", "signin", "docs", "viewer", "omni", "admin", "realtime"]
MAX_PAGE_LINES = 400
MAX_LIB_LINES = 300
MAX_FIRST_LOAD_BYTES = 120 * 1000
NODE_TIMEOUT_S = 120

IMPORT = re.compile(r'(?:from|import)\s*"(\.{1,2}/[^"]+\.js)"')
STATIC = re.compile(r'(?:src|href)="/static/([^"]+)"')
#: A text key: at least one dot, lower case at the start.
KEY = re.compile(
    r'"((?:action|admin|audio|bar|chat|compare|docs|error|half|home|inspector|keys|metrics|nav'
    r'|omni(?!\.settings")|permission|preset|queue|realtime|settings|signin|stage|state|status'
    r'|summary|theme|toast|transcript|viewer|warning)\.[A-Za-z_0-9.]+)"'
)


def scripts() -> list[Path]:
    return sorted(WEBROOT.rglob("*.js"))


def texts(lang: str) -> dict[str, str]:
    content: dict[str, str] = json.loads((WEBROOT / "i18n" / f"{lang}.json").read_text("utf-8"))
    return content


def first_load(page: str) -> set[Path]:
    """Every script that *page* loads to show itself: those it names, and what they import.

    Left out is what a session loads when it starts: its class and the audio worklets.
    """
    html = (WEBROOT / "pages" / f"{page}.html").read_text("utf-8")
    waiting = [WEBROOT / name for name in STATIC.findall(html) if name.endswith(".js")]
    found: set[Path] = set()
    while waiting:
        script = waiting.pop().resolve()
        if script not in found:
            found.add(script)
            names = IMPORT.findall(script.read_text("utf-8"))
            waiting += [script.parent / name for name in names]
    return found


def test_the_client_library_passes_its_own_tests() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed: it runs the library's tests")

    run = subprocess.run(
        [node, "--test", *sorted(str(path) for path in (ROOT / "tests/js").glob("*.test.js"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=NODE_TIMEOUT_S,
    )

    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_little(page: str) -> None:
    sizes = {path.name: path.stat().st_size for path in first_load(page)}

    assert sum(sizes.values()) <= MAX_FIRST_LOAD_BYTES, sizes


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_names_exists(page: str) -> None:
    html = (WEBROOT / "pages" / f"{page}.html").read_text("utf-8")
    named = STATIC.findall(html)

    assert named
    assert [name for name in named if not (WEBROOT / name).is_file()] == []


def test_modules_stay_short() -> None:
    limits = {"lib": MAX_LIB_LINES, "pages": MAX_PAGE_LINES, "ui": MAX_LIB_LINES}
    too_long = {
        str(path.relative_to(WEBROOT))
        for path in scripts()
        if len(path.read_text("utf-8").splitlines()) > limits[path.relative_to(WEBROOT).parts[0]]
    }

    assert too_long == set()


def test_the_library_knows_no_document() -> None:
    touching = {
        path.name
        for path in (WEBROOT / "lib").rglob("*.js")
        if re.search(r"\bdocument\.|\bwindow\.|from \"\.\./(?:\.\./)?ui/", path.read_text("utf-8"))
    }

    assert touching == set()


def test_no_text_becomes_markup_or_code() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    )
    found = {path.name for path in scripts() if forbidden.search(path.read_text("utf-8"))}

    assert found == set()


def test_nothing_is_loaded_from_elsewhere() -> None:
    allowed = "http://www.w3.org/2000/svg"
    files = [path for path in WEBROOT.rglob("*") if path.suffix in {".js", ".css", ".html", ".svg"}]
    found = {
        path.name: urls
        for path in files
        if (urls := set(re.findall(r"(?:https?:)?//[\w-]+\.[\w./-]+", _code(path))) - {allowed})
    }

    assert found == {}


def _code(path: Path) -> str:
    """The file without its line comments, whose `//` would look like an address."""
    return re.sub(r"(?m)(?<![:\"])//\s.*$", "", path.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_pages_obey_their_own_policy(page: str) -> None:
    html = (WEBROOT / "pages" / f"{page}.html").read_text("utf-8")

    assert re.findall(r"\sstyle=|\son\w+=|<style", html) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []


def tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6});", block))


def schemes() -> dict[str, dict[str, str]]:
    """The colours of each scheme: light, dark by the system, dark by choice."""
    css = (WEBROOT / "css" / "tokens.css").read_text("utf-8")
    light, rest = css.split("@media", 1)
    system, chosen = rest.split(':root[data-theme="dark"]', 1)
    return {"light": tokens(light), "system": tokens(system), "chosen": tokens(chosen)}


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_dark_is_the_same_by_choice_and_by_system() -> None:
    assert schemes()["system"] == schemes()["chosen"] != {}


@pytest.mark.parametrize("scheme", ["light", "chosen"])
def test_text_has_enough_contrast_on_what_lies_under_it(scheme: str) -> None:
    colours = schemes()[scheme]
    pairs = [(ink, on) for ink in ("ink", "ink-2", "ink-3") for on in ("bg", "surface")]
    pairs += [("ink", "surface-2"), ("ink-2", "surface-2"), ("on-primary", "primary")]
    pairs += [(name, f"{name}-soft") for name in ("you", "ai", "warn", "bad")]
    pairs += [(name, "surface") for name in ("you", "ai", "good", "bad")]
    pairs += [("ink", "you-soft"), ("ink", "bad-soft")]
    ratios = {(ink, on): round(contrast(colours[ink], colours[on]), 2) for ink, on in pairs}

    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def over(colour: str, alpha: float, ground: str) -> str:
    """The colour that shows where *colour* lies on *ground*."""
    parts = [(int(colour[at : at + 2], 16), int(ground[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(alpha * top + (1 - alpha) * below):02x}" for top, below in parts)


def test_words_on_a_picture_can_be_read_whatever_it_shows() -> None:
    """The worst picture is a white one: the veil under the words must be enough."""
    css = (WEBROOT / "css" / "omni.css").read_text("utf-8")
    veils = re.findall(r"--(picture-veil[\w-]*|on-picture-2): rgb\((.+) / (\d+)%\);", css)
    colours = {
        name: ("#" + "".join(f"{int(part):02x}" for part in rgb.split()), int(percent) / 100)
        for name, rgb, percent in veils
    }
    ratios = {}
    for veil in ("picture-veil", "picture-veil-you"):
        ground = over(*colours[veil], "#ffffff")
        quiet = over(*colours["on-picture-2"], ground)
        ratios[veil] = min(contrast("#ffffff", ground), contrast(quiet, ground))

    assert {veil: ratio for veil, ratio in ratios.items() if ratio < 4.5} == {}


def test_both_languages_have_every_key_with_the_same_parameters() -> None:
    english, chinese = texts("en"), texts("zh")

    def parameters(content: dict[str, str]) -> dict[str, list[str]]:
        return {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in content.items()}

    assert parameters(english) == parameters(chinese)


def test_every_key_that_the_pages_name_has_a_text() -> None:
    named = {key for path in scripts() for key in KEY.findall(path.read_text("utf-8"))}

    assert len(named) > 100
    assert named - texts("en").keys() == set()


def test_every_error_code_has_a_title_and_a_way_out() -> None:
    source = (WEBROOT / "lib" / "errors.js").read_text("utf-8")
    typedef = source[source.index("@typedef") : source.index("ErrorCode */")]
    codes = set(re.findall(r'"(\w+)"', typedef)) - {"pause_timeout", "session_timeout"}
    english = texts("en")

    assert len(codes) > 15
    assert [code for code in codes if not english.get(f"error.{code}.title")] == []
    assert [code for code in codes if not english.get(f"error.{code}.hint")] == []

"""What the documents say is there: commands, settings, routes, events, files, layers."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.cli import _PASSED_ON, make_parser
from omni.errors import RENDERINGS, OmniError
from omni.messages import MESSAGES
from omni.process import ROOT
from omni.realtime.duplex import parse_prepare
from omni.routes.openapi import openapi_document
from omni.settings import Settings, setting_fields
from omni.web import make_app
from tests.test_layering import HOMES

DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
SETTINGS = {item.path for item in setting_fields()}
SECTIONS = {path.split(".")[0] for path in SETTINGS}
#: Directories that a running omni makes.
MADE = ("data/", "tmp/", ".venv/", "shared/")
#: Written where a document speaks of any name.
ANY = re.compile(r"[A-Z]{2,}|NAME|\*|\.\.\.")


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def words_in_code(name: str) -> Iterator[str]:
    """Yield what stands between backticks."""
    yield from re.findall(r"`([^`\n]+)`", text_of(name))


# --- files and links ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(name))
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]

    assert [link for link in local if not ((ROOT / name).parent / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    """Of paths with a folder in front; `engine.py` alone means one of the page's own package."""
    paths = [
        word
        for word in words_in_code(name)
        if re.fullmatch(r"(omni|tests|bench|docs|webroot|bin)/[\w./-]*", word)
    ]

    assert [path for path in paths if not (ROOT / path).exists()] == []


def anchors_of(name: str) -> set[str]:
    """Return what a link to a heading of a document ends in."""
    heads = re.findall(r"^#+ (.+)$", text_of(name), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", head.replace("**", "").lower()) for head in heads]
    return {head.replace(" ", "-") for head in plain}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_to_a_heading_finds_it(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]*)\)", text_of(name))
    places = [(str((Path(name).parent / file) if file else name), anchor) for file, anchor in links]

    assert [place for place in places if place[1] not in anchors_of(place[0])] == []


def test_every_document_is_found_from_the_readme() -> None:
    pages = [name for name in NAMES if re.fullmatch(r"docs/[\w-]+\.md", name)]

    assert [page for page in pages if page not in text_of("README.md")] == []


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_a_document_names_exists(name: str) -> None:
    """In the text as well as in commands: `--set pocket.max_sessions=8`."""
    pattern = rf"(?:`|--set )((?:{'|'.join(SECTIONS)})\.\w+)"
    named = set(re.findall(pattern, text_of(name)))
    files = {word for word in named if word.endswith((".py", ".js", ".json", ".html"))}

    assert named - files - SETTINGS == set()


# --- commands ----------------------------------------------------------------------------------


def commands() -> list[str]:
    """Return every command that parses its own arguments, or passes them on."""
    actions = make_parser()._subparsers
    assert actions is not None
    parsed = actions._group_actions[0].choices
    assert parsed is not None
    return [*parsed, *_PASSED_ON]


def command_lines() -> list[tuple[str, str]]:
    """Return (document, command line) of all that stands in code blocks or between backticks."""
    found = []
    for name in NAMES:
        for block in re.findall(r"```sh\n(.*?)```", text_of(name), re.DOTALL):
            found += [(name, line.split(" #")[0].strip()) for line in block.splitlines()]
        found += [(name, word) for word in words_in_code(name)]
    return [(name, line) for name, line in found if re.match(r"(bin/)?omni [a-z]", line)]


@pytest.mark.parametrize(("name", "line"), command_lines())
def test_every_command_that_a_document_shows_exists(name: str, line: str) -> None:
    command, *arguments = shlex.split(line.split(" | ")[0])[1:]

    assert command in [*commands(), "install"]
    if command not in _PASSED_ON and not ANY.search(line):
        known = make_parser()
        flags = [word for word in arguments if word.startswith("--")]
        if flags or not arguments:
            known.parse_args([command, *arguments])


@pytest.mark.parametrize("command", commands())
def test_every_command_stands_in_a_document(command: str) -> None:
    shown = {line.removeprefix("bin/").split()[1] for _, line in command_lines()}

    assert command in shown


# --- the protocol towards clients --------------------------------------------------------------


def routes() -> set[str]:
    """Return every route of the server, as the documents write them."""
    resources = make_app(Settings()).router.resources()
    return {
        re.sub(r"\{\w+.*?\}", "{}", resource.canonical)
        for resource in resources
        if not resource.canonical.startswith("/static")
    }


def documented_routes() -> set[str]:
    text = re.sub(r"\{\w+\}", "{}", text_of("docs/realtime.md"))
    return set(re.findall(r"(?<![\w.])/(?:[\w-]+(?:\.[a-z]+)?/?|\{\}/?)*", text)) | {"/"}


def test_every_route_stands_in_the_document_of_the_protocol() -> None:
    assert routes() - documented_routes() == set()


def test_every_event_towards_clients_stands_in_the_document_of_the_protocol() -> None:
    """`event("name", ...)` in the dialects makes all of them."""
    named: set[str] = set()
    for path in (ROOT / "omni" / "realtime").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "event":
                named |= {
                    leaf.value
                    for leaf in ast.walk(node.args[0])
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
    text = text_of("docs/realtime.md")

    assert len(named) > 15
    assert {name for name in named if not re.search(rf"\b{name}\b", text)} == set()


def test_every_field_of_a_prepare_stands_in_the_document_of_the_protocol() -> None:
    source = (ROOT / parse_prepare.__code__.co_filename).read_text("utf-8")
    readers = r"\.(?:text|flag|number|choice|(?:optional_)?whole)"
    fields = set(re.findall(readers + r'\(\s*"(\w+)"', source))
    text = text_of("docs/realtime.md")

    assert len(fields) > 20
    assert {field for field in fields if not re.search(rf"\b{field}\b", text)} == set()


def test_every_close_code_stands_in_the_document_of_the_protocol() -> None:
    """1008 is an error over HTTP alone: what is forbidden or absent is refused at the handshake."""
    codes = {str(rendering.close_code) for rendering in RENDERINGS.values()} - {"1008"}

    assert {code for code in codes if f"| {code} |" not in text_of("docs/realtime.md")} == set()


def test_every_socket_stands_in_the_table_of_binary_sound() -> None:
    """A socket that is new must negotiate it too; `test_binary_sound_socket.py` goes row by row."""
    document = openapi_document(make_app(Settings()))
    sockets = {path for path, item in document["paths"].items() if "x-websocket" in str(item)}
    section = text_of("docs/realtime.md").split("## Binary audio")[1].split("\n## ")[0]

    missing = {path for path in sockets if f"`{path.split('/{')[0]}`" not in section}
    assert len(sockets) > 6
    assert missing == {"/v1/realtime"}  # it has a row for each dialect instead
    assert all(dialect in section for dialect in ("| R1 |", "| R2,", "| OpenAI |"))


# --- the protocol between processes ------------------------------------------------------------


def test_every_message_stands_in_the_document_of_the_wire() -> None:
    known = set(words_in_code("docs/protocol.md"))

    assert {kind for kind in MESSAGES if kind not in known} == set()


def test_every_counter_of_the_broker_stands_in_the_document_of_the_wire() -> None:
    sources = [ROOT / "omni" / "broker.py", *(ROOT / "omni" / "dispatch").glob("*.py")]
    counted = set()
    for path in sources:
        counted |= set(re.findall(r'counters\["(\w+)"\]', path.read_text("utf-8")))
        counted |= set(re.findall(r'_count\("(\w+)"', path.read_text("utf-8")))
    text = text_of("docs/protocol.md").split("## 9. Counters")[1]

    assert counted
    assert {name for name in counted if not re.search(rf"\b{name}\b", text)} == set()


# --- the architecture --------------------------------------------------------------------------


def test_the_table_of_layers_is_what_the_layering_test_enforces() -> None:
    section = text_of("docs/architecture.md").split("## Layers")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", section, re.MULTILINE)
    documented = {
        package: {module_of(path) for path in re.findall(r"`([\w/.]+)`", where)}
        for package, where in rows
        if package != "package"
    }

    assert documented == {package: set(HOMES[package]) for package in documented}
    assert {"torch", "aiohttp", "zmq", "msgpack", "prometheus_client"} == documented.keys()


def module_of(path: str) -> str:
    """Return `omni/web.py` as `omni.web`, and `omni/routes/` as `omni.routes.`."""
    return path.removesuffix(".py").replace("/", ".")


def test_every_process_of_the_fabric_stands_in_the_table_of_processes() -> None:
    table = text_of("docs/architecture.md").split("| process | file |")[1].split("\n\n")[0]
    processes = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "omni").glob("*.py")
        if path.read_text("utf-8").startswith('"""PROCESS')
    }

    assert processes and {path for path in processes if f"`{path}`" not in table} == set()


def test_every_error_has_a_rendering() -> None:
    def kinds(base: type[OmniError]) -> Iterator[type[OmniError]]:
        yield base
        for child in base.__subclasses__():
            yield from kinds(child)

    codes = {kind.code for kind in kinds(OmniError) if kind.__module__ == "omni.errors"}

    assert codes <= RENDERINGS.keys()


# --- the README --------------------------------------------------------------------------------


def test_the_screenshot_is_there_and_small() -> None:
    picture = Path(ROOT / "docs" / "images" / "live.png")

    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 400_000

"""Imports point down only. Walks the syntax trees, so that a late import counts, too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.process import ROOT

PACKAGE = ROOT / "omni"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Packages with one home: who may import them. A trailing dot: the whole folder.
HOMES = {
    "torch": ("omni.minicpmo.", "omni.pocket.thinking_hf"),
    "aiohttp": (
        "omni.web",
        "omni.routes.",
        "omni.realtime.endpoint",
        "omni.realtime.socket",
        "omni.client",
        "omni.talk",
        "omni.minicpmo.fetch",  # downloads a checkpoint
        "omni.minicpmo.hubs",
        "omni.minicpmo.transfer",
    ),
    "zmq": ("omni.broker", "omni.link", "omni.worker_link", "omni.wire", "omni.keys"),
    "msgpack": ("omni.codec",),
    "prometheus_client": ("omni.exposition",),
    "stepaudio2": ("omni.minicpmo.token2wav_check",),
    "s3tokenizer": ("omni.minicpmo.token2wav_check",),
    "minicpmo": ("omni.minicpmo.token2wav_check",),
}

PROCESSES = ("omni.web", "omni.broker", "omni.gpu_worker", "omni.launcher")

#: Prefix of importer -> prefixes of what of omni it must not import.
FORBIDDEN = {
    "omni.errors": ("omni",),
    "omni.engine": ("omni.messages", "omni.link", "omni.codec", "omni.web", "omni.dispatch"),
    "omni.messages": ("omni.codec", "omni.link", "omni.settings"),
    "omni.codec": ("omni.link", "omni.settings", "omni.broker"),
    "omni.link": PROCESSES,
    "omni.worker_link": PROCESSES,
    "omni.dispatch": (*PROCESSES, "omni.link", "omni.codec", "omni.wire"),
    "omni.web": ("omni.broker", "omni.gpu_worker", "omni.launcher", "omni.dispatch"),
    "omni.routes": ("omni.broker", "omni.gpu_worker", "omni.launcher", "omni.dispatch"),
    "omni.realtime": ("omni.broker", "omni.gpu_worker", "omni.launcher", "omni.dispatch"),
    "omni.recording": ("omni.broker", "omni.gpu_worker", "omni.launcher", "omni.dispatch"),
    "omni.broker": ("omni.web", "omni.gpu_worker", "omni.launcher", "omni.link", "omni.pocket"),
    "omni.gpu_worker": ("omni.web", "omni.broker", "omni.launcher", "omni.link", "omni.dispatch"),
    "omni.tenants": (*PROCESSES, "omni.worker_link", "omni.link", "omni.codec"),
    "omni.launcher": ("omni.web", "omni.broker", "omni.gpu_worker", "omni.pocket", "omni.minicpmo"),
    "omni.minicpmo.model": ("omni.engine", "omni.settings", "omni.messages"),
}

#: All that an engine may import of omni beside itself: it runs in a bench with no wire.
ENGINES_MAY = (
    "omni.engine",
    "omni.errors",
    "omni.pictures",
    "omni.audio",
    "omni.wav",
    "omni.containers",
    "omni.settings",
    "omni.vad",
)

#: torch.load with weights_only raises pickle.UnpicklingError for what it refuses.
MAY_CATCH_PICKLE_ERRORS = ("omni.minicpmo.token2wav_assets", "omni.minicpmo.checkpoint")

#: Rules and translations: told the time, given the bytes.
PURE = (
    "omni.dispatch.",
    "omni.minicpmo.scheduler",
    "omni.realtime.native",
    "omni.realtime.choice",
    "omni.realtime.queue_events",
    "omni.realtime.r1",
    "omni.realtime.r2",
    "omni.realtime.r2_chat",
    "omni.realtime.r2_events",
    "omni.realtime.turns_session",
    "omni.realtime.undecided",
    "omni.realtime.units",
    "omni.realtime.usage",
    "omni.realtime.openai.client_events",
    "omni.realtime.openai.config",
    "omni.realtime.openai.conversation",
    "omni.realtime.openai.events",
    "omni.realtime.openai.formats",
    "omni.realtime.openai.items",
    "omni.realtime.openai.microphone",
    "omni.realtime.openai.read_items",
    "omni.realtime.openai.response",
    "omni.realtime.openai.shown_config",
    "omni.realtime.openai.shown_items",
)
NOT_PURE = ("time", "asyncio", "socket", "zmq", "threading", "torch", "aiohttp", "subprocess")


def name_of(path: Path) -> str:
    """Return the module's name; a package's is its own with a dot: `omni.dispatch.`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1]) + "." if parts[-1] == "__init__" else ".".join(parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module that *path* imports, by its full name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, place: str) -> bool:
    """True when module *name* is *place* or lies in it."""
    return (name.rstrip(".") + ".").startswith(place.rstrip(".") + ".")


IMPORTS = {name_of(path): set(imports_of(path)) for path in MODULES}


@pytest.mark.parametrize("package", HOMES)
def test_a_package_stays_in_its_home(package: str) -> None:
    importers = [
        name for name, imports in IMPORTS.items() if any(is_within(i, package) for i in imports)
    ]

    strangers = [name for name in importers if not any(is_within(name, h) for h in HOMES[package])]

    assert not strangers


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_imports_point_down(importer: str) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imports in IMPORTS.items()
        if is_within(name, importer) and not name.startswith("omni.engine.load")
        for imported in imports
        if any(is_within(imported, place) for place in FORBIDDEN[importer])
    ]

    assert not wrong


@pytest.mark.parametrize("engine", ["omni.pocket", "omni.minicpmo", "omni.engine.null"])
def test_an_engine_runs_with_no_wire(engine: str) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imports in IMPORTS.items()
        if is_within(name, engine)
        for imported in imports
        if is_within(imported, "omni")
        and imported != "omni"
        and not any(is_within(imported, place) for place in (engine, *ENGINES_MAY))
    ]

    assert not wrong


def test_the_models_import_nothing_above_themselves() -> None:
    above = [
        f"{name} imports {imported}"
        for name, imports in IMPORTS.items()
        if name.startswith("omni.minicpmo.model.")
        for imported in imports
        if is_within(imported, "omni.minicpmo") and imported != "omni.minicpmo"
        if not is_within(imported, "omni.minicpmo.model")
    ]

    assert not above


def test_rules_and_translations_do_no_io_and_know_no_clock() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imports in IMPORTS.items()
        if any(is_within(name, place) for place in PURE)
        for imported in imports
        if any(is_within(imported, package) for package in NOT_PURE)
    ]

    assert not wrong


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "core", "manager", "misc"}

    assert not [path for path in MODULES if vague & {path.stem, path.parent.name}]


def test_there_is_no_pickle() -> None:
    places = ("pickle", "marshal", "shelve", "dill")

    assert not [
        name
        for name, imports in IMPORTS.items()
        if any(is_within(imported, place) for imported in imports for place in places)
        and name not in MAY_CATCH_PICKLE_ERRORS
    ]

"""The document of the routes is made of their table, and leaves none out."""

import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from omni.routes.describe import operation_of
from omni.routes.errors import Handler
from omni.routes.keys import OPENAPI
from omni.routes.openapi import table
from omni.settings import Settings
from omni.web import make_app
from tests.conftest import RunningOmni

APP = make_app(Settings())
ROUTES: list[tuple[str, str, Handler]] = list(table(APP))
DOCUMENT: Any = APP[OPENAPI]
NAMES = [f"{method} {path}" for path, method, _ in ROUTES]


def operations() -> Iterator[tuple[str, str, Any]]:
    for path, entry in DOCUMENT["paths"].items():
        for method, operation in entry.items():
            yield path, method, operation


def schemas_in(part: Any) -> Iterator[Any]:
    """Yield every schema below *part*."""
    if isinstance(part, dict):
        if "schema" in part:
            yield part["schema"]
        for value in part.values():
            yield from schemas_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from schemas_in(value)


@pytest.mark.parametrize(("path", "method", "handler"), ROUTES, ids=NAMES)
def test_every_route_is_described(path: str, method: str, handler: Handler) -> None:
    """If this fails for a new route: CONTRIBUTING.md, "A new route"."""
    assert operation_of(handler) is not None, f"{method} {path}: add @describe to its handler"


def test_the_document_has_the_routes_of_the_table_and_no_others() -> None:
    documented = {(path, method.upper()) for path, method, _ in operations()}

    assert documented == {(path, method) for path, method, _ in ROUTES}


def test_every_operation_has_words_and_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]

    assert len(ids) == len(set(ids))
    for path, _, operation in operations():
        assert operation["summary"] and operation["tags"][0], path
        assert operation["summary"][0].isupper() and not operation["summary"].endswith("."), path


def test_every_parameter_of_a_path_is_there_once() -> None:
    for path, _, operation in operations():
        named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
        assert sorted(named) == sorted(re.findall(r"{(\w+)}", path)), path


def test_every_error_has_the_shape_of_its_dialect() -> None:
    for path, _, operation in operations():
        statuses = {int(status) for status in operation["responses"]}
        assert {401, 403, 429} <= statuses, path
        shape = "OpenAIError" if path.startswith("/v1/") else "Error"
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{shape}"}, path


def test_sockets_say_what_is_said_on_them() -> None:
    sockets = {path: op["x-websocket"] for path, _, op in operations() if "x-websocket" in op}

    assert {"/ws/chat", "/ws/duplex/{session_id}", "/ws/half_duplex/{session_id}"} <= sockets.keys()
    assert {path for path, _, _ in ROUTES if path.startswith("/ws/")} <= sockets.keys()
    for path, talk in sockets.items():
        assert talk["client"] and talk["server"], path
        assert 101 in [int(status) for status in DOCUMENT["paths"][path]["get"]["responses"]]


def test_every_schema_is_one() -> None:
    known = {"string", "integer", "number", "boolean", "object", "array", "null"}
    for schema in schemas_in(DOCUMENT["paths"]):
        types = schema.get("type", [])
        assert {types} <= known if isinstance(types, str) else set(types) <= known
        if set(schema) == {"$ref"}:
            name = schema["$ref"].removeprefix("#/components/schemas/")
            assert name in DOCUMENT["components"]["schemas"]


async def test_the_document_is_served_as_it_is(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.get("/openapi.json") as reply:
            document = await reply.json()

    assert reply.status == 200 and document["openapi"] == "3.1.0"
    assert document["paths"].keys() == DOCUMENT["paths"].keys()


async def test_the_page_of_the_documents_is_there_under_both_names(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.get("/redoc", allow_redirects=False) as moved:
            assert (moved.status, moved.headers["Location"]) == (302, "/docs")
        async with http.get("/docs") as page:
            assert page.content_type == "text/html" and "docs.js" in await page.text()

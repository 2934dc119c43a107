"""`GET /openapi.json`: the document of every route, made of the route table and what handlers say.

OpenAPI 3.1 knows no WebSockets: they stand there as the GET that they begin with, and what is said
on them under `x-websocket`.
"""

import re
from collections.abc import Iterator
from http import HTTPStatus

from aiohttp import web
from attrs import frozen

from omni import __version__
from omni.routes.describe import (
    ANYTHING,
    JSON,
    TEXT,
    Body,
    Event,
    Operation,
    Param,
    Reply,
    SocketTalk,
    describe,
    list_of,
    operation_of,
    or_null,
    record,
)
from omni.routes.errors import Handler, json_reply
from omni.routes.keys import OPENAPI

_INTRODUCTION = (
    "Everything that a client can ask of an omni server over HTTP. The WebSockets, which carry "
    "live conversations, are listed too, under x-websocket."
)
#: Before its route a request passes the gate: two hosts, no key, a foreign origin, too often.
_GATE_ERRORS = (400, 401, 403, 429)
#: What a body that cannot be read is answered with. /v1 says 400 for a wrong field, as OpenAI does.
_BODY_ERRORS = (400, 413, 422)
#: Given as `Authorization: Bearer KEY`; needed where the server listens beyond this machine.
_SECURITY = {"key": {"type": "http", "scheme": "bearer"}}

#: Its events are described in words.
EVENT_STREAM = "text/event-stream"

_LOCATION = list_of({"type": ["string", "integer"]})
_PROBLEM = record({"type": TEXT, "loc": _LOCATION, "msg": TEXT, "input": ANYTHING})
_ERROR = record({"detail": {"anyOf": [TEXT, list_of(_PROBLEM)]}, "error": TEXT})
_OPENAI_ERROR = record(
    {
        "error": record(
            {
                "message": TEXT,
                "type": TEXT,
                "param": or_null(TEXT),
                "code": or_null({"type": ["string", "integer"]}),
            }
        )
    }
)


@describe("This document", tag="Documents", help="OpenAPI 3.1, made of the route table.")
async def get_openapi(request: web.Request) -> web.Response:
    """Return the document."""
    return json_reply(request.app[OPENAPI])


def openapi_document(app: web.Application) -> dict[str, object]:
    """Return the OpenAPI document of *app*, whose routes must all be there."""
    paths: dict[str, dict[str, object]] = {}
    for route in described_routes(app):
        paths.setdefault(route.path, {})[route.method.lower()] = _entry(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "omni", "version": __version__, "description": _INTRODUCTION},
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": {"Error": _ERROR, "OpenAIError": _OPENAI_ERROR},
            "securitySchemes": _SECURITY,
        },
    }


@frozen
class DescribedRoute:
    """One route of the table and what its handler says of itself."""

    path: str
    method: str
    operation: Operation


def described_routes(app: web.Application) -> Iterator[DescribedRoute]:
    """Yield every described route of *app* in the order of the table."""
    for path, method, handler in table(app):
        if (operation := operation_of(handler)) is not None:
            yield DescribedRoute(path, method, operation)


def table(app: web.Application) -> Iterator[tuple[str, str, Handler]]:
    """Yield path, method and handler of every route; the files below /static are none.

    HEAD comes with each GET of itself, and is left out.
    """
    for route in app.router.routes():
        resource = route.resource
        if resource is None or isinstance(resource, web.StaticResource) or route.method == "HEAD":
            continue
        yield resource.canonical, route.method, route.handler


def _entry(route: DescribedRoute) -> dict[str, object]:
    operation = route.operation
    entry: dict[str, object] = {
        "operationId": _operation_id(route),
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(route),
    }
    if operation.help:
        entry["description"] = operation.help
    if params := [_param(param) for param in _params(route)]:
        entry["parameters"] = params
    if operation.body is not None:
        entry["requestBody"] = _body(operation.body)
    if operation.talk is not None:
        entry["x-websocket"] = _talk(operation.talk)
    return entry


def _operation_id(route: DescribedRoute) -> str:
    words = re.findall(r"[A-Za-z0-9]+", route.path)
    return "_".join([route.method.lower(), *words, *["index"] * route.path.endswith("/")])


def _params(route: DescribedRoute) -> Iterator[Param]:
    """Yield the parameters of the path, said or not, then all others."""
    said = {param.name: param for param in route.operation.params}
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield said.get(name, Param(name=name, where="path"))
    yield from (param for param in said.values() if param.where != "path")


def _param(param: Param) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": param.name,
        "in": param.where,
        "required": param.required or param.where == "path",
        "schema": param.schema,
    }
    return {**entry, "description": param.help} if param.help else entry


def _body(body: Body) -> dict[str, object]:
    content: dict[str, object] = {"schema": body.schema}
    if body.example is not None:
        content["example"] = body.example
    return {"required": body.required, "content": {kind: content for kind in body.content_types}}


def _responses(route: DescribedRoute) -> dict[str, object]:
    operation = route.operation
    good = {str(reply.status): _reply(reply) for reply in operation.replies}
    of_body = _BODY_ERRORS if operation.body is not None else ()
    errors = {*operation.errors, *of_body, *_GATE_ERRORS}
    name = "OpenAIError" if route.path.startswith("/v1/") else "Error"
    schema = {"$ref": f"#/components/schemas/{name}"}
    bad = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schema}},
        }
        for status in sorted(errors)
    }
    return {**good, **bad}


def _reply(reply: Reply) -> dict[str, object]:
    entry: dict[str, object] = {"description": reply.help or HTTPStatus(reply.status).phrase}
    if reply.content_types:
        entry["content"] = {
            kind: {} if kind == EVENT_STREAM else {"schema": reply.schema}
            for kind in reply.content_types
        }
    return entry


def _talk(talk: SocketTalk) -> dict[str, object]:
    return {"client": _events(talk.client), "server": _events(talk.server)}


def _events(events: tuple[Event, ...]) -> list[dict[str, object]]:
    return [
        {"type": event.type, "description": event.help, "schema": event.fields} for event in events
    ]
